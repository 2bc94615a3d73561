//! Shapes and options of the caller.

use kernels::{AttentionShape, ForwardOptions, KernelFamily, Mask, PagedKv, Ragged, Tensor};

use crate::abi;
use crate::argument::size;
use crate::failure::{Failure, Result};
use crate::sized;
use crate::stream::Queue;
use crate::tensor::{Given, half};

/// # Safety
/// `shape` is null or a struct as large as it says.
pub unsafe fn shape(shape: *const abi::lacuna_shape) -> Result<AttentionShape> {
    // SAFETY: passed on to the caller.
    let shape = unsafe { sized::read(shape)? };
    let shape = AttentionShape {
        batch: size("batch", shape.batch)?,
        q_heads: size("q_heads", shape.q_heads)?,
        kv_heads: size("kv_heads", shape.kv_heads)?,
        q_len: size("q_len", shape.q_len)?,
        kv_len: size("kv_len", shape.kv_len)?,
        head_dim: size("head_dim", shape.head_dim)?,
        dtype: half("dtype of the shape", shape.dtype)?,
    };
    shape.validate()?;
    Ok(shape)
}

/// Options without their tensors.
#[derive(Clone, Copy)]
pub struct Options {
    given: abi::lacuna_options,
    pub mask: Mask,
    pub scale: Option<f32>,
    family: KernelFamily,
    splits: usize,
}

const FLAGS: i32 =
    abi::LACUNA_CAUSAL | abi::LACUNA_WINDOW_LEFT | abi::LACUNA_WINDOW_RIGHT | abi::LACUNA_SCALE | abi::LACUNA_SOFTCAP;

impl Options {
    /// # Safety
    /// `options` is null or a struct as large as it says.
    pub unsafe fn read(options: *const abi::lacuna_options) -> Result<Self> {
        // SAFETY: passed on to the caller.
        let given = unsafe { sized::read_optional(options)? };
        if given.flags & !(FLAGS as u32) != 0 {
            return Err(Failure::value("flags", "bits of lacuna_option", format!("{:#x}", given.flags)));
        }
        let set = |flag: i32| given.flags & flag as u32 != 0;
        let window = |flag, what, value| if set(flag) { size(what, value).map(Some) } else { Ok(None) };
        let mask = Mask {
            causal: set(abi::LACUNA_CAUSAL),
            window_left: window(abi::LACUNA_WINDOW_LEFT, "window_left", given.window_left)?,
            window_right: window(abi::LACUNA_WINDOW_RIGHT, "window_right", given.window_right)?,
        };
        let family = match given.family {
            abi::LACUNA_FAMILY_AUTO => KernelFamily::Auto,
            abi::LACUNA_FAMILY_PORTABLE => KernelFamily::Portable,
            abi::LACUNA_FAMILY_HOPPER => KernelFamily::Hopper,
            other => return Err(Failure::value("family", "a lacuna_family", other)),
        };
        let splits = size("splits", given.splits.into())?.max(1);
        let scale = set(abi::LACUNA_SCALE).then_some(given.scale);
        Ok(Self { given, mask, scale, family, splits })
    }

    fn softcap(&self) -> Option<f32> {
        (self.given.flags & abi::LACUNA_SOFTCAP as u32 != 0).then_some(self.given.softcap)
    }

    /// Whether anything is asked for beside a mask and a scale.
    pub fn is_plain(&self) -> bool {
        let given = &self.given;
        let tensors = [given.sink, given.block_table, given.cu_seqlens_q, given.cu_seqlens_k, given.kv_lens];
        tensors.iter().all(|tensor| tensor.is_null())
            && self.softcap().is_none()
            && self.splits == 1
            && self.family == KernelFamily::Auto
    }

    /// As the library takes them where no tensor is read.
    pub fn without_tensors(&self) -> ForwardOptions<'static> {
        ForwardOptions {
            mask: self.mask,
            scale: self.scale,
            softcap: self.softcap(),
            sink: None,
            splits: self.splits,
            family: self.family,
            paged: None,
            ragged: Ragged::default(),
        }
    }

    /// The tensors of the options, for a call on `queue`.
    ///
    /// # Safety
    /// They are null or as the header asks.
    pub unsafe fn tensors(&self, queue: &Queue) -> Result<OptionTensors> {
        let given = &self.given;
        if given.block_table.is_null() && given.page_size != 0 {
            return Err(Failure::value("page_size", "0 without a block_table", given.page_size));
        }
        // SAFETY: passed on to the caller.
        let read = |what, tensor| unsafe { Given::read_optional(what, tensor, queue) };
        Ok(OptionTensors {
            sink: read("sink", given.sink)?.map(|sink| sink.tensor(queue)).transpose()?,
            table: read("block_table", given.block_table)?,
            page_size: size("page_size", given.page_size)?,
            cu_seqlens_q: read("cu_seqlens_q", given.cu_seqlens_q)?,
            cu_seqlens_k: read("cu_seqlens_k", given.cu_seqlens_k)?,
            kv_lens: read("kv_lens", given.kv_lens)?,
        })
    }

    /// As the library takes them.
    pub fn with<'a>(&self, tensors: &'a OptionTensors, queue: &'a Queue) -> Result<ForwardOptions<'a>> {
        let view = |tensor: &Option<Given>| tensor.as_ref().map(|tensor| tensor.view(queue)).transpose();
        let page_size = tensors.page_size;
        let ragged = Ragged {
            cu_seqlens_q: view(&tensors.cu_seqlens_q)?,
            cu_seqlens_k: view(&tensors.cu_seqlens_k)?,
            kv_lens: view(&tensors.kv_lens)?,
        };
        let paged = view(&tensors.table)?.map(|block_table| PagedKv { block_table, page_size });
        Ok(ForwardOptions { sink: tensors.sink.as_ref(), paged, ragged, ..self.without_tensors() })
    }
}

/// Tensors that options bring along.
pub struct OptionTensors {
    sink: Option<Tensor<f32>>,
    table: Option<Given>,
    page_size: usize,
    cu_seqlens_q: Option<Given>,
    cu_seqlens_k: Option<Given>,
    kv_lens: Option<Given>,
}

impl OptionTensors {
    /// The lengths of keys, for a call that takes them beside its options, which then lack them.
    pub fn take_kv_lens(&mut self, queue: &Queue) -> Result<Option<Tensor<i32>>> {
        self.kv_lens.take().map(|lens| lens.tensor(queue)).transpose()
    }
}

//! Tensors that an operation reads beside its arguments, held while it runs.

use crate::attention::Plan;
use crate::op::{AttentionOp, Sequences};
use candle_core::{DType, Layout, Result, Storage, Tensor, bail};
use std::ops::Deref;

/// A contiguous tensor that nobody writes as long as this lives.
pub(crate) struct Held<'a> {
    pub(crate) name: &'static str,
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    pub(crate) layout: &'a Layout,
}

impl<'a> Held<'a> {
    pub(crate) fn new(tensor: &'a Tensor, dtype: DType, name: &'static str) -> Result<Self> {
        if tensor.dtype() != dtype || !tensor.is_contiguous() {
            bail!("{name} must be contiguous {dtype:?}, got {:?} with strides {:?}", tensor.dtype(), tensor.stride());
        }
        let (storage, layout) = tensor.storage_and_layout();
        Ok(Self { name, storage: Box::new(storage), layout })
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }
}

/// The operation's own tensors.
pub(crate) struct OwnTensors<'a> {
    /// u8
    pub(crate) mask: Option<Held<'a>>,
    /// `cu_seqlens` of queries and keys, u32
    pub(crate) starts: Option<[Held<'a>; 2]>,
}

impl<'a> OwnTensors<'a> {
    pub(crate) fn of(op: &'a AttentionOp) -> Result<Self> {
        let mask = match &op.settings.plan {
            Plan::Blocks { mask, .. } => Some(Held::new(mask, DType::U8, "the block mask")?),
            _ => None,
        };
        let starts = match &op.sequences {
            Sequences::Packed { q_starts, k_starts, .. } => Some([
                Held::new(q_starts, DType::U32, "cu_seqlens_q")?,
                Held::new(k_starts, DType::U32, "cu_seqlens_k")?,
            ]),
            Sequences::Rectangular => None,
        };
        Ok(Self { mask, starts })
    }
}

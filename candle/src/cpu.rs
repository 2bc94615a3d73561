//! Tensors on the CPU: the kernels run on the SIMT host, on candle's memory.

use crate::held::{Held, OwnTensors};
use crate::number::Number;
use crate::op::{AttentionOp, Sequences};
use crate::problem::{self, Extra, Given, Memory, block_mask_dims};
use candle_core::{CpuStorage, DType, Device as Place, Error, Layout, Result, Shape, Storage, Tensor, WithDType, bail};
use lacuna::{Device, Stream};
use std::sync::OnceLock;

pub(crate) fn forward(op: &AttentionOp, tensors: [(&CpuStorage, &Layout); 3]) -> Result<(CpuStorage, Shape)> {
    let layouts = tensors.map(|(_, layout)| layout);
    match tensors.map(|(storage, _)| storage) {
        [CpuStorage::F16(q), CpuStorage::F16(k), CpuStorage::F16(v)] => {
            Ok((CpuStorage::F16(typed(op, [q, k, v], layouts)?), layouts[0].shape().clone()))
        }
        [CpuStorage::BF16(q), CpuStorage::BF16(k), CpuStorage::BF16(v)] => {
            Ok((CpuStorage::BF16(typed(op, [q, k, v], layouts)?), layouts[0].shape().clone()))
        }
        [q, ..] => bail!("q, k and v must be f16 or bf16, got {:?}", candle_core::backend::BackendStorage::dtype(q)),
    }
}

fn typed<T: Number>(op: &AttentionOp, storage: [&[T]; 3], layouts: [&Layout; 3]) -> Result<Vec<T>> {
    let packed = matches!(op.sequences, Sequences::Packed { .. });
    let memory = |index: usize, name| Memory::new(name, storage[index].as_ptr(), layouts[index], packed);
    let (q, k, v) = (memory(0, "q")?, memory(1, "k")?, memory(2, "v")?);
    let own = OwnTensors::of(op)?;
    let extra = extra(&own)?;
    let mut out = vec![T::zero(); layouts[0].shape().elem_count()];
    let mut lse =
        vec![0f32; if op.lse.is_some() { out.len() / layouts[0].dims().last().map_or(1, |&d| d.max(1)) } else { 0 }];
    let lse_pointer = if op.lse.is_some() { lse.as_mut_ptr() } else { std::ptr::null_mut() };
    on_stream(|stream| {
        // SAFETY: candle holds q, k and v, `own` the other tensors, and the results are ours until the stream is done.
        unsafe { problem::forward(stream, op, [&q, &k, &v], &extra, out.as_mut_ptr(), lse_pointer) }
    })?;
    if let Some(slot) = &op.lse {
        let &[batch, rows, heads, _] = layouts[0].dims() else { bail!("the LSE of packed sequences was asked for") };
        // It is asked for once; a second answer would be the same.
        let _ = slot.set(Tensor::from_vec(lse, (batch, heads, rows), &Place::Cpu)?);
    }
    Ok(out)
}

pub(crate) fn backward<T: Number>(op: &AttentionOp, tensors: [&Tensor; 5], lse: &Tensor) -> Result<[Tensor; 3]> {
    let names = ["q", "k", "v", "out", "dout"];
    let held = tensors.map(Tensor::storage_and_layout);
    let mut memory = Vec::with_capacity(names.len());
    for (name, (storage, layout)) in names.into_iter().zip(&held) {
        let Storage::Cpu(storage) = &**storage else { bail!("{name} must be on the device of q, the CPU") };
        memory.push(Memory::new(name, storage.as_slice::<T>()?.as_ptr(), layout, false)?);
    }
    let Ok(memory) = memory.try_into() else { bail!("five tensors were named") };
    let lse = Held::new(lse, DType::F32, "the LSE")?;
    let given = Given { tensors: memory, lse: slice::<f32>(&lse)?.as_ptr() };
    let own = OwnTensors::of(op)?;
    let extra = extra(&own)?;
    let mut gradients = [0, 1, 2].map(|index| vec![T::zero(); tensors[index].elem_count()]);
    let pointers = gradients.each_mut().map(|gradient| gradient.as_mut_ptr());
    on_stream(|stream| {
        // SAFETY: `held`, `lse` and `own` hold what is read, and the results are ours until the stream is done.
        unsafe { problem::backward(stream, op, &given, &extra, pointers) }
    })?;
    let [dq, dk, dv] = gradients;
    let tensor = |values: Vec<T>, like: &Tensor| Tensor::from_vec(values, like.shape(), &Place::Cpu);
    Ok([tensor(dq, tensors[0])?, tensor(dk, tensors[1])?, tensor(dv, tensors[2])?])
}

/// Runs `work` on a stream of its own, so that threads do not wait for each other, and waits for it.
fn on_stream(work: impl FnOnce(&Stream) -> lacuna::Result<()>) -> Result<()> {
    static DEVICE: OnceLock<lacuna::Result<Device>> = OnceLock::new();
    let device = DEVICE.get_or_init(Device::simt).as_ref().map_err(|error| Error::Msg(error.to_string()))?;
    let wrap = |error: lacuna::Error| Error::Msg(error.to_string()).bt();
    let stream = device.new_stream().map_err(wrap)?;
    let result = work(&stream);
    // Also after an error: what was started uses memory of the caller.
    let done = stream.synchronize();
    result.and(done).map_err(wrap)
}

fn extra(own: &OwnTensors<'_>) -> Result<Extra> {
    let mut extra = Extra::default();
    if let Some(mask) = &own.mask {
        extra.mask = Some((slice::<u8>(mask)?.as_ptr(), block_mask_dims(mask.layout)?));
    }
    if let Some([q, k]) = &own.starts {
        let (q, k) = (slice::<u32>(q)?, slice::<u32>(k)?);
        extra.starts = Some(([q.as_ptr().cast(), k.as_ptr().cast()], q.len()));
    }
    Ok(extra)
}

fn slice<'a, T: WithDType>(held: &'a Held<'_>) -> Result<&'a [T]> {
    match (held.storage(), held.layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok(&storage.as_slice()?[start..end]),
        _ => bail!("{} must be on the device of q, the CPU", held.name),
    }
}

//! Tensors on NVIDIA GPUs: the kernels run on candle's stream, on candle's memory.

use crate::held::{Held, OwnTensors};
use crate::number::Number;
use crate::op::{AttentionOp, Sequences};
use crate::problem::{self, Extra, Given, Memory, block_mask_dims};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, SyncOnDrop};
use candle_core::cuda_backend::{CudaDType, CudaDevice};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Error, Layout, Result, Shape, Storage, Tensor, bail};
use lacuna::{Device, Stream, bf16, f16};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

pub(crate) fn forward(op: &AttentionOp, tensors: [(&CudaStorage, &Layout); 3]) -> Result<(CudaStorage, Shape)> {
    match tensors[0].0.dtype() {
        DType::F16 => typed::<f16>(op, tensors),
        DType::BF16 => typed::<bf16>(op, tensors),
        dtype => bail!("q, k and v must be f16 or bf16, got {dtype:?}"),
    }
}

fn typed<T: Number>(op: &AttentionOp, tensors: [(&CudaStorage, &Layout); 3]) -> Result<(CudaStorage, Shape)> {
    let packed = matches!(op.sequences, Sequences::Packed { .. });
    let (device, layout) = (tensors[0].0.device().clone(), tensors[0].1);
    let queue = Queue::of(&device)?;
    let own = OwnTensors::of(op)?;
    let mut guards = Vec::new();
    let memory = |name, (storage, layout): (&'_ CudaStorage, &Layout)| {
        Memory::new(name, queue.read(storage.as_cuda_slice::<T>()?).0, layout, packed)
    };
    let (q, k, v) = (memory("q", tensors[0])?, memory("k", tensors[1])?, memory("v", tensors[2])?);
    for (storage, _) in tensors {
        guards.push(queue.read(storage.as_cuda_slice::<T>()?).1);
    }
    let extra = extra(&own, &queue, &mut guards)?;
    let elements = layout.shape().elem_count();
    // Rows of no sequence stay as they are.
    // SAFETY: forward writes all of what is not packed.
    let mut out = if packed { device.alloc_zeros::<T>(elements)? } else { unsafe { device.alloc::<T>(elements)? } };
    let rows = elements / layout.dims().last().map_or(1, |&d| d.max(1));
    // SAFETY: as above.
    let mut lse = if op.lse.is_some() { Some(unsafe { device.alloc::<f32>(rows)? }) } else { None };
    {
        let (out, _out) = queue.write(&mut out);
        let (lse, _lse) = lse.as_mut().map_or((std::ptr::null_mut(), None), |lse| {
            let (pointer, guard) = queue.write(lse);
            (pointer, Some(guard))
        });
        // SAFETY: candle holds q, k and v, `own` the other tensors; the results are ours; all of it is used in the
        // order of candle's stream, as the guards say, and candle frees in that order.
        unsafe { problem::forward(&queue.ours, op, [&q, &k, &v], &extra, out, lse) }.map_err(wrap)?;
    }
    if let (Some(slot), Some(lse)) = (&op.lse, lse) {
        let &[batch, rows, heads, _] = layout.dims() else { bail!("the LSE of packed sequences was asked for") };
        // It is asked for once; a second answer would be the same.
        let _ = slot.set(tensor(lse, &device, (batch, heads, rows)));
    }
    Ok((CudaStorage::wrap_cuda_slice(out, device), layout.shape().clone()))
}

pub(crate) fn backward<T: Number>(
    op: &AttentionOp,
    device: &CudaDevice,
    tensors: [&Tensor; 5],
    lse: &Tensor,
) -> Result<[Tensor; 3]> {
    let queue = Queue::of(device)?;
    let held = tensors.map(Tensor::storage_and_layout);
    let (lse, own) = (Held::new(lse, DType::F32, "the LSE")?, OwnTensors::of(op)?);
    // Behind what they guard.
    let (mut guards, mut memory) = (Vec::new(), Vec::new());
    for (name, (storage, layout)) in ["q", "k", "v", "out", "dout"].into_iter().zip(&held) {
        let (pointer, guard) = queue.read(slice::<T>(storage, name)?);
        guards.push(guard);
        memory.push(Memory::new(name, pointer, layout, false)?);
    }
    let Ok(memory) = memory.try_into() else { bail!("five tensors were named") };
    let (lse, guard) = queue.read(slice::<f32>(lse.storage(), lse.name)?);
    guards.push(guard);
    let extra = extra(&own, &queue, &mut guards)?;
    // SAFETY: backward writes all of it.
    let alloc = |like: &Tensor| unsafe { device.alloc::<T>(like.elem_count()) };
    let (mut dq, mut dk, mut dv) = (alloc(tensors[0])?, alloc(tensors[1])?, alloc(tensors[2])?);
    {
        let [(dq, _dq), (dk, _dk), (dv, _dv)] = [queue.write(&mut dq), queue.write(&mut dk), queue.write(&mut dv)];
        let given = Given { tensors: memory, lse };
        // SAFETY: `held` and `own` hold what is read; the results are ours; all of it is used in the order of candle's
        // stream, as the guards say, and candle frees in that order.
        unsafe { problem::backward(&queue.ours, op, &given, &extra, [dq, dk, dv]) }.map_err(wrap)?;
    }
    let gradient = |values, like: &Tensor| tensor(values, device, like.shape().clone());
    Ok([gradient(dq, tensors[0]), gradient(dk, tensors[1]), gradient(dv, tensors[2])])
}

/// candle's stream, as both crates see it.
struct Queue {
    ours: Stream,
    theirs: std::sync::Arc<candle_core::cuda_backend::cudarc::driver::CudaStream>,
}

impl Queue {
    fn of(device: &CudaDevice) -> Result<Self> {
        // Opening a device looks at its kernels; once is enough.
        static DEVICES: Mutex<Option<HashMap<usize, Device>>> = Mutex::new(None);
        let theirs = device.cuda_stream();
        let ordinal = theirs.context().ordinal();
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        let devices = devices.get_or_insert_default();
        let ours = match devices.get(&ordinal) {
            Some(device) => device.clone(),
            None => devices.entry(ordinal).or_insert(Device::cuda(ordinal).map_err(wrap)?).clone(),
        };
        // SAFETY: `theirs` keeps the stream alive as long as this; what is allocated on it here is freed before.
        let ours = unsafe { Stream::from_raw(&ours, theirs.cu_stream().cast()).map_err(wrap)? };
        Ok(Self { ours, theirs })
    }

    /// The start of memory that is read on the stream until the guard goes.
    fn read<'a, T>(&'a self, slice: &'a CudaSlice<T>) -> (*const T, SyncOnDrop<'a>) {
        let (pointer, guard) = slice.device_ptr(&self.theirs);
        (pointer as *const T, guard)
    }

    /// The start of memory that is written on the stream until the guard goes.
    fn write<'a, T>(&'a self, slice: &'a mut CudaSlice<T>) -> (*mut T, SyncOnDrop<'a>) {
        let (pointer, guard) = slice.device_ptr_mut(&self.theirs);
        (pointer as *mut T, guard)
    }
}

fn wrap(error: lacuna::Error) -> Error {
    Error::Msg(error.to_string()).bt()
}

fn tensor<T: CudaDType>(values: CudaSlice<T>, device: &CudaDevice, shape: impl Into<Shape>) -> Tensor {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(values, device.clone()));
    Tensor::from_storage(storage, shape, BackpropOp::none(), false)
}

fn extra<'a>(own: &'a OwnTensors<'_>, queue: &'a Queue, guards: &mut Vec<SyncOnDrop<'a>>) -> Result<Extra> {
    let mut read = |held: &'a Held<'_>| -> Result<*const u8> {
        let (pointer, guard) = match held.storage().dtype() {
            DType::U8 => queue.read(slice::<u8>(held.storage(), held.name)?),
            _ => {
                let (pointer, guard) = queue.read(slice::<u32>(held.storage(), held.name)?);
                (pointer.cast::<u8>(), guard)
            }
        };
        guards.push(guard);
        Ok(pointer.wrapping_add(held.layout.start_offset() * held.storage().dtype().size_in_bytes()))
    };
    let mut extra = Extra::default();
    if let Some(mask) = &own.mask {
        extra.mask = Some((read(mask)?, block_mask_dims(mask.layout)?));
    }
    if let Some([q, k]) = &own.starts {
        extra.starts = Some(([read(q)?.cast(), read(k)?.cast()], q.layout.shape().elem_count()));
    }
    Ok(extra)
}

fn slice<'a, T: CudaDType + DeviceRepr>(storage: &'a Storage, name: &str) -> Result<&'a CudaSlice<T>> {
    match storage {
        Storage::Cuda(storage) => storage.as_cuda_slice(),
        _ => bail!("{name} must be on the device of q, a GPU"),
    }
}

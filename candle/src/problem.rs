//! candle's tensors as lacuna's, and the calls. The same for both machines.

use crate::attention::Plan;
use crate::op::{AttentionOp, Sequences};
use candle_core::{Layout, Result, bail};
use lacuna::attention::{BackwardInputs, GradientsMut};
use lacuna::{
    AttentionShape, BlockPlan, BlockSize, ColumnSchedule, Element, ForwardOptions, Half, ListRows, Ragged, Schedule,
    Stream, TensorView, TensorViewMut, attention,
};

/// Memory of a candle tensor on lacuna's device.
pub(crate) struct Memory<T> {
    /// Of the first element.
    pointer: *const T,
    /// `[batch or 1, heads, rows, head_dim]`
    dims: [usize; 4],
    strides: [i64; 3],
}

impl<T: Element> Memory<T> {
    /// `[batch, rows, heads, head_dim]`, or without the batch where sequences are packed. `storage` is where the
    /// tensor's storage begins.
    pub(crate) fn new(name: &str, storage: *const T, layout: &Layout, packed: bool) -> Result<Self> {
        let (dims, stride) = (layout.dims(), layout.stride());
        let expected = if packed { "[rows, heads, head_dim]" } else { "[batch, len, heads, head_dim]" };
        if dims.len() != if packed { 3 } else { 4 } {
            bail!("{name} must be {expected}, got {dims:?}");
        }
        if stride[dims.len() - 1] != 1 && dims[dims.len() - 1] > 1 {
            bail!("each head of {name} must be contiguous (stride 1 in the last dimension), got strides {stride:?}");
        }
        let batch = if packed { (1, 0) } else { (dims[0], stride[0] as i64) };
        let at = dims.len() - 3;
        Ok(Self {
            pointer: storage.wrapping_add(layout.start_offset()),
            dims: [batch.0, dims[at + 1], dims[at], dims[at + 2]],
            strides: [batch.1, stride[at + 1] as i64, stride[at] as i64],
        })
    }

    /// # Safety
    /// The memory lives, and nobody writes it, until `stream` has done what is in it.
    unsafe fn view<'a>(&self, stream: &'a Stream) -> lacuna::Result<TensorView<'a, T>> {
        // SAFETY: passed on to the caller.
        unsafe { TensorView::from_raw(stream, self.pointer, self.dims, self.strides) }
    }
}

/// Memory for a result with the elements of `like`, packed in the order of candle's axes.
///
/// # Safety
/// `memory` is as large, and nobody else uses it until `stream` has done what is in it.
unsafe fn result<'a, T: Element>(
    stream: &'a Stream,
    memory: *mut T,
    like: &Memory<T>,
) -> lacuna::Result<TensorViewMut<'a, T>> {
    let [_, heads, rows, head_dim] = like.dims;
    let row = (heads * head_dim) as i64;
    // SAFETY: passed on to the caller.
    unsafe { TensorViewMut::from_raw(stream, memory, like.dims, [rows as i64 * row, head_dim as i64, row]) }
}

/// What a call reads beside q, k and v, on lacuna's device.
#[derive(Default)]
pub(crate) struct Extra {
    /// u8 of [`Plan::Blocks`], with its sizes.
    pub(crate) mask: Option<(*const u8, [usize; 4])>,
    /// `cu_seqlens` of queries and keys, with their length.
    pub(crate) starts: Option<([*const i32; 2], usize)>,
}

/// Sizes of a block mask.
pub(crate) fn block_mask_dims(layout: &Layout) -> Result<[usize; 4]> {
    match *layout.dims() {
        [batch, heads, rows, columns] => Ok([batch, heads, rows, columns]),
        ref dims => bail!("the block mask must be [batch, heads, q_blocks, kv_blocks], got {dims:?}"),
    }
}

/// Everything but the tensors.
struct Call<'a> {
    shape: AttentionShape,
    options: ForwardOptions<'a>,
    plan: BlockPlan,
    schedule: Schedule,
}

impl<'a> Call<'a> {
    /// # Safety
    /// As [`forward`].
    unsafe fn new<T: Half>(
        stream: &'a Stream,
        op: &AttentionOp,
        [q, k]: [&Memory<T>; 2],
        extra: &Extra,
    ) -> lacuna::Result<Self> {
        let settings = &op.settings;
        let [sequences, q_heads, q_rows, head_dim] = q.dims;
        let (batch, q_len, kv_len) = match (&op.sequences, extra.starts) {
            (Sequences::Packed { longest, .. }, Some((_, len))) => (len - 1, longest.0, longest.1),
            _ => (sequences, q_rows, k.dims[2]),
        };
        let shape = AttentionShape { batch, q_heads, kv_heads: k.dims[1], q_len, kv_len, head_dim, dtype: T::DTYPE };
        let vector = |index: usize| {
            extra.starts.map(|(starts, len)| {
                // SAFETY: passed on to the caller.
                unsafe { TensorView::from_raw(stream, starts[index], [1, 1, 1, len], [len as i64; 3]) }
            })
        };
        let options = ForwardOptions {
            mask: settings.mask,
            scale: settings.scale,
            softcap: settings.softcap,
            ragged: Ragged {
                cu_seqlens_q: vector(0).transpose()?,
                cu_seqlens_k: vector(1).transpose()?,
                kv_lens: None,
            },
            ..ForwardOptions::default()
        };
        let plan = match (&settings.plan, extra.mask) {
            (Plan::S2(config), _) => {
                config.validate(&shape, &settings.mask)?;
                config.plan(&shape)?
            }
            (Plan::Blocks { block_q, block_k, .. }, Some((pointer, dims))) => {
                let [plan_batch, heads, rows, columns] = dims;
                let strides = [heads * rows * columns, rows * columns, columns].map(|stride| stride as i64);
                // SAFETY: passed on to the caller.
                let mask = unsafe { TensorView::from_raw(stream, pointer, dims, strides)? };
                let block = BlockSize { q: *block_q, k: *block_k };
                let rows = ListRows { block, batch: plan_batch, heads, absolute: false };
                BlockPlan::from_device_mask(stream, &shape, rows, dims.iter().product(), mask)?
            }
            _ => BlockPlan::dense(),
        };
        let schedule = Schedule::build(stream, &shape, &options, &plan)?;
        Ok(Self { shape, options, plan, schedule })
    }
}

/// Attention into `out`, which has the elements of q, packed, and `lse` (if not null), f32 `[batch, heads, rows]`.
///
/// # Safety
/// All memory is of the stream's device, as large as shapes and layouts say, and stays as it is until the stream has
/// done this work; nobody else uses `out` and `lse`.
pub(crate) unsafe fn forward<T: Half>(
    stream: &Stream,
    op: &AttentionOp,
    [q, k, v]: [&Memory<T>; 3],
    extra: &Extra,
    out: *mut T,
    lse: *mut f32,
) -> lacuna::Result<()> {
    // SAFETY: passed on to the caller.
    let call = unsafe { Call::new(stream, op, [q, k], extra)? };
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&call.shape, &call.options))?;
    let [batch, heads, rows, _] = q.dims;
    // SAFETY: passed on to the caller.
    let (q, k, v, out, lse) = unsafe {
        let strides = [(heads * rows) as i64, rows as i64, 1];
        let lse = (!lse.is_null()).then(|| TensorViewMut::from_raw(stream, lse, [batch, heads, rows, 1], strides));
        (q.view(stream)?, k.view(stream)?, v.view(stream)?, result(stream, out, q)?, lse.transpose()?)
    };
    attention::forward(
        stream,
        &call.shape,
        &call.options,
        &call.plan,
        &call.schedule,
        q,
        k,
        v,
        out,
        lse,
        &mut workspace,
    )
}

/// What [`backward`] reads.
pub(crate) struct Given<T> {
    /// q, k, v, out, dout
    pub(crate) tensors: [Memory<T>; 5],
    /// As [`forward`] left it.
    pub(crate) lse: *const f32,
}

/// The gradients into dq, dk and dv, which have the elements of q, k and v, packed.
///
/// # Safety
/// As [`forward`].
pub(crate) unsafe fn backward<T: Half>(
    stream: &Stream,
    op: &AttentionOp,
    given: &Given<T>,
    extra: &Extra,
    [dq, dk, dv]: [*mut T; 3],
) -> lacuna::Result<()> {
    let [q, k, v, out, dout] = &given.tensors;
    // SAFETY: passed on to the caller.
    let Call { shape, options, plan, schedule } = unsafe { Call::new(stream, op, [q, k], extra)? };
    let columns = ColumnSchedule::build(stream, &shape, &options, &plan)?;
    let bytes = attention::backward_workspace_bytes(stream.device(), &shape, &options, &plan)?;
    let mut workspace = stream.alloc_bytes(bytes)?;
    let [batch, heads, rows, _] = q.dims;
    // SAFETY: passed on to the caller.
    let (inputs, mut gradients) = unsafe {
        let strides = [(heads * rows) as i64, rows as i64, 1];
        let inputs = BackwardInputs {
            q: q.view(stream)?,
            k: k.view(stream)?,
            v: v.view(stream)?,
            out: out.view(stream)?,
            lse: TensorView::from_raw(stream, given.lse, [batch, heads, rows, 1], strides)?,
            dout: dout.view(stream)?,
            dlse: None,
        };
        let (dq, dk, dv) = (result(stream, dq, q)?, result(stream, dk, k)?, result(stream, dv, v)?);
        (inputs, GradientsMut { dq, dk, dv, dsink: None })
    };
    attention::backward(stream, &shape, &options, &plan, &schedule, &columns, &inputs, &mut gradients, &mut workspace)
}

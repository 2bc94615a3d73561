//! Decode through the raw entry: what a split without keys leaves in memory, and sizes and contents at the extremes.

use crate::harness::{simt, streams};
use lacuna::attention::raw;
use lacuna::{Error, Result, Stream, Tensor, bf16};

const DIM: usize = 64;

/// A dense plan over packed tensors, without its pointers.
fn request(batch: i32, heads: (i32, i32), q_len: i32, kv_len: i32) -> raw::lacuna_forward_params {
    let (q_heads, kv_heads) = heads;
    let shape = raw::lacuna_shape {
        batch,
        q_heads,
        kv_heads,
        q_len,
        kv_len,
        head_dim: DIM as i32,
        dtype: 1,
        ..Default::default()
    };
    let formula = raw::lacuna_block_formula { vertical_stride: 1, heads_per_step: 1, ..Default::default() };
    let plan =
        raw::lacuna_block_plan { plan_batch: 1, heads: 1, block_q: 16, block_k: 64, formula, ..Default::default() };
    let packed = |heads: i32, len: i32| {
        let head = i64::from(len) * DIM as i64;
        raw::lacuna_strides { batch: i64::from(heads) * head, head, seq: DIM as i64 }
    };
    let mask = raw::lacuna_mask { causal: 1, window_left: -1, window_right: -1 };
    raw::lacuna_forward_params {
        shape,
        mask,
        plan,
        q_stride: packed(q_heads, q_len),
        k_stride: packed(kv_heads, kv_len),
        v_stride: packed(kv_heads, kv_len),
        out_stride: packed(q_heads, q_len),
        scale: 0.125,
        splits: 1,
        split_keys: 256,
        ..Default::default()
    }
}

fn decode(stream: &Stream, params: &raw::lacuna_forward_params) -> Result<()> {
    // SAFETY: callers give memory for what they ask, or a request that is refused before anything is read.
    unsafe { raw::decode(stream, params) }
}

/// Splits without blocks write their LSE and nothing else, copy nothing, and what they leave alone the merge does not
/// read: it is NaN.
#[test]
fn splits_without_blocks() {
    let (batch, q_heads, q_len, kv_len, splits) = (3usize, 4usize, 2usize, 2048usize, 8usize);
    let lens = [300i32, 0, -4];
    for stream in streams(1) {
        let q = Tensor::<bf16>::random(&stream, [batch, q_heads, q_len, DIM], 1).unwrap();
        let k = Tensor::<bf16>::random(&stream, [batch, 2, kv_len, DIM], 2).unwrap();
        let v = Tensor::<bf16>::random(&stream, [batch, 2, kv_len, DIM], 3).unwrap();
        let kv_lens = Tensor::vector(&stream, &lens).unwrap();
        for sink in [None, Some([0.5f32, f32::NEG_INFINITY, -2.0, 1.0])] {
            let rows = batch * q_heads * q_len;
            let mut partial_out = Tensor::<f32>::uninit(&stream, [splits, 1, rows, DIM]).unwrap();
            let mut partial_lse = Tensor::<f32>::uninit(&stream, [splits, 1, 1, rows]).unwrap();
            partial_out.fill_bytes(&stream, 0xFF).unwrap();
            partial_lse.fill_bytes(&stream, 0xFF).unwrap();
            let sinks = sink.map(|sink| Tensor::vector(&stream, &sink).unwrap());
            let mut params = request(batch as i32, (q_heads as i32, 2), q_len as i32, kv_len as i32);
            params.shape.kv_lens = kv_lens.view().as_ptr();
            params.splits = splits as i32;
            params.q = q.view().as_ptr().cast();
            params.k = k.view().as_ptr().cast();
            params.v = v.view().as_ptr().cast();
            params.sink = sinks.as_ref().map_or(std::ptr::null(), |sink| sink.view().as_ptr());
            params.partial_out = partial_out.view_mut().as_mut_ptr();
            params.partial_lse = partial_lse.view_mut().as_mut_ptr();
            stream.reset_counters();
            decode(&stream, &params).unwrap();
            if let Some(counters) = stream.counters() {
                // Sequence 0: K and V of 300 keys of two heads, and Q for each of its two splits.
                let (keys, queries) = (2 * 2 * 300, 2 * q_heads * q_len);
                assert_eq!(counters.copy_bytes, ((keys + queries) * DIM * 2) as u64);
            }
            let (out, lse) = (partial_out.to_vec(&stream).unwrap(), partial_lse.to_vec(&stream).unwrap());
            for (index, (out, &lse)) in out.chunks(DIM).zip(&lse).enumerate() {
                let (split, row) = (index / rows, index % rows);
                let (b, head) = (row / q_len / q_heads, row / q_len % q_heads);
                let untouched = out.iter().all(|x| x.to_bits() == u32::MAX);
                if b == 0 && split < 2 {
                    assert!(lse.is_finite() && out.iter().all(|x| x.is_finite()), "split {split}, row {row}");
                } else if let (0, Some(sink)) = (split, sink) {
                    // The sink is in the first split's LSE: the merge reads its output.
                    assert!((lse - sink[head]).abs() < 1e-6 || lse == sink[head], "{lse}, sink {}", sink[head]);
                    assert!(out.iter().all(|&x| x == 0.0), "row {row}");
                } else {
                    assert!(lse == f32::NEG_INFINITY && untouched, "split {split}, row {row}: {lse}");
                }
            }
            let mut merged = Tensor::<bf16>::uninit(&stream, q.dims()).unwrap();
            merged.fill_bytes(&stream, 0xFF).unwrap();
            let merge = raw::lacuna_merge_params {
                splits: splits as i32,
                batch: batch as i32,
                heads: q_heads as i32,
                len: q_len as i32,
                head_dim: DIM as i32,
                out_dtype: 1,
                partial_out: params.partial_out,
                partial_lse: params.partial_lse,
                out: merged.view_mut().as_mut_ptr().cast(),
                out_stride: params.out_stride,
                ..Default::default()
            };
            // SAFETY: the tensors have the sizes of the request and outlive it.
            unsafe { raw::merge(&stream, &merge) }.unwrap();
            let merged = merged.to_vec(&stream).unwrap();
            assert!(merged.iter().all(|x| x.to_f32().is_finite()));
            assert!(merged[q_heads * q_len * DIM..].iter().all(|x| x.to_f32() == 0.0));
        }
    }
}

#[test]
fn sizes_at_the_extremes_are_refused() {
    let stream = simt(2);
    // Never followed: each request is refused before it starts.
    let memory = std::ptr::NonNull::<i32>::dangling().as_ptr();
    let complete = |params: raw::lacuna_forward_params| raw::lacuna_forward_params {
        q: memory.cast(),
        k: memory.cast(),
        v: memory.cast(),
        out: memory.cast(),
        partial_out: memory.cast(),
        partial_lse: memory.cast(),
        ..params
    };
    let good = request(1, (4, 2), 1, 64);
    let shaped = |change: &dyn Fn(&mut raw::lacuna_shape)| {
        let mut params = good;
        change(&mut params.shape);
        params
    };
    let planned = |change: &dyn Fn(&mut raw::lacuna_block_plan)| {
        let mut params = good;
        change(&mut params.plan);
        params
    };
    let most = i32::MAX;
    let lists = |capacity: i32| {
        planned(&|plan| {
            (plan.kind, plan.capacity, plan.row_offsets, plan.indices) = (1, capacity, memory, memory);
        })
    };
    for (params, text) in [
        (shaped(&|s| s.batch = most), "batch must be in"),
        (shaped(&|s| s.q_heads = most - 1), "q_heads must be"),
        (shaped(&|s| s.kv_heads = most), "kv_heads must be in"),
        (shaped(&|s| s.q_len = most), "q_len must be in"),
        (shaped(&|s| s.kv_len = most), "kv_len must be in"),
        (shaped(&|s| (s.q_heads, s.kv_heads, s.q_len) = (1 << 30, 1, 16)), "at most 2^30 in decode, got 17179869184"),
        (shaped(&|s| (s.batch, s.q_heads, s.kv_heads) = (1 << 10, 1 << 30, 1)), "grid"),
        (shaped(&|s| (s.batch, s.q_heads, s.kv_heads) = (1 << 30, 1 << 30, 1 << 30)), "grid"),
        (planned(&|plan| plan.row_shift = most), "row_shift must be in"),
        (planned(&|plan| plan.first_row = most), "first_row must be in"),
        (lists(most), "fewer than 2^30 entries in all in decode, got a capacity of 2147483647"),
        (lists(1 << 30), "fewer than 2^30 entries"),
        (raw::lacuna_forward_params { split_keys: most, ..good }, "split_keys must be"),
        (raw::lacuna_forward_params { splits: most, ..good }, "splits must be in"),
        (raw::lacuna_forward_params { splits: i32::MIN, ..good }, "splits must be in"),
    ] {
        let error = decode(&stream, &complete(params)).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    assert_eq!(stream.counters().unwrap().launches, 0);
}

/// Where rows of lists lie must be known on the host.
#[test]
fn absolute_lists_have_no_lengths_on_the_device() {
    let stream = simt(3);
    let memory = [0i32; 4];
    let mut params = request(1, (4, 2), 1, 64);
    params.plan.kind = 1;
    (params.plan.row_offsets, params.plan.indices, params.plan.capacity) = (memory.as_ptr(), memory.as_ptr(), 2);
    params.shape.kv_lens = memory.as_ptr();
    // SAFETY: reads no tensor.
    let config = |params: &raw::lacuna_forward_params| unsafe { raw::decode_config(stream.device(), params) };
    assert!(config(&params).is_ok());
    params.plan.absolute = 1;
    let refused = config(&params);
    assert!(matches!(&refused, Err(Error::Unsupported { what, .. }) if what.contains("absolute")), "{refused:?}");
    params.shape.kv_lens = std::ptr::null();
    assert!(config(&params).is_ok());
}

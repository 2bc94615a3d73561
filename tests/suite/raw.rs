//! Foreign memory and streams: what enters through `unsafe`.

use crate::harness::{Case, shape, simt};
use lacuna::attention::{self, raw};
use lacuna::reference::TokenMask;
use lacuna::{BlockPlan, KernelFamily, Mask, Schedule, Stream, Tensor, TensorView, TensorViewMut, bf16};

/// Zeroed memory that costs nothing until it is touched (so the alignment must be that of `calloc`).
struct Reserved {
    pointer: *mut u8,
    layout: std::alloc::Layout,
}

impl Reserved {
    fn new(bytes: usize) -> Self {
        let layout = std::alloc::Layout::from_size_align(bytes, 16).unwrap();
        // SAFETY: the size is not 0.
        let pointer = unsafe { std::alloc::alloc_zeroed(layout) };
        assert!(!pointer.is_null(), "cannot reserve {bytes} bytes");
        Self { pointer, layout }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { std::alloc::dealloc(self.pointer, self.layout) };
    }
}

#[test]
fn offsets_beyond_32_bits() {
    // Two heads, 2^31 + 128 elements apart, for q, k, v and out; and keys that are 2^25 elements apart.
    let case = Case::new(shape(1, (2, 2), (66, 66), 32), Mask::CAUSAL);
    let stream = simt(1);
    let far = (1i64 << 31) + 128;
    let (apart, dim) = (1i64 << 25, 32);
    let elements = far as usize + 66 * apart as usize;
    let memory = Reserved::new(2 * elements);
    let base: *mut bf16 = memory.pointer.cast();
    let [q, k, v] = case.inputs::<bf16>();
    let place = |values: &[bf16], offset: usize, stride: i64| {
        for (index, row) in values.chunks(dim).enumerate() {
            let at = offset + index / 66 * far as usize + index % 66 * stride as usize;
            assert!(at + dim <= elements);
            // SAFETY: inside the reserved memory.
            unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), base.add(at), dim) };
        }
    };
    // Rows of 32 elements at 0, 32, 64 and 96 of each step of 2^25 elements do not meet.
    place(&q, 0, apart);
    place(&k, 32, apart);
    place(&v, 64, apart);
    let (dims, strides) = ([1, 2, 66, dim], [2 * far, far, apart]);
    // SAFETY: the memory holds the layouts and outlives the views; out is written at offset 96 only.
    let (q, k, v, out) = unsafe {
        (
            TensorView::from_raw(&stream, base, dims, strides).unwrap(),
            TensorView::from_raw(&stream, base.add(32), dims, strides).unwrap(),
            TensorView::from_raw(&stream, base.add(64), dims, strides).unwrap(),
            TensorViewMut::from_raw(&stream, base.add(96), dims, strides),
        )
    };
    // 66 rows of 2^25 elements reach over the other head, but at other elements; the check can't see that.
    assert!(out.is_err());
    let mut out = Tensor::<bf16>::uninit(&stream, dims).unwrap();
    let mut lse = Tensor::<f32>::uninit(&stream, [1, 2, 66, 1]).unwrap();
    let (options, plan) = (case.options(None), BlockPlan::dense());
    let schedule = Schedule::build(&stream, &case.shape, &options, &plan).unwrap();
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&case.shape, &options)).unwrap();
    attention::forward(
        &stream,
        &case.shape,
        &options,
        &plan,
        &schedule,
        q,
        k,
        v,
        out.view_mut(),
        Some(lse.view_mut()),
        &mut workspace,
    )
    .unwrap();
    let outcome = crate::harness::Outcome {
        out: out.to_vec(&stream).unwrap().into_iter().map(|x| x.to_f32()).collect(),
        lse: lse.to_vec(&stream).unwrap(),
    };
    case.compare::<bf16>(&outcome, &TokenMask { shape: &case.shape, mask: &case.mask }).unwrap();

    // The output alone, with heads far apart.
    // SAFETY: as above; nobody else uses this part.
    let out = unsafe { TensorViewMut::from_raw(&stream, base.add(96), dims, [2 * far, far, 160]).unwrap() };
    let (q, k, v) = (q, k, v);
    attention::forward(&stream, &case.shape, &options, &plan, &schedule, q, k, v, out, None, &mut workspace).unwrap();
    for (index, row) in outcome.out.chunks(dim).enumerate() {
        let at = 96 + index / 66 * far as usize + index % 66 * 160;
        // SAFETY: inside the reserved memory, written by the kernel, which is done.
        let got = unsafe { std::slice::from_raw_parts(base.add(at), dim) };
        assert!(row.iter().zip(got).all(|(x, y)| *x == y.to_f32()), "row {index}");
    }
}

#[test]
fn a_foreign_stream_works_and_outlives_its_handle() {
    let owner = simt(2);
    let case = Case::new(shape(1, (2, 1), (50, 60), 64), Mask::CAUSAL);
    // SAFETY: `owner` lives to the end, and nobody uses it meanwhile.
    let stream = unsafe { Stream::from_raw(owner.device(), owner.as_raw()).unwrap() };
    case.check::<bf16>(&stream, &BlockPlan::dense());
    drop(stream);
    assert!(owner.counters().unwrap().mma_macs > 0);
    // SAFETY: null is the default stream.
    let default = unsafe { Stream::from_raw(owner.device(), std::ptr::null_mut()).unwrap() };
    case.check::<bf16>(&default, &BlockPlan::dense());
    assert_eq!(default.counters(), None);
}

#[test]
fn raw_calls_check_what_the_host_can_see() {
    let stream = simt(3);
    let mut params = raw::lacuna_forward_params::default();
    // SAFETY: no pointer is given, and the launcher refuses before it starts anything.
    let forward = |params: &raw::lacuna_forward_params| unsafe { raw::forward(&stream, params) };
    assert!(matches!(forward(&params), Err(lacuna::Error::Value { what: "forward" | "forward_config", .. })));
    let shape =
        raw::lacuna_shape { batch: 1, q_heads: 1, kv_heads: 1, q_len: 1, kv_len: 1, head_dim: 64, ..params.shape };
    params.shape = raw::lacuna_shape { head_dim: 63, ..shape };
    assert!(matches!(forward(&params), Err(lacuna::Error::Unsupported { .. })));
    let offsets = [0, 1];
    let packed = raw::lacuna_shape { cu_seqlens_k: offsets.as_ptr(), ..shape };
    for bad in [
        raw::lacuna_shape { cu_seqlens_q: offsets.as_ptr(), q_rows: -1, ..shape },
        raw::lacuna_shape { k_rows: (1 << 30) + 1, ..packed },
        raw::lacuna_shape { kv_lens: offsets.as_ptr(), ..packed },
        raw::lacuna_shape { block_table: offsets.as_ptr(), page_size: 16, ..packed },
    ] {
        params.shape = bad;
        assert!(matches!(forward(&params), Err(lacuna::Error::Value { what: "forward", .. })), "{bad:?}");
    }
    let paged = raw::lacuna_shape { block_table: offsets.as_ptr(), page_size: 16, pages: 2, ..shape };
    for bad in [
        raw::lacuna_shape { page_size: 0, ..paged },
        raw::lacuna_shape { page_size: 8, ..paged },
        raw::lacuna_shape { page_size: 24, ..paged },
        raw::lacuna_shape { page_size: i32::MAX - 15, ..paged },
        raw::lacuna_shape { pages: -1, ..paged },
        raw::lacuna_shape { block_table_batch_stride: -1, ..paged },
        raw::lacuna_shape { block_table_head_stride: i64::MIN, ..paged },
    ] {
        params.shape = bad;
        assert!(matches!(forward(&params), Err(lacuna::Error::Value { what: "forward", .. })), "{bad:?}");
    }
    params.shape = shape;
    for family in [-1, 1, 70, i32::MAX] {
        params.family = family;
        assert!(matches!(forward(&params), Err(lacuna::Error::Value { what: "forward", .. })), "{family}");
    }
    params.family = 0;
    params.scale = 1.0;
    let formula = raw::lacuna_block_formula { vertical_stride: 1, heads_per_step: 1, ..params.plan.formula };
    params.plan = raw::lacuna_block_plan { plan_batch: 1, heads: 1, block_q: 64, block_k: 64, formula, ..params.plan };
    // SAFETY: reads no tensor.
    let kernel = unsafe { raw::forward_config(stream.device(), &params) }.unwrap();
    assert!(kernel.name.contains("d64"), "{kernel:?}");
    assert_ne!(kernel.family, KernelFamily::Auto);
    assert!(kernel.heads >= 1 && kernel.tile_q % kernel.heads == 0 && kernel.schedule_q % 16 == 0, "{kernel:?}");
}

#[test]
fn raw_gather_calls_check_what_the_host_can_see() {
    let stream = simt(3);
    let shape = raw::lacuna_shape {
        batch: 1,
        q_heads: 2,
        kv_heads: 1,
        q_len: 64,
        kv_len: 64,
        head_dim: 64,
        ..Default::default()
    };
    let plan = raw::lacuna_gather_plan {
        causal: 1,
        min_seq_len: 8,
        block_size: 16,
        samples: 4,
        rounds: 1,
        ..Default::default()
    };
    let good = raw::lacuna_hyper_plan_params { shape, plan, projections: 7, ..Default::default() };
    // SAFETY: reads no tensor.
    let sizes = |params: &raw::lacuna_hyper_plan_params| unsafe { raw::hyper_sizes(stream.device(), params) };
    let got = sizes(&good).unwrap();
    assert_eq!((got.levels, got.nodes), (3, 7));
    let more = sizes(&raw::lacuna_hyper_plan_params { center: 1, ..good }).unwrap();
    assert!(more.scratch_bytes > got.scratch_bytes && got.scratch_bytes > 0);
    let whole = raw::lacuna_gather_plan { causal: 0, min_seq_len: 0, ..plan };
    assert_eq!(sizes(&raw::lacuna_hyper_plan_params { plan: whole, ..good }).unwrap().levels, 1);
    let shaped = |shape| raw::lacuna_hyper_plan_params { shape, ..good };
    let planned = |plan| raw::lacuna_hyper_plan_params { plan, ..good };
    for bad in [
        raw::lacuna_hyper_plan_params { projections: 0, ..good },
        raw::lacuna_hyper_plan_params { projections: 17, ..good },
        shaped(raw::lacuna_shape { q_len: 63, ..shape }),
        shaped(raw::lacuna_shape { kv_len: 0, ..shape }),
        shaped(raw::lacuna_shape { head_dim: 60, ..shape }),
        shaped(raw::lacuna_shape { head_dim: 264, ..shape }),
        planned(raw::lacuna_gather_plan { causal: 2, ..plan }),
        planned(raw::lacuna_gather_plan { min_seq_len: 0, ..plan }),
        planned(raw::lacuna_gather_plan { min_seq_len: 33, ..plan }),
        planned(raw::lacuna_gather_plan { samples: -1, ..plan }),
        planned(raw::lacuna_gather_plan { rounds: 0, ..plan }),
        planned(raw::lacuna_gather_plan { rounds: 9, ..plan }),
    ] {
        assert!(matches!(sizes(&bad), Err(lacuna::Error::Value { what: "hyper_sizes", .. })), "{bad:?}");
    }
    let table = [0];
    let paged = raw::lacuna_shape { block_table: table.as_ptr(), page_size: 16, pages: 4, ..shape };
    assert!(matches!(sizes(&shaped(paged)), Err(lacuna::Error::Unsupported { .. })));

    // Pointers that are never followed: the launchers refuse before they start anything.
    let memory = std::ptr::NonNull::<i32>::dangling().as_ptr();
    let full = raw::lacuna_gather_plan {
        levels: 3,
        q_order: memory,
        k_order: memory,
        sample_places: memory,
        sample_rows: memory,
        ..plan
    };
    // SAFETY: as above.
    let run = |params: &raw::lacuna_hyper_plan_params| unsafe { raw::hyper_plan(&stream, params) };
    assert!(matches!(run(&planned(full)), Err(lacuna::Error::Value { what: "hyper_plan", .. })));
    let weighted = raw::lacuna_gather_plan { sample_weights: memory.cast(), ..full };
    let by_values = raw::lacuna_hyper_plan_params { draw: 1, sampling: 3, ..planned(full) };
    assert!(sizes(&by_values).unwrap().scratch_bytes > got.scratch_bytes);
    for (bad, words) in [
        (raw::lacuna_hyper_plan_params { sampling: 4, ..by_values }, "sampling must be 0"),
        (by_values, "sample_weights must be there"),
        (planned(weighted), "null for others"),
        (raw::lacuna_hyper_plan_params { plan: weighted, ..by_values }, "v or v_shares is null"),
    ] {
        let refused = run(&bad).unwrap_err().to_string();
        assert!(refused.contains(words), "{words}: {refused}");
    }
    // SAFETY: as above.
    let attend = |params: &raw::lacuna_gather_forward_params| unsafe { raw::gather_forward(&stream, params) };
    let attended = |plan| raw::lacuna_gather_forward_params { shape, plan, scale: 1.0, ..Default::default() };
    for bad in [
        full,
        raw::lacuna_gather_plan { levels: 2, ..full },
        raw::lacuna_gather_plan { block_size: 0, ..full },
        raw::lacuna_gather_plan { q_order: std::ptr::null_mut(), ..full },
        raw::lacuna_gather_plan { sample_rows: std::ptr::null_mut(), ..full },
        raw::lacuna_gather_plan { exact: 64, ..full },
        raw::lacuna_gather_plan { exact: 32, samples: 100, ..full },
        raw::lacuna_gather_plan { exact: -64, ..full },
        raw::lacuna_gather_plan { local: full.min_seq_len + 1, ..full },
        raw::lacuna_gather_plan { local: -1, ..full },
        raw::lacuna_gather_plan { windows: memory, ..full },
        raw::lacuna_gather_plan { windows_of_head: 4, ..full },
        raw::lacuna_gather_plan { rounds: 2, ..full },
    ] {
        assert!(matches!(attend(&attended(bad)), Err(lacuna::Error::Value { what: "gather_forward", .. })), "{bad:?}");
    }
    let params = attended(full);
    // SAFETY: reads no tensor.
    let kernel = unsafe { raw::gather_config(stream.device(), &params) }.unwrap();
    assert_eq!((kernel.name.as_str(), kernel.tile_q), ("sm80_gather_d64_f16", 64));
    let odd = raw::lacuna_gather_forward_params { shape: raw::lacuna_shape { head_dim: 48, ..shape }, ..params };
    // SAFETY: reads no tensor.
    let refused = unsafe { raw::gather_config(stream.device(), &odd) };
    assert!(matches!(refused, Err(lacuna::Error::Unsupported { .. })));
}

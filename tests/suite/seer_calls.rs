//! Gates, caches and their calls with arguments that do not fit: one error that names the argument, and no kernel.

use crate::harness::{shape, simt, streams};
use crate::seer_case::{ALL, AVG, Decode, Prefill};
use lacuna::seer::{
    DecodeGate, DecodeGateConfig, DecodeGateWeights, DecodeSelectOptions, GateConfig, GateWeights, Pools, Rope,
    SeerGate, Select, SelectOptions, Span,
};
use lacuna::{AttentionShape, BlockPlan, BlockSize, DType, Error, ListRows, Mask, Result, Stream, Tensor, bf16, f16};

const fn shared_between_threads<T: Send + Sync>() {}
const _: () = {
    shared_between_threads::<SeerGate<bf16>>();
    shared_between_threads::<DecodeGate<bf16>>();
    shared_between_threads::<lacuna::seer::GateCache>();
};

fn names<T>(result: Result<T>) -> String {
    match result {
        Err(Error::Shape { what, .. } | Error::Value { what, .. } | Error::Device { what, .. }) => what.into(),
        Err(Error::Unsupported { what, .. }) => what,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("no error"),
    }
}

fn zeros(stream: &Stream, dims: [usize; 4]) -> Tensor<bf16> {
    Tensor::zeros(stream, dims).unwrap()
}

#[test]
fn prefill_gates_are_checked_when_made() {
    let stream = simt(1);
    let make = |heads, max_len, config: &GateConfig, w_k: [usize; 4], w_q: Option<[usize; 4]>| {
        let weights = GateWeights { w_k: zeros(&stream, w_k), w_q: w_q.map(|dims| zeros(&stream, dims)) };
        SeerGate::new(&stream, heads, max_len, config.clone(), weights)
    };
    let good = GateConfig::published(10000.0, 64);
    let (heads, w_k) = ((4, 2, 64), [1, 4, 192, 64]);
    assert!(make(heads, 100, &good, w_k, None).is_ok());
    assert!(make(heads, 100, &good, [1, 2, 192, 64], Some([1, 4, 64, 64])).is_ok());
    let with = |change: &dyn Fn(&mut GateConfig)| {
        let mut config = good.clone();
        change(&mut config);
        config
    };
    let none = Pools { max: false, min: false, avg: false };
    assert_eq!(names(make(heads, 100, &with(&|c| c.block_size = 48), w_k, None)), "block_size");
    assert_eq!(names(make(heads, 100, &with(&|c| c.q_pool = none), w_k, None)), "q_pool");
    assert_eq!(names(make(heads, 100, &with(&|c| c.k_pool = none), w_k, None)), "k_pool");
    assert_eq!(names(make(heads, 100, &with(&|c| c.k_pool = AVG), w_k, None)), "w_k");
    assert_eq!(names(make(heads, 100, &with(&|c| c.q_pool = ALL), w_k, None)), "w_q");
    assert_eq!(names(make(heads, 100, &with(&|c| c.rope = Some(Rope::new(1e4, 32))), w_k, None)), "rope");
    assert_eq!(names(make(heads, 100, &with(&|c| c.rope = Some(Rope::new(f64::NAN, 64))), w_k, None)), "rope");
    assert_eq!(names(make((4, 3, 64), 100, &good, w_k, None)), "q_heads");
    assert_eq!(names(make((4, 0, 64), 100, &good, w_k, None)), "q_heads");
    assert_eq!(names(make((4, 2, 60), 100, &good, w_k, None)), "head_dim");
    assert_eq!(names(make((4, 2, 0), 100, &good, w_k, None)), "head_dim");
    assert_eq!(names(make((4, 2, 512), 100, &good, w_k, None)), "head_dim");
    assert_eq!(names(make(heads, usize::MAX, &good, w_k, None)), "max_len");
    for dims in [[1, 3, 192, 64], [2, 4, 192, 64], [1, 4, 64, 64]] {
        assert_eq!(names(make(heads, 100, &good, dims, None)), "w_k", "{dims:?}");
    }
    for gate_dim in [0, 63, 258] {
        assert_eq!(names(make(heads, 100, &good, [1, 4, 192, gate_dim], None)), "gate_dim");
    }
    // Another gate dim than the head dim needs w_q, which has it too.
    assert_eq!(names(make(heads, 100, &GateConfig::published(1e4, 32), [1, 4, 192, 32], None)), "w_q");
    assert_eq!(names(make(heads, 100, &good, w_k, Some([1, 4, 64, 32]))), "w_q");
    assert_eq!(names(make(heads, 100, &good, w_k, Some([1, 2, 64, 64]))), "w_q");
}

#[test]
fn decode_gates_are_checked_when_made() {
    let stream = simt(2);
    let good = DecodeGateConfig {
        block_size: 64,
        k_pool: ALL,
        rope: Some(Rope::new(10000.0, 32)),
        norm_eps: 1e-6,
        compat: false,
    };
    let make = |config: &DecodeGateConfig, w_q: [usize; 4], w_k: [usize; 4], norm: usize| {
        let norm = Some(Tensor::vector(&stream, &vec![1.0; norm]).unwrap());
        let weights =
            DecodeGateWeights { w_q: zeros(&stream, w_q), w_k: zeros(&stream, w_k), q_norm: norm, k_norm: None };
        DecodeGate::new(&stream, (4, 2, 64), 100, config.clone(), weights)
    };
    let (w_q, w_k) = ([1, 2, 128, 32], [1, 2, 192, 32]);
    assert!(make(&good, w_q, w_k, 32).is_ok());
    assert_eq!(names(make(&good, [1, 2, 64, 32], w_k, 32)), "w_q");
    assert_eq!(names(make(&good, w_q, [1, 4, 192, 32], 32)), "w_k");
    assert_eq!(names(make(&good, [1, 2, 128, 64], w_k, 32)), "w_q");
    assert_eq!(names(make(&good, w_q, w_k, 31)), "q_norm");
    for norm_eps in [-1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(names(make(&DecodeGateConfig { norm_eps, ..good.clone() }, w_q, w_k, 32)), "norm_eps");
    }
    assert_eq!(names(make(&DecodeGateConfig { block_size: 0, ..good.clone() }, w_q, w_k, 32)), "block_size");
}

#[test]
fn options_have_ranges() {
    let stream = simt(3);
    let case = Prefill::new(shape(1, (2, 1), (64, 64), 32), 32);
    let gate = case.gate(&stream, &case.inputs::<bf16>(), 64);
    let plan = |select| {
        gate.empty_plan(&stream, &case.shape, &Mask::CAUSAL, &SelectOptions::new(select), None).map(|p| p.capacity())
    };
    for (select, name) in [
        (Select::Threshold(f64::NAN), "threshold"),
        (Select::Threshold(f64::INFINITY), "threshold"),
        (Select::Density(0.0), "density"),
        (Select::Density(1.1), "density"),
        (Select::Density(f64::NAN), "density"),
        (Select::Blocks(0), "blocks"),
        (Select::TopP(0.0), "top_p"),
        (Select::TopP(1.5), "top_p"),
        (Select::TokenBudget(0), "token_budget"),
    ] {
        assert_eq!(names(plan(select)), name, "{select:?}");
    }
    for select in [Select::Blocks(usize::MAX), Select::TokenBudget(usize::MAX), Select::Threshold(-1.0)] {
        // The triangle of two blocks, for two heads.
        assert_eq!(plan(select).unwrap(), 6, "{select:?}");
    }
    let huge =
        SelectOptions { last_rows_dense: usize::MAX, sink_blocks: usize::MAX, ..SelectOptions::new(Select::Blocks(1)) };
    let [q, k] = case.tensors(&stream, &case.inputs::<bf16>());
    let plan = gate.plan(&stream, &case.shape, &Mask::CAUSAL, q.view(), k.view(), &huge).unwrap();
    assert_eq!(plan.lists(&stream).unwrap().unwrap().1, [0, 0, 1, 0, 0, 1]);
}

/// The room that a plan has by default is what the rules can fill, and no more than a block for each place.
#[test]
fn default_capacity_fits_the_rule() {
    let stream = simt(4);
    let case = Prefill::new(shape(3, (4, 2), (500, 620), 32), 32);
    let gate = case.gate(&stream, &case.inputs::<bf16>(), 620);
    let capacity = |options: &SelectOptions, mask: &Mask| {
        gate.empty_plan(&stream, &case.shape, mask, options, None).unwrap().capacity()
    };
    // Rows 3 to 19 of 20 blocks.
    let bare = SelectOptions { last_rows_dense: 0, force_diagonal: false, ..SelectOptions::new(Select::Blocks(2)) };
    assert_eq!(capacity(&bare, &Mask::CAUSAL), 12 * 17 * 2);
    assert_eq!(capacity(&SelectOptions { force_diagonal: true, sink_blocks: 1, ..bare }, &Mask::CAUSAL), 12 * 17 * 4);
    assert_eq!(capacity(&SelectOptions { last_rows_dense: 1, ..bare }, &Mask::CAUSAL), 12 * (16 * 2 + 20));
    assert_eq!(capacity(&SelectOptions { share_heads: true, ..bare }, &Mask::CAUSAL), 6 * 17 * 2);
    assert_eq!(
        capacity(&SelectOptions { select: Select::TopP(0.5), ..bare }, &Mask::CAUSAL),
        12 * (4..=20).sum::<usize>()
    );
    assert_eq!(capacity(&SelectOptions { select: Select::Threshold(0.5), ..bare }, &Mask::FULL), 12 * 17 * 20);
}

#[test]
fn prefill_calls_are_checked() {
    let stream = simt(5);
    let case = Prefill::new(shape(2, (4, 2), (96, 96), 32), 32);
    let inputs = case.inputs::<bf16>();
    let gate = case.gate(&stream, &inputs, 128);
    let [q, k] = case.tensors(&stream, &inputs);
    let options = SelectOptions::new(Select::Blocks(1));
    let bytes = gate.workspace_bytes(&case.shape, &options);
    let call = |shape: AttentionShape, mask: Mask, q: &Tensor<bf16>, k: &Tensor<bf16>, plan: &mut BlockPlan, bytes| {
        let mut workspace = stream.alloc_bytes(bytes).unwrap();
        gate.select_into(&stream, &shape, &mask, q.view(), k.view(), &options, plan, &mut workspace)
    };
    let new_plan = || gate.empty_plan(&stream, &case.shape, &Mask::CAUSAL, &options, None).unwrap();
    let mut plan = new_plan();
    let good = case.shape;
    assert!(call(good, Mask::CAUSAL, &q, &k, &mut plan, bytes).is_ok());
    let launches = stream.counters().unwrap().launches;
    let mut refused = |shape, mask| names(call(shape, mask, &q, &k, &mut plan, bytes));
    assert_eq!(refused(AttentionShape { q_heads: 2, ..good }, Mask::CAUSAL), "shape");
    assert_eq!(refused(AttentionShape { head_dim: 64, ..good }, Mask::CAUSAL), "shape");
    assert_eq!(refused(AttentionShape { dtype: DType::F16, ..good }, Mask::CAUSAL), "dtype");
    assert_eq!(refused(AttentionShape { kv_len: 129, ..good }, Mask::CAUSAL), "kv_len");
    assert_eq!(refused(AttentionShape { q_len: 97, ..good }, Mask::FULL), "q_len");
    assert_eq!(refused(AttentionShape { q_len: 95, ..good }, Mask::CAUSAL), "gate_q");
    assert_eq!(refused(AttentionShape { kv_len: 97, ..good }, Mask::CAUSAL), "gate_k");
    assert_eq!(refused(AttentionShape { batch: 1, ..good }, Mask::CAUSAL), "gate_q");
    assert!(refused(good, Mask { window_left: Some(3), ..Mask::CAUSAL }).contains("window"));
    assert_eq!(names(call(good, Mask::CAUSAL, &q, &zeros(&stream, [2, 4, 96, 32]), &mut plan, bytes)), "gate_k");
    assert_eq!(names(call(good, Mask::CAUSAL, &q, &k, &mut plan, bytes - 1)), "workspace");
    // Plans for other rows, or that nobody can fill.
    let rows = ListRows { block: BlockSize::square(32), batch: 2, heads: 4, absolute: true };
    for other in [
        ListRows { heads: 2, ..rows },
        ListRows { batch: 1, ..rows },
        ListRows { absolute: false, ..rows },
        ListRows { block: BlockSize { q: 32, k: 16 }, ..rows },
    ] {
        let mut plan = BlockPlan::with_capacity(&stream, &good, other, 10).unwrap();
        assert_eq!(names(call(good, Mask::CAUSAL, &q, &k, &mut plan, bytes)), "plan", "{other:?}");
    }
    let result = call(good, Mask::CAUSAL, &q, &k, &mut BlockPlan::dense(), bytes);
    assert!(matches!(result, Err(Error::Shape { .. } | Error::Unsupported { .. })), "{result:?}");
    let mut given = BlockPlan::from_lists(&stream, &good, rows, &[0; 25], &[]).unwrap();
    assert!(names(call(good, Mask::CAUSAL, &q, &k, &mut given, bytes)).contains("this plan"));
    assert_eq!(stream.counters().unwrap().launches, launches, "an error came after a kernel");
    // Nothing to do is no error.
    let empty = AttentionShape { q_len: 0, ..good };
    let mut plan = gate.empty_plan(&stream, &empty, &Mask::CAUSAL, &options, None).unwrap();
    assert!(call(empty, Mask::CAUSAL, &zeros(&stream, [2, 4, 0, 32]), &k, &mut plan, bytes).is_ok());
    assert_eq!(plan.lists(&stream).unwrap().unwrap().0, [0]);
}

#[test]
fn caches_are_checked() {
    let stream = simt(6);
    let case = Prefill::new(shape(2, (4, 2), (96, 96), 32), 32);
    let gate = case.gate(&stream, &case.inputs::<bf16>(), 128);
    assert_eq!(names(gate.cache(&stream, 2, 129)), "max_len");
    assert_eq!(names(gate.cache(&stream, usize::MAX, 128)), "batch");
    let mut cache = gate.cache(&stream, 2, 100).unwrap();
    let append = |cache: &mut lacuna::seer::GateCache, dims, span, less| {
        let mut workspace = stream.alloc_bytes(cache.workspace_bytes(dims_len(dims)) - less).unwrap();
        gate.append(&stream, cache, zeros(&stream, dims).view(), span, &mut workspace)
    };
    assert!(append(&mut cache, [2, 2, 96, 32], Span::From(0), 0).is_ok());
    assert_eq!(names(append(&mut cache, [2, 2, 96, 32], Span::From(0), 1)), "workspace");
    assert_eq!(names(append(&mut cache, [2, 2, 96, 32], Span::From(33), 0)), "span");
    assert_eq!(names(append(&mut cache, [2, 2, 1, 32], Span::From(usize::MAX), 0)), "span");
    assert_eq!(names(append(&mut cache, [1, 2, 96, 32], Span::From(0), 0)), "gate_k");
    assert_eq!(names(append(&mut cache, [2, 4, 96, 32], Span::From(0), 0)), "gate_k");
    let (two, three) = (Tensor::vector(&stream, &[0, 1]).unwrap(), Tensor::vector(&stream, &[0, 1, 2]).unwrap());
    let ragged = |starts, lens| Span::Ragged { starts, lens };
    assert_eq!(names(append(&mut cache, [2, 2, 96, 32], ragged(&three, &two), 0)), "starts");
    assert_eq!(names(append(&mut cache, [2, 2, 96, 32], ragged(&two, &three), 0)), "lens");
    // A cache of another gate, however much alike: its features have another size.
    let others = [
        Prefill { k_heads: 2, ..case.clone() },
        Prefill { k_pool: AVG, ..case.clone() },
        Prefill { block: 16, ..case.clone() },
        Prefill { project_q: true, gate_dim: 32, shape: AttentionShape { head_dim: 64, ..case.shape }, ..case.clone() },
    ];
    let options = SelectOptions::new(Select::Blocks(1));
    let shape = AttentionShape { batch: 2, ..case.shape };
    for other in others {
        let mut foreign = other.gate(&stream, &other.inputs::<bf16>(), 128).cache(&stream, 2, 100).unwrap();
        let tokens = zeros(&stream, [2, 2, 5, other.shape.head_dim]);
        let mut workspace = stream.alloc_bytes(1 << 20).unwrap();
        let result = gate.append(&stream, &mut foreign, tokens.view(), Span::From(0), &mut workspace);
        assert_eq!(names(result), "gate cache", "{other:?}");
        let mut plan = gate.empty_plan(&stream, &shape, &Mask::CAUSAL, &options, None).unwrap();
        let q = zeros(&stream, [2, 4, 96, 32]);
        let (mask, workspace) = (&Mask::CAUSAL, &mut workspace);
        let result = gate.select_with_cache(&stream, &shape, mask, q.view(), &foreign, &options, &mut plan, workspace);
        assert_eq!(names(result), "gate cache", "{other:?}");
    }
    let wrong = gate.cache(&stream, 1, 100).unwrap();
    let short = gate.cache(&stream, 2, 64).unwrap();
    let mut workspace = stream.alloc_bytes(1 << 20).unwrap();
    let mut plan = gate.empty_plan(&stream, &shape, &Mask::CAUSAL, &options, None).unwrap();
    let q = zeros(&stream, [2, 4, 96, 32]);
    let mut select = |cache| {
        names(gate.select_with_cache(
            &stream,
            &shape,
            &Mask::CAUSAL,
            q.view(),
            cache,
            &options,
            &mut plan,
            &mut workspace,
        ))
    };
    assert_eq!(select(&wrong), "gate cache");
    assert_eq!(select(&short), "kv_len");
}

fn dims_len(dims: [usize; 4]) -> usize {
    dims[2]
}

#[test]
fn decode_calls_are_checked() {
    let stream = simt(7);
    let decode = Decode::new((4, 2), 32, 16, 32);
    let gate = decode.gate(&stream, &decode.weights(), 128);
    let cache = gate.cache(&stream, 2, 100).unwrap();
    let options = DecodeSelectOptions::new(Select::TokenBudget(32));
    let good = shape(2, (4, 2), (1, 90), 32);
    let mut plan = gate.empty_plan(&stream, &good, &options, None).unwrap();
    let mut call = |shape: AttentionShape, lens: Option<&Tensor<i32>>, q: [usize; 4], less: usize| {
        let mut workspace = stream.alloc_bytes(gate.workspace_bytes(&shape) - less).unwrap();
        let q = zeros(&stream, q);
        gate.select_into(&stream, &shape, lens, q.view(), &cache, &options, &mut plan, &mut workspace)
    };
    let q = [2, 4, 1, 32];
    assert!(call(good, None, q, 0).is_ok());
    assert_eq!(names(call(good, None, q, 1)), "workspace");
    assert_eq!(names(call(good, None, [2, 4, 2, 32], 0)), "gate_q");
    assert_eq!(names(call(good, None, [2, 2, 1, 32], 0)), "gate_q");
    let three = Tensor::vector(&stream, &[1, 2, 3]).unwrap();
    assert_eq!(names(call(good, Some(&three), q, 0)), "kv_lens");
    for q_len in [0, 17] {
        assert_eq!(names(call(AttentionShape { q_len, ..good }, None, [2, 4, q_len, 32], 0)), "q_len");
    }
    assert_eq!(names(call(AttentionShape { q_len: 4, kv_len: 3, ..good }, None, [2, 4, 4, 32], 0)), "q_len");
    assert_eq!(names(call(AttentionShape { kv_len: 129, ..good }, None, q, 0)), "kv_len");
    assert_eq!(names(call(AttentionShape { kv_len: 120, ..good }, None, q, 0)), "kv_len");
    assert_eq!(names(call(AttentionShape { q_heads: 2, ..good }, None, [2, 2, 1, 32], 0)), "shape");
    assert_eq!(names(call(AttentionShape { dtype: DType::F16, ..good }, None, q, 0)), "dtype");
    assert_eq!(names(call(AttentionShape { batch: 1, ..good }, None, [1, 4, 1, 32], 0)), "gate cache");
}

/// Lengths on the device are data.
#[test]
fn wild_lengths_stay_inside() {
    for stream in streams(8) {
        let decode = Decode::new((4, 2), 32, 16, 32);
        let gate = decode.gate(&stream, &decode.weights(), 128);
        let cache = gate.cache(&stream, 4, 100).unwrap();
        let options = DecodeSelectOptions::new(Select::Blocks(2));
        let shape = shape(4, (4, 2), (3, 90), 32);
        let q = Tensor::<bf16>::random(&stream, [4, 4, 3, 32], 1).unwrap();
        let mut plan = gate.empty_plan(&stream, &shape, &options, None).unwrap();
        let mut workspace = stream.alloc_bytes(gate.workspace_bytes(&shape)).unwrap();
        let lens = Tensor::vector(&stream, &[i32::MIN, i32::MAX, 0, 2]).unwrap();
        gate.select_into(&stream, &shape, Some(&lens), q.view(), &cache, &options, &mut plan, &mut workspace).unwrap();
        let (offsets, indices) = plan.lists(&stream).unwrap().unwrap();
        let lists: Vec<&[i32]> = offsets.windows(2).map(|w| &indices[w[0] as usize..w[1] as usize]).collect();
        // Two heads a sequence: none, 90 keys of which blocks 0 and 1 tie with all others, none, one block.
        assert_eq!(lists, [&[][..], &[], &[0, 1, 5], &[0, 1, 5], &[], &[], &[0], &[0]]);
    }
}

/// Types that do not fit are refused by the compiler or by name.
#[test]
fn f16_gates_have_f16_inputs() {
    let stream = simt(9);
    let case = Prefill::new(AttentionShape { dtype: DType::F16, ..shape(1, (2, 1), (40, 40), 32) }, 16);
    let inputs = case.inputs::<f16>();
    let gate = case.gate(&stream, &inputs, 40);
    let [q, k] = case.tensors(&stream, &inputs);
    let options = SelectOptions::new(Select::Blocks(1));
    assert!(gate.plan(&stream, &case.shape, &Mask::CAUSAL, q.view(), k.view(), &options).is_ok());
    let other = AttentionShape { dtype: DType::BF16, ..case.shape };
    assert_eq!(names(gate.plan(&stream, &other, &Mask::CAUSAL, q.view(), k.view(), &options)), "dtype");
}

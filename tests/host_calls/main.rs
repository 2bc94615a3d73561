//! Planners, schedules and attention run without a cost: they allocate nothing, on the host or on a device, copy
//! nothing to or from the host, and wait for nothing. Counted are the allocations of Rust and the library's device
//! calls; what the C++ of the SIMT host allocates for its fibers is not, as it stands for the machine.
#![cfg(feature = "simt")]

mod counting;

use counting::{Cost, check_free, cost};
use lacuna::attention::{self, BackwardInputs, GradientsMut};
use lacuna::seer::{
    DecodeGate, DecodeGateConfig, DecodeGateWeights, DecodeSelectOptions, GateConfig, GateWeights, Pools, Rope,
    SeerGate, Select, SelectOptions, Span,
};
use lacuna::{
    AttentionShape, BlockPlan, BlockSize, ColumnSchedule, DType, Device, ForwardOptions, HyperConfig, HyperPlan,
    ListRows, Mask, PageLists, PagedKv, Ragged, Result, S2Config, Schedule, Stream, Tensor, bf16, s2,
};

const SHAPE: AttentionShape =
    AttentionShape { batch: 2, q_heads: 2, kv_heads: 1, q_len: 128, kv_len: 128, head_dim: 32, dtype: DType::BF16 };

/// The SIMT host, and the GPU if there is one.
fn streams() -> Vec<Stream> {
    let mut streams = vec![Device::simt().unwrap().new_stream().unwrap()];
    match Device::cuda(0) {
        Ok(device) => streams.push(device.new_stream().unwrap()),
        Err(error) => eprintln!("on the SIMT host only: {error}"),
    }
    streams
}

struct Inputs {
    q: Tensor<bf16>,
    k: Tensor<bf16>,
    v: Tensor<bf16>,
    out: Tensor<bf16>,
    lse: Tensor<f32>,
}

impl Inputs {
    fn new(stream: &Stream, shape: &AttentionShape) -> Self {
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = *shape;
        let (q_dims, kv_dims) = ([batch, q_heads, q_len, head_dim], [batch, kv_heads, kv_len, head_dim]);
        Self {
            q: Tensor::random(stream, q_dims, 1).unwrap(),
            k: Tensor::random(stream, kv_dims, 2).unwrap(),
            v: Tensor::random(stream, kv_dims, 3).unwrap(),
            out: Tensor::uninit(stream, q_dims).unwrap(),
            lse: Tensor::uninit(stream, [batch, q_heads, q_len, 1]).unwrap(),
        }
    }
}

/// Lists with the diagonal and the first block of each row.
fn lists(stream: &Stream, shape: &AttentionShape, block: usize) -> (BlockPlan, Tensor<u8>) {
    let (rows, blocks) = (shape.q_len.div_ceil(block), shape.kv_len.div_ceil(block));
    let mask: Vec<u8> = (0..rows * blocks).map(|at| u8::from(at % blocks == 0 || at % blocks == at / blocks)).collect();
    let mask = Tensor::from_slice(stream, &mask, [1, 1, rows, blocks]).unwrap();
    let rows = ListRows { block: BlockSize::square(block), batch: 1, heads: 1, absolute: false };
    let mut plan = BlockPlan::with_capacity(stream, shape, rows, 64).unwrap();
    plan.set_mask(stream, mask.view()).unwrap();
    (plan, mask)
}

fn check_forward(
    what: &str,
    stream: &Stream,
    launches: u64,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
) {
    let mut x = Inputs::new(stream, shape);
    let schedule = Schedule::build(stream, shape, options, plan).unwrap();
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(shape, options)).unwrap();
    check_free(what, stream, launches, || {
        let (out, lse) = (x.out.view_mut(), Some(x.lse.view_mut()));
        let (q, k, v) = (x.q.view(), x.k.view(), x.v.view());
        attention::forward(stream, shape, options, plan, &schedule, q, k, v, out, lse, &mut workspace)
    });
}

/// Were the counters blind, every other test here would pass.
#[test]
fn what_costs_is_counted() {
    for stream in streams() {
        let shape = SHAPE;
        let of = |step: &mut dyn FnMut() -> Result<()>| cost(step).unwrap();
        let vector = of(&mut || {
            std::hint::black_box(vec![1u8; 100]);
            Ok(())
        });
        assert_eq!((vector.allocations, vector.calls.total()), (1, 0));
        let Cost { calls, .. } = of(&mut || stream.synchronize());
        assert_eq!((calls.waits, calls.total()), (1, 1));
        let Cost { calls, .. } = of(&mut || stream.alloc_bytes(64).map(drop));
        assert_eq!((calls.allocations, calls.frees, calls.total()), (1, 1, 2));
        let tensor = Tensor::vector(&stream, &[1.0f32]).unwrap();
        let Cost { calls, .. } = of(&mut || tensor.to_vec(&stream).map(drop));
        assert_eq!((calls.copies, calls.total()), (1, 1));
        let (plan, _) = lists(&stream, &shape, 32);
        let build = of(&mut || Schedule::build(&stream, &shape, &ForwardOptions::causal(), &plan).map(drop));
        assert!(build.calls.allocations > 0 && build.calls.frees > 0, "{build:?}");
    }
}

/// The counts belong to a thread: what others do at the same time does not show.
#[test]
fn counts_belong_to_a_thread() {
    let stream = Device::simt().unwrap().new_stream().unwrap();
    let busy = cost(|| {
        let other = stream.clone();
        std::thread::spawn(move || other.alloc_bytes(64).map(drop)).join().unwrap()
    });
    assert_eq!(busy.unwrap().calls.total(), 0);
}

#[test]
fn forward_and_its_schedule_cost_nothing() {
    for stream in &streams() {
        let (plan, mask) = lists(stream, &SHAPE, 32);
        let causal = ForwardOptions::causal();
        check_forward("dense", stream, 1, &SHAPE, &causal, &BlockPlan::dense());
        check_forward("lists", stream, 1, &SHAPE, &causal, &plan);
        let splits = ForwardOptions { splits: 3, ..causal };
        check_forward("splits and their merge", stream, 2, &SHAPE, &splits, &plan);
        let lens = Tensor::vector(stream, &[100, 128]).unwrap();
        let ragged = ForwardOptions { ragged: Ragged { kv_lens: Some(lens.view()), ..Ragged::default() }, ..causal };
        check_forward("lengths on the device", stream, 1, &SHAPE, &ragged, &plan);
        // S2's plan is a formula: nothing is built on the device.
        let s2 = S2Config { local_blocks: 1, vertical_stride: 2, ..S2Config::default() };
        let cost = cost(|| s2.plan(&SHAPE).map(drop)).unwrap();
        assert_eq!(cost.calls.total(), 0, "{cost:?}");
        check_forward("S2", stream, 1, &SHAPE, &causal, &s2.plan(&SHAPE).unwrap());

        let mut schedule = Schedule::build(stream, &SHAPE, &causal, &plan).unwrap();
        let launches = launches_of(stream, || schedule.rebuild(stream, &plan));
        check_free("Schedule::rebuild", stream, launches, || schedule.rebuild(stream, &plan));
        let mut plan = plan;
        let launches = launches_of(stream, || plan.set_mask(stream, mask.view()));
        check_free("BlockPlan::set_mask", stream, launches, || plan.set_mask(stream, mask.view()));
    }
}

/// Kernels of a step; at least one.
fn launches_of(stream: &Stream, mut step: impl FnMut() -> Result<()>) -> u64 {
    let before = stream.counters().map_or(0, |counters| counters.launches);
    step().unwrap();
    let launches = stream.counters().map_or(1, |counters| counters.launches) - before;
    assert!(launches > 0);
    launches
}

#[test]
fn merge_costs_nothing() {
    for stream in &streams() {
        let partial_out = Tensor::<f32>::zeros(stream, [4, 2, 16, 32]).unwrap();
        let partial_lse = Tensor::<f32>::zeros(stream, [4, 2, 16, 1]).unwrap();
        let mut out = Tensor::<bf16>::uninit(stream, [2, 2, 16, 32]).unwrap();
        check_free("merge", stream, 1, || {
            attention::merge(stream, 2, partial_out.view(), partial_lse.view(), out.view_mut(), None)
        });
    }
}

#[test]
fn backward_costs_nothing() {
    for stream in &streams() {
        let (lists, _) = lists(stream, &SHAPE, 32);
        for plan in [BlockPlan::dense(), lists] {
            let options = ForwardOptions::causal();
            let x = Inputs::new(stream, &SHAPE);
            let mut d = Inputs::new(stream, &SHAPE);
            let schedule = Schedule::build(stream, &SHAPE, &options, &plan).unwrap();
            let mut columns = ColumnSchedule::build(stream, &SHAPE, &options, &plan).unwrap();
            let launches = launches_of(stream, || columns.rebuild(stream, &plan));
            check_free("ColumnSchedule::rebuild", stream, launches, || columns.rebuild(stream, &plan));
            let bytes = attention::backward_workspace_bytes(stream.device(), &SHAPE, &options, &plan).unwrap();
            let mut workspace = stream.alloc_bytes(bytes).unwrap();
            let mut step = || {
                let inputs = BackwardInputs {
                    q: x.q.view(),
                    k: x.k.view(),
                    v: x.v.view(),
                    out: x.out.view(),
                    lse: x.lse.view(),
                    dout: d.out.view(),
                    dlse: Some(d.lse.view()),
                };
                let mut gradients =
                    GradientsMut { dq: d.q.view_mut(), dk: d.k.view_mut(), dv: d.v.view_mut(), dsink: None };
                attention::backward(
                    stream,
                    &SHAPE,
                    &options,
                    &plan,
                    &schedule,
                    &columns,
                    &inputs,
                    &mut gradients,
                    &mut workspace,
                )
            };
            let launches = launches_of(stream, &mut step);
            check_free("backward", stream, launches, step);
        }
    }
}

#[test]
fn decode_costs_nothing() {
    let shape = AttentionShape { q_len: 2, kv_len: 600, ..SHAPE };
    for stream in &streams() {
        let mut x = Inputs::new(stream, &shape);
        let lens = Tensor::vector(stream, &[70, 555]).unwrap();
        let options = ForwardOptions::causal();
        let (plan, _) = lists(stream, &shape, 32);
        let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(&shape, &plan)).unwrap();
        let mut step = || {
            let (out, lse) = (x.out.view_mut(), Some(x.lse.view_mut()));
            let (q, k, v) = (x.q.view(), x.k.view(), x.v.view());
            attention::decode(stream, &shape, &options, &plan, Some(&lens), q, k, v, out, lse, &mut workspace)
        };
        let launches = launches_of(stream, &mut step);
        check_free("decode", stream, launches, step);
    }
}

#[test]
fn pages_cost_nothing() {
    let shape = AttentionShape { q_len: 1, kv_len: 64, ..SHAPE };
    for stream in &streams() {
        let mut x = Inputs::new(stream, &shape);
        let pool = Tensor::<bf16>::random(stream, [8, 1, 16, 32], 4).unwrap();
        let [indptr, indices, last] =
            [&[0, 3, 7][..], &[1, 0, 2, 3, 4, 5, 6], &[9, 16]].map(|x| Tensor::vector(stream, x).unwrap());
        let pages = PageLists { indptr: indptr.view(), indices: indices.view(), last_page_len: last.view() };
        let mut table = Tensor::<i32>::uninit(stream, [2, 1, 1, 4]).unwrap();
        let mut lens = Tensor::<i32>::uninit(stream, [1, 1, 1, 2]).unwrap();
        let plan = BlockPlan::dense();
        let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(&shape, &plan)).unwrap();
        let mut step = || {
            pages.block_table_into(stream, 16, 64, table.view_mut(), lens.view_mut())?;
            let paged = Some(PagedKv { block_table: table.view(), page_size: 16 });
            let options = ForwardOptions { paged, ..ForwardOptions::causal() };
            let (q, out) = (x.q.view(), x.out.view_mut());
            let (k, v) = (pool.view(), pool.view());
            attention::decode(stream, &shape, &options, &plan, Some(&lens), q, k, v, out, None, &mut workspace)
        };
        let launches = launches_of(stream, &mut step);
        check_free("page lists and decode", stream, launches, step);
    }
}

#[test]
fn the_evicting_cache_costs_nothing() {
    let shape = AttentionShape { q_len: 1, kv_len: 512, ..SHAPE };
    let config = S2Config { block_size: 32, local_blocks: 2, vertical_stride: 4, ..S2Config::default() };
    for stream in &streams() {
        let mut x = Inputs::new(stream, &shape);
        let layout = s2::CacheLayout::new(&config, &shape).unwrap();
        let mut cache = s2::Cache::<bf16>::new(stream, &layout).unwrap();
        let new = Tensor::<bf16>::random(stream, [2, 1, 1, 32], 5).unwrap();
        let lens = Tensor::vector(stream, &[300, 7]).unwrap();
        let plan = config.plan(&shape).unwrap();
        let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(&shape, &plan)).unwrap();
        let mut step = || {
            cache.append(stream, new.view(), new.view(), &lens, None, 1)?;
            let options = ForwardOptions { paged: Some(cache.paged(512)?), ..ForwardOptions::causal() };
            let (q, k, v, out) = (x.q.view(), cache.k()?, cache.v()?, x.out.view_mut());
            attention::decode(stream, &shape, &options, &plan, Some(&lens), q, k, v, out, None, &mut workspace)
        };
        let launches = launches_of(stream, &mut step);
        check_free("S2 cache and decode", stream, launches, step);
    }
}

#[test]
fn the_gate_of_prompts_costs_nothing() {
    for stream in &streams() {
        let x = Inputs::new(stream, &SHAPE);
        let (heads, dim) = ((SHAPE.q_heads, SHAPE.kv_heads, SHAPE.head_dim), SHAPE.head_dim);
        let weights = GateWeights {
            w_k: Tensor::<bf16>::random(stream, [1, SHAPE.q_heads, 3 * dim, 16], 6).unwrap(),
            w_q: Some(Tensor::random(stream, [1, SHAPE.q_heads, dim, 16], 7).unwrap()),
        };
        let config = GateConfig {
            block_size: 32,
            q_pool: Pools::AVG,
            k_pool: Pools::MAX_MIN_AVG,
            rope: Some(Rope::new(10000.0, 16)),
        };
        let gate = SeerGate::new(stream, heads, 128, config, weights).unwrap();
        for select in [Select::Blocks(2), Select::Threshold(0.1), Select::TopP(0.7), Select::Density(0.5)] {
            let options = SelectOptions::new(select);
            let mut plan = gate.empty_plan(stream, &SHAPE, &Mask::CAUSAL, &options, None).unwrap();
            let mut workspace = stream.alloc_bytes(gate.workspace_bytes(&SHAPE, &options)).unwrap();
            let mut schedule = Schedule::build(stream, &SHAPE, &ForwardOptions::causal(), &plan).unwrap();
            let mut step = || {
                let (q, k) = (x.q.view(), x.k.view());
                gate.select_into(stream, &SHAPE, &Mask::CAUSAL, q, k, &options, &mut plan, &mut workspace)?;
                schedule.rebuild(stream, &plan)
            };
            let launches = launches_of(stream, &mut step);
            check_free("select_into and rebuild", stream, launches, step);
        }
    }
}

#[test]
fn the_gate_of_decoding_costs_nothing() {
    let shape = AttentionShape { q_len: 1, kv_len: 256, ..SHAPE };
    for stream in &streams() {
        let x = Inputs::new(stream, &shape);
        let weights = DecodeGateWeights {
            w_q: Tensor::<bf16>::random(stream, [1, 1, 2 * 32, 16], 6).unwrap(),
            w_k: Tensor::random(stream, [1, 1, 3 * 32, 16], 7).unwrap(),
            q_norm: Some(Tensor::vector(stream, &[1.0; 16]).unwrap()),
            k_norm: Some(Tensor::vector(stream, &[1.0; 16]).unwrap()),
        };
        let config = DecodeGateConfig {
            block_size: 32,
            k_pool: Pools::MAX_MIN_AVG,
            rope: Some(Rope::new(10000.0, 16)),
            norm_eps: 1e-6,
            compat: false,
        };
        let gate = DecodeGate::new(stream, (2, 1, 32), 256, config, weights).unwrap();
        let mut cache = gate.cache(stream, 2, 256).unwrap();
        let [starts, added, lens] =
            [[99, 200], [1, 1], [100, 201]].map(|x: [i32; 2]| Tensor::vector(stream, &x).unwrap());
        let key = Tensor::<bf16>::random(stream, [2, 1, 1, 32], 8).unwrap();
        let options = DecodeSelectOptions::new(Select::TokenBudget(64));
        let mut plan = gate.empty_plan(stream, &shape, &options, None).unwrap();
        let mut pooling = stream.alloc_bytes(cache.workspace_bytes(1)).unwrap();
        let mut workspace = stream.alloc_bytes(gate.workspace_bytes(&shape)).unwrap();
        let mut step = || {
            let span = Span::Ragged { starts: &starts, lens: &added };
            gate.append(stream, &mut cache, key.view(), span, true, &mut pooling)?;
            let lens = Some(&lens);
            gate.select_into(stream, &shape, lens, x.q.view(), &cache, &options, &mut plan, &mut workspace)
        };
        let launches = launches_of(stream, &mut step);
        check_free("append and select_into", stream, launches, step);
    }
}

#[test]
fn hyper_attention_costs_nothing() {
    let config = HyperConfig { block_size: 32, sample_size: 32, min_seq_len: 32, ..HyperConfig::default() };
    for stream in &streams() {
        for mask in [Mask::FULL, Mask::CAUSAL] {
            let mut x = Inputs::new(stream, &SHAPE);
            let mut plan = HyperPlan::new(stream, &SHAPE, &mask, &config).unwrap();
            assert!(!plan.is_exact());
            let mut workspace = stream.alloc_bytes(attention::hyper_workspace_bytes(&plan)).unwrap();
            let mut step = || {
                let (q, k, v) = (x.q.view(), x.k.view(), x.v.view());
                plan.update(stream, q, k)?;
                let (out, lse) = (x.out.view_mut(), Some(x.lse.view_mut()));
                attention::hyper_forward(stream, &plan, None, q, k, v, out, lse, &mut workspace)
            };
            let launches = launches_of(stream, &mut step);
            check_free("update and hyper_forward", stream, launches, step);

            let mut d = Inputs::new(stream, &SHAPE);
            let bytes = attention::hyper_backward_workspace_bytes(stream.device(), &plan).unwrap();
            let mut workspace = stream.alloc_bytes(bytes).unwrap();
            let mut step = || {
                let inputs = BackwardInputs {
                    q: x.q.view(),
                    k: x.k.view(),
                    v: x.v.view(),
                    out: x.out.view(),
                    lse: x.lse.view(),
                    dout: d.out.view(),
                    dlse: Some(d.lse.view()),
                };
                let mut gradients =
                    GradientsMut { dq: d.q.view_mut(), dk: d.k.view_mut(), dv: d.v.view_mut(), dsink: None };
                attention::hyper_backward(stream, &plan, None, &inputs, &mut gradients, &mut workspace)
            };
            let launches = launches_of(stream, &mut step);
            check_free("hyper_backward", stream, launches, step);
        }
    }
}

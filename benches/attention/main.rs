//! Criterion benches of attention and planning: `cargo bench --bench attention`, with `--features cuda` on a GPU. Times
//! are the device's own; on the SIMT host, which the names of the groups say, they compare with each other only, and
//! sizes are small. For a table of many sizes there is `lacuna bench`.

mod device_time;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use device_time::{DeviceTime, work};
use lacuna::{
    AttentionShape, BlockPlan, DType, Device, ForwardOptions, HyperConfig, HyperPlan, Mask, Result, S2Config, Schedule,
    Stream, Tensor, attention, bf16,
};

struct Inputs {
    q: Tensor<bf16>,
    k: Tensor<bf16>,
    v: Tensor<bf16>,
    out: Tensor<bf16>,
}

impl Inputs {
    fn new(stream: &Stream, shape: &AttentionShape) -> Result<Self> {
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = *shape;
        Ok(Self {
            q: Tensor::random(stream, [batch, q_heads, q_len, head_dim], 1)?,
            k: Tensor::random(stream, [batch, kv_heads, kv_len, head_dim], 2)?,
            v: Tensor::random(stream, [batch, kv_heads, kv_len, head_dim], 3)?,
            out: Tensor::uninit(stream, [batch, q_heads, q_len, head_dim])?,
        })
    }
}

/// Sizes that the device is fit for.
fn shape(stream: &Stream) -> AttentionShape {
    let small = stream.device().is_simt();
    let (q_heads, kv_heads, len) = if small { (2, 1, 256) } else { (32, 8, 8192) };
    AttentionShape { batch: 1, q_heads, kv_heads, q_len: len, kv_len: len, head_dim: 64, dtype: DType::BF16 }
}

/// A quarter of the causal blocks of 64, and the diagonal: a fixed stripe for each row.
fn quarter(stream: &Stream, shape: &AttentionShape) -> Result<(BlockPlan, Vec<u8>)> {
    let blocks = shape.kv_len / 64;
    let mask: Vec<u8> = (0..blocks * blocks)
        .map(|at| (at / blocks, at % blocks))
        .map(|(row, block)| u8::from(block == row || (row * 3 + block) % 4 == 0))
        .collect();
    Ok((BlockPlan::from_mask(stream, shape, 64, 64, [1, 1, blocks, blocks], &mask)?, mask))
}

fn attention_benches(criterion: &mut Criterion<DeviceTime>) {
    let stream = criterion_stream();
    let device = stream.device().name();
    run(criterion, &stream, &device).expect("every case is one that the kernels serve");
}

fn run(criterion: &mut Criterion<DeviceTime>, stream: &Stream, device: &str) -> Result<()> {
    let (shape, options) = (shape(stream), ForwardOptions::causal());
    let mut x = Inputs::new(stream, &shape)?;
    let (blocks, mask) = quarter(stream, &shape)?;
    let s2 = S2Config { local_blocks: 2, vertical_stride: 4, ..S2Config::default() }.plan(&shape)?;

    let mut group = criterion.benchmark_group(format!("forward on {device}"));
    for (name, plan) in [("dense", &BlockPlan::dense()), ("s2", &s2), ("blocks", &blocks)] {
        let schedule = Schedule::build(stream, &shape, &options, plan)?;
        let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options))?;
        group.throughput(work(plan.visited_pairs(stream, &shape, &Mask::CAUSAL)?, shape.head_dim));
        group.bench_function(BenchmarkId::new(name, shape.kv_len), |bencher| {
            bencher.iter(|| {
                let (q, k, v, out) = (x.q.view(), x.k.view(), x.v.view(), x.out.view_mut());
                attention::forward(stream, &shape, &options, plan, &schedule, q, k, v, out, None, &mut workspace)
                    .expect("a step runs");
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group(format!("decode on {device}"));
    let token = AttentionShape { q_len: 1, ..shape };
    let mut y = Inputs::new(stream, &token)?;
    let s2 = S2Config { local_blocks: 2, vertical_stride: 4, ..S2Config::default() }.plan(&token)?;
    for (name, plan) in [("dense", &BlockPlan::dense()), ("s2", &s2)] {
        let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(&token, plan))?;
        group.throughput(work(plan.visited_pairs(stream, &token, &Mask::CAUSAL)?, token.head_dim));
        group.bench_function(BenchmarkId::new(name, token.kv_len), |bencher| {
            bencher.iter(|| {
                let (q, k, v, out) = (y.q.view(), y.k.view(), y.v.view(), y.out.view_mut());
                attention::decode(stream, &token, &options, plan, None, q, k, v, out, None, &mut workspace)
                    .expect("a step runs");
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group(format!("planning on {device}"));
    let mut plan = blocks;
    let size = shape.kv_len / 64;
    let mask = Tensor::from_slice(stream, &mask, [1, 1, size, size])?;
    let mut schedule = Schedule::build(stream, &shape, &options, &plan)?;
    group.bench_function(BenchmarkId::new("mask to schedule", shape.kv_len), |bencher| {
        bencher.iter(|| {
            plan.set_mask(stream, mask.view()).and_then(|()| schedule.rebuild(stream, &plan)).expect("a step runs")
        });
    });
    let config = HyperConfig { block_size: 64, sample_size: 64, min_seq_len: 128, ..HyperConfig::default() };
    let mut hyper = HyperPlan::new(stream, &shape, &Mask::CAUSAL, &config)?;
    group.bench_function(BenchmarkId::new("hyper", shape.kv_len), |bencher| {
        bencher.iter(|| hyper.update(stream, x.q.view(), x.k.view()).expect("a step runs"));
    });
    group.finish();
    Ok(())
}

/// The stream of every bench, on the device that `LACUNA_BENCH_DEVICE` names, or that `auto` chooses.
fn criterion_stream() -> Stream {
    static STREAM: std::sync::OnceLock<Stream> = std::sync::OnceLock::new();
    let create = || {
        let name = std::env::var("LACUNA_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
        let device = Device::parse(&name)?;
        eprintln!("{} ({})", device.name(), device.choice());
        device.new_stream()
    };
    STREAM.get_or_init(|| create().expect("a device to measure")).clone()
}

fn config() -> Criterion<DeviceTime> {
    let base = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(200));
    base.measurement_time(Duration::from_millis(800)).with_measurement(DeviceTime::new(&criterion_stream()))
}

criterion_group!(name = benches; config = config(); targets = attention_benches);
criterion_main!(benches);

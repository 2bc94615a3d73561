//! The bench of the GPU bundle: `suite --ignored --nocapture timings` prints one JSON line a case. Wall time of queued
//! launches, so short kernels show the launch too; caches are warm. Ignored in test runs, since it asserts no time.

use std::time::{Duration, Instant};

use crate::harness::shape;
use lacuna::{
    AttentionShape, BlockPlan, Device, ForwardOptions, Mask, Result, S2Config, Schedule, Stream, Tensor, attention,
    bf16,
};

/// Median seconds of one call of `work`.
fn median(stream: &Stream, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    stream.synchronize()?;
    let mut samples = Vec::new();
    let start = Instant::now();
    while samples.len() < 3 || (samples.len() < 50 && start.elapsed() < Duration::from_millis(500)) {
        let sample = Instant::now();
        work()?;
        stream.synchronize()?;
        samples.push(sample.elapsed().as_secs_f64());
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[samples.len() / 2])
}

/// Every tenth block of a row and the diagonal, shifted from row to row.
fn tenth(stream: &Stream, shape: &AttentionShape) -> Result<BlockPlan> {
    let blocks = shape.q_len.div_ceil(64);
    let mask: Vec<u8> = (0..blocks * blocks)
        .map(|at| (at / blocks, at % blocks))
        .map(|(i, j)| u8::from(i == j || (j < i && (j * 7 + i * 3).is_multiple_of(10))))
        .collect();
    BlockPlan::from_mask(stream, shape, 64, 64, [1, 1, blocks, blocks], &mask)
}

fn time(stream: &Stream, shape: &AttentionShape, name: &str, plan: &BlockPlan) -> Result<()> {
    let options = ForwardOptions::causal();
    let dims = |heads, len| [shape.batch, heads, len, shape.head_dim];
    let q = Tensor::<bf16>::random(stream, dims(shape.q_heads, shape.q_len), 1)?;
    let k = Tensor::<bf16>::random(stream, dims(shape.kv_heads, shape.kv_len), 2)?;
    let v = Tensor::<bf16>::random(stream, dims(shape.kv_heads, shape.kv_len), 3)?;
    let mut out = Tensor::<bf16>::uninit(stream, dims(shape.q_heads, shape.q_len))?;
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(shape, &options))?;
    let mut schedule = Schedule::build(stream, shape, &options, plan)?;
    let planning = median(stream, || schedule.rebuild(stream, plan))?;
    let seconds = median(stream, || {
        let (q, k, v) = (q.view(), k.view(), v.view());
        attention::forward(stream, shape, &options, plan, &schedule, q, k, v, out.view_mut(), None, &mut workspace)
    })?;
    let pairs = plan.visited_pairs(stream, shape, &Mask::CAUSAL)?;
    println!(
        "{{\"device\": \"{}\", \"kernel\": \"{}\", \"plan\": \"{name}\", \"q_heads\": {}, \"kv_heads\": {}, \"len\": {}, \
         \"head_dim\": {}, \"density\": {:.4}, \"forward_us\": {:.1}, \"schedule_us\": {:.1}, \"useful_tflops\": {:.3}}}",
        stream.device().name(),
        attention::kernel(stream.device(), shape, &options, plan)?.name,
        shape.q_heads,
        shape.kv_heads,
        shape.q_len,
        shape.head_dim,
        plan.density(stream, shape, &Mask::CAUSAL)?,
        seconds * 1e6,
        planning * 1e6,
        4.0 * pairs as f64 * shape.head_dim as f64 / seconds * 1e-12,
    );
    Ok(())
}

#[test]
#[ignore = "a measurement; run it alone with --ignored --nocapture"]
fn timings() {
    let device = Device::auto().unwrap();
    eprintln!("{}", device.choice());
    let stream = device.new_stream().unwrap();
    let lengths: &[usize] = if device.is_simt() { &[512] } else { &[8192, 32768] };
    let heads = if device.is_simt() { (2, 1) } else { (32, 8) };
    for head_dim in [64, 128] {
        for &len in lengths {
            let shape = shape(1, heads, (len, len), head_dim);
            time(&stream, &shape, "dense", &BlockPlan::dense()).unwrap();
            time(&stream, &shape, "s2", &S2Config::default().plan(&shape).unwrap()).unwrap();
            time(&stream, &shape, "lists, a tenth", &tenth(&stream, &shape).unwrap()).unwrap();
        }
    }
}

//! The bench of the GPU bundle: `suite --ignored --nocapture timings` prints one JSON line a case. Wall time of queued
//! launches, so short kernels show the launch too; caches are warm. Ignored in test runs, since it asserts no time.

use std::time::{Duration, Instant};

use crate::harness::shape;
use lacuna::{
    AttentionShape, BlockPlan, Device, ForwardOptions, KernelFamily, Mask, Result, S2Config, Schedule, Stream, Tensor,
    attention, bf16,
};

/// Median seconds of one call of `work`.
fn median(stream: &Stream, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    stream.synchronize()?;
    let mut samples = Vec::new();
    let start = Instant::now();
    while samples.len() < 3 || (samples.len() < 50 && start.elapsed() < Duration::from_millis(300)) {
        let sample = Instant::now();
        work()?;
        stream.synchronize()?;
        samples.push(sample.elapsed().as_secs_f64());
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[samples.len() / 2])
}

/// Random blocks, each with the same chance, and the diagonal. `heads`: how many lists there are.
fn random(stream: &Stream, shape: &AttentionShape, size: usize, heads: usize, density: f64) -> Result<BlockPlan> {
    let blocks = shape.q_len.div_ceil(size);
    let chance = (density * f64::from(u32::MAX)) as u64;
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mask: Vec<u8> = (0..heads * blocks * blocks)
        .map(|at| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let diagonal = at % blocks == at / blocks % blocks;
            u8::from(diagonal || state >> 32 < chance)
        })
        .collect();
    BlockPlan::from_mask(stream, shape, size, size, [1, heads, blocks, blocks], &mask)
}

struct Bench<'a> {
    stream: &'a Stream,
    shape: AttentionShape,
    mask: Mask,
}

impl Bench<'_> {
    fn time(&self, name: &str, plan: &BlockPlan) -> Result<()> {
        let auto = ForwardOptions { mask: self.mask, ..ForwardOptions::default() };
        let portable = ForwardOptions { family: KernelFamily::Portable, ..auto };
        let kernel = |options| attention::kernel(self.stream.device(), &self.shape, options, plan);
        self.time_family(name, plan, &auto)?;
        if kernel(&auto)? != kernel(&portable)? { self.time_family(name, plan, &portable) } else { Ok(()) }
    }

    fn time_family(&self, name: &str, plan: &BlockPlan, options: &ForwardOptions<'_>) -> Result<()> {
        let Self { stream, shape, mask } = self;
        let dims = |heads, len| [shape.batch, heads, len, shape.head_dim];
        let q = Tensor::<bf16>::random(stream, dims(shape.q_heads, shape.q_len), 1)?;
        let k = Tensor::<bf16>::random(stream, dims(shape.kv_heads, shape.kv_len), 2)?;
        let v = Tensor::<bf16>::random(stream, dims(shape.kv_heads, shape.kv_len), 3)?;
        let mut out = Tensor::<bf16>::uninit(stream, dims(shape.q_heads, shape.q_len))?;
        let mut workspace = stream.alloc_bytes(attention::workspace_bytes(shape, options))?;
        let mut schedule = Schedule::build(stream, shape, options, plan)?;
        let planning = median(stream, || schedule.rebuild(stream, plan))?;
        let seconds = median(stream, || {
            let (q, k, v) = (q.view(), k.view(), v.view());
            attention::forward(stream, shape, options, plan, &schedule, q, k, v, out.view_mut(), None, &mut workspace)
        })?;
        let pairs = plan.visited_pairs(stream, shape, mask)?;
        println!(
            "{{\"device\": \"{}\", \"kernel\": \"{}\", \"plan\": \"{name}\", \"causal\": {}, \"q_heads\": {}, \
             \"kv_heads\": {}, \"len\": {}, \"head_dim\": {}, \"density\": {:.4}, \"forward_us\": {:.1}, \
             \"schedule_us\": {:.1}, \"useful_tflops\": {:.3}}}",
            stream.device().name(),
            attention::kernel(stream.device(), shape, options, plan)?.name,
            mask.causal,
            shape.q_heads,
            shape.kv_heads,
            shape.q_len,
            shape.head_dim,
            plan.density(stream, shape, mask)?,
            seconds * 1e6,
            planning * 1e6,
            4.0 * pairs as f64 * shape.head_dim as f64 / seconds * 1e-12,
        );
        Ok(())
    }
}

#[test]
#[ignore = "a measurement; run it alone with --ignored --nocapture"]
fn timings() {
    let device = Device::auto().unwrap();
    eprintln!("{}", device.choice());
    let stream = device.new_stream().unwrap();
    let small = device.is_simt();
    let lengths: &[usize] = if small { &[512] } else { &[8192, 32768] };
    let (q_heads, kv_heads) = if small { (2, 1) } else { (32, 8) };
    for head_dim in [128, 64] {
        for &len in lengths {
            let shape = shape(1, (q_heads, kv_heads), (len, len), head_dim);
            let full = Bench { stream: &stream, shape, mask: Mask::FULL };
            let causal = Bench { stream: &stream, shape, mask: Mask::CAUSAL };
            full.time("dense", &BlockPlan::dense()).unwrap();
            causal.time("dense", &BlockPlan::dense()).unwrap();
            causal.time("s2", &S2Config::default().plan(&shape).unwrap()).unwrap();
            for density in [0.5, 0.25, 0.1] {
                let time = |name: &str, size, heads| {
                    let plan = random(&stream, &shape, size, heads, density).unwrap();
                    full.time(name, &plan).unwrap();
                };
                time("blocks of 128, a list for all heads", 128, 1);
                time("blocks of 64, a list for each KV head", 64, kv_heads);
                time("blocks of 64, a list for each head", 64, q_heads);
            }
        }
    }
}

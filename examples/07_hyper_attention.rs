//! HyperAttention: the estimate beside exact attention, and how it changes with the number of samples.
//!
//! `cargo run --release --example 07_hyper_attention`

use lacuna::{AttentionShape, DType, Device, HyperConfig, HyperPlan, Mask, Result, Stream, Tensor, attention, bf16};

/// Attention by a plan for these settings, as f32.
fn attend(
    stream: &Stream,
    shape: &AttentionShape,
    config: &HyperConfig,
    [q, k, v]: [&Tensor<bf16>; 3],
) -> Result<Vec<f32>> {
    let mut plan = HyperPlan::new(stream, shape, &Mask::CAUSAL, config)?;
    // Hashes, sorts and draws on the device; a captured step runs it again for new q and k.
    plan.update(stream, q.view(), k.view())?;
    let mut out = Tensor::<bf16>::uninit(stream, q.dims())?;
    let mut workspace = stream.alloc_bytes(attention::hyper_workspace_bytes(&plan))?;
    let to = out.view_mut();
    attention::hyper_forward(stream, &plan, None, q.view(), k.view(), v.view(), to, None, &mut workspace)?;
    Ok(out.to_vec(stream)?.into_iter().map(f32::from).collect())
}

pub fn main() -> Result<()> {
    let stream = Device::auto()?.new_stream()?;
    let (heads, len, head_dim) = (2, 1024, 64);
    let shape = AttentionShape {
        batch: 1,
        q_heads: heads,
        kv_heads: heads,
        q_len: len,
        kv_len: len,
        head_dim,
        dtype: DType::BF16,
    };
    let dims = [1, heads, len, head_dim];
    let tensor = |seed| Tensor::<bf16>::random(&stream, dims, seed);
    let (q, k, v) = (tensor(1)?, tensor(2)?, tensor(3)?);
    // Calls shorter than twice this are exact.
    let exact = attend(&stream, &shape, &HyperConfig { min_seq_len: len, ..HyperConfig::default() }, [&q, &k, &v])?;
    let size: f32 = exact.iter().map(|x| x * x).sum();
    let mut errors = Vec::new();
    for sample_size in [16, 64, 256] {
        let config = HyperConfig { block_size: 64, sample_size, min_seq_len: 128, ..HyperConfig::default() };
        let estimate = attend(&stream, &shape, &config, [&q, &k, &v])?;
        let error: f32 = estimate.iter().zip(&exact).map(|(a, b)| (a - b) * (a - b)).sum();
        errors.push((error / size).sqrt());
        println!("{sample_size:4} samples: relative error {:.3}", (error / size).sqrt());
    }
    assert!(errors[2] < errors[1] && errors[1] < errors[0], "more samples, a worse estimate: {errors:?}");
    Ok(())
}

//! Attention over four plans: dense, a local window, S2-Attention, and blocks of one's own.
//!
//! `cargo run --release --example 05_plans`

use lacuna::{
    AttentionShape, BlockFormula, BlockPlan, BlockSize, DType, Device, ForwardOptions, Mask, Result, S2Config,
    Schedule, Tensor, attention, bf16,
};

pub fn main() -> Result<()> {
    let stream = Device::auto()?.new_stream()?;
    let (q_heads, kv_heads, len, head_dim) = (4, 2, 512, 64);
    let shape = AttentionShape { batch: 1, q_heads, kv_heads, q_len: len, kv_len: len, head_dim, dtype: DType::BF16 };
    let q = Tensor::<bf16>::random(&stream, [1, q_heads, len, head_dim], 1)?;
    let k = Tensor::<bf16>::random(&stream, [1, kv_heads, len, head_dim], 2)?;
    let v = Tensor::<bf16>::random(&stream, [1, kv_heads, len, head_dim], 3)?;
    let mut out = Tensor::<bf16>::uninit(&stream, q.dims())?;

    // Formulas need no index memory; a mask becomes lists on the device. The token mask applies to all of them.
    let window = BlockFormula::local(2, 1);
    let s2 = S2Config { local_blocks: 2, vertical_stride: 4, ..S2Config::default() };
    let blocks = len / 64;
    let mask: Vec<u8> = (0..blocks * blocks).map(|i| u8::from((i / blocks + i % blocks).is_multiple_of(3))).collect();
    let plans = [
        ("dense", BlockPlan::dense()),
        ("window and sink", BlockPlan::formula(window, BlockSize::square(64), 1, true)?),
        ("S2-Attention", s2.plan(&shape)?),
        ("a mask", BlockPlan::from_mask(&stream, &shape, 64, 64, [1, 1, blocks, blocks], &mask)?),
    ];
    let options = ForwardOptions::causal();
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options))?;
    for (name, plan) in &plans {
        // What a static plan needs is built once and serves every call of this shape.
        let schedule = Schedule::build(&stream, &shape, &options, plan)?;
        let (to, from) = (out.view_mut(), (q.view(), k.view(), v.view()));
        attention::forward(
            &stream,
            &shape,
            &options,
            plan,
            &schedule,
            from.0,
            from.1,
            from.2,
            to,
            None,
            &mut workspace,
        )?;
        let kernel = attention::kernel(stream.device(), &shape, &options, plan)?;
        let density = 100.0 * plan.density(&stream, &shape, &Mask::CAUSAL)?;
        println!("{name:16} {density:5.1} % of the pairs, {} on {}", kernel.name, stream.device().name());
    }
    Ok(())
}

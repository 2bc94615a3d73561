//! One step of gradient descent on the values, through S2-Attention: forward, backward, and a smaller loss.
//!
//! `cargo run --release --example 06_gradients`

use lacuna::attention::{self, BackwardInputs, GradientsMut};
use lacuna::{AttentionShape, ColumnSchedule, DType, Device, ForwardOptions, Result, S2Config, Schedule, Tensor, bf16};

pub fn main() -> Result<()> {
    let stream = Device::auto()?.new_stream()?;
    let (heads, len, head_dim) = (2, 256, 64);
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
    let (q, k) = (Tensor::<bf16>::random(&stream, dims, 1)?, Tensor::<bf16>::random(&stream, dims, 2)?);
    let (mut v, target) = (Tensor::<bf16>::random(&stream, dims, 3)?, Tensor::<bf16>::random(&stream, dims, 4)?);
    let target: Vec<f32> = target.to_vec(&stream)?.into_iter().map(f32::from).collect();

    let options = ForwardOptions::causal();
    let plan = S2Config { block_size: 32, local_blocks: 2, vertical_stride: 3, ..S2Config::default() }.plan(&shape)?;
    let schedule = Schedule::build(&stream, &shape, &options, &plan)?;
    let columns = ColumnSchedule::build(&stream, &shape, &options, &plan)?;
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options))?;
    let bytes = attention::backward_workspace_bytes(stream.device(), &shape, &options, &plan)?;
    let mut backward_workspace = stream.alloc_bytes(bytes)?;
    let mut out = Tensor::<bf16>::uninit(&stream, dims)?;
    let mut lse = Tensor::<f32>::uninit(&stream, [1, heads, len, 1])?;
    let [mut dq, mut dk, mut dv] =
        [Tensor::uninit(&stream, dims)?, Tensor::uninit(&stream, dims)?, Tensor::uninit(&stream, dims)?];

    let mut losses = Vec::new();
    for step in 0..3 {
        let (to, rows) = (out.view_mut(), Some(lse.view_mut()));
        attention::forward(
            &stream,
            &shape,
            &options,
            &plan,
            &schedule,
            q.view(),
            k.view(),
            v.view(),
            to,
            rows,
            &mut workspace,
        )?;
        // The loss is half the squared distance to a target, its gradient the difference.
        let difference: Vec<f32> =
            out.to_vec(&stream)?.into_iter().zip(&target).map(|(x, target)| x.to_f32() - target).collect();
        losses.push(difference.iter().map(|x| x * x).sum::<f32>() / 2.0);
        println!("step {step}: loss {:.1}", losses[step]);
        let dout: Vec<bf16> = difference.into_iter().map(bf16::from_f32).collect();
        let dout = Tensor::from_slice(&stream, &dout, dims)?;
        let inputs = BackwardInputs {
            q: q.view(),
            k: k.view(),
            v: v.view(),
            out: out.view(),
            lse: lse.view(),
            dout: dout.view(),
            dlse: None,
        };
        let mut gradients = GradientsMut { dq: dq.view_mut(), dk: dk.view_mut(), dv: dv.view_mut(), dsink: None };
        attention::backward(
            &stream,
            &shape,
            &options,
            &plan,
            &schedule,
            &columns,
            &inputs,
            &mut gradients,
            &mut backward_workspace,
        )?;
        let moved = v.to_vec(&stream)?.into_iter().zip(dv.to_vec(&stream)?);
        let moved: Vec<bf16> = moved.map(|(v, dv)| bf16::from_f32(v.to_f32() - 0.5 * dv.to_f32())).collect();
        v.copy_from_slice(&stream, &moved)?;
    }
    assert!(losses[2] < losses[1] && losses[1] < losses[0], "gradients point uphill: {losses:?}");
    Ok(())
}

//! `--grad`: the gradients of a call, by the backward kernels.

use crate::attention_call::{Answer, Inputs};
use crate::failure::Result;
use crate::files::{Contents, TensorFile, floats, rounded};
use lacuna::attention::{self, BackwardInputs, GradientsMut};
use lacuna::reference::{Problem, Visibility};
use lacuna::{
    AttentionShape, BlockPlan, ColumnSchedule, Counters, ForwardOptions, Half, HyperPlan, KernelInfo, Schedule, Stream,
    Tensor,
};

/// The gradients of the outputs, which come from the file.
pub struct Upstream<T> {
    /// `[batch, q_heads, q_len, head_dim]`
    dout: Vec<T>,
    /// `[batch, q_heads, q_len]`
    dlse: Option<Vec<f32>>,
}

/// The gradients of the inputs: values of the compute type.
pub struct Gradients {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    kernels: Vec<String>,
    /// Counted by the SIMT host only.
    counters: Option<Counters>,
}

impl<T: Half + Into<f64>> Upstream<T> {
    /// Reads `dout` and, where there is one, `dlse`.
    pub fn read(file: &TensorFile, shape: &AttentionShape) -> Result<Self> {
        let AttentionShape { batch, q_heads, q_len, head_dim, .. } = *shape;
        let tensors = file.tensors()?;
        let (dout, dims) = file.float_tensor::<4>(&tensors, "dout")?;
        let expected = [batch, q_heads, q_len, head_dim];
        if dims != expected {
            return Err(
                file.error(format_args!("tensor `dout` must have the shape of `q`, {expected:?}, got {dims:?}"))
            );
        }
        let dlse = match tensors.names().contains(&"dlse") {
            false => None,
            true => {
                let (dlse, dims) = file.float_tensor::<3>(&tensors, "dlse")?;
                let expected = [batch, q_heads, q_len];
                if dims != expected {
                    return Err(file.error(format_args!("tensor `dlse` must be {expected:?}, got {dims:?}")));
                }
                Some(floats(&dlse))
            }
        };
        Ok(Self { dout: rounded(&dout), dlse })
    }

    /// Runs the backward kernels after a forward call. `stream` is used by nobody else: its counters start at zero
    /// here.
    pub fn gradients(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        options: &ForwardOptions<'_>,
        plan: &BlockPlan,
        inputs: Inputs<'_, T>,
        answer: &Answer,
    ) -> Result<Gradients> {
        self.run(stream, shape, inputs, (&answer.out, &answer.lse), |read, written| {
            let schedule = Schedule::build(stream, shape, options, plan)?;
            let columns = ColumnSchedule::build(stream, shape, options, plan)?;
            let bytes = attention::backward_workspace_bytes(stream.device(), shape, options, plan)?;
            let mut workspace = stream.alloc_bytes(bytes)?;
            attention::backward(stream, shape, options, plan, &schedule, &columns, read, written, &mut workspace)?;
            attention::backward_kernels(stream.device(), shape, options, plan)
        })
    }

    /// The same after HyperAttention.
    pub fn hyper_gradients(
        &self,
        stream: &Stream,
        plan: &HyperPlan,
        scale: Option<f32>,
        inputs: Inputs<'_, T>,
        outputs: (&[f32], &[f32]),
    ) -> Result<Gradients> {
        self.run(stream, plan.shape(), inputs, outputs, |read, written| {
            let bytes = attention::hyper_backward_workspace_bytes(stream.device(), plan)?;
            let mut workspace = stream.alloc_bytes(bytes)?;
            attention::hyper_backward(stream, plan, scale, read, written, &mut workspace)?;
            attention::hyper_backward_kernels(stream.device(), plan)
        })
    }

    /// Puts everything on the device and calls `backward`, which names its kernels.
    fn run(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        inputs: Inputs<'_, T>,
        (out, lse): (&[f32], &[f32]),
        backward: impl FnOnce(&BackwardInputs<'_, T>, &mut GradientsMut<'_, T>) -> lacuna::Result<[KernelInfo; 2]>,
    ) -> Result<Gradients> {
        let q_dims = [shape.batch, shape.q_heads, shape.q_len, shape.head_dim];
        let kv_dims = [shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim];
        let row_dims = [shape.batch, shape.q_heads, shape.q_len, 1];
        stream.reset_counters();
        let q = Tensor::from_slice(stream, inputs.q, q_dims)?;
        let k = Tensor::from_slice(stream, inputs.k, kv_dims)?;
        let v = Tensor::from_slice(stream, inputs.v, kv_dims)?;
        // The answer has values of the compute type: nothing is lost.
        let out: Vec<T> = out.iter().map(|&x| T::from_f32(x)).collect();
        let out = Tensor::from_slice(stream, &out, q_dims)?;
        let lse = Tensor::from_slice(stream, lse, row_dims)?;
        let dout = Tensor::from_slice(stream, &self.dout, q_dims)?;
        let dlse = self.dlse.as_ref().map(|dlse| Tensor::from_slice(stream, dlse, row_dims)).transpose()?;
        let mut dq = Tensor::<T>::uninit(stream, q_dims)?;
        let (mut dk, mut dv) = (Tensor::<T>::uninit(stream, kv_dims)?, Tensor::<T>::uninit(stream, kv_dims)?);
        let read = BackwardInputs {
            q: q.view(),
            k: k.view(),
            v: v.view(),
            out: out.view(),
            lse: lse.view(),
            dout: dout.view(),
            dlse: dlse.as_ref().map(Tensor::view),
        };
        let mut written = GradientsMut { dq: dq.view_mut(), dk: dk.view_mut(), dv: dv.view_mut(), dsink: None };
        let kernels = backward(&read, &mut written)?;
        let wide = |tensor: &Tensor<T>| -> Result<Vec<f32>> {
            Ok(tensor.to_vec(stream)?.into_iter().map(T::to_f32).collect())
        };
        Ok(Gradients {
            dq: wide(&dq)?,
            dk: wide(&dk)?,
            dv: wide(&dv)?,
            kernels: kernels.map(|kernel| kernel.name).into(),
            counters: stream.counters(),
        })
    }

    /// Compares gradients with the reference: a line for each, and whether all are right.
    pub fn check(&self, got: &Gradients, problem: &Problem<'_>, visible: &impl Visibility) -> Result<(String, bool)> {
        let dout: Vec<f64> = self.dout.iter().map(|&x| x.into()).collect();
        let dlse: Option<Vec<f64>> = self.dlse.as_ref().map(|dlse| dlse.iter().map(|&x| x.into()).collect());
        let expected = problem.expect_gradients(visible, &dout, dlse.as_deref())?;
        let (mut text, mut passed) = (String::new(), true);
        let parts = [("dq", &expected.dq, &got.dq), ("dk", &expected.dk, &got.dk), ("dv", &expected.dv, &got.dv)];
        for (name, expected, got) in parts {
            let result = expected.compare(got)?;
            text += &format!("{name}: {result}\n");
            passed &= result.passed();
        }
        Ok((text, passed))
    }
}

impl Gradients {
    /// What the output file has beside the call's own.
    pub fn add_to(&self, contents: &mut Contents, shape: &AttentionShape) {
        let kv_dims = [shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim];
        contents.add_f32("dq", &[shape.batch, shape.q_heads, shape.q_len, shape.head_dim], &self.dq);
        contents.add_f32("dk", &kv_dims, &self.dk);
        contents.add_f32("dv", &kv_dims, &self.dv);
        contents.note("backward_kernels", self.kernels.join(","));
        if let Some(counters) = &self.counters {
            contents.note("backward_launches", counters.launches);
            contents.note("backward_mma_macs", counters.mma_macs);
            contents.note("backward_copy_bytes", counters.copy_bytes);
        }
    }
}

//! Gradients for the tests: a forward and a backward call on random inputs, and their comparison with the f64
//! reference.

use crate::harness::{Case, uniform};
use lacuna::attention::{self, BackwardInputs, GradientsMut};
use lacuna::reference::{Problem, Visibility};
use lacuna::{AttentionShape, BlockPlan, ColumnSchedule, Half, Result, Schedule, Stream, Tensor};

/// What a backward call gave, in index order.
#[derive(Debug, Clone)]
pub struct Gradients {
    pub dq: Vec<f32>,
    pub dk: Vec<f32>,
    pub dv: Vec<f32>,
    pub dsink: Vec<f32>,
}

impl Gradients {
    pub fn same_bits(&self, other: &Self) -> bool {
        let bits =
            |of: &Self| [&of.dq, &of.dk, &of.dv, &of.dsink].map(|x| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        bits(self) == bits(other)
    }
}

fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len).map(|_| 2.0 * uniform(&mut state)).collect()
}

pub fn dout<T: Half>(case: &Case) -> Vec<T> {
    noise(case.q_dims().iter().product(), case.seed + 101).into_iter().map(T::from_f32).collect()
}

pub fn dlse(case: &Case) -> Vec<f32> {
    let AttentionShape { batch, q_heads, q_len, .. } = case.shape;
    noise(batch * q_heads * q_len, case.seed + 202)
}

/// Runs forward and backward. Gradients and workspaces are poisoned before; gaps must stay so. `storage` of out serves
/// the gradients too.
pub fn run<T: Half>(case: &Case, stream: &Stream, plan: &BlockPlan, with_dlse: bool) -> Result<Gradients> {
    run_inputs(case, &case.inputs::<T>(), &dout::<T>(case), stream, plan, with_dlse)
}

/// The same for inputs of one's own.
pub fn run_inputs<T: Half>(
    case: &Case,
    [q, k, v]: &[Vec<T>; 3],
    dout: &[T],
    stream: &Stream,
    plan: &BlockPlan,
    with_dlse: bool,
) -> Result<Gradients> {
    let shape = AttentionShape { dtype: T::DTYPE, ..case.shape };
    let tensor = |values: &[T], storage: usize, dims| -> Result<Tensor<T>> {
        let mut tensor = Tensor::with_layout(stream, case.storage[storage].layout(dims))?;
        tensor.copy_from_slice(stream, values)?;
        Ok(tensor)
    };
    let q = tensor(q, 0, case.q_dims())?;
    let (k, v) = (tensor(k, 1, case.kv_dims())?, tensor(v, 2, case.kv_dims())?);
    let mut out = Tensor::<T>::with_layout(stream, case.storage[3].layout(case.q_dims()))?;
    let rows = [shape.batch, shape.q_heads, shape.q_len, 1];
    let mut lse = Tensor::<f32>::uninit(stream, rows)?;
    let sink = case.sink.as_ref().map(|sink| Tensor::vector(stream, sink)).transpose()?;
    let options = case.options(sink.as_ref());
    let schedule = Schedule::build(stream, &shape, &options, plan)?;
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options))?;
    let (written, sums) = (out.view_mut(), Some(lse.view_mut()));
    attention::forward(
        stream,
        &shape,
        &options,
        plan,
        &schedule,
        q.view(),
        k.view(),
        v.view(),
        written,
        sums,
        &mut workspace,
    )?;

    let columns = ColumnSchedule::build(stream, &shape, &options, plan)?;
    let dout = tensor(dout, 0, case.q_dims())?;
    let dlse = with_dlse.then(|| Tensor::from_slice(stream, &dlse(case), rows)).transpose()?;
    let poisoned = |storage: usize, dims| -> Result<Tensor<T>> {
        let mut tensor = Tensor::<T>::with_layout(stream, case.storage[storage].layout(dims))?;
        tensor.fill_bytes(stream, 0xFF)?;
        Ok(tensor)
    };
    let (mut dq, mut dk, mut dv) =
        (poisoned(3, case.q_dims())?, poisoned(1, case.kv_dims())?, poisoned(2, case.kv_dims())?);
    let mut dsink = Tensor::<f32>::uninit(stream, [1, 1, 1, shape.q_heads])?;
    let bytes = attention::backward_workspace_bytes(stream.device(), &shape, &options, plan)?;
    let mut workspace = stream.alloc_bytes(bytes)?;
    workspace.fill(stream, 0xFF)?;
    let inputs = BackwardInputs {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        out: out.view(),
        lse: lse.view(),
        dout: dout.view(),
        dlse: dlse.as_ref().map(Tensor::view),
    };
    let mut gradients = GradientsMut {
        dq: dq.view_mut(),
        dk: dk.view_mut(),
        dv: dv.view_mut(),
        dsink: sink.as_ref().map(|_| dsink.view_mut()),
    };
    attention::backward(stream, &shape, &options, plan, &schedule, &columns, &inputs, &mut gradients, &mut workspace)?;
    let wide = |what: &str, tensor: &Tensor<T>| -> Result<Vec<f32>> {
        let values: Vec<f32> = tensor.to_vec(stream)?.into_iter().map(T::to_f32).collect();
        let storage = tensor.storage_to_vec(stream)?;
        let poisoned = storage.iter().filter(|x| x.to_f32().is_nan()).count();
        let nan = values.iter().filter(|x| x.is_nan()).count();
        assert_eq!(poisoned - nan, storage.len() - tensor.layout().len(), "gaps of {what} were written: {case:?}");
        Ok(values)
    };
    let dsink = if sink.is_some() { dsink.to_vec(stream)? } else { vec![] };
    Ok(Gradients { dq: wide("dq", &dq)?, dk: wide("dk", &dk)?, dv: wide("dv", &dv)?, dsink })
}

/// Compares gradients with the reference over the keys that `visible` names.
pub fn compare<T: Half>(
    case: &Case,
    got: &Gradients,
    visible: &impl Visibility,
    with_dlse: bool,
) -> Result<(), String> {
    let wide = |values: &[T]| values.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<_>>();
    let [q, k, v] = case.inputs::<T>().map(|values| wide(&values));
    let dout = wide(&dout::<T>(case));
    let dlse: Option<Vec<f64>> = with_dlse.then(|| dlse(case).into_iter().map(f64::from).collect());
    let sink = case.sink.as_ref().map(|sink| sink.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
    let problem = Problem {
        scale: case.scale.map(f64::from),
        softcap: case.softcap.map(f64::from),
        sink: sink.as_deref(),
        ..Problem::new(AttentionShape { dtype: T::DTYPE, ..case.shape }, &q, &k, &v)
    };
    let expected = problem.expect_gradients(visible, &dout, dlse.as_deref()).map_err(|error| error.to_string())?;
    let parts = [
        ("dq", &expected.dq, &got.dq),
        ("dk", &expected.dk, &got.dk),
        ("dv", &expected.dv, &got.dv),
        ("dsink", &expected.dsink, &got.dsink),
    ];
    for (what, expected, got) in parts {
        let result = expected.compare(got).map_err(|error| error.to_string())?;
        if !result.passed() {
            return Err(format!("{what}: {result}\n{case:?} as {}", T::DTYPE));
        }
    }
    Ok(())
}

/// Runs a plan and compares its gradients with the reference over its blocks, as the kernel `plan_to_mask` draws them.
pub fn check<T: Half>(case: &Case, stream: &Stream, plan: &BlockPlan, with_dlse: bool) {
    let shape = AttentionShape { dtype: T::DTYPE, ..case.shape };
    let blocks = plan.block_mask(stream, &shape, &case.mask).unwrap();
    let got = run::<T>(case, stream, plan, with_dlse).unwrap_or_else(|error| panic!("{error}\n{case:?}"));
    compare::<T>(case, &got, &blocks.visibility(&shape, &case.mask), with_dlse)
        .unwrap_or_else(|text| panic!("{}: {text}", stream.device().name()));
}

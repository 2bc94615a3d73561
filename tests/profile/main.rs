//! What profilers and subscribers see of a step. Without the features `nvtx` and `tracing` there is nothing to see.
#![cfg(feature = "simt")]

#[cfg(feature = "nvtx")]
mod nvtx;
#[cfg(feature = "tracing")]
mod spans;

#[cfg(any(feature = "nvtx", feature = "tracing"))]
mod step {
    use lacuna::seer::{GateConfig, GateWeights, Pools, SeerGate, Select, SelectOptions};
    use lacuna::{AttentionShape, DType, Device, ForwardOptions, Mask, Schedule, Tensor, attention, bf16};

    /// A gate picks blocks, a schedule is made of them, and attention in two splits follows.
    pub fn run() {
        let stream = Device::simt().unwrap().new_stream().unwrap();
        let (dims, dtype) = ([1, 1, 64, 32], DType::BF16);
        let shape = AttentionShape { batch: 1, q_heads: 1, kv_heads: 1, q_len: 64, kv_len: 64, head_dim: 32, dtype };
        let weights = GateWeights { w_k: Tensor::<bf16>::random(&stream, [1, 1, 32, 32], 1).unwrap(), w_q: None };
        let config = GateConfig { block_size: 32, q_pool: Pools::AVG, k_pool: Pools::AVG, rope: None };
        let gate = SeerGate::new(&stream, (1, 1, 32), 64, config, weights).unwrap();
        let (q, mut out) = (Tensor::random(&stream, dims, 2).unwrap(), Tensor::uninit(&stream, dims).unwrap());
        let options = SelectOptions::new(Select::Blocks(1));
        let plan = gate.plan(&stream, &shape, &Mask::CAUSAL, q.view(), q.view(), &options).unwrap();
        let options = ForwardOptions { splits: 2, ..ForwardOptions::causal() };
        let schedule = Schedule::build(&stream, &shape, &options, &plan).unwrap();
        let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options)).unwrap();
        let (q, out) = (q.view(), out.view_mut());
        attention::forward(&stream, &shape, &options, &plan, &schedule, q, q, q, out, None, &mut workspace).unwrap();
    }

    /// What is open, in the order in which it opens, two spaces a level.
    pub const SEEN: &str = "\
seer.select
  gate_pool
  gate_project
  gate_pool
  gate_project
  gate_select
schedule.build
  schedule_build
forward
merge
";
}

//! Many threads, each with a stream of its own, share a device, plans and schedules: nothing shows of the others.

use std::sync::Barrier;

use crate::harness::{shape, streams};
use lacuna::attention::{self, BackwardInputs, GradientsMut};
use lacuna::{
    AttentionShape, BlockPlan, ColumnSchedule, Device, ForwardOptions, HyperConfig, HyperPlan, Mask, Schedule,
    SimtConfig, Stream, Tensor, bf16,
};

const THREADS: usize = 8;

/// What all threads read, made on one stream.
struct Shared {
    shape: AttentionShape,
    plans: [(BlockPlan, Schedule, ColumnSchedule); 2],
    hyper: HyperPlan,
    q: Tensor<bf16>,
    k: Tensor<bf16>,
    v: Tensor<bf16>,
    dout: Tensor<bf16>,
    lens: Tensor<i32>,
}

const fn shared_between_threads<T: Send + Sync>() {}
const _: () = shared_between_threads::<Shared>();

impl Shared {
    fn new(stream: &Stream) -> Self {
        let shape = shape(2, (4, 2), (96, 96), 64);
        let options = ForwardOptions::causal();
        let mask: Vec<u8> = (0..9).map(|at| u8::from(at % 3 <= at / 3 && at != 3)).collect();
        let lists = BlockPlan::from_mask(stream, &shape, 32, 32, [1, 1, 3, 3], &mask).unwrap();
        let scheduled = |plan: BlockPlan| {
            let schedule = Schedule::build(stream, &shape, &options, &plan).unwrap();
            let columns = ColumnSchedule::build(stream, &shape, &options, &plan).unwrap();
            (plan, schedule, columns)
        };
        let (q_dims, kv_dims) = ([2, 4, 96, 64], [2, 2, 96, 64]);
        let [q, dout] = [1, 4].map(|seed| Tensor::random(stream, q_dims, seed).unwrap());
        let [k, v] = [2, 3].map(|seed| Tensor::random(stream, kv_dims, seed).unwrap());
        let config = HyperConfig { block_size: 32, sample_size: 32, min_seq_len: 32, ..HyperConfig::default() };
        let mut hyper = HyperPlan::new(stream, &shape, &Mask::CAUSAL, &config).unwrap();
        hyper.update(stream, q.view(), k.view()).unwrap();
        let plans = [BlockPlan::dense(), lists].map(scheduled);
        Self { shape, plans, hyper, q, k, v, dout, lens: Tensor::vector(stream, &[50, 96]).unwrap() }
    }

    /// Forward, backward, decode and HyperAttention on a stream; every bit of what they gave.
    fn run(&self, stream: &Stream) -> Vec<u32> {
        let mut bits = Vec::new();
        let options = ForwardOptions::causal();
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let like = |tensor: &Tensor<bf16>| Tensor::<bf16>::uninit(stream, tensor.dims()).unwrap();
        let mut out = like(&self.q);
        let mut lse = Tensor::<f32>::uninit(stream, [2, 4, 96, 1]).unwrap();
        for (plan, schedule, columns) in &self.plans {
            let shape = &self.shape;
            let mut workspace = stream.alloc_bytes(attention::workspace_bytes(shape, &options)).unwrap();
            let (to, rows) = (out.view_mut(), Some(lse.view_mut()));
            attention::forward(stream, shape, &options, plan, schedule, q, k, v, to, rows, &mut workspace).unwrap();
            let bytes = attention::backward_workspace_bytes(stream.device(), shape, &options, plan).unwrap();
            let mut workspace = stream.alloc_bytes(bytes).unwrap();
            let (mut dq, mut dk, mut dv) = (like(&self.q), like(&self.k), like(&self.v));
            let (out_view, lse_view, dout) = (out.view(), lse.view(), self.dout.view());
            let inputs = BackwardInputs { q, k, v, out: out_view, lse: lse_view, dout, dlse: None };
            let mut gradients = GradientsMut { dq: dq.view_mut(), dk: dk.view_mut(), dv: dv.view_mut(), dsink: None };
            attention::backward(
                stream,
                shape,
                &options,
                plan,
                schedule,
                columns,
                &inputs,
                &mut gradients,
                &mut workspace,
            )
            .unwrap();
            for tensor in [&out, &dq, &dk, &dv] {
                bits.extend(tensor.to_vec(stream).unwrap().iter().map(|x| u32::from(x.to_bits())));
            }
            bits.extend(lse.to_vec(stream).unwrap().iter().map(|x| x.to_bits()));

            let shape = AttentionShape { q_len: 1, ..self.shape };
            let mut one = Tensor::<bf16>::uninit(stream, [2, 4, 1, 64]).unwrap();
            let q = q.narrow(2, 95, 1).unwrap();
            let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(&shape, plan)).unwrap();
            if !plan.has_lists() {
                let (lens, to) = (Some(&self.lens), one.view_mut());
                attention::decode(stream, &shape, &options, plan, lens, q, k, v, to, None, &mut workspace).unwrap();
                bits.extend(one.to_vec(stream).unwrap().iter().map(|x| u32::from(x.to_bits())));
            }
        }
        let mut workspace = stream.alloc_bytes(attention::hyper_workspace_bytes(&self.hyper)).unwrap();
        let (to, rows) = (out.view_mut(), Some(lse.view_mut()));
        attention::hyper_forward(stream, &self.hyper, None, q, k, v, to, rows, &mut workspace).unwrap();
        bits.extend(out.to_vec(stream).unwrap().iter().map(|x| u32::from(x.to_bits())));
        bits.extend(lse.to_vec(stream).unwrap().iter().map(|x| x.to_bits()));
        bits
    }
}

/// Each thread runs at the same time as the others, several times, on a stream of its own. On the SIMT host two devices
/// with other schedules take part: their memory is the same.
#[test]
fn threads_with_streams_of_their_own_give_the_bits_of_one() {
    for stream in streams(5) {
        let shared = Shared::new(&stream);
        let alone = shared.run(&stream);
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (shared, alone, start, device) = (&shared, &alone, &start, stream.device());
                scope.spawn(move || {
                    let mine = if device.is_simt() && thread % 2 == 1 {
                        let config = SimtConfig { seed: thread as u64, threads: 2, ..SimtConfig::default() };
                        Device::simt_with(config).unwrap().new_stream().unwrap()
                    } else {
                        device.new_stream().unwrap()
                    };
                    start.wait();
                    for round in 0..3 {
                        assert!(shared.run(&mine) == *alone, "thread {thread}, round {round}: other bits");
                    }
                });
            }
        });
    }
}

/// One stream, and so one queue, may be used by many threads too.
#[test]
fn threads_may_share_a_stream() {
    for stream in streams(6) {
        let shared = Shared::new(&stream);
        let alone = shared.run(&stream);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(shared.run(&stream) == alone));
            }
        });
    }
}

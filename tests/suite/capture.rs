//! A whole step, planners and attention, that is recorded once and runs again with other lengths and data: in a CUDA
//! graph on a GPU. On the SIMT host, which has no graphs, the same calls are made again.

use crate::harness::{shape, simt};
use crate::seer_case::{Decode, values};
use lacuna::seer::{DecodeGate, DecodeSelectOptions, GateCache, Select, Span};
use lacuna::{
    AttentionShape, BlockPlan, BlockSize, Device, Error, ForwardOptions, HyperConfig, HyperPlan, ListRows, Mask,
    Ragged, Result, Schedule, Stream, Tensor, attention, bf16,
};

/// A step of a server: lists from a mask and a chunk over them; a decode gate that takes a token and picks blocks, and
/// a token over these; HyperAttention. All that changes lies in device memory.
struct Step {
    chunk: AttentionShape,
    token: AttentionShape,
    // Data.
    q: Tensor<bf16>,
    k: Tensor<bf16>,
    v: Tensor<bf16>,
    mask: Tensor<u8>,
    lens: Tensor<i32>,
    starts: Tensor<i32>,
    ones: Tensor<i32>,
    // Plans, and memory to work in.
    plan: BlockPlan,
    schedule: Option<Schedule>,
    gate: DecodeGate<bf16>,
    cache: GateCache,
    picked: BlockPlan,
    hyper: HyperPlan,
    workspaces: [lacuna::Buffer; 5],
    // Results.
    out: Tensor<bf16>,
    lse: Tensor<f32>,
    token_out: Tensor<bf16>,
    hyper_out: Tensor<bf16>,
}

const LEN: usize = 128;
const OPTIONS: DecodeSelectOptions = DecodeSelectOptions { select: Select::Blocks(1), sink_blocks: 0 };

impl Step {
    fn new(stream: &Stream) -> Self {
        let chunk = shape(2, (4, 2), (64, LEN), 64);
        let token = AttentionShape { q_len: 1, ..chunk };
        let rows = ListRows { block: BlockSize::square(32), batch: 2, heads: 2, absolute: false };
        let case = Decode::new((4, 2), 64, 32, 32);
        let gate = case.gate(stream, &case.weights(), LEN);
        let cache = gate.cache(stream, 2, LEN).unwrap();
        let picked = gate.empty_plan(stream, &token, &OPTIONS, None).unwrap();
        let config = HyperConfig { block_size: 32, sample_size: 32, min_seq_len: 32, ..HyperConfig::default() };
        let hyper = HyperPlan::new(stream, &chunk, &Mask::FULL, &config).unwrap();
        let plan = BlockPlan::with_capacity(stream, &chunk, rows, 2 * 2 * 2 * 4).unwrap();
        let workspaces = [
            attention::workspace_bytes(&chunk, &ForwardOptions::causal()),
            cache.workspace_bytes(1),
            gate.workspace_bytes(&token),
            attention::decode_workspace_bytes(&token, &picked),
            attention::hyper_workspace_bytes(&hyper),
        ]
        .map(|bytes| stream.alloc_bytes(bytes).unwrap());
        let vector = |len| Tensor::zeros(stream, [1, 1, 1, len]).unwrap();
        let mut step = Self {
            chunk,
            token,
            q: Tensor::uninit(stream, [2, 4, 64, 64]).unwrap(),
            k: Tensor::uninit(stream, [2, 2, LEN, 64]).unwrap(),
            v: Tensor::uninit(stream, [2, 2, LEN, 64]).unwrap(),
            mask: Tensor::zeros(stream, [2, 2, 2, 4]).unwrap(),
            lens: vector(2),
            starts: vector(2),
            ones: Tensor::vector(stream, &[1, 1]).unwrap(),
            plan,
            schedule: None,
            gate,
            cache,
            picked,
            hyper,
            workspaces,
            out: Tensor::uninit(stream, [2, 4, 64, 64]).unwrap(),
            lse: Tensor::uninit(stream, [2, 4, 64, 1]).unwrap(),
            token_out: Tensor::uninit(stream, [2, 4, 1, 64]).unwrap(),
            hyper_out: Tensor::uninit(stream, [2, 4, 64, 64]).unwrap(),
        };
        let lens = Some(step.lens.view());
        let options =
            ForwardOptions { ragged: Ragged { kv_lens: lens, ..Ragged::default() }, ..ForwardOptions::causal() };
        step.schedule = Some(Schedule::build(stream, &chunk, &options, &step.plan).unwrap());
        step
    }

    /// Other data, lengths and lists; results are poisoned. The gate's cache starts anew, with the keys before the
    /// newest.
    fn load(&mut self, stream: &Stream, lens: [i32; 2], seed: u64) {
        for (tensor, seed) in [(&mut self.q, seed), (&mut self.k, seed + 1), (&mut self.v, seed + 2)] {
            let len = tensor.dims().iter().product();
            tensor.copy_from_slice(stream, &values(len, 3.0, seed)).unwrap();
        }
        let picks = values::<bf16>(32, 1.0, seed + 3);
        let mask: Vec<u8> =
            picks.iter().enumerate().map(|(at, &x)| u8::from(at % 4 == 0 || f32::from(x) > 0.0)).collect();
        self.mask.copy_from_slice(stream, &mask).unwrap();
        self.lens.copy_from_slice(stream, &lens).unwrap();
        let starts = lens.map(|len| len - 1);
        self.starts.copy_from_slice(stream, &starts).unwrap();
        let (begin, before) = (Tensor::vector(stream, &[0, 0]).unwrap(), Tensor::vector(stream, &starts).unwrap());
        let mut workspace = stream.alloc_bytes(self.cache.workspace_bytes(LEN)).unwrap();
        let span = Span::Ragged { starts: &begin, lens: &before };
        self.gate.append(stream, &mut self.cache, self.k.view(), span, false, &mut workspace).unwrap();
        self.out.fill_bytes(stream, 0xFF).unwrap();
        self.lse.fill_bytes(stream, 0xFF).unwrap();
        self.token_out.fill_bytes(stream, 0xFF).unwrap();
        self.hyper_out.fill_bytes(stream, 0xFF).unwrap();
    }

    /// The step itself.
    fn run(&mut self, stream: &Stream) -> Result<()> {
        let [forward, pooling, selecting, decoding, hyper] = &mut self.workspaces;
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let lens = Some(self.lens.view());
        let options =
            ForwardOptions { ragged: Ragged { kv_lens: lens, ..Ragged::default() }, ..ForwardOptions::causal() };
        self.plan.set_mask(stream, self.mask.view())?;
        let schedule = self.schedule.as_mut().expect("built with the step");
        schedule.rebuild(stream, &self.plan)?;
        let (out, lse) = (self.out.view_mut(), Some(self.lse.view_mut()));
        attention::forward(stream, &self.chunk, &options, &self.plan, schedule, q, k, v, out, lse, forward)?;

        let (options, new) = (ForwardOptions::causal(), k.narrow(2, 0, 1)?);
        let newest = q.narrow(2, 63, 1)?;
        let span = Span::Ragged { starts: &self.starts, lens: &self.ones };
        self.gate.append(stream, &mut self.cache, new, span, true, pooling)?;
        let (lens, picked, out) = (Some(&self.lens), &mut self.picked, self.token_out.view_mut());
        self.gate.select_into(stream, &self.token, lens, newest, &self.cache, &OPTIONS, picked, selecting)?;
        attention::decode(stream, &self.token, &options, picked, lens, newest, k, v, out, None, decoding)?;

        self.hyper.update(stream, q, k)?;
        attention::hyper_forward(stream, &self.hyper, None, q, k, v, self.hyper_out.view_mut(), None, hyper)
    }

    fn results(&self, stream: &Stream) -> [Vec<u32>; 4] {
        let halves = |x: &Tensor<bf16>| x.to_vec(stream).unwrap().iter().map(|x| u32::from(x.to_bits())).collect();
        let lse = self.lse.to_vec(stream).unwrap().iter().map(|x| x.to_bits()).collect();
        [halves(&self.out), lse, halves(&self.token_out), halves(&self.hyper_out)]
    }
}

/// Lengths and seeds of the replays; the step is recorded with the first.
const LOADS: [([i32; 2], u64); 4] = [([128, 100], 11), ([65, 128], 22), ([96, 64], 33), ([128, 100], 11)];

/// What a step gives that was made for these data and has never run with others.
fn expected(stream: &Stream) -> Vec<[Vec<u32>; 4]> {
    let one = |(lens, seed)| {
        let mut step = Step::new(stream);
        step.load(stream, lens, seed);
        step.run(stream).unwrap();
        step.results(stream)
    };
    let all: Vec<_> = LOADS.map(one).into();
    // The data reach every result, or equal bits would say nothing.
    for (part, first) in all[0].iter().enumerate() {
        assert!(*first != all[1][part] && all[1][part] != all[2][part] && *first == all[3][part]);
    }
    all
}

/// Made once, run with changing data: nothing of an earlier run is left, and nothing that matters stays on the host.
#[test]
fn a_step_depends_on_device_memory_alone() {
    for seed in [3, 8] {
        let stream = simt(seed);
        let mut step = Step::new(&stream);
        for ((lens, seed), expected) in LOADS.into_iter().zip(expected(&stream)) {
            step.load(&stream, lens, seed);
            step.run(&stream).unwrap();
            assert!(step.results(&stream) == expected, "{lens:?}");
        }
    }
}

#[test]
fn the_simt_host_says_that_it_captures_nothing() {
    let stream = simt(1);
    let error = stream.capture(|| panic!("must not run")).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { what, .. } if what.contains("SIMT host")), "{error}");
}

#[test]
fn a_cuda_graph_replays_a_step_with_changed_lengths_and_data() {
    let stream = match Device::cuda(0) {
        Ok(device) => device.new_stream().unwrap(),
        Err(error) => {
            eprintln!("skipped a_cuda_graph_replays_a_step_with_changed_lengths_and_data: {error}");
            return;
        }
    };
    let expected = expected(&stream);
    let mut step = Step::new(&stream);
    step.load(&stream, LOADS[0].0, LOADS[0].1);
    step.run(&stream).unwrap();
    step.load(&stream, LOADS[0].0, LOADS[0].1);
    let poisoned = step.results(&stream);
    let mut graph = stream.capture(|| step.run(&stream)).unwrap();
    assert!(step.results(&stream) == poisoned, "a captured step must not run");
    for ((lens, seed), expected) in LOADS.into_iter().zip(&expected) {
        step.load(&stream, lens, seed);
        // SAFETY: the step and all its memory are alive, and used on this stream alone.
        unsafe { graph.launch(&stream) }.unwrap();
        assert!(step.results(&stream) == *expected, "{lens:?}");
    }
    // On another stream, in the order that the results' copies and the loads before it have made.
    let other = stream.device().new_stream().unwrap();
    step.load(&stream, LOADS[1].0, LOADS[1].1);
    stream.synchronize().unwrap();
    // SAFETY: as above; both streams are idle before and after.
    unsafe { graph.launch(&other) }.unwrap();
    other.synchronize().unwrap();
    assert!(step.results(&stream) == expected[1]);
    // What waits breaks a capture; the stream is whole afterwards.
    assert!(stream.capture(|| stream.synchronize()).is_err());
    step.load(&stream, LOADS[2].0, LOADS[2].1);
    step.run(&stream).unwrap();
    assert!(step.results(&stream) == expected[2]);
}

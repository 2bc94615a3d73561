//! The same bits whatever the SIMT host's scheduler does, and whatever else is in the batch.

use crate::harness::{Case, shape, uniform};
use lacuna::{
    BlockPlan, Counters, Device, Mask, Schedule, SimtAsync, SimtConfig, SimtGuard, SimtPolicy, Stream, Tensor,
    attention, bf16,
};

fn mask(len: usize) -> Vec<u8> {
    let mut state = 77;
    (0..len).map(|_| u8::from(uniform(&mut state) > 0.0)).collect()
}

fn run(stream: &Stream, case: &Case) -> (crate::harness::Outcome, Counters) {
    stream.reset_counters();
    let plan = BlockPlan::from_mask(stream, &case.shape, 16, 32, [1, 2, 7, 4], &mask(56)).unwrap();
    let outcome = case.run::<bf16>(stream, &plan).unwrap();
    (outcome, stream.counters().unwrap())
}

#[test]
fn every_schedule_gives_the_same_bits_and_counts() {
    let case = Case { splits: 2, ..Case::new(shape(2, (4, 2), (100, 120), 64), Mask::CAUSAL) };
    let fast = Device::simt().unwrap().new_stream().unwrap();
    let (expected, counts) = run(&fast, &case);
    assert!(counts.launches > 0 && counts.mma_macs > 0 && counts.copy_bytes > 0);
    let policies = [SimtPolicy::RoundRobin, SimtPolicy::RandomLane, SimtPolicy::WarpFirst, SimtPolicy::Priority];
    for (index, policy) in policies.into_iter().enumerate() {
        for (number, async_mode) in [SimtAsync::Late, SimtAsync::Early, SimtAsync::Mixed].into_iter().enumerate() {
            for guard in [SimtGuard::End, SimtGuard::Start] {
                let seed = (1000 * index + 10 * number) as u64;
                let config = SimtConfig { policy, async_mode, guard, ..SimtConfig::checked(seed) };
                let (outcome, counted) = run(&Device::simt_with(config).unwrap().new_stream().unwrap(), &case);
                assert!(outcome.same_bits(&expected), "{config:?}");
                assert_eq!(counted, counts, "{config:?}");
            }
        }
    }
}

#[test]
fn many_seeds() {
    let case = Case::new(shape(1, (2, 2), (100, 120), 64), Mask::CAUSAL);
    let (expected, _) = run(&Device::simt().unwrap().new_stream().unwrap(), &case);
    for seed in 0..24 {
        let (outcome, _) = run(&crate::harness::simt(seed), &case);
        assert!(outcome.same_bits(&expected), "seed {seed}");
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_batch() {
    let stream = Device::simt().unwrap().new_stream().unwrap();
    let plan = BlockPlan::dense();
    let both = Case::new(shape(2, (2, 1), (80, 80), 64), Mask::CAUSAL);
    let [q, k, v] = both.inputs::<bf16>();
    let forward = |batch: usize, from: usize| {
        let shape = shape(batch, (2, 1), (80, 80), 64);
        let part = |values: &[bf16], heads: usize| {
            let size = heads * 80 * 64;
            Tensor::from_slice(&stream, &values[from * size..][..batch * size], [batch, heads, 80, 64]).unwrap()
        };
        let (q, k, v) = (part(&q, 2), part(&k, 1), part(&v, 1));
        let mut out = Tensor::<bf16>::uninit(&stream, [batch, 2, 80, 64]).unwrap();
        let options = both.options(None);
        let schedule = Schedule::build(&stream, &shape, &options, &plan).unwrap();
        let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options)).unwrap();
        attention::forward(
            &stream,
            &shape,
            &options,
            &plan,
            &schedule,
            q.view(),
            k.view(),
            v.view(),
            out.view_mut(),
            None,
            &mut workspace,
        )
        .unwrap();
        out.to_vec(&stream).unwrap()
    };
    assert_eq!(forward(2, 0), [forward(1, 0), forward(1, 1)].concat());
}

#[test]
fn schedules_are_reused_and_rebuilt() {
    let stream = crate::harness::simt(5);
    let case = Case::new(shape(1, (2, 2), (100, 120), 64), Mask::CAUSAL);
    let options = case.options(None);
    let rows = lacuna::ListRows { block: lacuna::BlockSize { q: 16, k: 32 }, batch: 1, heads: 2, absolute: false };
    let mut plan = BlockPlan::with_capacity(&stream, &case.shape, rows, 56).unwrap();
    let mut schedule = Schedule::build(&stream, &case.shape, &options, &plan).unwrap();
    assert!(schedule.memory_bytes() > 0);
    let device_mask = Tensor::from_slice(&stream, &mask(56), [1, 2, 7, 4]).unwrap();
    plan.set_mask(&stream, device_mask.view()).unwrap();
    schedule.rebuild(&stream, &plan).unwrap();

    let [q, k, v] = case.inputs::<bf16>();
    let q = Tensor::from_slice(&stream, &q, case.q_dims()).unwrap();
    let k = Tensor::from_slice(&stream, &k, case.kv_dims()).unwrap();
    let v = Tensor::from_slice(&stream, &v, case.kv_dims()).unwrap();
    let mut out = Tensor::<bf16>::uninit(&stream, case.q_dims()).unwrap();
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&case.shape, &options)).unwrap();
    let (views, expected) = ((q.view(), k.view(), v.view()), run(&stream, &case).0.out);
    for _ in 0..2 {
        out.fill_bytes(&stream, 0xFF).unwrap();
        attention::forward(
            &stream,
            &case.shape,
            &options,
            &plan,
            &schedule,
            views.0,
            views.1,
            views.2,
            out.view_mut(),
            None,
            &mut workspace,
        )
        .unwrap();
        let got: Vec<f32> = out.to_vec(&stream).unwrap().into_iter().map(|x| x.to_f32()).collect();
        assert_eq!(got, expected);
    }
}

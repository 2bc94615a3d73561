//! The work of HyperAttention's kernels, and that no schedule changes it or a bit of the result.

use crate::harness::shape;
use crate::hyper::{Hashed, HyperCase, small};
use lacuna::{
    Counters, Device, HyperConfig, HyperPlan, KernelFamily, Mask, Sampling, SimtAsync, SimtConfig, SimtGuard,
    SimtPolicy, Stream, attention, bf16,
};

fn counted(stream: &Stream, case: &HyperCase) -> (Hashed, Counters) {
    stream.reset_counters();
    let hashed = case.run::<bf16>(stream);
    (hashed, stream.counters().unwrap())
}

fn same_under_every_schedule(family: KernelFamily, config: HyperConfig) {
    let config = HyperConfig { num_projections: 9, ..config };
    for (lens, mask) in [((100, 70), Mask::FULL), ((101, 101), Mask::CAUSAL)] {
        let case = HyperCase::new(shape(2, (4, 2), lens, 64), mask, config.clone()).with_family(family);
        let (expected, counts) = counted(&Device::simt().unwrap().new_stream().unwrap(), &case);
        assert!(counts.mma_macs > 0 && counts.copy_bytes > 0);
        let policies = [SimtPolicy::RoundRobin, SimtPolicy::RandomLane, SimtPolicy::WarpFirst, SimtPolicy::Priority];
        for (index, policy) in policies.into_iter().enumerate() {
            for (number, async_mode) in [SimtAsync::Late, SimtAsync::Early, SimtAsync::Mixed].into_iter().enumerate() {
                for guard in [SimtGuard::End, SimtGuard::Start] {
                    let seed = (1000 * index + 10 * number) as u64;
                    let config = SimtConfig { policy, async_mode, guard, ..SimtConfig::checked(seed) };
                    let stream = Device::simt_with(config).unwrap().new_stream().unwrap();
                    let (got, counted) = counted(&stream, &case);
                    assert!(got.outcome.same_bits(&expected.outcome), "{config:?}");
                    assert_eq!((got.ranks, counted), (expected.ranks.clone(), counts), "{config:?}");
                }
            }
        }
    }
}

#[test]
fn every_schedule_gives_the_same_bits_and_counts() {
    same_under_every_schedule(KernelFamily::Portable, small(24, 16, 20));
    let choices = HyperConfig { rounds: 2, sampling: Sampling::Values, align_windows: true, ..small(24, 16, 20) };
    same_under_every_schedule(KernelFamily::Portable, choices);
}

#[test]
fn every_schedule_gives_the_same_bits_and_counts_on_hopper() {
    same_under_every_schedule(KernelFamily::Hopper, small(24, 16, 20));
    let choices = HyperConfig { sampling: Sampling::Values, align_windows: true, ..small(24, 16, 20) };
    same_under_every_schedule(KernelFamily::Hopper, choices);
}

/// `auto` takes Hopper kernels where a block fills their tiles; blocks and samples are whole tiles of them, leaves pay
/// for what a diagonal of 64-key boxes masks.
#[test]
fn work_on_hopper_is_that_of_the_pair_model() {
    let (heads, dim, n, leaf, block, samples) = (2, 64, 2048, 512, 256, 128);
    let stream = Device::simt().unwrap().new_stream().unwrap();
    let macs = |pairs: usize| (heads * pairs * 2 * dim) as u64;
    let case = HyperCase::new(shape(1, (heads, 1), (n, n), dim), Mask::FULL, small(1, block, samples));
    let plan = HyperPlan::new(&stream, &case.case.shape, &Mask::FULL, &case.config).unwrap();
    assert_eq!(attention::hyper_kernel(stream.device(), &plan).unwrap().name, "sm90_gather_d64_bf16");
    assert_eq!(counted(&stream, &case).1.mma_macs, macs(n * (block + samples)));
    let case = HyperCase::new(shape(1, (heads, 1), (n, n), dim), Mask::CAUSAL, small(leaf, block, samples));
    let leaves = n / leaf * (leaf * (leaf + 64) / 2);
    let counts = counted(&stream, &case).1;
    assert_eq!(counts.mma_macs, macs(2 * (n / 2) * (block + samples) + leaves));
    assert_eq!((counts.bank_conflicts, counts.launches), (0, 2 + 1 + 3 + 1 + 2));
}

/// Two products over blocks and samples, masked ones included, and over the leaves in steps of 16 rows and keys.
#[test]
fn work_is_that_of_the_pair_model() {
    let (heads, dim, block, samples) = (2, 64, 64, 64);
    let stream = Device::simt().unwrap().new_stream().unwrap();
    let macs = |pairs: usize| (heads * pairs * 2 * dim) as f64;
    let within = |got: u64, model: f64| assert!((got as f64 / model - 1.0).abs() <= 0.02, "{got}, model {model}");
    let n = 1024;
    let case = HyperCase::new(shape(1, (heads, 1), (n, n), dim), Mask::FULL, small(1, block, samples));
    within(counted(&stream, &case).1.mma_macs, macs(n * (block + samples)));
    let (leaf, levels) = (128, 3);
    let case = HyperCase::new(shape(1, (heads, 1), (n, n), dim), Mask::CAUSAL, small(leaf, block, samples));
    let (got, counts) = counted(&stream, &case);
    let leaves = n / leaf * (leaf * (leaf + 16) / 2);
    within(counts.mma_macs, macs(levels * (n / 2) * (block + samples) + leaves));
    // Means, hash, one pass of the sort, samples, pairs, leaves.
    assert_eq!(counts.launches, 2 + 1 + 3 + 1 + 2);
    assert!(case.estimator(&got).visited_pairs() < counts.mma_macs / (2 * dim as u64));
}

/// Each leaf but the first has so many keys more; windows are as wide as blocks, wherever they lie.
#[test]
fn local_windows_cost_their_keys_and_aligned_ones_nothing() {
    let stream = Device::simt().unwrap().new_stream().unwrap();
    let (n, leaf, window) = (1024, 128, 64);
    let macs =
        |config| counted(&stream, &HyperCase::new(shape(1, (2, 1), (n, n), 64), Mask::CAUSAL, config)).1.mma_macs;
    let default = small(leaf, 64, 64);
    let local = HyperConfig { local_window: window, ..default.clone() };
    assert_eq!(macs(local) - macs(default.clone()), (2 * (n - leaf) * window * 2 * 64) as u64);
    assert_eq!(macs(HyperConfig { align_windows: true, ..default.clone() }), macs(default));
}

/// Two rounds of half the blocks walk as many pairs as one, whoever attends those that both have.
#[test]
fn rounds_cost_their_blocks() {
    let stream = Device::simt().unwrap().new_stream().unwrap();
    let macs = |mask, rounds, block| {
        let config = HyperConfig { rounds, ..small(256, block, 64) };
        let case = HyperCase::new(shape(1, (2, 1), (1024, 1024), 64), mask, config);
        counted(&stream, &case.with_family(KernelFamily::Portable)).1.mma_macs
    };
    for mask in [Mask::FULL, Mask::CAUSAL] {
        assert_eq!(macs(mask, 2, 64), macs(mask, 1, 128));
    }
}

/// Pairs that no sink lies in skip their tile.
#[test]
fn sinks_cost_a_tile_where_they_are() {
    let stream = Device::simt().unwrap().new_stream().unwrap();
    let (n, leaf) = (1024, 128);
    let of = |sinks| HyperConfig { sinks, ..small(leaf, 64, 64) };
    let macs =
        |sinks| counted(&stream, &HyperCase::new(shape(1, (2, 1), (n, n), 64), Mask::CAUSAL, of(sinks))).1.mma_macs;
    // Every query behind the first leaf has the first keys in one pair.
    assert_eq!(macs(4) - macs(0), (2 * (n - leaf) * 64 * 2 * 64) as u64);
}

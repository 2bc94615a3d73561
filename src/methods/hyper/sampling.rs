//! How samples are drawn. The kernel draws its own (`cuda/select/lsh_draw.h`); this is the host's word on what they
//! are.

use super::random::{SAMPLES, philox};

/// Last word of the counter of a round of a permutation: "perm". `cuda/common/philox.h` has it too.
const PERMUTATION: u32 = 0x7065_726d;

/// Rounds of the Feistel network.
const ROUNDS: u32 = 8;

/// How the `sample_size` places among a pair's sorted keys are drawn.
///
/// Each way but [`Sampling::Values`] puts `sample_size / keys` samples on every place on average, whatever the two
/// numbers are, so that all samples have the weight `ln(keys / sample_size)`. The estimated sum is right on average
/// with all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sampling {
    /// Independently, with replacement, as published.
    #[default]
    Uniform,
    /// Without replacement: no key is drawn twice before all have been drawn once.
    Distinct,
    /// One sample in each of `sample_size` equal parts of the sorted keys.
    Stratified,
    /// By the values: key j has a share of the samples that grows with the squared norm of row j of v, `1 + floor(4095
    /// n_j / n_max)`, `n_max` being the largest of its KV head. Samples are stratified over the shares, and have the
    /// weight `ln(all shares / (sample_size * share))`. Row norms are what bounds for sampled products of matrices ask
    /// for (Drineas, Kannan, Mahoney, 2006); the paper's analysis samples by them too, its code does not.
    Values,
}

/// Of whom the samples are.
#[derive(Debug, Clone, Copy)]
struct Draw {
    seed: u64,
    kv_head: u32,
    node: u32,
    keys: u64,
}

impl Sampling {
    /// The places, among the `keys` sorted keys of a node, of `count` samples of a KV head. Nodes are numbered as in
    /// [`samples`](super::samples), which this is for [`Sampling::Uniform`]; `docs/hyper-attention.md` has the others.
    /// Of [`Sampling::Values`], whose samples depend on v, the places are those for equal shares in sorted order:
    /// [`value_samples`] has the true ones.
    pub fn places(self, seed: u64, kv_head: usize, node: usize, count: usize, keys: usize) -> Vec<usize> {
        if keys == 0 {
            return vec![0; count];
        }
        let draw = Draw { seed, kv_head: kv_head as u32, node: node as u32, keys: keys as u64 };
        match self {
            Self::Uniform => super::samples(seed, kv_head, node, count, keys),
            Self::Stratified | Self::Values => (0..count).map(|i| draw.in_stratum(i, count)).collect(),
            Self::Distinct => {
                let shift = draw.uniform(0);
                (0..count).map(|i| (draw.permuted(i % keys) + shift) % keys).collect()
            }
        }
    }
}

/// The rows of `count` samples of a KV head that are drawn by shares, counted from the node's first key, whose `shares`
/// are those of its keys, in the order of their rows: sample i is the key that has share `floor(f * all / 2^64)`, `f`
/// being `floor((i * 2^32 + x0) * 2^32 / count)` of the counter of [`samples`](super::samples).
pub fn value_samples(seed: u64, kv_head: usize, node: usize, count: usize, shares: &[u16]) -> Vec<usize> {
    let draw = Draw { seed, kv_head: kv_head as u32, node: node as u32, keys: shares.len() as u64 };
    let mut sum = 0;
    let ends: Vec<u64> = shares.iter().map(|&share| (sum += u64::from(share), sum).1).collect();
    let row = |i: usize| {
        let fraction = (draw.along(i) << 32) / count as u128;
        let target = ((fraction * u128::from(sum)) >> 64) as u64;
        ends.partition_point(|&end| end <= target)
    };
    (0..count).map(row).collect()
}

impl Draw {
    fn word(&self, i: u32, purpose: u32) -> u32 {
        philox([i, self.kv_head, self.node, purpose], self.seed)[0]
    }

    fn uniform(&self, i: usize) -> usize {
        ((u64::from(self.word(i as u32, SAMPLES)) * self.keys) >> 32) as usize
    }

    /// `floor((i + x0 / 2^32) * keys / count)`
    fn in_stratum(&self, i: usize, count: usize) -> usize {
        (self.along(i) * u128::from(self.keys) / ((count as u128) << 32)) as usize
    }

    /// `i * 2^32 + x0`
    fn along(&self, i: usize) -> u128 {
        ((i as u128) << 32) + u128::from(self.word(i as u32, SAMPLES))
    }

    /// Where the network sends `place`: the first key on its cycle.
    fn permuted(&self, place: usize) -> usize {
        let step = |&place: &u64| Some(self.feistel(place));
        let mut walk = std::iter::successors(step(&(place as u64)), step);
        walk.find(|&place| place < self.keys).unwrap_or(0) as usize
    }

    /// A permutation of the numbers with as many bits as `keys - 1`: even rounds change the upper half by the lower,
    /// odd ones the lower by the upper. With an odd number of bits the upper half is the longer one.
    fn feistel(&self, number: u64) -> u64 {
        let bits = (self.keys - 1).checked_ilog2().map_or(0, |bits| bits + 1);
        let low_bits = bits / 2;
        let low_size = 1u64 << low_bits;
        let mut halves = [number / low_size, number % low_size];
        let sizes = [1 << (bits - low_bits), low_size];
        for round in 0..ROUNDS {
            let changed = round as usize % 2;
            let word = self.word(halves[1 - changed] as u32 + (round << 16), PERMUTATION);
            halves[changed] ^= u64::from(word) % sizes[changed];
        }
        halves[0] * low_size + halves[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Sampling; 3] = [Sampling::Uniform, Sampling::Distinct, Sampling::Stratified];

    fn counts(places: &[usize], keys: usize) -> Vec<usize> {
        let mut counts = vec![0; keys];
        places.iter().for_each(|&at| counts[at] += 1);
        counts
    }

    #[test]
    fn distinct_places_are_a_permutation() {
        for keys in [1, 2, 3, 4, 5, 8, 31, 64, 65, 1000] {
            for seed in 0..4 {
                let places = Sampling::Distinct.places(seed, 1, 2, keys, keys);
                assert_eq!(counts(&places, keys), vec![1; keys], "{keys}");
                // More samples than keys: every key twice, and some a third time.
                let places = Sampling::Distinct.places(seed, 1, 2, 2 * keys + keys / 2, keys);
                let counts = counts(&places, keys);
                assert!(counts.iter().all(|count| [2, 3].contains(count)), "{keys}: {counts:?}");
            }
        }
        let drawn = |seed, head, node| Sampling::Distinct.places(seed, head, node, 20, 1000);
        assert_ne!(drawn(0, 0, 0), drawn(1, 0, 0));
        assert_ne!(drawn(0, 0, 0), drawn(0, 1, 0));
        assert_ne!(drawn(0, 0, 0), drawn(0, 0, 1));
    }

    #[test]
    fn each_stratum_has_a_sample() {
        for (keys, count) in [(100, 10), (103, 10), (1 << 30, 7), (5, 5), (1000, 999)] {
            for (i, at) in Sampling::Stratified.places(3, 0, 0, count, keys).into_iter().enumerate() {
                assert!((i * keys / count..((i + 1) * keys).div_ceil(count)).contains(&at), "{i} of {count}: {at}");
            }
        }
        // As many as keys, or a multiple: every key alike.
        for times in 1..4 {
            let places = Sampling::Stratified.places(5, 0, 0, 37 * times, 37);
            assert_eq!(counts(&places, 37), vec![times; 37]);
        }
    }

    /// The weight is right because of this alone, also where the strata cut keys and where there are more samples than
    /// keys.
    #[test]
    fn every_place_is_drawn_alike() {
        let seeds = 20000;
        for sampling in ALL {
            for (keys, count) in [(11, 4), (7, 3), (5, 8), (3, 1), (16, 5)] {
                let mut sums = vec![0usize; keys];
                for seed in 0..seeds {
                    sampling.places(seed, 0, 0, count, keys).into_iter().for_each(|at| sums[at] += 1);
                }
                // At most the deviation of `count` draws with replacement.
                let mean = (count * seeds as usize) as f64 / keys as f64;
                for sum in sums {
                    assert!(
                        (sum as f64 - mean).abs() < 5.0 * mean.sqrt(),
                        "{sampling:?} {count} of {keys}: {sum}, {mean}"
                    );
                }
            }
        }
    }

    /// Keys are drawn by their shares, also where one has more than a stratum and others fewer.
    #[test]
    fn value_samples_follow_the_shares() {
        let (shares, seeds) = ([1u16, 9, 4096, 30, 1, 500, 2], 20000);
        let all: u64 = shares.iter().map(|&share| u64::from(share)).sum();
        for count in [1, 3, 8] {
            let mut sums = [0usize; 7];
            for seed in 0..seeds {
                let rows = value_samples(seed, 1, 2, count, &shares);
                assert!(rows.is_sorted());
                rows.into_iter().for_each(|row| sums[row] += 1);
            }
            for (sum, share) in sums.into_iter().zip(shares) {
                let mean = (count as u64 * seeds * u64::from(share)) as f64 / all as f64;
                assert!((sum as f64 - mean).abs() < 5.0 * mean.sqrt() + 1.0, "{count}, share {share}: {sum}, {mean}");
            }
        }
        assert_ne!(value_samples(0, 0, 0, 9, &[7; 100]), value_samples(0, 0, 1, 9, &[7; 100]));
        assert_eq!(value_samples(3, 0, 0, 4, &[5; 4]), [0, 1, 2, 3]);
        assert!(value_samples(3, 0, 0, 0, &shares).is_empty());
    }

    /// Pairs of distinct places, one of each: a permutation that only the shift made random would have few of them.
    #[test]
    fn pairs_of_distinct_places_are_drawn_alike() {
        let (keys, seeds) = (9, 40000);
        let mut pairs = vec![0usize; keys * keys];
        for seed in 0..seeds {
            let places = Sampling::Distinct.places(seed, 0, 0, 2, keys);
            pairs[places[0] * keys + places[1]] += 1;
        }
        let mean = seeds as f64 / (keys * (keys - 1)) as f64;
        for (pair, &count) in pairs.iter().enumerate() {
            let expected = if pair / keys == pair % keys { 0.0 } else { mean };
            assert!((count as f64 - expected).abs() <= 5.0 * mean.sqrt(), "{pair}: {count}, {expected}");
        }
    }
}

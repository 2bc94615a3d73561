//! Random numbers that anybody can reproduce: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as
//! easy as 1, 2, 3", 2011), keyed by the seed, with the place of each number as the counter.

/// Last word of the counter of projections: "proj".
const PROJECTIONS: u32 = 0x7072_6f6a;
/// Last word of the counter of samples: "samp". `cuda/common/philox.h` has it too.
pub(super) const SAMPLES: u32 = 0x7361_6d70;

/// The four words of a counter under a key of two words, low word first.
pub(super) fn philox(mut counter: [u32; 4], seed: u64) -> [u32; 4] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let (a, b) = (0xD251_1F53u64 * u64::from(counter[0]), 0xCD9E_8D57u64 * u64::from(counter[2]));
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// Projections `[head_dim, count]` of a round for a seed, normally distributed: element `e` (row-major) is
/// `sqrt(-2 ln((x0 + 1) / 2^32)) cos(2 pi x1 / 2^32)` in f64, rounded to f32, with `x` the words of the counter
/// `(e, round, 0, "proj")`.
pub fn projections(seed: u64, round: usize, head_dim: usize, count: usize) -> Vec<f32> {
    let normal = |element: usize| {
        let [x0, x1, ..] = philox([element as u32, round as u32, 0, PROJECTIONS], seed);
        let unit = 2f64.powi(-32);
        let (radius, angle) = ((f64::from(x0) + 1.0) * unit, f64::from(x1) * unit);
        ((-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
    };
    (0..head_dim * count).map(normal).collect()
}

/// The positions, among the `keys` sorted keys of a node, of `count` samples of a KV head: `floor(x0 * keys / 2^32)`
/// of the counter `(i, kv_head, node, "samp")`. Node 0 is a call that is not causal; a causal call has node 1 for
/// the whole, nodes `2 i` and `2 i + 1` for the halves of node `i`. All sequences of a batch have the same positions.
pub fn samples(seed: u64, kv_head: usize, node: usize, count: usize, keys: usize) -> Vec<usize> {
    let position = |i: usize| {
        let [x0, ..] = philox([i as u32, kv_head as u32, node as u32, SAMPLES], seed);
        ((u64::from(x0) * keys as u64) >> 32) as usize
    };
    (0..count).map(position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors that the authors of the generator publish with it.
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn projections_are_normal() {
        let x: Vec<f64> = projections(3, 0, 256, 16).into_iter().map(f64::from).collect();
        let moment = |power| x.iter().map(|x| x.powi(power)).sum::<f64>() / x.len() as f64;
        // Standard errors at 4096 numbers: 1/64, sqrt(2)/64, sqrt(96)/64.
        assert!(moment(1).abs() < 0.06 && (moment(2) - 1.0).abs() < 0.08 && (moment(4) - 3.0).abs() < 0.6);
        assert_ne!(projections(3, 0, 32, 7), projections(4, 0, 32, 7));
        assert_ne!(projections(3, 0, 32, 7), projections(3, 1, 32, 7));
        assert_eq!(projections(3, 1, 32, 7), projections(3, 1, 32, 7));
    }

    #[test]
    fn samples_are_uniform() {
        let mut counts = [0usize; 10];
        samples(1, 2, 3, 10000, 10).into_iter().for_each(|at| counts[at] += 1);
        // Deviation 30 of 1000.
        assert!(counts.iter().all(|&count| count.abs_diff(1000) < 120), "{counts:?}");
        assert_ne!(samples(1, 2, 3, 50, 1000), samples(1, 2, 4, 50, 1000));
        assert_ne!(samples(1, 2, 3, 50, 1000), samples(1, 1, 3, 50, 1000));
        assert!(samples(7, 0, 0, 100, 1).iter().all(|&at| at == 0));
    }
}

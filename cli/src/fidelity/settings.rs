//! The settings that are measured.

use lacuna::HyperConfig;

/// Block sizes, sample sizes and hyperplanes of the table of errors: every combination.
pub const BLOCKS: [usize; 3] = [64, 128, 256];
/// See [`BLOCKS`].
pub const SAMPLES: [usize; 3] = [64, 128, 256];
/// See [`BLOCKS`].
pub const PROJECTIONS: [usize; 3] = [4, 7, 10];

/// Tokens of a leaf of causal calls. Calls that are not causal are estimated however short they are.
pub const LEAF: usize = 256;

/// Every combination.
pub fn grid() -> Vec<HyperConfig> {
    let sizes = BLOCKS.iter().flat_map(|&block| SAMPLES.iter().map(move |&samples| (block, samples)));
    sizes.flat_map(|(block, samples)| PROJECTIONS.iter().map(move |&r| config(block, samples, r))).collect()
}

/// The settings that made-up inputs are measured with.
pub fn few() -> Vec<HyperConfig> {
    vec![config(64, 64, 7), config(128, 128, 7), config(256, 256, 7)]
}

/// Blocks and samples of this size, with leaves of [`LEAF`] tokens.
pub fn config(block_size: usize, sample_size: usize, num_projections: usize) -> HyperConfig {
    HyperConfig { num_projections, block_size, sample_size, min_seq_len: LEAF, ..HyperConfig::default() }
}

/// What choices beyond the paper are compared with: few samples and many.
pub fn choices(block_size: usize) -> Vec<HyperConfig> {
    [block_size, 4 * block_size]
        .map(|samples| HyperConfig { min_seq_len: block_size, ..config(block_size, samples, 7) })
        .to_vec()
}

/// The same for the language model.
pub fn language_choices() -> Vec<HyperConfig> {
    vec![config(64, 64, 7), config(64, 256, 7)]
}

/// The settings that the language model reads with: leaves of 256 and of 512 tokens.
pub fn language() -> Vec<HyperConfig> {
    let sizes = [(32, 32), (64, 64), (64, 192), (128, 128), (256, 256)];
    let of_leaf = |min_seq_len| sizes.map(|(b, m)| HyperConfig { min_seq_len, ..config(b, m, 7) });
    [LEAF, 2 * LEAF].into_iter().flat_map(of_leaf).collect()
}

//! Ways to weigh blocks and samples: the published estimator's, and what code in the wild has in its place.

/// What one query's row of the exact map says of its block and its samples, as shares of the exact sum.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Of the keys of its block.
    pub block: f64,
    /// Of the samples in other blocks; a key drawn twice counts twice.
    pub others: f64,
    /// Of the samples in its own block.
    pub own: f64,
    /// Samples in other blocks.
    pub others_count: usize,
    /// Keys of its block.
    pub block_keys: usize,
    /// Of the first keys of the sequence, as many as there are samples.
    pub first: f64,
    /// Of a key of zeros, whose logit is 0.
    pub zero: f64,
    /// Rows that are missing in its block to a whole one.
    pub missing: usize,
}

/// A way to estimate the sum of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// Samples in other blocks weigh n / m.
    Published,
    /// Samples in the own block stay, and so count twice.
    OwnTwice,
    /// n - b in place of n.
    LessBlock,
    /// m counts only samples in other blocks, n all keys.
    Renormalised,
    /// Samples weigh 1.
    Unweighted,
    /// The first keys of the sequence in place of samples, not weighted, those in the own block counted twice.
    FirstKeys,
    /// Rows of zeros fill the last block up and are attended.
    ZeroRows,
    /// Block and samples are merged with a weight in bf16.
    NarrowMerge,
    /// (n - b) / m', m' being the samples in other blocks: right on average.
    CountRatio,
}

impl Weights {
    /// In the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Published,
        Self::CountRatio,
        Self::OwnTwice,
        Self::LessBlock,
        Self::Renormalised,
        Self::Unweighted,
        Self::FirstKeys,
        Self::ZeroRows,
        Self::NarrowMerge,
    ];

    /// For the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Published => "n/m, own-block samples left out (published)",
            Self::CountRatio => "(n - b)/m', m' samples in other blocks",
            Self::OwnTwice => "n/m, own-block samples counted twice",
            Self::LessBlock => "(n - b)/m, own-block samples left out",
            Self::Renormalised => "n/m', m' samples in other blocks",
            Self::Unweighted => "weight 1, own-block samples left out",
            Self::FirstKeys => "first m keys for samples, weight 1",
            Self::ZeroRows => "n/m, zero rows fill the last block",
            Self::NarrowMerge => "n/m, merged with a weight in bf16",
        }
    }

    /// The estimated sum of a row over the exact one, for `m` samples of `n` keys.
    pub fn ratio(self, row: &Row, n: usize, m: usize) -> f64 {
        let (keys, samples) = (n as f64, m as f64);
        let weighed = |weight: f64| row.block + weight * row.others;
        match self {
            Self::Published => weighed(keys / samples),
            Self::OwnTwice => weighed(keys / samples) + keys / samples * row.own,
            Self::LessBlock => weighed((n - row.block_keys) as f64 / samples),
            Self::Renormalised => weighed(keys / row.others_count.max(1) as f64),
            Self::CountRatio => weighed((n - row.block_keys) as f64 / row.others_count.max(1) as f64),
            Self::Unweighted => weighed(1.0),
            Self::FirstKeys => row.block + row.first,
            Self::ZeroRows => weighed(keys / samples) + row.missing as f64 * row.zero,
            Self::NarrowMerge => {
                // 1 / (1 + exp(lse2 - lse1)) in bf16, then lse = lse1 - ln(it + epsilon).
                let share = row.block / weighed(keys / samples);
                let share = lacuna::bf16::from_f64(share).to_f64();
                row.block / (share + f64::from(f32::EPSILON))
            }
        }
    }
}

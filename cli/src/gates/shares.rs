//! From a density to the threshold that gives it.

/// The shares that gates, or what stands in for them, give to blocks: probabilities that sum up to 1 over a row.
#[derive(Default)]
pub struct Shares {
    /// Each share with the (query, key) pairs of its block.
    blocks: Vec<(f32, f32)>,
    /// Pairs that are attended whatever the threshold.
    always: f64,
    /// All pairs that the causal mask lets through.
    all: f64,
}

impl Shares {
    /// Adds a row: its shares of the blocks before its own, with the pairs in each of them, and the pairs of its own
    /// block, which is always attended.
    pub fn add_row(&mut self, before: &[f32], pairs: usize, own_pairs: usize) {
        self.blocks.extend(before.iter().map(|&share| (share, pairs as f32)));
        self.always += own_pairs as f64;
        self.all += (before.len() * pairs + own_pairs) as f64;
    }

    /// For each density the smallest threshold with which, where `share > threshold` is kept, no more than this part of
    /// the pairs is attended.
    pub fn thresholds<const N: usize>(mut self, densities: [f64; N]) -> [f64; N] {
        self.blocks.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        densities.map(|density| {
            let mut left = density * self.all - self.always;
            let first_out = self.blocks.iter().find(|(_, pairs)| {
                left -= f64::from(*pairs);
                left < 0.0
            });
            first_out.map_or(0.0, |&(share, _)| f64::from(share))
        })
    }
}

/// Turns the logits of a row into probabilities.
pub fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_give_the_density() {
        let rows: [&[f32]; 4] = [&[], &[0.4], &[0.3, 0.1], &[0.5, 0.2, 0.05]];
        let shares = || {
            let mut shares = Shares::default();
            rows.iter().for_each(|row| shares.add_row(row, 16, 10));
            shares
        };
        // 40 pairs of 136 are there anyway; 16 come with each block.
        let density = |threshold: f64| {
            let kept = rows.iter().flat_map(|row| row.iter()).filter(|&&share| f64::from(share) > threshold);
            (40.0 + 16.0 * kept.count() as f64) / 136.0
        };
        let wanted = [1.0, 0.9, 0.66, 0.65, 0.5, 0.3, 0.2];
        for (threshold, wanted) in shares().thresholds(wanted).into_iter().zip(wanted) {
            assert!(density(threshold) <= wanted.max(40.0 / 136.0), "{threshold} {wanted}");
            assert!(density(threshold) + 16.0 / 136.0 > wanted, "{threshold} {wanted}");
        }
        assert_eq!(shares().thresholds([1.0]), [0.0]);
    }

    #[test]
    fn probabilities() {
        let mut row = [1000.0, 1000.0 + 3f32.ln(), f32::NEG_INFINITY];
        softmax(&mut row);
        assert!((row[0] - 0.25).abs() < 1e-4 && (row[1] - 0.75).abs() < 1e-4 && row[2] == 0.0);
    }
}

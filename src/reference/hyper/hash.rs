//! The angular hash in f64.

use super::super::problem::{check_len, dot};
use crate::error::Result;
use crate::methods::HyperConfig;

/// The buckets of the rows of some heads.
#[derive(Debug, Clone, PartialEq)]
pub struct HyperHash {
    /// `[heads, len]`: the place of each row's bucket.
    pub ranks: Vec<u16>,
    /// `[heads, len]`: how far the row is from a neighbouring bucket, the smallest `|x . P_j|` relative to the sum of
    /// the magnitudes of its terms. Below some 1e-5 arithmetic in f32 may decide otherwise.
    pub margins: Vec<f64>,
}

/// Hashes `x` `[heads, len, head_dim]` with the projections `[head_dim, num_projections]`.
///
/// # Errors
/// [`crate::Error::Shape`] for a slice of another size.
pub fn hash(
    config: &HyperConfig,
    x: &[f64],
    [heads, len, head_dim]: [usize; 3],
    projections: &[f64],
) -> Result<HyperHash> {
    check_len("x", x, &[heads, len, head_dim])?;
    check_len("projections", projections, &[head_dim, config.num_projections])?;
    let column = |j| projections.iter().skip(j).step_by(config.num_projections).copied().collect::<Vec<f64>>();
    let columns: Vec<_> = (0..config.num_projections).map(column).collect();
    let mut hashed = HyperHash { ranks: Vec::with_capacity(heads * len), margins: Vec::with_capacity(heads * len) };
    for head in x.chunks(len * head_dim).take(heads) {
        let mut mean = vec![0.0; head_dim];
        if config.center {
            head.chunks(head_dim).for_each(|row| mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x));
            mean.iter_mut().for_each(|mean| *mean /= len as f64);
        }
        for row in head.chunks(head_dim) {
            let centred: Vec<f64> = row.iter().zip(&mean).map(|(x, mean)| x - mean).collect();
            let (mut code, mut margin) = (0u16, f64::INFINITY);
            for (j, column) in columns.iter().enumerate() {
                let product = dot(&centred, column);
                code |= u16::from(product > 0.0) << j;
                let terms = row.iter().zip(&mean).zip(column);
                let size: f64 = terms.map(|((x, mean), p)| (x.abs() + mean.abs()) * p.abs()).sum();
                margin = margin.min(if size == 0.0 { 0.0 } else { product.abs() / size });
            }
            hashed.ranks.push(config.bucket_order.rank(code));
            hashed.margins.push(margin);
        }
    }
    Ok(hashed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::BucketOrder;

    #[test]
    fn by_hand() {
        let config = HyperConfig { num_projections: 3, center: false, ..HyperConfig::default() };
        // Bits x0 > 0, x1 > 0, x0 + x1 > 0.
        let projections = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0];
        let x = [1.0, 1.0, -1.0, 2.0, -1.0, -1.0, 2.0, -1.0];
        let hashed = hash(&config, &x, [1, 4, 2], &projections).unwrap();
        // Codes 7, 6, 0, 5; the Gray sequence is 0 1 3 2 6 7 5 4.
        assert_eq!(hashed.ranks, [5, 4, 0, 6]);
        assert_eq!(hashed.margins[1], 1.0 / 3.0);
        let compat = HyperConfig { bucket_order: BucketOrder::Compat, ..config.clone() };
        assert_eq!(hash(&compat, &x, [1, 4, 2], &projections).unwrap().ranks, [4, 5, 0, 7]);
        // The mean is (0.25, 0.25): the same signs here; with an offset of 100 still.
        let centred = HyperConfig { center: true, ..config.clone() };
        assert_eq!(hash(&centred, &x, [1, 4, 2], &projections).unwrap().ranks, [5, 4, 0, 6]);
        let offset = x.map(|x| x + 100.0);
        assert_eq!(hash(&centred, &offset, [1, 4, 2], &projections).unwrap().ranks, [5, 4, 0, 6]);
        assert_eq!(hash(&config, &offset, [1, 4, 2], &projections).unwrap().ranks, [5; 4]);
        assert!(hash(&config, &x, [1, 4, 2], &x).is_err());
    }
}

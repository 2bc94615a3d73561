//! Merging partial results over disjoint sets of keys.

use super::forward::Output;
use super::problem::{add_scaled, check_len};
use crate::error::{Error, Result};

/// `out = sum_s exp(lse_s - lse) * out_s` with `lse = ln(sum_s exp(lse_s))`, row by row; a row whose parts are all
/// empty (LSE negative infinity) stays empty. A sink logit must be part of exactly one partial result.
///
/// # Errors
/// [`Error::Value`] for no parts, [`Error::Shape`] for parts of different sizes.
pub fn merge(parts: &[Output], head_dim: usize) -> Result<Output> {
    let first = parts.first().ok_or_else(|| Error::Value {
        what: "parts",
        expected: "at least one".into(),
        got: "none".into(),
    })?;
    let rows = first.lse.len();
    for part in parts {
        check_len("part's lse", &part.lse, &[rows])?;
        check_len("part's out", &part.out, &[rows, head_dim])?;
    }
    let mut merged = Output { out: vec![0.0; rows * head_dim], lse: vec![f64::NEG_INFINITY; rows] };
    for row in 0..rows {
        let max = parts.iter().fold(f64::NEG_INFINITY, |max, part| max.max(part.lse[row]));
        if max == f64::NEG_INFINITY {
            continue;
        }
        let sum: f64 = parts.iter().map(|part| (part.lse[row] - max).exp()).sum();
        let elements = row * head_dim..(row + 1) * head_dim;
        for part in parts {
            let weight = (part.lse[row] - max).exp() / sum;
            add_scaled(&mut merged.out[elements.clone()], weight, &part.out[elements.clone()]);
        }
        merged.lse[row] = max + sum.ln();
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::super::{Counted, Problem};
    use super::*;
    use crate::shape::{AttentionShape, DType};
    use proptest::prelude::*;

    proptest! {
        /// Attention over all keys is the merge of attention over any partition of them, empty parts included.
        #[test]
        fn merging_a_partition_changes_nothing(
            owners in prop::collection::vec(0usize..4, 12), values in prop::collection::vec(-9.0f64..9.0, 12 * 4 + 4),
        ) {
            let (q_len, kv_len, head_dim) = (2, 12, 2);
            let [batch, q_heads, kv_heads] = [1; 3];
            let shape = AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, dtype: DType::F16 };
            let (q, kv) = values.split_at(4);
            let problem = Problem::new(shape, q, &kv[..24], &kv[24..]);
            // Query 1 doesn't see keys of part 0, query 0 doesn't see odd keys.
            let visible = |t: usize, key: usize| if t == 1 { owners[key] != 0 } else { key & 1 == 0 };
            let parts: Vec<_> = (0..4)
                .map(|part| {
                    let count = |_, _, t: usize, key: usize| f64::from(visible(t, key) && owners[key] == part);
                    problem.attend(&Counted { kv_len, count }).unwrap()
                })
                .collect();
            let all = problem.attend(&Counted { kv_len, count: |_, _, t, key| f64::from(visible(t, key)) }).unwrap();
            let merged = merge(&parts, head_dim).unwrap();
            for (got, expected) in merged.out.iter().chain(&merged.lse).zip(all.out.iter().chain(&all.lse)) {
                prop_assert!(got == expected || (got - expected).abs() < 1e-10, "{got} is not {expected}");
            }
        }
    }

    #[test]
    fn nothing_merges_to_nothing() {
        let empty = Output { out: vec![0.0; 2], lse: vec![f64::NEG_INFINITY] };
        assert_eq!(merge(&[empty.clone(), empty.clone()], 2).unwrap(), empty);
        let other = Output { out: vec![0.0; 4], lse: vec![0.0; 2] };
        assert!(merge(&[empty, other], 2).is_err());
        assert!(merge(&[], 2).is_err());
    }
}

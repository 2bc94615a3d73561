//! softmax(Q K^T) V in f64, and the ideal low-precision algorithm beside it.

use super::compare::Expected;
use super::problem::{Entry, Problem, add_scaled, row, row_maxima};
use super::rounding::round_to;
use super::visibility::Visibility;
use crate::error::Result;
use crate::shape::DType;
use rayon::prelude::*;

/// Attention's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// `[batch, q_heads, q_len, head_dim]`; zero in rows that see no key.
    pub out: Vec<f64>,
    /// `[batch, q_heads, q_len]`: `ln(sum exp(logit) + exp(sink))`; negative infinity for no key and no sink.
    pub lse: Vec<f64>,
}

/// Attention's result with what it takes to judge a kernel's.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedOutput {
    /// `[batch, q_heads, q_len, head_dim]`
    pub out: Expected,
    /// `[batch, q_heads, q_len]`, exact; judged by [`super::compare_lse`].
    pub lse: Vec<f64>,
}

impl Problem<'_> {
    /// Attention in f64.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for a slice of the wrong size, [`crate::Error::Value`] for a bad shape or softcap.
    pub fn attend(&self, visible: &impl Visibility) -> Result<Output> {
        self.validate()?;
        let (dim, rows) = (self.shape.head_dim, self.shape.batch * self.shape.q_heads * self.shape.q_len);
        let (mut out, mut lse) = (vec![0.0; rows * dim], vec![0.0; rows]);
        let outputs = out.par_chunks_mut(dim).zip(&mut lse).enumerate();
        outputs.for_each_init(Vec::new, |entries, (index, (out, lse))| {
            let position = self.position(index);
            self.logits(visible, position, entries);
            *lse = exact_row(entries, self.values(position), self.sink_logit(position[1]), out);
        });
        Ok(Output { out, lse })
    }

    /// Attention in f64 together with the ideal low-precision algorithm: the softmax is exact, but each
    /// `p = exp(logit - row maximum)` is rounded to `shape.dtype` before it multiplies V, and the result is rounded.
    /// The denominator sums the unrounded `p`.
    ///
    /// # Errors
    /// As [`Problem::attend`].
    pub fn expect(&self, visible: &impl Visibility) -> Result<ExpectedOutput> {
        self.validate()?;
        let (dim, rows) = (self.shape.head_dim, self.shape.batch * self.shape.q_heads * self.shape.q_len);
        let (mut exact, mut ideal, mut lse) = (vec![0.0; rows * dim], vec![0.0; rows * dim], vec![0.0; rows]);
        let mut largest_term = vec![0.0; rows];
        let value_maxima = row_maxima(self.v, dim);
        let outputs = exact.par_chunks_mut(dim).zip(ideal.par_chunks_mut(dim)).zip(&mut lse).zip(&mut largest_term);
        outputs.enumerate().for_each_init(Vec::new, |entries, (index, (((exact, ideal), lse), largest))| {
            let position = self.position(index);
            let (values, sink) = (self.values(position), self.sink_logit(position[1]));
            self.logits(visible, position, entries);
            *lse = exact_row(entries, values, sink, exact);
            ideal_row(entries, values, sink, self.shape.dtype, ideal);
            let [b, h, _] = position;
            let maxima = &value_maxima[(b * self.shape.kv_heads + h / self.shape.group()) * self.shape.kv_len..];
            let terms = entries.iter().map(|entry| entry.p * maxima[entry.key]);
            *largest = terms.fold(0.0, f64::max);
        });
        Ok(ExpectedOutput { out: Expected { dtype: self.shape.dtype, row_len: dim, exact, ideal, largest_term }, lse })
    }

    /// `[b, h, t]` of row `index` of the output.
    pub(super) fn position(&self, index: usize) -> [usize; 3] {
        let (len, heads) = (self.shape.q_len, self.shape.q_heads);
        [index / len / heads, index / len % heads, index % len]
    }

    fn values(&self, [b, h, _]: [usize; 3]) -> &[f64] {
        self.head(self.v, b, h)
    }
}

/// Writes a row of the output and the probabilities of its entries, returns its LSE. `out` starts as zeros.
pub(super) fn exact_row(entries: &mut [Entry], values: &[f64], sink: f64, out: &mut [f64]) -> f64 {
    let max = maximum(entries, sink);
    if max == f64::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let mut sum = (sink - max).exp();
    for entry in entries.iter_mut() {
        entry.p = (entry.logit - max).exp();
        sum += entry.p;
    }
    for entry in entries {
        entry.p /= sum;
        add_scaled(out, entry.p, row(values, entry.key, out.len()));
    }
    max + sum.ln()
}

/// The same row with what low precision costs at least. The maximum is that of the keys, as the sink joins last.
pub(super) fn ideal_row(entries: &[Entry], values: &[f64], sink: f64, dtype: DType, out: &mut [f64]) {
    let max = maximum(entries, f64::NEG_INFINITY);
    if max == f64::NEG_INFINITY {
        return;
    }
    let mut sum = (sink - max).exp();
    for entry in entries {
        let p = (entry.logit - max).exp();
        sum += p;
        add_scaled(out, round_to(dtype, p), row(values, entry.key, out.len()));
    }
    for x in out {
        *x = round_to(dtype, *x / sum);
    }
}

/// The largest logit, at least `low`; NaN if there is one, so that NaN inputs show.
fn maximum(entries: &[Entry], low: f64) -> f64 {
    entries.iter().fold(low, |max, entry| if entry.logit > max || entry.logit.is_nan() { entry.logit } else { max })
}

#[cfg(test)]
mod tests {
    use super::super::{Counted, TokenMask};
    use super::*;
    use crate::shape::{AttentionShape, Mask};

    fn shape(lens: [usize; 2], heads: [usize; 2], head_dim: usize) -> AttentionShape {
        let (q_len, kv_len, q_heads, kv_heads) = (lens[0], lens[1], heads[0], heads[1]);
        AttentionShape { batch: 1, q_heads, kv_heads, q_len, kv_len, head_dim, dtype: DType::BF16 }
    }

    fn assert_close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!(got == expected || (got - expected).abs() < 1e-12, "{got} is not {expected}");
        }
    }

    /// Two keys with logits 0 and ln 3: weights 1/4 and 3/4.
    #[test]
    fn two_keys_by_hand() {
        let shape = shape([1, 2], [1, 1], 1);
        let (k, v) = ([0.0, 3f64.ln()], [8.0, 4.0]);
        let problem = Problem { scale: Some(1.0), ..Problem::new(shape, &[1.0], &k, &v) };
        let all = TokenMask { shape: &shape, mask: &Mask::FULL };
        let got = problem.attend(&all).unwrap();
        assert_close(&got.out, &[2.0 + 3.0]);
        assert_close(&got.lse, &[4f64.ln()]);
        // A sink logit of ln 4 doubles the denominator.
        let sunk = Problem { sink: Some(&[4f64.ln()]), ..problem }.attend(&all).unwrap();
        assert_close(&sunk.out, &[2.5]);
        assert_close(&sunk.lse, &[8f64.ln()]);
        // The second key counted twice: weights 1/7 and 6/7.
        let twice = problem.attend(&Counted { kv_len: 2, count: |_, _, _, key| 1.0 + key as f64 }).unwrap();
        assert_close(&twice.out, &[8.0 / 7.0 + 24.0 / 7.0]);
        assert_close(&twice.lse, &[7f64.ln()]);
        // Capped at 2: logits 0 and 2 tanh(ln 3 / 2) = 2 * (3 - 1) / (3 + 1) = 1.
        let capped = Problem { softcap: Some(2.0), ..problem }.attend(&all).unwrap();
        let e = std::f64::consts::E;
        assert_close(&capped.out, &[(8.0 + 4.0 * e) / (1.0 + e)]);
        assert_close(&capped.lse, &[(1.0 + e).ln()]);
    }

    #[test]
    fn rows_without_keys_are_zero() {
        let shape = shape([2, 2], [1, 1], 1);
        let problem = Problem::new(shape, &[1.0, 1.0], &[1.0, 2.0], &[3.0, 4.0]);
        let none = Counted { kv_len: 2, count: |_, _, t, _| t as f64 };
        let got = problem.expect(&none).unwrap();
        assert_eq!((got.out.exact[0], got.out.ideal[0], got.lse[0]), (0.0, 0.0, f64::NEG_INFINITY));
        assert!(got.out.exact[1] > 3.0);
        let got = Problem { sink: Some(&[0.5]), ..problem }.expect(&none).unwrap();
        assert_eq!((got.out.exact[0], got.out.ideal[0], got.lse[0]), (0.0, 0.0, 0.5));
    }

    #[test]
    fn heads_positions_and_the_default_scale() {
        // Head 1 of the second KV head; 4 = head_dim, so the scale is 1/2.
        let shape = shape([2, 3], [4, 2], 4);
        let q: Vec<f64> = (0..32).map(|i| f64::from(i) / 8.0 - 2.0).collect();
        let k: Vec<f64> = (0..24).map(|i| f64::from(i * i % 7) / 4.0).collect();
        let v: Vec<f64> = (0..24).map(|i| f64::from(i * 5 % 11)).collect();
        let mask = TokenMask { shape: &shape, mask: &Mask::CAUSAL };
        let got = Problem::new(shape, &q, &k, &v).attend(&mask).unwrap();
        for (h, t) in [(0, 0), (1, 1), (2, 0), (3, 1)] {
            let keys = t + 2;
            let (mut sum, mut out) = (0.0, [0.0; 4]);
            for key in 0..keys {
                let offset = (h / 2 * 3 + key) * 4;
                let logit: f64 = (0..4).map(|d| q[(h * 2 + t) * 4 + d] * k[offset + d]).sum();
                sum += (logit / 2.0).exp();
                (0..4).for_each(|d| out[d] += (logit / 2.0).exp() * v[offset + d]);
            }
            assert_close(&got.out[(h * 2 + t) * 4..][..4], &out.map(|x| x / sum));
            assert_close(&got.lse[h * 2 + t..][..1], &[sum.ln()]);
        }
    }

    #[test]
    fn large_logits_neither_overflow_nor_vanish() {
        let shape = shape([2, 3], [1, 1], 1);
        let problem =
            Problem { scale: Some(1.0), ..Problem::new(shape, &[80.0, -80.0], &[1.0, -1.0, 1.0], &[1.0, 2.0, 4.0]) };
        let got = problem.attend(&TokenMask { shape: &shape, mask: &Mask::FULL }).unwrap();
        assert_close(&got.out, &[2.5, 2.0]);
        assert_close(&got.lse, &[80.0 + 2f64.ln(), 80.0]);
        let huge = Problem { scale: Some(100.0), ..problem };
        let got = huge.attend(&TokenMask { shape: &shape, mask: &Mask::FULL }).unwrap();
        assert_close(&got.out, &[2.5, 2.0]);
        assert!((got.lse[0] - 8000.0 - 2f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn the_ideal_rounds_p_and_the_output() {
        // p = 1 and 1 + 2^-9 below 1 in logit: exp(-x) = 1 - 2^-9 rounds to 1 (ties to even) in bf16, so the ideal
        // weighs both keys alike while its denominator stays exact.
        let p = 1.0 - 2f64.powi(-9);
        let shape = shape([1, 2], [1, 1], 1);
        let k = [0.0, p.ln()];
        let problem = Problem { scale: Some(1.0), ..Problem::new(shape, &[1.0], &k, &[0.0, 1.0]) };
        let got = problem.expect(&TokenMask { shape: &shape, mask: &Mask::FULL }).unwrap();
        assert_close(&got.out.exact, &[p / (1.0 + p)]);
        assert_eq!(got.out.ideal, [round_to(DType::BF16, 1.0 / (1.0 + p))]);
        assert_close(&got.out.largest_term, &[p / (1.0 + p)]);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let shape = shape([1, 2], [2, 1], 2);
        let mask = TokenMask { shape: &shape, mask: &Mask::FULL };
        let (q, k) = ([0.0; 4], [0.0; 4]);
        assert!(Problem::new(shape, &q, &k, &k).attend(&mask).is_ok());
        assert!(Problem::new(shape, &q[1..], &k, &k).attend(&mask).is_err());
        assert!(Problem::new(shape, &q, &k, &k[1..]).attend(&mask).is_err());
        assert!(Problem { sink: Some(&[0.0]), ..Problem::new(shape, &q, &k, &k) }.attend(&mask).is_err());
        assert!(Problem { softcap: Some(0.0), ..Problem::new(shape, &q, &k, &k) }.attend(&mask).is_err());
    }
}

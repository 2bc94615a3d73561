//! Gradients of attention in f64, and those of the ideal low-precision algorithm beside them.
//!
//! With `P = exp(logit - LSE)`: `dV = P^T dO`, `dP = dO V^T`, `delta = rowsum(dO * O) - dLSE`,
//! `dS = P * (dP - delta)`, `dQ = scale * dS K`, `dK = scale * dS^T Q`, with `dS` also times the slope of the softcap.
//! A sink has no value: `d sink = sum of -P_sink * delta`. (FlashAttention, arXiv 2205.14135, appendix B.)

use super::compare::Expected;
use super::forward::{exact_row, ideal_row};
use super::problem::{Problem, add_scaled, check_len, dot, row, row_maxima};
use super::rounding::round_to;
use super::visibility::Visibility;
use crate::error::Result;
use rayon::prelude::*;

/// Gradients of a loss with respect to the inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// `[batch, q_heads, q_len, head_dim]`
    pub dq: Vec<f64>,
    /// `[batch, kv_heads, kv_len, head_dim]`, summed over the query heads that share a KV head.
    pub dk: Vec<f64>,
    /// `[batch, kv_heads, kv_len, head_dim]`
    pub dv: Vec<f64>,
    /// `[q_heads]`, summed over the batch; empty without a sink.
    pub dsink: Vec<f64>,
}

/// Gradients with what it takes to judge a kernel's.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedGradients {
    /// `[batch, q_heads, q_len, head_dim]`
    pub dq: Expected,
    /// `[batch, kv_heads, kv_len, head_dim]`
    pub dk: Expected,
    /// `[batch, kv_heads, kv_len, head_dim]`
    pub dv: Expected,
    /// `[q_heads]` as one row; empty without a sink.
    pub dsink: Expected,
}

/// Sums over the queries of one head; in the role of "largest terms" one value a row instead of `head_dim`.
struct Sums {
    dq: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
    dsink: f64,
}

impl Sums {
    fn new(queries: usize, keys: usize, row_len: usize) -> Self {
        let zeros = |rows| vec![0.0; rows * row_len];
        Self { dq: zeros(queries), dk: zeros(keys), dv: zeros(keys), dsink: 0.0 }
    }
}

/// What one query head contributes: exact, ideal, largest terms.
struct HeadGradients {
    exact: Sums,
    ideal: Sums,
    largest: Sums,
}

impl Problem<'_> {
    /// Gradients of `sum(dout * out) + sum(dlse * lse)` in f64. `dout` has the layout of out, `dlse` that of the LSE;
    /// rows without keys and sink give nothing.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for a slice of the wrong size, [`crate::Error::Value`] for a bad shape or softcap.
    pub fn gradients(&self, visible: &impl Visibility, dout: &[f64], dlse: Option<&[f64]>) -> Result<Gradients> {
        let ExpectedGradients { dq, dk, dv, dsink } = self.expect_gradients(visible, dout, dlse)?;
        Ok(Gradients { dq: dq.exact, dk: dk.exact, dv: dv.exact, dsink: dsink.exact })
    }

    /// The same together with the ideal low-precision algorithm: softmax and sums are exact, but P is rounded to
    /// `shape.dtype` before it multiplies dO, dS before it multiplies K and Q, and `delta` uses the rounded output of
    /// the ideal forward pass. The sums themselves are not rounded.
    ///
    /// # Errors
    /// As [`Problem::gradients`].
    pub fn expect_gradients(
        &self,
        visible: &impl Visibility,
        dout: &[f64],
        dlse: Option<&[f64]>,
    ) -> Result<ExpectedGradients> {
        self.validate()?;
        let shape = &self.shape;
        check_len("dout", dout, &[shape.batch, shape.q_heads, shape.q_len, shape.head_dim])?;
        if let Some(dlse) = dlse {
            check_len("dlse", dlse, &[shape.batch, shape.q_heads, shape.q_len])?;
        }
        let group = shape.group();
        // One KV head at a time, its query heads summed in order: the result doesn't depend on the number of threads.
        let kv_heads = (0..shape.batch * shape.kv_heads).into_par_iter().map(|index| {
            let (b, first) = (index / shape.kv_heads, index % shape.kv_heads * group);
            let heads = (first..first + group).into_par_iter();
            heads.map(|h| self.head_gradients(visible, b, h, dout, dlse)).collect::<Vec<_>>()
        });
        let kv_heads: Vec<Vec<HeadGradients>> = kv_heads.collect();

        let expected = |row_len, [exact, ideal, largest_term]: [Vec<f64>; 3]| Expected {
            dtype: shape.dtype,
            row_len,
            exact,
            ideal,
            largest_term,
        };
        let dim = shape.head_dim;
        let dq = [0, 1, 2].map(|part| kv_heads.iter().flatten().flat_map(|head| head.part(part).dq.clone()).collect());
        let dk = [0, 1, 2].map(|part| reduce(&kv_heads, part, |sums| &sums.dk));
        let dv = [0, 1, 2].map(|part| reduce(&kv_heads, part, |sums| &sums.dv));
        let mut dsink = [vec![], vec![], vec![]];
        if self.sink.is_some() {
            dsink = [vec![0.0; shape.q_heads], vec![0.0; shape.q_heads], vec![0.0]];
            for (index, head) in kv_heads.iter().flatten().enumerate() {
                dsink[0][index % shape.q_heads] += head.exact.dsink;
                dsink[1][index % shape.q_heads] += head.ideal.dsink;
                dsink[2][0] = head.largest.dsink.max(dsink[2][0]);
            }
        }
        Ok(ExpectedGradients {
            dq: expected(dim, dq),
            dk: expected(dim, dk),
            dv: expected(dim, dv),
            dsink: expected(shape.q_heads, dsink),
        })
    }

    fn head_gradients(
        &self,
        visible: &impl Visibility,
        b: usize,
        h: usize,
        dout: &[f64],
        dlse: Option<&[f64]>,
    ) -> HeadGradients {
        let (queries, keys, dim) = (self.shape.q_len, self.shape.kv_len, self.shape.head_dim);
        let (dtype, scale, sink) = (self.shape.dtype, self.scale(), self.sink_logit(h));
        let (k, v) = (self.head(self.k, b, h), self.head(self.v, b, h));
        let key_maxima = row_maxima(k, dim);
        let mut exact = Sums::new(queries, keys, dim);
        let mut ideal = Sums::new(queries, keys, dim);
        let mut largest = Sums::new(queries, keys, 1);
        let mut entries = Vec::new();
        for t in 0..queries {
            let index = (b * self.shape.q_heads + h) * queries + t;
            self.logits(visible, [b, h, t], &mut entries);
            let (mut out, mut rounded_out) = (vec![0.0; dim], vec![0.0; dim]);
            let lse = exact_row(&mut entries, v, sink, &mut out);
            ideal_row(&entries, v, sink, dtype, &mut rounded_out);
            if lse == f64::NEG_INFINITY {
                continue;
            }
            let (query, dout, dlse) =
                (self.query(b, h, t), row(dout, index, dim), dlse.map_or(0.0, |dlse| dlse[index]));
            let maximum = |values: &[f64]| values.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
            let (query_maximum, dout_maximum) = (maximum(query), maximum(dout));
            let delta = dot(dout, &out) - dlse;
            let rounded_delta = dot(dout, &rounded_out) - dlse;

            let p_sink = (sink - lse).exp();
            exact.dsink -= p_sink * delta;
            ideal.dsink -= p_sink * rounded_delta;
            largest.dsink = largest.dsink.max(p_sink * delta.abs());

            let elements = t * dim..(t + 1) * dim;
            for entry in &entries {
                let p = entry.p;
                let dp = dot(dout, row(v, entry.key, dim));
                let key = entry.key * dim..(entry.key + 1) * dim;

                let ds = p * (dp - delta) * entry.slope;
                add_scaled(&mut exact.dq[elements.clone()], scale * ds, &k[key.clone()]);
                add_scaled(&mut exact.dk[key.clone()], scale * ds, query);
                add_scaled(&mut exact.dv[key.clone()], p, dout);

                let ds = round_to(dtype, p * (dp - rounded_delta) * entry.slope);
                add_scaled(&mut ideal.dq[elements.clone()], scale * ds, &k[key.clone()]);
                add_scaled(&mut ideal.dk[key.clone()], scale * ds, query);
                add_scaled(&mut ideal.dv[key], round_to(dtype, p), dout);

                // dP and delta cancel, so each counts as a term.
                let ds = (scale * p * entry.slope).abs() * dp.abs().max(delta.abs());
                largest.dq[t] = largest.dq[t].max(ds * key_maxima[entry.key]);
                largest.dk[entry.key] = largest.dk[entry.key].max(ds * query_maximum);
                largest.dv[entry.key] = largest.dv[entry.key].max(p * dout_maximum);
            }
        }
        HeadGradients { exact, ideal, largest }
    }
}

impl HeadGradients {
    fn part(&self, part: usize) -> &Sums {
        [&self.exact, &self.ideal, &self.largest][part]
    }
}

/// One tensor of the KV heads: the query heads of each summed, or for the largest terms (part 2) their maximum.
fn reduce(kv_heads: &[Vec<HeadGradients>], part: usize, tensor: fn(&Sums) -> &Vec<f64>) -> Vec<f64> {
    let mut result = Vec::new();
    for heads in kv_heads {
        let mut total = tensor(heads[0].part(part)).clone();
        for head in &heads[1..] {
            for (total, x) in total.iter_mut().zip(tensor(head.part(part))) {
                *total = if part == 2 { total.max(*x) } else { *total + x };
            }
        }
        result.append(&mut total);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::Counted;
    use super::*;
    use crate::shape::{AttentionShape, DType};
    use proptest::prelude::*;

    /// Numbers that look random, about -1 to 1.
    fn numbers(seed: usize, count: usize) -> Vec<f64> {
        (0..count).map(|i| ((seed * 7919 + i * 104_729) as f64 * 0.618_033_988_75).fract() * 2.0 - 1.0).collect()
    }

    struct Inputs {
        tensors: [Vec<f64>; 4],
        dout: Vec<f64>,
        dlse: Vec<f64>,
    }

    const SHAPE: AttentionShape =
        AttentionShape { batch: 2, q_heads: 4, kv_heads: 2, q_len: 3, kv_len: 5, head_dim: 4, dtype: DType::BF16 };

    impl Inputs {
        fn new(seed: usize) -> Self {
            let (rows, keys) = (2 * 4 * 3, 2 * 2 * 5);
            let tensors = [numbers(seed, rows * 4), numbers(seed + 1, keys * 4), numbers(seed + 2, keys * 4)];
            let [q, k, v] = tensors.map(|tensor| tensor.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
            let tensors = [q, k, v, numbers(seed + 3, 4)];
            Self { tensors, dout: numbers(seed + 4, rows * 4), dlse: numbers(seed + 5, rows) }
        }

        fn problem(&self, softcap: Option<f64>, sink: bool) -> Problem<'_> {
            let [q, k, v, s] = &self.tensors;
            Problem { softcap, sink: sink.then_some(s), ..Problem::new(SHAPE, q, k, v) }
        }

        fn loss(&self, softcap: Option<f64>, sink: bool, visible: &impl Visibility) -> f64 {
            let got = self.problem(softcap, sink).attend(visible).unwrap();
            let lse: f64 = got.lse.iter().zip(&self.dlse).filter(|(lse, _)| lse.is_finite()).map(|(a, b)| a * b).sum();
            dot(&got.out, &self.dout) + lse
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn gradients_match_finite_differences(
            seed in 0usize..1000, softcap in prop::option::of(0.5f64..4.0), sink: bool,
            counts in prop::collection::vec(prop::sample::select(vec![0.0, 0.0, 1.0, 1.0, 2.0, 3.0]), 37),
        ) {
            let mut inputs = Inputs::new(seed);
            let count = |b, h, t, key| counts[(b * 60 + h * 15 + t * 5 + key) % counts.len()];
            // Query 1 of head 2 sees nothing.
            let seen = |h, t| f64::from((h, t) != (2, 1));
            let visible = Counted { kv_len: 5, count: |b, h, t, key| seen(h, t) * count(b, h, t, key) };
            let problem = inputs.problem(softcap, sink);
            let got = problem.gradients(&visible, &inputs.dout, Some(&inputs.dlse)).unwrap();
            let gradients = [got.dq, got.dk, got.dv, if sink { got.dsink } else { vec![0.0; 4] }];
            for (tensor, gradient) in gradients.iter().enumerate() {
                for (index, got) in gradient.iter().enumerate() {
                    let (step, value) = (1e-5, inputs.tensors[tensor][index]);
                    let mut loss_at = |value| {
                        inputs.tensors[tensor][index] = value;
                        inputs.loss(softcap, sink, &visible)
                    };
                    let slope = (loss_at(value + step) - loss_at(value - step)) / (2.0 * step);
                    loss_at(value);
                    prop_assert!((got - slope).abs() < 1e-7, "tensor {tensor}, element {index}: {got}, not {slope}");
                }
            }
        }
    }

    /// The pairs of HyperAttention, samples weighed by their number, on all levels.
    #[test]
    fn gradients_of_hyper_attention_match_finite_differences() {
        use super::super::{HyperEstimator, HyperRanks};
        use crate::{HyperConfig, Mask, Sampling};
        let (q_ranks, k_ranks): (Vec<u16>, Vec<u16>) =
            ((0..2 * 4 * 7).map(|i| i * 5 % 4).collect(), (0..2 * 2 * 7).map(|i| i * 3 % 4).collect());
        let shares: Vec<u16> = (0..2 * 2 * 7).map(|i| 1 + i * 5 % 9).collect();
        let shape = AttentionShape { q_len: 7, kv_len: 7, ..SHAPE };
        let config = HyperConfig { block_size: 2, sample_size: 3, min_seq_len: 1, ..HyperConfig::default() };
        let (dout, dlse) = (numbers(4, 2 * 4 * 7 * 4), numbers(5, 2 * 4 * 7));
        let [uniform, values] = [Sampling::Uniform, Sampling::Values];
        for (mask, sinks, sampling) in
            [(Mask::FULL, 0, uniform), (Mask::CAUSAL, 0, uniform), (Mask::FULL, 2, uniform), (Mask::CAUSAL, 0, values)]
        {
            let config = HyperConfig { sinks, sampling, ..config.clone() };
            let ranks = HyperRanks { q: &q_ranks, k: &k_ranks, v_shares: Some(&shares) };
            let visible = HyperEstimator::new(&config, &shape, &mask, ranks, None).unwrap();
            let mut tensors = [numbers(1, 2 * 4 * 7 * 4), numbers(2, 2 * 2 * 7 * 4), numbers(3, 2 * 2 * 7 * 4)];
            let [q, k, v] = &tensors;
            let got = Problem::new(shape, q, k, v).gradients(&visible, &dout, Some(&dlse)).unwrap();
            for (tensor, gradient) in [got.dq, got.dk, got.dv].iter().enumerate() {
                for (index, got) in gradient.iter().enumerate() {
                    let (step, value) = (1e-5, tensors[tensor][index]);
                    let mut loss_at = |value| {
                        tensors[tensor][index] = value;
                        let [q, k, v] = &tensors;
                        let attended = Problem::new(shape, q, k, v).attend(&visible).unwrap();
                        dot(&attended.out, &dout) + dot(&attended.lse, &dlse)
                    };
                    let slope = (loss_at(value + step) - loss_at(value - step)) / (2.0 * step);
                    loss_at(value);
                    assert!((got - slope).abs() < 1e-7, "tensor {tensor}, element {index}: {got}, not {slope}");
                }
            }
        }
    }

    #[test]
    fn the_ideal_is_near_and_judged_by_itself() {
        let inputs = Inputs::new(3);
        let visible = Counted { kv_len: 5, count: |_, _, t, key| f64::from(key <= t + 1) };
        let all = inputs.problem(None, true).expect_gradients(&visible, &inputs.dout, None).unwrap();
        for expected in [&all.dq, &all.dk, &all.dv, &all.dsink] {
            assert_ne!(expected.exact, expected.ideal);
            let ideal: Vec<f32> = expected.ideal.iter().map(|&x| x as f32).collect();
            let got = expected.compare(&ideal).unwrap();
            assert!(got.passed() && got.relative.bound < 0.03 && got.worst_row.bound < 0.06, "{got}");
            let wrong: Vec<f32> = ideal.iter().map(|x| x * 1.1).collect();
            assert!(!expected.compare(&wrong).unwrap().passed());
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let inputs = Inputs::new(1);
        let visible = Counted { kv_len: 5, count: |_, _, _, _| 1.0 };
        let problem = inputs.problem(None, false);
        assert!(problem.gradients(&visible, &inputs.dout[1..], None).is_err());
        assert!(problem.gradients(&visible, &inputs.dout, Some(&inputs.dlse[1..])).is_err());
        assert!(problem.gradients(&visible, &inputs.dout, None).unwrap().dsink.is_empty());
    }
}

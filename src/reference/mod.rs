//! Attention in f64, written to be obviously right, and the tolerance that kernels are held to.
//!
//! [`Problem::attend`] and [`Problem::gradients`] are the exact answers for any [`Visibility`]. Beside them
//! [`Problem::expect`] and [`Problem::expect_gradients`] run the *ideal low-precision algorithm*, which rounds only
//! where a kernel has to, so that [`Expected::compare`] can hold an output to twice the ideal's error instead of to a
//! constant picked by hand.

mod compare;
mod forward;
pub mod gate;
mod gradient;
mod hyper;
mod merge;
mod problem;
mod rounding;
mod visibility;

pub use compare::{Comparison, Expected, LseComparison, Measure, NonFinite, compare_lse};
pub use forward::{ExpectedOutput, Output};
pub use gradient::{ExpectedGradients, Gradients};
pub use hyper::{HyperEstimator, HyperHash, HyperRanks, hash as hyper_hash, value_shares};
pub use merge::merge;
pub use problem::{Problem, widen};
pub use rounding::{round_to, ulp};
pub use visibility::{Counted, TokenMask, Visibility};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{AttentionShape, DType, Mask};
    use proptest::prelude::*;

    /// What a kernel does: f32, blocks of keys with a running maximum, P and the output rounded. `skip` leaves out the
    /// last keys of each row. Returns out and LSE.
    fn online_softmax(problem: &Problem, skip: usize) -> (Vec<f32>, Vec<f32>) {
        let AttentionShape { q_len, kv_len, head_dim, dtype, .. } = problem.shape;
        let row = |tensor: &[f64], i: usize| tensor[i * head_dim..][..head_dim].iter().map(|&x| x as f32).collect();
        let (mut outs, mut lses) = (vec![], vec![]);
        for t in 0..q_len {
            let q: Vec<f32> = row(problem.q, t);
            let (mut max, mut sum, mut out) = (f32::NEG_INFINITY, 0f32, vec![0f32; head_dim]);
            let keys: Vec<usize> = (0..t + 1 + kv_len - q_len - skip).collect();
            for block in keys.chunks(16) {
                let k = block.iter().map(|&key| row(problem.k, key));
                let dots = k.map(|k: Vec<f32>| q.iter().zip(&k).map(|(q, k)| q * k).sum::<f32>());
                let logits: Vec<f32> = dots.map(|dot| dot / (head_dim as f32).sqrt()).collect();
                let new_max = logits.iter().fold(max, |max, &logit| max.max(logit));
                let rescale = (max - new_max).exp();
                (max, sum) = (new_max, sum * rescale);
                out.iter_mut().for_each(|out| *out *= rescale);
                for (logit, &key) in logits.iter().zip(block) {
                    let p = (logit - max).exp();
                    sum += p;
                    let v: Vec<f32> = row(problem.v, key);
                    let rounded = round_to(dtype, p.into()) as f32;
                    out.iter_mut().zip(v).for_each(|(out, v)| *out += rounded * v);
                }
            }
            outs.extend(out.iter().map(|&x| round_to(dtype, (x / sum).into()) as f32));
            lses.push(max + sum.ln());
        }
        (outs, lses)
    }

    proptest! {
        /// The tolerance is wide enough for a sound kernel and too narrow for one that misses a key.
        #[test]
        fn a_sound_kernel_passes_and_a_missing_key_does_not(
            lens in (1usize..12, 0usize..80), half_precision: bool,
            numbers in prop::collection::vec(-2.0f64..2.0, 12 * 32 + 2 * 92 * 32),
        ) {
            let dtype = if half_precision { DType::F16 } else { DType::BF16 };
            let (q_len, kv_len, head_dim) = (lens.0, lens.0 + lens.1, 32);
            let shape = AttentionShape { batch: 1, q_heads: 1, kv_heads: 1, q_len, kv_len, head_dim, dtype };
            let numbers: Vec<f64> = numbers.into_iter().map(|x| round_to(dtype, x)).collect();
            // Small queries, so that every key has weight.
            let (q, kv) = numbers.split_at(q_len * head_dim);
            let q: Vec<f64> = q.iter().map(|x| x / 4.0).collect();
            let (k, v) = kv[..2 * kv_len * head_dim].split_at(kv_len * head_dim);
            let problem = Problem::new(shape, &q, k, v);
            let expected = problem.expect(&TokenMask { shape: &shape, mask: &Mask::CAUSAL }).unwrap();

            let (out, lse) = online_softmax(&problem, 0);
            let got = expected.out.compare(&out).unwrap();
            prop_assert!(got.passed(), "{got}");
            let got = compare_lse(&lse, &expected.lse).unwrap();
            prop_assert!(got.passed(), "{got}");
            if kv_len > q_len {
                let (out, _) = online_softmax(&problem, 1);
                prop_assert!(!expected.out.compare(&out).unwrap().passed());
            }
        }
    }
}

//! Which keys a query sees, and with which weight.

use crate::shape::{AttentionShape, Mask};
use std::ops::Range;

/// The visible keys of each query, with log-weights.
///
/// A key with log-weight `w` takes part as `exp(logit + w)`: 0 is an ordinary key, `ln 2` a key that counts twice,
/// negative infinity none at all. Keys that are visited more than once add up.
pub trait Visibility: Sync {
    /// Calls `visit` with runs of keys that share a log-weight, for query `t` of query head `h` of sequence `b`.
    ///
    /// Keys must lie below `kv_len`; runs may be empty, overlap and come in any order.
    fn runs(&self, b: usize, h: usize, t: usize, visit: &mut dyn FnMut(Range<usize>, f64));
}

/// The token mask alone: dense attention.
#[derive(Debug, Clone, Copy)]
pub struct TokenMask<'a> {
    /// Sizes of the call.
    pub shape: &'a AttentionShape,
    /// Its mask.
    pub mask: &'a Mask,
}

impl Visibility for TokenMask<'_> {
    fn runs(&self, _: usize, _: usize, t: usize, visit: &mut dyn FnMut(Range<usize>, f64)) {
        visit(self.mask.visible(self.shape, t), 0.0);
    }
}

/// Visibility from a function `(b, h, t, key) -> how often the key counts`, which need not be whole; 0 hides it.
#[derive(Debug, Clone, Copy)]
pub struct Counted<F> {
    /// Keys a sequence has.
    pub kv_len: usize,
    /// The count of a key.
    pub count: F,
}

impl<F: Fn(usize, usize, usize, usize) -> f64 + Sync> Visibility for Counted<F> {
    fn runs(&self, b: usize, h: usize, t: usize, visit: &mut dyn FnMut(Range<usize>, f64)) {
        for key in 0..self.kv_len {
            let count = (self.count)(b, h, t, key);
            if count != 0.0 {
                visit(key..key + 1, count.ln());
            }
        }
    }
}

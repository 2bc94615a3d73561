//! What each step of a training takes: a learning rate and a part of the data.

use super::Random;

/// Learning rates.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// After the warm-up.
    pub highest: f64,
    /// Of the last step.
    pub last: f64,
    /// First steps, in which the rate rises.
    pub warm_up: usize,
    /// Steps in all.
    pub steps: usize,
}

impl Rates {
    /// The rate of a step, counted from 1: up in a line, then down along a cosine.
    pub fn of(&self, step: usize) -> f64 {
        if step <= self.warm_up {
            return self.highest * step as f64 / self.warm_up as f64;
        }
        let done = (step - self.warm_up) as f64 / (self.steps - self.warm_up).max(1) as f64;
        self.last + (self.highest - self.last) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// The windows of a step, counted from 1: each epoch is a shuffle of all `windows`, a function of the seed alone.
pub fn batch_of(seed: u64, windows: usize, batch: usize, step: usize) -> Vec<usize> {
    let mut order = (usize::MAX, Vec::new());
    let first = (step - 1) * batch;
    let of = |number: usize| {
        let epoch = number / windows;
        if order.0 != epoch {
            order = (epoch, Random::new(seed, &[1, epoch as u64]).shuffled(windows));
        }
        order.1[number % windows]
    };
    (first..first + batch).map(of).collect()
}

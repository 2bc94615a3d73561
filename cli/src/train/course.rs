//! One training.

use super::attention::Trained;
use super::curve::{Curve, Point};
use crate::failure::{Failure, Result};
use crate::model::Model;
use crate::terminal;
use crate::training::{Parameter, Rates, batch_of};
use candle_core::backprop::GradStore;
use candle_core::{D, Device, Tensor};
use std::time::Instant;

/// Names and values of a model.
pub type Weights = Vec<(String, Parameter)>;

/// Everything that decides a training but the model and its attention.
pub struct Course {
    pub text: Vec<u8>,
    pub valid: Vec<u8>,
    pub window: usize,
    pub batch: usize,
    pub rates: Rates,
    pub seed: u64,
    pub valid_every: usize,
    pub valid_windows: usize,
}

impl Course {
    /// Trains the model and looks at the validation text before, now and then, and at the end.
    pub fn run(&self, mut model: Model, attention: &Trained) -> Result<(Curve, Weights)> {
        let mut weights = model.parameters()?;
        let steps = self.rates.steps;
        let bar = terminal::progress(steps);
        let mut points = vec![Point { step: 0, train: None, valid: self.bits_on_valid(&model, attention)? }];
        let (start, mut train) = (Instant::now(), Vec::new());
        let mut in_steps = std::time::Duration::ZERO;
        for step in 1..=steps {
            let started = Instant::now();
            let bits = self.step(&model, attention, &mut weights, step)?;
            in_steps += started.elapsed();
            train.push(bits);
            bar.inc(1);
            bar.set_message(format!("{}: {bits:.4} bits per byte", attention.name));
            if step % self.valid_every == 0 || step == steps {
                let mean = train.iter().sum::<f64>() / train.len() as f64;
                points.push(Point { step, train: Some(mean), valid: self.bits_on_valid(&model, attention)? });
                train.clear();
            }
        }
        bar.finish_and_clear();
        let (seconds_per_step, seconds) = (in_steps.as_secs_f64() / steps as f64, start.elapsed().as_secs_f64());
        Ok((Curve { name: attention.name, points, seconds_per_step, seconds }, weights))
    }

    /// One step; bits per byte of its windows before it.
    fn step(&self, model: &Model, mut attention: &Trained, weights: &mut Weights, step: usize) -> Result<f64> {
        let windows = (self.text.len() - 1) / self.window;
        let mut nats: Option<Tensor> = None;
        for window in batch_of(self.seed, windows, self.batch, step) {
            let text = &self.text[window * self.window..][..=self.window];
            let loss = cross_entropy(&model.logits(&text[..self.window], &mut attention)?, &text[1..])?;
            nats = Some(match nats {
                Some(sum) => (sum + loss)?,
                None => loss,
            });
        }
        let Some(nats) = nats else { return Err(Failure::Failed("train: a step without a window".into())) };
        let nats = (nats / self.batch as f64)?;
        let mut gradients = nats.backward()?;
        let norm = norm(&gradients, weights)?;
        let bits = f64::from(nats.to_scalar::<f32>()?) / std::f64::consts::LN_2;
        if !(bits.is_finite() && norm.is_finite()) {
            return Err(Failure::Failed(format!("train: the loss or the gradient of step {step} is not finite")));
        }
        for (_, parameter) in weights {
            if norm > 1.0
                && let Some(gradient) = gradients.remove(&parameter.value)
            {
                gradients.insert(&parameter.value, (gradient / norm)?);
            }
            parameter.step(&gradients, self.rates.of(step), step)?;
        }
        Ok(bits)
    }

    fn bits_on_valid(&self, model: &Model, mut attention: &Trained) -> Result<f64> {
        let window = |i: usize| model.bits_per_byte(&self.valid[i * self.window..][..=self.window], &mut attention);
        let bits: Vec<f64> = (0..self.valid_windows).map(window).collect::<Result<_>>()?;
        Ok(bits.iter().sum::<f64>() / bits.len() as f64)
    }
}

/// Mean over a window, in nats.
fn cross_entropy(logits: &Tensor, next: &[u8]) -> Result<Tensor> {
    let ids: Vec<u32> = next.iter().map(|&t| u32::from(t)).collect();
    let ids = Tensor::from_vec(ids, (next.len(), 1), &Device::Cpu)?;
    let picked = logits.gather(&ids, 1)?.squeeze(1)?;
    Ok((logits.log_sum_exp(D::Minus1)? - picked)?.mean_all()?)
}

/// Of all gradients together.
fn norm(gradients: &GradStore, weights: &Weights) -> Result<f64> {
    let mut sum = 0.0;
    for (_, parameter) in weights {
        if let Some(gradient) = gradients.get(&parameter.value) {
            sum += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
    }
    Ok(sum.sqrt())
}

//! AdamW (Loshchilov, Hutter, 2019) without weight decay, with moments that can be saved and put back; candle-nn keeps
//! its own to itself.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// A parameter and the running means of its gradient and of its square.
#[derive(Clone)]
pub struct Parameter {
    pub value: Var,
    pub first: Tensor,
    pub second: Tensor,
}

impl Parameter {
    /// A parameter before its first step.
    pub fn new(value: Tensor) -> Result<Self> {
        Ok(Self { first: value.zeros_like()?, second: value.zeros_like()?, value: Var::from_tensor(&value)? })
    }

    /// Step number `step`, counted from 1. A parameter without a gradient stays as it is.
    pub fn step(&mut self, gradients: &GradStore, rate: f64, step: usize) -> Result<()> {
        let Some(gradient) = gradients.get(&self.value) else { return Ok(()) };
        let correction = |beta: f64| 1.0 / (1.0 - beta.powf(step as f64));
        self.first = ((&self.first * BETA1)? + (gradient * (1.0 - BETA1))?)?.detach();
        self.second = ((&self.second * BETA2)? + (gradient.sqr()? * (1.0 - BETA2))?)?.detach();
        let direction = (&self.first * correction(BETA1))?;
        let size = ((&self.second * correction(BETA2))?.sqrt()? + EPSILON)?;
        self.value.set(&(self.value.as_tensor() - (direction / size)? * rate)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};

    #[test]
    fn steps_are_those_of_candle() {
        let start: Vec<f32> = (0..24).map(|i| (i as f32 * 0.7).sin()).collect();
        let target = Tensor::from_vec((0..24).map(|i| (i as f32).cos()).collect::<Vec<f32>>(), (4, 6), &Device::Cpu);
        let target = target.unwrap();
        let loss = |x: &Tensor| (x - &target).unwrap().sqr().unwrap().sqr().unwrap().sum_all().unwrap();
        let tensor = Tensor::from_vec(start, (4, 6), &Device::Cpu).unwrap();
        let mut ours = Parameter::new(tensor.clone()).unwrap();
        let theirs = Var::from_tensor(&tensor).unwrap();
        let settings = ParamsAdamW { lr: 0.01, weight_decay: 0.0, ..ParamsAdamW::default() };
        let mut adamw = AdamW::new(vec![theirs.clone()], settings).unwrap();
        for step in 1..=60 {
            let rate = 0.03 / step as f64;
            ours.step(&loss(&ours.value).backward().unwrap(), rate, step).unwrap();
            adamw.set_learning_rate(rate);
            adamw.step(&loss(&theirs).backward().unwrap()).unwrap();
        }
        let values = |x: &Var| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let moved = values(&theirs).into_iter().zip(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        assert!(moved.map(|(a, b)| (a - b).abs()).sum::<f32>() > 0.5);
        for (ours, theirs) in values(&ours.value).into_iter().zip(values(&theirs)) {
            assert!((ours - theirs).abs() <= 1e-6, "{ours} {theirs}");
        }
    }
}

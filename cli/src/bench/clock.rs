//! How long work takes on a stream.

use crate::failure::Result;
use lacuna::Stream;
use std::time::{Duration, Instant};

/// Seconds of a call.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Timing {
    pub median: f64,
    pub least: f64,
    pub most: f64,
    pub samples: usize,
}

/// A sample of a GPU lasts this long or longer, so that its clock's steps do not show.
const SAMPLE: f64 = 1e-3;

/// Calls of a sample at most.
const MOST_CALLS: f64 = 100.0;

/// Samples at most.
const MOST_SAMPLES: usize = 200;

/// Times `work` for about `budget`, after a call that is not counted: kernels are loaded then.
pub fn time(stream: &Stream, budget: Duration, mut work: impl FnMut() -> lacuna::Result<()>) -> Result<Timing> {
    let mut sample = |calls: usize| -> Result<f64> {
        let start = stream.record()?;
        for _ in 0..calls {
            work()?;
        }
        Ok(stream.record()?.seconds_since(&start)? / calls as f64)
    };
    let first = sample(1)?;
    let calls =
        if stream.device().is_simt() { 1 } else { (SAMPLE / sample(1)?.max(1e-9)).clamp(1.0, MOST_CALLS) as usize };
    // Where the first call took long, it tells as much as others would.
    let mut samples = if first > budget.as_secs_f64() { vec![first] } else { Vec::new() };
    let start = Instant::now();
    while samples.len() < 3 || (samples.len() < MOST_SAMPLES && start.elapsed() < budget) {
        samples.push(sample(calls)?);
    }
    Ok(Timing::of(samples))
}

impl Timing {
    /// Of at least one sample.
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let count = samples.len();
        let median = (samples[(count - 1) / 2] + samples[count / 2]) / 2.0;
        Self { median, least: samples[0], most: samples[count - 1], samples: count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let timing = Timing::of(vec![4.0, 1.0, 2.0, 9.0]);
        assert_eq!((timing.median, timing.least, timing.most, timing.samples), (3.0, 1.0, 9.0, 4));
        assert_eq!(Timing::of(vec![4.0, 1.0, 9.0]).median, 4.0);
    }

    #[cfg(feature = "simt")]
    #[test]
    fn calls_are_timed_one_by_one() {
        let stream = lacuna::Device::simt().unwrap().new_stream().unwrap();
        let mut calls = 0;
        let pause = Duration::from_millis(2);
        let timing = time(&stream, Duration::ZERO, || {
            calls += 1;
            std::thread::sleep(pause);
            Ok(())
        })
        .unwrap();
        assert_eq!((timing.samples, calls), (3, 3));
        assert!(timing.least >= pause.as_secs_f64() && timing.most < 1.0, "{timing:?}");
    }
}

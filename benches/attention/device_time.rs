//! Time by the device's clock, as criterion's unit of measurement.

use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use lacuna::{Event, Stream};

/// Seconds between two moments of a stream: events on a GPU, wall time on the SIMT host.
pub struct DeviceTime {
    pub stream: Stream,
    wall: WallTime,
}

impl DeviceTime {
    pub fn new(stream: &Stream) -> Self {
        Self { stream: stream.clone(), wall: WallTime }
    }

    fn now(&self) -> Event {
        self.stream.record().expect("the device records a moment")
    }
}

impl Measurement for DeviceTime {
    type Intermediate = Event;
    /// Nanoseconds.
    type Value = f64;

    fn start(&self) -> Event {
        self.now()
    }

    fn end(&self, start: Event) -> f64 {
        self.now().seconds_since(&start).expect("both moments are of one device") * 1e9
    }

    fn add(&self, a: &f64, b: &f64) -> f64 {
        a + b
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        // It prints nanoseconds, in the unit that fits, and elements (here operations) a second.
        self.wall.formatter()
    }
}

/// Useful operations of a causal call: 4 for each visited pair and element of a head.
pub fn work(pairs: u64, head_dim: usize) -> Throughput {
    Throughput::Elements(4 * pairs * head_dim as u64)
}

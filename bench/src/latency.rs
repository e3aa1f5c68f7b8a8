//! The latency of wake-ups: from just before a `set` until the waiter, which slept, runs. A median hides the wake-ups
//! that take long, so all of them go into a histogram.

use hdrhistogram::Histogram;

use crate::names::Figures;

/// How long the setter is busy before each `set`, in nanoseconds: long enough that every waiter sleeps, also one that
/// spins first.
pub const PAUSE: u64 = 150_000;

/// The latencies of one cell.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Latencies {
        // From a nanosecond to ten seconds, to three digits.
        Latencies(Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("bounds that a histogram can have"))
    }

    pub fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    pub fn figures(&self) -> Figures {
        let quantile = |quantile| self.0.value_at_quantile(quantile) as f64;
        vec![("p50", quantile(0.5)), ("p99", quantile(0.99)), ("p99.9", quantile(0.999))]
    }
}

/// How many wake-ups a cell measures: ten of them are beyond p99.9.
pub fn rounds(smoke: bool) -> u64 {
    if smoke { 20 } else { 10_000 }
}

//! The cost of recording waits: each cell does the same work with the record off and with it on.

use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Instant;

use tantara::{Event, waits};
use tempfile::TempDir;

use crate::names::recorded::ON;

/// Turns the record on or off for the rest of this process, whatever the environment says. What it publishes lies in
/// the folder that is returned.
pub fn turn(contender: &str) -> Result<TempDir, String> {
    let pages = TempDir::new().map_err(|error| format!("no folder can be made: {error}"))?;
    waits::publish_in(pages.path());
    waits::record(contender == ON);
    Ok(pages)
}

/// Nanoseconds to return that many waits of tasks, at the median.
pub fn all_waits(count: usize, smoke: bool) -> f64 {
    let event = Event::new();
    let mut futures: Vec<Pin<Box<_>>> = (0..count).map(|_| Box::pin(event.wait_async())).collect();
    let mut context = Context::from_waker(Waker::noop());
    for future in &mut futures {
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
    let rounds = if smoke { 1 } else { 21 };
    let look = |_| {
        let began = Instant::now();
        let all = black_box(waits::waits());
        let took = began.elapsed();
        assert_eq!(all.len(), count, "all of them are recorded");
        took
    };
    let mut times: Vec<_> = (0..rounds).map(look).collect();
    times.sort_unstable();
    times[times.len() / 2].as_nanos() as f64
}

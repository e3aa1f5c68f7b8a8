//! The public API, on real threads and real executors.
#![cfg(not(loom))]
#![allow(clippy::incompatible_msrv, reason = "only the library is built with the oldest compiler")]

mod api;
mod auto_reset;
#[cfg(shared_events)]
mod child_process;
#[cfg(shared_events)]
mod children;
mod closing;
mod contract;
#[cfg(shared_events)]
mod crowd;
#[cfg(shared_events)]
mod hold;
#[cfg(shared_events)]
mod hostile;
#[cfg(shared_events)]
mod interrupt;
#[cfg(shared_events)]
mod killed;
mod many;
#[cfg(shared_events)]
mod names;
#[cfg(all(shared_events, target_arch = "x86_64"))]
mod naming;
#[cfg(shared_events)]
mod notes;
#[cfg(shared_events)]
mod other_waits;
mod owned;
#[cfg(shared_events)]
mod processes;
mod promises;
#[cfg(all(shared_events, target_arch = "x86_64"))]
mod ptrace;
#[cfg(shared_events)]
mod realtime;
#[cfg(shared_events)]
mod refused;
mod scopes;
mod set_on_drop;
#[cfg(shared_events)]
mod shared;
#[cfg(shared_events)]
mod shared_many;
#[cfg(all(shared_events, target_arch = "x86_64"))]
mod stepper;
#[cfg(shared_events)]
mod storm;
mod stress;
mod suites_of_others;
#[cfg(shared_events)]
mod users;
#[cfg(shared_events)]
mod waiting;
mod wakers;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes. A test that waits this long fails instead of hanging.
const LONG: Duration = Duration::from_secs(60);

/// How many threads and tasks wait, according to `Debug`.
fn waiting(event: &impl Debug) -> usize {
    let debug = format!("{event:?}");
    let (_, rest) = debug.split_once("waiting: ").expect("Debug says how many wait");
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// Returns once `count` wait, with a timeout that is not short.
fn until_waiting(event: &impl Debug, count: usize) {
    let deadline = Instant::now() + LONG;
    while waiting(event) != count {
        assert!(Instant::now() < deadline, "{count} should wait: {event:?}");
        thread::sleep(Duration::from_micros(100));
    }
}

/// Counts how often it was woken.
#[derive(Default)]
struct WakeCounter(AtomicUsize);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl WakeCounter {
    fn new() -> (Arc<WakeCounter>, Waker) {
        let counter = Arc::new(WakeCounter::default());
        (Arc::clone(&counter), Waker::from(counter))
    }

    fn wakes(&self) -> usize {
        self.0.load(SeqCst)
    }
}

/// A value that is never dropped, so that waits may borrow it without a lifetime.
fn leaked<T: Sync + 'static>(value: T) -> &'static T {
    let value: &'static T = Box::leak(Box::new(value));
    #[cfg(miri)]
    {
        // Keep a reference, because Miri reports memory without one as a leak.
        static LEAKED: std::sync::Mutex<Vec<&'static dyn Sync>> = std::sync::Mutex::new(Vec::new());
        LEAKED.lock().unwrap().push(value);
    }
    value
}

/// Polls once.
fn poll<F: Future>(future: &mut Pin<Box<F>>, waker: &Waker) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(waker))
}

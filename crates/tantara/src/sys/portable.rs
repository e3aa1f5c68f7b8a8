//! Every other platform, and loom: a small table of mutexes and condition variables, found by the word's address.
//!
//! Two words may share a bucket; then each wakes the other's sleepers too, who look and sleep again. The bucket's mutex
//! makes the look at the word and the falling asleep one step: a waker takes it after the word has changed.

#![forbid(unsafe_code)]

use std::time::Instant;

use super::TimedOut;
use crate::sync::{AtomicU32, Condvar, Mutex};

struct Bucket {
    sleepers: Mutex<u32>,
    wake: Condvar,
}

#[cfg(not(loom))]
fn bucket(word: &AtomicU32) -> &'static Bucket {
    const BUCKETS: usize = 64;
    static TABLE: [Bucket; BUCKETS] = [const { Bucket { sleepers: Mutex::new(0), wake: Condvar::new() } }; BUCKETS];
    // Fibonacci hashing of the address: neighbours spread over the table.
    let hash = (std::ptr::from_ref(word).addr() as u64 >> 2).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &TABLE[(hash >> 58) as usize % BUCKETS]
}

#[cfg(loom)]
fn bucket(_: &AtomicU32) -> &'static Bucket {
    loom::lazy_static! {
        static ref BUCKET: Bucket = Bucket { sleepers: Mutex::new(0), wake: Condvar::new() };
    }
    &BUCKET
}

pub(crate) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Instant>) -> Result<(), TimedOut> {
    let bucket = bucket(word);
    let mut sleepers = bucket.sleepers.lock().unwrap();
    // Relaxed: the mutex orders this look with the look of a waker; what the word says is read again by the caller.
    if word.load(std::sync::atomic::Ordering::Relaxed) != expected {
        return Ok(());
    }
    *sleepers += 1;
    let (mut sleepers, outcome) = match deadline {
        None => (bucket.wake.wait(sleepers).unwrap(), Ok(())),
        Some(deadline) => wait_until(bucket, sleepers, deadline),
    };
    *sleepers -= 1;
    outcome
}

#[cfg(not(loom))]
type Guard = std::sync::MutexGuard<'static, u32>;
#[cfg(loom)]
type Guard = loom::sync::MutexGuard<'static, u32>;

#[cfg(not(loom))]
fn wait_until(bucket: &'static Bucket, sleepers: Guard, deadline: Instant) -> (Guard, Result<(), TimedOut>) {
    let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
        return (sleepers, Err(TimedOut));
    };
    let (sleepers, result) = bucket.wake.wait_timeout(sleepers, left).unwrap();
    (sleepers, if result.timed_out() { Err(TimedOut) } else { Ok(()) })
}

/// Loom has no clock: a sleep with a deadline lets the others run and then times out, which explores a timeout at every
/// point of what the others do.
#[cfg(loom)]
fn wait_until(bucket: &'static Bucket, sleepers: Guard, _: Instant) -> (Guard, Result<(), TimedOut>) {
    drop(sleepers);
    loom::thread::yield_now();
    (bucket.sleepers.lock().unwrap(), Err(TimedOut))
}

pub(crate) fn wake_one(word: &AtomicU32) {
    // The one may be another word's sleeper, so all must look.
    wake_all(word);
}

pub(crate) fn wake_all(word: &AtomicU32) {
    let bucket = bucket(word);
    if *bucket.sleepers.lock().unwrap() > 0 {
        bucket.wake.notify_all();
    }
}

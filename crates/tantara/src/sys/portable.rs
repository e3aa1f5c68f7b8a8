//! All other platforms, and loom: a small table of mutexes and condition variables, indexed by the
//! word's address.
//!
//! Words may share a bucket. Then a wake-up for one also wakes the sleepers of the other, which
//! sleep again. The bucket's mutex makes comparing the word and falling asleep one step, because a
//! waker locks it after the word has changed.

#![forbid(unsafe_code)]

#[path = "no_words.rs"]
mod no_words;
#[cfg(loom)]
#[path = "shared_in_models.rs"]
pub(crate) mod shared;

pub(crate) use no_words::Words;

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::{Awake, TimedOut};
use crate::deadline::Deadline;
use crate::interrupt;
use crate::sync::AtomicU32;
use crate::sync::condvar::{BUCKETS, Condvar, Mutex, process_wide, wait_until};

/// Events within the process report no errors of the system.
pub(crate) fn advice(_: &io::Error) -> &'static str {
    ""
}

struct Bucket {
    sleepers: Mutex<u32>,
    wake: Condvar,
}

fn bucket(word: &AtomicU32) -> &'static Bucket {
    process_wide! {
        static ref TABLE: [Bucket; BUCKETS] =
            std::array::from_fn(|_| Bucket { sleepers: Mutex::new(0), wake: Condvar::new() });
    }
    // Fibonacci hashing spreads neighbouring addresses over the table.
    let hash = (std::ptr::from_ref(word).addr() as u64 >> 2).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &TABLE[(hash >> 32) as usize % BUCKETS]
}

pub(crate) fn wait(word: &AtomicU32, expected: u32, deadline: Deadline) -> Result<(), TimedOut> {
    if wait_in_group(word, expected, 0, deadline).ends_the_wait(deadline) { Err(TimedOut) } else { Ok(()) }
}

pub(crate) fn wait_in_group(word: &AtomicU32, expected: u32, _: u32, deadline: Deadline) -> Awake {
    let bucket = bucket(word);
    let mut sleepers = bucket.sleepers.lock().unwrap();
    // Relaxed, because the mutex orders this load after a waker's change. The caller reads the word
    // again.
    if word.load(Relaxed) != expected {
        return Awake::Early;
    }
    *sleepers += 1;
    let ends = deadline.instant();
    let nap_ends = interrupt::longest_sleep(deadline).map(|longest| Instant::now() + longest);
    let wakes = ends.into_iter().chain(nap_ends).min();
    let (mut sleepers, slept_out) = match wakes {
        None => (bucket.wake.wait(sleepers).unwrap(), false),
        Some(wakes) => wait_until(&bucket.wake, sleepers, wakes),
    };
    *sleepers -= 1;
    drop(sleepers);
    match slept_out {
        false => Awake::Early,
        true if wakes == ends => Awake::TimedOut,
        true => Awake::Interrupted,
    }
}

/// As [`wait`], on two words, without a deadline. In models all words share one bucket.
#[cfg(loom)]
fn wait_two(first: (&AtomicU32, u32), second: (&AtomicU32, u32)) {
    let bucket = bucket(first.0);
    let mut sleepers = bucket.sleepers.lock().unwrap();
    if first.0.load(Relaxed) == first.1 && second.0.load(Relaxed) == second.1 {
        *sleepers += 1;
        sleepers = bucket.wake.wait(sleepers).unwrap();
        *sleepers -= 1;
    }
}

/// Whether this thread may give way to others.
pub(crate) fn may_yield() -> bool {
    true
}

/// All sleepers of a word are woken together.
pub(crate) const HAS_GROUPS: bool = false;

pub(crate) fn wake_group(word: &AtomicU32, _: u32, _: i32) -> bool {
    wake_all(word);
    true
}

pub(crate) fn wake_one(word: &AtomicU32) {
    // The one that wakes up may sleep on another word, so all are woken.
    wake_all(word);
}

pub(crate) fn wake_all(word: &AtomicU32) {
    let bucket = bucket(word);
    if *bucket.sleepers.lock().unwrap() > 0 {
        bucket.wake.notify_all();
    }
}

//! Under loom: the futex, as `linux.rs` uses it. A queue of sleepers, each with its word, its group
//! and a condition variable of its own, so that a wake-up call reaches exactly those that the
//! kernel would wake.

#![forbid(unsafe_code)]

#[path = "no_words.rs"]
mod no_words;
#[path = "shared_in_models.rs"]
pub(crate) mod shared;

pub(crate) use no_words::Words;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{ALL, Awake, TimedOut};
use crate::deadline::Deadline;
use crate::interrupt;
use crate::sync::condvar::{Condvar, Mutex, process_wide};
use crate::sync::{AtomicU32, yield_now};

/// Sleepers are divided into groups.
pub(crate) const HAS_GROUPS: bool = true;

/// Events within the process report no errors of the system.
pub(crate) fn advice(_: &io::Error) -> &'static str {
    ""
}

/// Asleep as long as it is in the queue.
struct Sleeper {
    word: usize,
    group: u32,
    wake: Arc<Condvar>,
}

impl Sleeper {
    fn is(&self, other: &Arc<Condvar>) -> bool {
        Arc::ptr_eq(&self.wake, other)
    }
}

process_wide! {
    static ref QUEUE: Mutex<Vec<Sleeper>> = Mutex::new(Vec::new());
}

fn address(word: &AtomicU32) -> usize {
    std::ptr::from_ref(word).addr()
}

pub(crate) fn wait(word: &AtomicU32, expected: u32, deadline: Deadline) -> Result<(), TimedOut> {
    if wait_in_group(word, expected, u32::MAX, deadline).ends_the_wait(deadline) { Err(TimedOut) } else { Ok(()) }
}

pub(crate) fn wait_in_group(word: &AtomicU32, expected: u32, group: u32, deadline: Deadline) -> Awake {
    let mut queue = QUEUE.lock().unwrap();
    // Relaxed, because the mutex orders this load after a waker's change. The caller reads the word
    // again.
    if word.load(Relaxed) != expected {
        return Awake::Early;
    }
    let wake = Arc::new(Condvar::new());
    queue.push(Sleeper { word: address(word), group, wake: Arc::clone(&wake) });
    let ends = deadline.instant();
    let can_end = ends.is_some() || interrupt::longest_sleep(deadline).is_some();
    while !can_end && queue.iter().any(|sleeper| sleeper.is(&wake)) {
        queue = wake.wait(queue).unwrap();
    }
    if can_end {
        // Loom has no clock: others may run, and then the time has passed.
        drop(queue);
        yield_now();
        queue = QUEUE.lock().unwrap();
    }
    // A wake-up call that comes as the time passes is used up all the same. Linux says so, but some
    // kernels that stand in for it report the time.
    queue.retain(|sleeper| !sleeper.is(&wake));
    drop(queue);
    match can_end {
        false => Awake::Called,
        true if ends.is_some() => Awake::TimedOut,
        true => Awake::Interrupted,
    }
}

/// As [`wait`], on two words, without a deadline.
fn wait_two(first: (&AtomicU32, u32), second: (&AtomicU32, u32)) {
    let mut queue = QUEUE.lock().unwrap();
    if first.0.load(Relaxed) != first.1 || second.0.load(Relaxed) != second.1 {
        return;
    }
    let wake = Arc::new(Condvar::new());
    let asleep = |word| Sleeper { word: address(word), group: u32::MAX, wake: Arc::clone(&wake) };
    queue.extend([asleep(first.0), asleep(second.0)]);
    while queue.iter().filter(|sleeper| sleeper.is(&wake)).count() == 2 {
        queue = wake.wait(queue).unwrap();
    }
    queue.retain(|sleeper| !sleeper.is(&wake));
}

/// Whether this thread may give way to others.
pub(crate) fn may_yield() -> bool {
    true
}

pub(crate) fn wake_one(word: &AtomicU32) {
    wake_group(word, u32::MAX, 1);
}

pub(crate) fn wake_all(word: &AtomicU32) {
    wake_group(word, u32::MAX, ALL);
}

pub(crate) fn wake_group(word: &AtomicU32, groups: u32, most: i32) -> bool {
    let mut queue = QUEUE.lock().unwrap();
    for _ in 0..most {
        let is_called = |sleeper: &Sleeper| sleeper.word == address(word) && sleeper.group & groups != 0;
        // The last first, as if newcomers always had a higher priority.
        let Some(position) = queue.iter().rposition(is_called) else { return true };
        queue.remove(position).wake.notify_one();
    }
    false
}

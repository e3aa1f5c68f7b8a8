//! All other platforms, and the models: a table of sleepers by the address of their word.
//!
//! It does what Linux' futex does, so the models explore the calls of `linux.rs` too: each sleeper
//! has a group and a condition variable of its own, and a wake-up call reaches only the sleepers
//! that it is for. A bucket's mutex makes comparing the word and falling asleep one step, because a
//! waker locks it after the word has changed. The table is that of WebKit's `ParkingLot` (Filip
//! Pizlo, "Locking in WebKit", 2016).
//!
//! A sleep makes one allocation. A sleep and a wake-up call take O(log n) time in the number of
//! sleepers of the bucket.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::deadline::Deadline;
use crate::interrupt;
use crate::sync::AtomicU32;
use crate::sync::condvar::{BUCKETS, Condvar, Mutex, process_wide, wait_until};
use crate::sys::sleep::Awake;

/// Events within the process report no errors of the system.
pub(crate) fn advice(_: &io::Error) -> &'static str {
    ""
}

/// Sleepers are divided into groups.
pub(crate) const HAS_GROUPS: bool = true;

/// The process that uses the table: the child of a fork inherits it without the sleepers in it.
/// Only on Unix, because `std::process::id` panics on some other systems.
fn process() -> u32 {
    if cfg!(all(unix, not(any(loom, miri, target_family = "wasm")))) { std::process::id() } else { 0 }
}

/// The address of the word, and when the sleep began.
type Place = (usize, u64);

struct Sleeper {
    process: u32,
    group: u32,
    wake: Arc<Condvar>,
}

/// The sleepers of some words. A sleeper sleeps for as long as it is in here.
#[derive(Default)]
struct Bucket {
    asleep: BTreeMap<Place, Sleeper>,
    sleeps: u64,
}

impl Bucket {
    fn add(&mut self, word: &AtomicU32, group: u32, wake: &Arc<Condvar>) -> Place {
        self.sleeps += 1;
        let place = (address(word), self.sleeps);
        self.asleep.insert(place, Sleeper { process: process(), group, wake: Arc::clone(wake) });
        place
    }

    /// Takes out the next one that a call for these groups wakes.
    fn take(&mut self, word: &AtomicU32, groups: u32) -> Option<Arc<Condvar>> {
        let mut of_word = self.asleep.range((address(word), 0)..=(address(word), u64::MAX));
        let own = process();
        let is_called = |(_, sleeper): &(&Place, &Sleeper)| sleeper.group & groups != 0 && sleeper.process == own;
        // In models the last comes first, as if newcomers always had a higher priority.
        let next = if cfg!(loom) { of_word.rfind(is_called) } else { of_word.find(is_called) };
        let place = *next?.0;
        self.asleep.remove(&place).map(|sleeper| sleeper.wake)
    }
}

fn address(word: &AtomicU32) -> usize {
    std::ptr::from_ref(word).addr()
}

fn bucket(word: &AtomicU32) -> &'static Mutex<Bucket> {
    process_wide! {
        static ref TABLE: [Mutex<Bucket>; BUCKETS] = std::array::from_fn(|_| Mutex::new(Bucket::default()));
    }
    // Fibonacci hashing spreads neighbouring addresses over the table.
    let hash = (address(word) as u64 >> 2).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &TABLE[(hash >> 32) as usize % BUCKETS]
}

pub(crate) fn wait_in_group(word: &AtomicU32, expected: u32, group: u32, deadline: Deadline) -> Awake {
    let mutex = bucket(word);
    let mut bucket = mutex.lock().unwrap();
    // Relaxed, because the mutex orders this load after a waker's change. The caller reads the word
    // again.
    if word.load(Relaxed) != expected {
        return Awake::Early;
    }
    let wake = Arc::new(Condvar::new());
    let place = bucket.add(word, group, &wake);
    let ends = deadline.instant();
    let nap_ends = interrupt::longest_sleep(deadline).map(|longest| Instant::now() + longest);
    let until = ends.into_iter().chain(nap_ends).min();
    let mut slept_out = false;
    while !slept_out && bucket.asleep.contains_key(&place) {
        (bucket, slept_out) = match until {
            None => (wake.wait(bucket).unwrap(), false),
            Some(until) => wait_until(mutex, &wake, bucket, until),
        };
    }
    let is_called = bucket.asleep.remove(&place).is_none();
    drop(bucket);
    // A call that comes as the time passes is consumed all the same. Linux reports the call then,
    // but some kernels that imitate it report the timeout, and so do the models.
    match slept_out && (cfg!(loom) || !is_called) {
        false => Awake::Called,
        true if until == ends => Awake::TimedOut,
        true => Awake::Interrupted,
    }
}

/// As [`wait`], on two words, without a deadline. In models all words share one bucket.
#[cfg(loom)]
pub(super) fn wait_two(first: (&AtomicU32, u32), second: (&AtomicU32, u32)) {
    let mut bucket = bucket(first.0).lock().unwrap();
    if first.0.load(Relaxed) != first.1 || second.0.load(Relaxed) != second.1 {
        return;
    }
    let wake = Arc::new(Condvar::new());
    let places = [first.0, second.0].map(|word| bucket.add(word, u32::MAX, &wake));
    while places.iter().all(|place| bucket.asleep.contains_key(place)) {
        bucket = wake.wait(bucket).unwrap();
    }
    for place in places {
        bucket.asleep.remove(&place);
    }
}

/// Whether this thread may yield to others.
pub(crate) fn may_yield() -> bool {
    true
}

pub(crate) fn wake_one(word: &AtomicU32) {
    wake_group(word, u32::MAX, 1);
}

pub(crate) fn wake_group(word: &AtomicU32, groups: u32, most: i32) -> bool {
    let mut called = Vec::new();
    let mut bucket = bucket(word).lock().unwrap();
    called.extend((0..most).map_while(|_| bucket.take(word, groups)));
    // The woken thread takes the lock at once.
    drop(bucket);
    called.iter().for_each(|wake| wake.notify_one());
    called.len() < most as usize
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sys::sleep::ALL;
    use std::sync::atomic::Ordering::SeqCst;
    use std::thread;
    use std::time::Duration;

    fn asleep(word: &AtomicU32) -> usize {
        let bucket = bucket(word).lock().unwrap();
        bucket.asleep.keys().filter(|(address, _)| *address == super::address(word)).count()
    }

    /// A call for one word of a bucket reaches no sleeper of another, and one of a word only.
    #[test]
    fn a_call_reaches_the_sleepers_of_its_word_alone() {
        let words: Vec<_> = (0..2 * BUCKETS).map(|_| AtomicU32::new(0)).collect();
        let awake = AtomicU32::new(0);
        thread::scope(|scope| {
            for word in words.iter().chain(&words) {
                scope.spawn(|| {
                    assert_eq!(wait_in_group(word, 0, 1, Deadline::after(Duration::from_secs(60))), Awake::Called);
                    awake.fetch_add(1, SeqCst);
                });
            }
            while words.iter().any(|word| asleep(word) < 2) {
                thread::yield_now();
            }
            assert!(wake_group(&words[0], 2, ALL), "nobody is in this group");
            assert!(!wake_group(&words[0], 1, 1));
            wake_one(&words[1]);
            assert_eq!([0, 1, 2].map(|index| asleep(&words[index])), [1, 1, 2]);
            assert!(wake_group(&words[0], 3, 2), "it was the last");
            words.iter().for_each(|word| assert!(wake_group(word, 1, ALL)));
        });
        assert_eq!(awake.load(SeqCst) as usize, 2 * words.len());
    }

    #[test]
    fn who_times_out_leaves_no_trace() {
        let word = AtomicU32::new(0);
        assert_eq!(wait_in_group(&word, 1, 1, Deadline::Never), Awake::Early);
        assert_eq!(wait_in_group(&word, 0, 1, Deadline::after(Duration::from_millis(2))), Awake::TimedOut);
        assert_eq!(asleep(&word), 0);
    }
}

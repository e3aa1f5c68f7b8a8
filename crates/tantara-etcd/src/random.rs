//! Random numbers: for writes and leases, which no other process may have, and for pauses.
//!
//! They do not come from a generator with a state of its own. The children of a fork would inherit it,
//! and two of them would draw the same numbers; nor from one that a program may seed. Here the
//! process and the moment are a part of each number, beside keys from the system.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A number that was never drawn before, as far as 64 bits allow.
pub(crate) fn number() -> u64 {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    mixed(&RandomState::new(), std::process::id(), DRAWN.fetch_add(1, Relaxed), Instant::now())
}

fn mixed(keys: &RandomState, process: u32, drawn: u64, now: Instant) -> u64 {
    keys.hash_one((process, drawn, now))
}

/// A number below `end`, which is not 0.
pub(crate) fn below(end: usize) -> usize {
    (number() % end as u64) as usize
}

/// A number from 0 to 1.
pub(crate) fn share() -> f64 {
    (number() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_numbers_are_alike() {
        let draw = || (0..10_000).map(|_| number()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
        let drawn: HashSet<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(drawn.len(), 40_000);
        assert!((0..1_000).all(|_| below(3) < 3 && (0.0..1.0).contains(&share())));
    }

    #[test]
    fn children_of_a_fork_draw_different_numbers() {
        // They have inherited the keys and the count, and may draw at the same moment.
        let (keys, now) = (RandomState::new(), Instant::now());
        assert_eq!(mixed(&keys, 1, 7, now), mixed(&keys, 1, 7, now));
        assert_ne!(mixed(&keys, 1, 7, now), mixed(&keys, 2, 7, now));
        assert_ne!(mixed(&keys, 1, 7, now), mixed(&keys, 1, 8, now));
    }
}

//! A drain that is delayed for long.

#![forbid(unsafe_code)]

use super::*;
use std::pin::pin;

/// A drain that was delayed while the generation advanced by half of its range meets a new
/// waiter.
#[test]
fn a_drain_that_was_delayed_for_half_the_range_releases_no_new_waiter() {
    let old = Word::NEW.generation();
    // Beyond half the range, where "earlier" and "later" have changed places.
    let queue = Queue::new((1 << 31) + (1 << 16));
    let now = Word::from_bits(queue.word.load(Acquire));
    assert!(now.generation().is_within(old), "the arithmetic alone would release it");
    let mut newcomer = pin!(Waiter::new(&queue, now.generation(), None));
    assert_eq!(newcomer.as_mut().poll(Waker::noop(), |_| true), Some(true));
    queue.release_up_to(old);
    assert!(!newcomer.is_released());
    queue.word.store(now.set().bits(), Release);
    queue.release_up_to(now.generation());
    assert!(newcomer.is_released());
}

//! The test suites of related libraries, written anew for these events.
//!
//! Sources: futures-intrusive `tests/manual_reset_event.rs`, tokio `tests/sync_notify.rs`, pevents `tests/*.cpp`,
//! .NET's `EventWaitHandle` tests, and dask's `test_events.py`.
//!
//! Sources of the questions: futures-intrusive `tests/manual_reset_event.rs`, tokio `tests/sync_notify.rs`, pevents
//! `tests/*.cpp`, .NET's `EventWaitHandle` tests, and dask's `test_events.py`.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tantara::{AutoResetEvent, Event, all, any};

use crate::{LONG, WakeCounter, poll, until_waiting};

/// futures-intrusive: cancelling waits in the middle and at the end of the queue does not affect the others.
#[test]
fn cancelled_waits_between_others() {
    let event = Event::new();
    let (counter, waker) = WakeCounter::new();
    let mut waits: Vec<_> = (0..5).map(|_| Box::pin(event.wait_async())).collect();
    waits.iter_mut().for_each(|wait| assert!(poll(wait, &waker).is_pending()));
    drop(waits.remove(3));
    drop(waits.remove(1));
    waits.iter_mut().for_each(|wait| assert!(poll(wait, &waker).is_pending()));
    assert_eq!(counter.wakes(), 0);
    event.set();
    assert_eq!(counter.wakes(), 3);
    waits.iter_mut().for_each(|wait| assert!(poll(wait, &waker).is_ready()));
}

/// futures-intrusive: waits that begin and end at the end of the queue, between others that stay.
#[test]
fn cancelled_waits_at_the_end() {
    let event = Event::new();
    let (counter, waker) = WakeCounter::new();
    let mut early: Vec<_> = (0..2).map(|_| Box::pin(event.wait_async())).collect();
    early.iter_mut().for_each(|wait| assert!(poll(wait, &waker).is_pending()));
    for _ in 0..2 {
        assert!(poll(&mut Box::pin(event.wait_async()), &waker).is_pending());
    }
    let mut late: Vec<_> = (0..2).map(|_| Box::pin(event.wait_async())).collect();
    late.iter_mut().for_each(|wait| assert!(poll(wait, &waker).is_pending()));
    event.set();
    early.iter_mut().chain(&mut late).for_each(|wait| assert!(poll(wait, &waker).is_ready()));
    assert_eq!(counter.wakes(), 4);
}

/// futures-intrusive: on a set event a wait is ready without using its waker.
#[test]
fn a_set_event_is_ready_at_the_first_poll() {
    let event = Event::new();
    event.set();
    let (counter, waker) = WakeCounter::new();
    assert!(poll(&mut Box::pin(event.wait_async()), &waker).is_ready());
    assert_eq!((counter.wakes(), Arc::strong_count(&counter)), (0, 2));
}

/// tokio: a notification that is not used up is not lost by an earlier `notify_waiters`.
#[test]
fn a_release_after_a_dropped_wait_is_stored() {
    let event = AutoResetEvent::new();
    let mut wait = Box::pin(event.wait_async());
    assert!(poll(&mut wait, &WakeCounter::new().1).is_pending());
    drop(wait);
    event.set();
    assert!(poll(&mut Box::pin(event.wait_async()), &WakeCounter::new().1).is_ready());
}

/// tokio: two notifications for two waiters, the first of whom is dropped after it was notified.
#[test]
fn two_waiting_and_the_notified_one_is_dropped() {
    let event = AutoResetEvent::new();
    let ((first_count, first_waker), (second_count, second_waker)) = (WakeCounter::new(), WakeCounter::new());
    let mut first = Box::pin(event.wait_async());
    let mut second = Box::pin(event.wait_async());
    assert!(poll(&mut first, &first_waker).is_pending());
    assert!(poll(&mut second, &second_waker).is_pending());
    event.set();
    assert_eq!((first_count.wakes(), second_count.wakes()), (1, 0));
    drop(first);
    assert_eq!(second_count.wakes(), 1);
    assert!(poll(&mut second, &second_waker).is_ready());
}

/// pevents #5: a wait for all of many set events, with a timeout of zero.
#[test]
fn all_of_many_set_events_with_a_timeout_of_zero() {
    let auto_resets: Vec<_> = (0..63).map(|_| AutoResetEvent::new()).collect();
    auto_resets.iter().for_each(AutoResetEvent::set);
    assert!(all(&auto_resets).wait_timeout(Duration::ZERO));
    assert!(auto_resets.iter().all(|auto_reset| !auto_reset.is_set()));
    let gates: Vec<_> = (0..63).map(|_| Event::new()).collect();
    gates.iter().for_each(Event::set);
    assert!(all(&gates).wait_timeout(Duration::ZERO));
    assert!(gates.iter().all(Event::is_set));
}

/// pevents: a wait for all that times out does not use up a stored release. (There, as on Windows, it takes no release
/// before it can take all of them. Here it keeps the release meanwhile, and hands it on. See `all`.)
#[test]
fn a_wait_for_all_that_times_out_swallows_nothing() {
    let auto_resets = [AutoResetEvent::new(), AutoResetEvent::new()];
    auto_resets[0].set();
    for _ in 0..10 {
        assert!(!all(&auto_resets).wait_timeout(Duration::from_millis(1)));
        assert!(auto_resets[0].is_set());
    }
}

/// .NET: manual-reset stays signalled for any number of waits, auto-reset for one.
#[test]
fn manual_and_auto_reset_differ_in_what_a_wait_uses_up() {
    let (gate, auto_reset) = (Event::new(), AutoResetEvent::new());
    gate.set();
    auto_reset.set();
    assert!((0..3).all(|_| gate.wait_timeout(Duration::ZERO)));
    assert!(auto_reset.wait_timeout(Duration::ZERO));
    assert!(!auto_reset.wait_timeout(Duration::ZERO));
}

/// .NET: two threads that answer each other through a pair of auto-reset events.
#[test]
fn ping_pong_with_wait_any() {
    const ROUNDS: u32 = if cfg!(miri) { 20 } else { 1_000 };
    let pair = [AutoResetEvent::new(), AutoResetEvent::new()];
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                assert_eq!(any(&pair[..1]).wait_timeout(LONG), Some(0));
                pair[1].set();
            }
        });
        for _ in 0..ROUNDS {
            pair[0].set();
            assert_eq!(any(&pair[1..]).wait_timeout(LONG), Some(0));
        }
    });
}

/// CPython (gh-57711): set and clear in a row, with sleeping threads; and a timeout that is reported exactly.
#[test]
fn set_and_clear_at_once_with_sleeping_threads() {
    let event = Event::new();
    thread::scope(|scope| {
        let participants: Vec<_> = (0..5).map(|_| scope.spawn(|| event.wait_timeout(LONG))).collect();
        until_waiting(&event, 5);
        event.set();
        event.clear();
        assert!(participants.into_iter().all(|participant| participant.join().unwrap()));
    });
    let began = Instant::now();
    assert!(!event.wait_timeout(Duration::from_millis(50)));
    assert!(began.elapsed() >= Duration::from_millis(50));
}

/// dask: clearing and setting again, with waits and without.
#[test]
fn set_clear_and_set_again() {
    let event = Event::new();
    for _ in 0..10 {
        thread::scope(|scope| {
            let participants: Vec<_> = (0..3).map(|_| scope.spawn(|| event.wait_timeout(LONG))).collect();
            event.set();
            assert!(participants.into_iter().all(|participant| participant.join().unwrap()));
        });
        event.clear();
        assert!(!event.wait_timeout(Duration::ZERO));
    }
}

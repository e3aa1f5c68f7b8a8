//! `any` and `all`: no limit on the number, kinds can be mixed, unused releases are not lost.

use std::future::Future;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use tantara::{__private as private, AutoResetEvent, Event, Wait, Waitable, all, any};

use crate::{LONG, WakeCounter, poll, until_waiting, waiting};

#[test]
fn any_of_none_is_never_released_and_all_of_none_is_at_once() {
    let none: [&Event; 0] = [];
    assert_eq!(any(none).wait_timeout(Duration::from_millis(5)), None);
    assert!(all(none).wait_timeout(Duration::ZERO));
    all(none).wait();
}

#[test]
fn there_is_no_limit_on_the_number() {
    const MANY: usize = if cfg!(miri) { 100 } else { 10_000 };
    const RELEASED: usize = MANY / 4 * 3;
    let events: Arc<Vec<_>> = Arc::new((0..MANY).map(|_| Event::new()).collect());
    let participant = thread::spawn({
        let events = Arc::clone(&events);
        move || (any(&*events).wait(), all(&*events).wait_timeout(LONG))
    });
    until_waiting(&events[MANY - 1], 1);
    events[RELEASED].set();
    // The first wait has left every queue, and the second waits for the first event.
    until_waiting(&events[MANY - 1], 0);
    until_waiting(&events[0], 1);
    events.iter().for_each(Event::set);
    assert_eq!(participant.join().unwrap(), (RELEASED, true));
}

#[test]
fn any_uses_up_the_release_that_it_reports_and_no_other() {
    let auto_resets = [AutoResetEvent::new(), AutoResetEvent::new()];
    let (counter, waker) = WakeCounter::new();
    let mut either = Box::pin(any(&auto_resets));
    assert!(poll(&mut either, &waker).is_pending());
    auto_resets[1].set();
    auto_resets[0].set();
    assert_eq!(counter.wakes(), 2);
    assert_eq!(poll(&mut either, &waker), std::task::Poll::Ready(0));
    assert!(!auto_resets[0].is_set());
    assert!(auto_resets[1].is_set(), "a release got lost");
}

#[test]
fn all_that_is_dropped_or_times_out_gives_back_what_it_had() {
    let auto_resets = [AutoResetEvent::new(), AutoResetEvent::new(), AutoResetEvent::new()];
    auto_resets[0].set();
    assert!(!all(&auto_resets).wait_timeout(Duration::from_millis(5)));
    assert!(auto_resets[0].is_set());
    let mut every = Box::pin(all(&auto_resets));
    assert!(poll(&mut every, &WakeCounter::new().1).is_pending());
    auto_resets[2].set();
    drop(every);
    assert!(auto_resets[0].is_set() && auto_resets[2].is_set());
    auto_resets[1].set();
    assert!(all(&auto_resets).wait_timeout(Duration::ZERO));
    auto_resets.iter().for_each(|auto_reset| assert!(!auto_reset.is_set()));
}

#[test]
fn kinds_mix() {
    let (gate, auto_reset) = (Event::new(), AutoResetEvent::new());
    thread::scope(|scope| {
        let both = scope.spawn(|| all([&gate as &dyn Waitable, &auto_reset]).wait_timeout(LONG));
        until_waiting(&auto_reset, 1);
        auto_reset.set();
        gate.set();
        gate.clear();
        assert!(both.join().unwrap());
    });
    assert!(!auto_reset.is_set());
    assert_eq!((waiting(&gate), waiting(&auto_reset)), (0, 0));
}

#[test]
fn the_wait_begins_when_it_is_made() {
    let events = [Event::new(), Event::new()];
    let (either, both) = (any(&events), all(&events));
    for event in &events {
        event.set();
        event.clear();
    }
    assert_eq!(either.wait_timeout(Duration::ZERO), Some(0));
    assert!(both.wait_timeout(Duration::ZERO));
}

/// Of a thousand signals, only the one for the next event that is needed wakes the task.
#[test]
fn all_is_not_woken_for_every_event() {
    let events: Vec<_> = (0..if cfg!(miri) { 50 } else { 1_000 }).map(|_| Event::new()).collect();
    let (counter, waker) = WakeCounter::new();
    let mut every = Box::pin(all(&events));
    assert!(poll(&mut every, &waker).is_pending());
    events[1..].iter().for_each(Event::set);
    assert_eq!(counter.wakes(), 0);
    events[0].set();
    assert_eq!(counter.wakes(), 1);
    assert!(poll(&mut every, &waker).is_ready());
}

#[test]
fn the_same_event_twice_is_fine() {
    let auto_reset = AutoResetEvent::new();
    let mut twice = Box::pin(all([&auto_reset, &auto_reset]));
    let (_, waker) = WakeCounter::new();
    assert!(poll(&mut twice, &waker).is_pending());
    auto_reset.set();
    assert!(poll(&mut twice, &waker).is_pending());
    auto_reset.set();
    assert!(poll(&mut twice, &waker).is_ready());
    let gate = Event::new();
    gate.set();
    all([&gate, &gate]).wait();
}

/// An event of another crate that fails at the first poll.
#[derive(Debug)]
struct Failing;

impl Waitable for Failing {}

impl private::Sealed for Failing {
    fn slot(&self, _: private::Seal) -> private::Slot<'_> {
        private::Slot::external(Failing)
    }
}

impl private::External for Failing {
    fn poll_outcome(self: Pin<&mut Self>, _: &mut Context<'_>, _: bool) -> Poll<Result<bool, tantara::Error>> {
        Poll::Ready(Err(private::error(ErrorKind::NotFound, "it was removed")))
    }

    fn needs_poll(&self) -> bool {
        true
    }
}

/// An event of another crate that wraps an event.
struct Wrapping(Event);

impl Waitable for Wrapping {}

impl private::Sealed for Wrapping {
    fn slot(&self, _: private::Seal) -> private::Slot<'_> {
        private::Slot::external(WrappingWait(self.0.wait_async()))
    }
}

/// The wait itself, not a box of it: its node lies in the slot, where the thread that sets writes to it.
#[derive(Debug)]
struct WrappingWait<'a>(Wait<'a>);

impl private::External for WrappingWait<'_> {
    fn poll_outcome(self: Pin<&mut Self>, context: &mut Context<'_>, _: bool) -> Poll<Result<bool, tantara::Error>> {
        // SAFETY: structural pinning: nothing is moved out of it.
        let wait = unsafe { self.map_unchecked_mut(|wait| &mut wait.0) };
        wait.poll(context).map(|()| Ok(true))
    }

    fn needs_poll(&self) -> bool {
        false
    }
}

#[test]
fn an_event_of_another_crate_takes_part() {
    let (own, other) = (Event::new(), Wrapping(Event::new()));
    let both: [&dyn Waitable; 2] = [&own, &other];
    assert_eq!(any(both).wait_timeout(Duration::from_millis(1)), None);
    assert_eq!(waiting(&other.0), 0, "a wait that timed out has left");
    let (_, waker) = WakeCounter::new();
    let mut each = Box::pin(all(both));
    assert!(poll(&mut each, &waker).is_pending());
    assert_eq!(waiting(&other.0), 1);
    other.0.set();
    assert_eq!(any(both).wait(), 1);
    other.0.clear();
    assert!(poll(&mut each, &waker).is_pending());
    own.set();
    assert!(poll(&mut each, &waker).is_ready(), "the pulse of the other one counts");
    drop(each);
    drop(any(both));
}

/// An event of another crate that is set, and counts how often it was checked before its turn.
struct Counting(AtomicUsize);

impl Waitable for Counting {}

impl private::Sealed for Counting {
    fn slot(&self, _: private::Seal) -> private::Slot<'_> {
        private::Slot::external(CountingWait(&self.0))
    }
}

#[derive(Debug)]
struct CountingWait<'a>(&'a AtomicUsize);

impl private::External for CountingWait<'_> {
    fn poll_outcome(self: Pin<&mut Self>, _: &mut Context<'_>, _: bool) -> Poll<Result<bool, tantara::Error>> {
        Poll::Ready(Ok(true))
    }

    fn needs_poll(&self) -> bool {
        self.0.fetch_add(1, SeqCst);
        false
    }
}

/// Those that were released are not looked at again, however many there are.
#[test]
fn all_checks_only_the_events_that_it_still_awaits() {
    let (own, last) = (Event::new(), Event::new());
    let (first, second) = (Counting(AtomicUsize::new(0)), Counting(AtomicUsize::new(0)));
    let mut every = Box::pin(all([&first as &dyn Waitable, &own, &second, &last]));
    let (_, waker) = WakeCounter::new();
    let mut polls_and_checks = |checks: [usize; 2]| {
        assert!(poll(&mut every, &waker).is_pending());
        assert_eq!([&first, &second].map(|event| event.0.load(SeqCst)), checks);
    };
    polls_and_checks([0, 0]);
    polls_and_checks([0, 1]);
    own.set();
    // Checked before it is polled in its turn.
    polls_and_checks([0, 2]);
    polls_and_checks([0, 2]);
    last.set();
    assert!(poll(&mut every, &waker).is_ready());
}

/// Under Miri: the thread that sets writes to the node in the slot while the thread that waits looks at the slot, polls
/// it, and drops it.
#[test]
fn an_event_of_another_crate_is_set_while_its_slot_is_in_use() {
    for _ in 0..if cfg!(miri) { 5 } else { 100 } {
        let events = [Wrapping(Event::new()), Wrapping(Event::new())];
        let (counter, waker) = WakeCounter::new();
        thread::scope(|scope| {
            let mut both = Box::pin(all(&events));
            let mut either = Box::pin(any(&events));
            assert!(poll(&mut both, &waker).is_pending());
            assert!(poll(&mut either, &waker).is_pending());
            scope.spawn(|| events.iter().rev().for_each(|event| event.0.set()));
            while poll(&mut both, &waker).is_pending() {
                assert!(!format!("{either:?}").is_empty());
                thread::yield_now();
            }
            drop(either);
        });
        assert!(counter.wakes() > 0);
    }
}

/// While the future that has failed still exists.
#[test]
fn a_wait_that_has_failed_keeps_no_release_and_stands_in_no_line() {
    let (held, later) = (AutoResetEvent::new(), AutoResetEvent::new());
    let (_, waker) = WakeCounter::new();
    held.set();
    let mut every = Box::pin(all([&held as &dyn Waitable, &later, &Failing]));
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut every, &waker))).is_err(), "documented to panic");
    assert!(held.is_set());
    assert_eq!(waiting(&later), 0);
    held.clear();
    let mut either = Box::pin(any([&held as &dyn Waitable, &Failing]));
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut either, &waker))).is_err(), "documented to panic");
    assert_eq!(waiting(&held), 0);
    drop((every, either));
}

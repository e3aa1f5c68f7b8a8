//! Waits that own their event: whoever is last frees it, and nothing is lost, given twice, or used after that.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use tantara::{All, Any, AutoResetEvent, Event, OwnedAutoResetWait, OwnedWait, Waitable, all, any};

use crate::{LONG, WakeCounter, poll, until_waiting, waiting};

#[test]
fn a_wait_keeps_its_event_and_frees_it() {
    let event = Arc::new(Event::new());
    let (alive, (counter, waker)) = (Arc::downgrade(&event), WakeCounter::new());
    let mut wait = Box::pin(event.wait_owned());
    assert!(poll(&mut wait, &waker).is_pending());
    // The event of the future itself, since no other owner is left.
    alive.upgrade().unwrap().set();
    assert_eq!(counter.wakes(), 1);
    assert!(poll(&mut wait, &waker).is_ready());
    assert!(poll(&mut wait, &waker).is_ready(), "it stays ready");
    drop(wait);
    assert!(alive.upgrade().is_none());
}

#[test]
fn a_wait_that_is_queued_leaves_and_then_frees_its_event() {
    let (event, auto_reset) = (Arc::new(Event::new()), Arc::new(AutoResetEvent::new()));
    let alive = (Arc::downgrade(&event), Arc::downgrade(&auto_reset));
    let waker = WakeCounter::new().1;
    let mut neighbour = Box::pin(Arc::clone(&event).wait_owned());
    let mut wait = Box::pin(event.wait_owned());
    assert!(poll(&mut neighbour, &waker).is_pending() && poll(&mut wait, &waker).is_pending());
    drop(neighbour);
    assert_eq!(waiting(&alive.0.upgrade().unwrap()), 1);
    drop(wait);
    let mut wait = Box::pin(auto_reset.wait_owned());
    assert!(poll(&mut wait, &waker).is_pending());
    drop(wait);
    assert!(alive.0.upgrade().is_none() && alive.1.upgrade().is_none());
}

#[test]
fn a_pulse_before_the_first_poll_counts() {
    let event = Arc::new(Event::new());
    let mut wait = Box::pin(Arc::clone(&event).wait_owned());
    event.set();
    event.clear();
    assert!(poll(&mut wait, &WakeCounter::new().1).is_ready());
    assert!(poll(&mut Box::pin(event.wait_owned()), &WakeCounter::new().1).is_pending());
}

#[test]
fn it_moves_to_other_threads_before_and_after_its_first_poll() {
    let event = Arc::new(Event::new());
    let waits: Vec<Pin<Box<OwnedWait>>> = (0..4).map(|_| Box::pin(Arc::clone(&event).wait_owned())).collect();
    let waiters: Vec<_> = waits
        .into_iter()
        .enumerate()
        .map(|(number, mut wait)| {
            if number % 2 == 0 {
                assert!(poll(&mut wait, &WakeCounter::new().1).is_pending());
            }
            thread::spawn(move || pollster::block_on(wait))
        })
        .collect();
    until_waiting(&*event, 4);
    event.set();
    drop(event);
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
}

#[test]
fn an_event_is_freed_while_its_last_setter_is_at_work() {
    for _ in 0..if cfg!(miri) { 10 } else { 1_000 } {
        let event = Arc::new(Event::new());
        let wait = Arc::clone(&event).wait_owned();
        let setter = thread::spawn(move || event.set());
        pollster::block_on(wait);
        setter.join().unwrap();
    }
}

#[test]
fn owners_and_borrowers_stand_in_one_line() {
    let event = Arc::new(AutoResetEvent::new());
    let waker = WakeCounter::new().1;
    let mut first = Box::pin(event.wait_async());
    let mut second = Box::pin(Arc::clone(&event).wait_owned());
    let mut third = Box::pin(event.wait_async());
    assert!(poll(&mut first, &waker).is_pending() && poll(&mut second, &waker).is_pending());
    assert!(poll(&mut third, &waker).is_pending());
    event.set();
    event.set();
    assert!(poll(&mut third, &waker).is_pending());
    assert!(poll(&mut first, &waker).is_ready());
    drop(second);
    assert!(poll(&mut third, &waker).is_ready(), "its release was handed on");
    drop((first, third));
    assert!(!event.is_set());
}

#[test]
fn a_release_that_nobody_takes_is_stored_or_freed_with_the_event() {
    let event = Arc::new(AutoResetEvent::new());
    let mut wait = Box::pin(Arc::clone(&event).wait_owned());
    assert!(poll(&mut wait, &WakeCounter::new().1).is_pending());
    event.set();
    drop(wait);
    assert!(event.is_set());
    let alive = Arc::downgrade(&event);
    let mut wait = Box::pin(event.wait_owned());
    assert!(poll(&mut wait, &WakeCounter::new().1).is_ready());
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut wait, &WakeCounter::new().1))).is_err(), "documented to panic");
    alive.upgrade().unwrap().set();
    drop(wait);
    assert!(alive.upgrade().is_none());
}

/// Owns what it wakes: the next wait, which is dropped when the waker is called or dropped.
#[derive(Default)]
struct Dropping(Mutex<Option<Pin<Box<OwnedAutoResetWait>>>>);

impl Wake for Dropping {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
    }
}

/// Each wait hands its release on while it is dropped, to a wait that is dropped by that. The last frees the event.
#[test]
fn a_chain_of_owners_frees_the_event_once() {
    let event = Arc::new(AutoResetEvent::new());
    let alive = Arc::downgrade(&event);
    let wakers: Vec<_> = (0..if cfg!(miri) { 20 } else { 20_000 }).map(|_| Arc::<Dropping>::default()).collect();
    for waker in &wakers {
        let mut wait = Box::pin(Arc::clone(&event).wait_owned());
        assert!(poll(&mut wait, &Waker::from(Arc::clone(waker))).is_pending());
        *waker.0.lock().unwrap() = Some(wait);
    }
    event.set();
    assert!(event.is_set(), "the last had nobody to hand it to");
    drop(event);
    assert!(alive.upgrade().is_none());
    // A wait that is dropped together with its own waker, which drops the last other owner.
    let event = Arc::new(AutoResetEvent::new());
    let (alive, last) = (Arc::downgrade(&event), Arc::<Dropping>::default());
    *last.0.lock().unwrap() = Some(Box::pin(Arc::clone(&event).wait_owned()));
    let mut wait = Box::pin(event.wait_owned());
    assert!(poll(&mut wait, &Waker::from(last)).is_pending());
    drop(wait);
    assert!(alive.upgrade().is_none());
}

#[test]
fn any_and_all_keep_their_events_and_free_them() {
    let make = || {
        let events: [Arc<dyn Waitable>; 3] =
            [Arc::new(Event::new()), Arc::new(AutoResetEvent::new()), Arc::new(Box::new(Event::new()))];
        let alive = events.each_ref().map(Arc::downgrade);
        (events, alive)
    };
    let freed = |alive: &[Weak<dyn Waitable>; 3]| alive.iter().all(|event| event.upgrade().is_none());
    let waker = WakeCounter::new().1;
    // Not yet polled, polled, and pending when it is dropped.
    for is_polled in [false, true] {
        let (events, alive) = make();
        let (mut either, mut both) = (Box::pin(any(events.clone())), Box::pin(all(events)));
        if is_polled {
            assert!(poll(&mut either, &waker).is_pending() && poll(&mut both, &waker).is_pending());
        }
        drop(either);
        assert!(!freed(&alive), "the other wait owns them too");
        drop(both);
        assert!(freed(&alive));
    }
    let (event, last) = (Arc::new(Event::new()), Arc::new(Event::new()));
    let alive = Arc::downgrade(&last);
    let mut either: Pin<Box<Any<'static>>> = Box::pin(any([last, Arc::clone(&event)]));
    assert!(poll(&mut either, &waker).is_pending());
    event.set();
    assert_eq!(poll(&mut either, &waker), Poll::Ready(1));
    assert!(alive.upgrade().is_none(), "it has left all events, and freed them");
}

#[test]
fn any_and_all_over_owners_can_be_spawned_and_begin_when_they_are_made() {
    let events = [Arc::new(Event::new()), Arc::new(Event::new())];
    let either: Any<'static> = any(events.clone());
    let both: All<'static> = all(events.clone());
    for event in events.iter().rev() {
        event.set();
        event.clear();
    }
    drop(events);
    let either = thread::spawn(|| either.wait_timeout(LONG));
    assert_eq!(either.join().unwrap(), Some(0));
    let both = thread::spawn(|| pollster::block_on(both.try_wait_async()));
    both.join().unwrap().unwrap();
}

#[test]
fn all_over_owners_hands_its_releases_on() {
    let events = [Arc::new(AutoResetEvent::new()), Arc::new(AutoResetEvent::new())];
    events[0].set();
    assert!(!all(events.clone()).wait_timeout(Duration::from_millis(5)));
    assert!(events[0].is_set());
    events[1].set();
    assert!(all(events.clone()).wait_timeout(Duration::ZERO));
    assert!(!events[0].is_set() && !events[1].is_set());
}

#[test]
fn events_that_panic_while_they_are_listed_are_freed() {
    let event = Arc::new(Event::new());
    let alive = Arc::downgrade(&event);
    let events = [Some(event), None].into_iter().map(Option::unwrap);
    assert!(catch_unwind(AssertUnwindSafe(|| any(events))).is_err());
    assert!(alive.upgrade().is_none());
}

//! Waits for something else than that an event is set: until it is unset, and for the next `set`.

use std::future::Future;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tantara::{Error, SharedEvent};

use crate::LONG;
use crate::shared::until_waiters;

/// The ways to wait for the same thing.
#[derive(Clone, Copy)]
struct Ways {
    forever: fn(&SharedEvent) -> Result<(), Error>,
    timeout: fn(&SharedEvent, Duration) -> Result<bool, Error>,
    deadline: fn(&SharedEvent, Instant) -> Result<bool, Error>,
    begun: fn(&SharedEvent) -> tantara::SharedWait<'_>,
}

const UNSET: Ways = Ways {
    forever: SharedEvent::wait_unset,
    timeout: SharedEvent::wait_unset_timeout,
    deadline: SharedEvent::wait_unset_deadline,
    begun: SharedEvent::wait_unset_async,
};

const NEXT: Ways = Ways {
    forever: SharedEvent::wait_next,
    timeout: SharedEvent::wait_next_timeout,
    deadline: SharedEvent::wait_next_deadline,
    begun: SharedEvent::wait_next_async,
};

/// Names, and events that lie in a directory or have no name.
fn events() -> (tempfile::TempDir, [SharedEvent; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let events = [SharedEvent::open_in(&directory, "event").unwrap(), SharedEvent::anonymous().unwrap()];
    (directory, events)
}

fn another(event: &SharedEvent) -> SharedEvent {
    use std::os::fd::AsFd;
    SharedEvent::from_fd(event.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

/// Whether a wait that has begun is released.
fn is_released(wait: &mut std::pin::Pin<Box<tantara::SharedWait<'_>>>) -> bool {
    match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => {
            outcome.unwrap();
            true
        }
        Poll::Pending => false,
    }
}

/// Runs on a thread of its own, which nobody joins: if a wait is never released, the test fails.
fn beside<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (tell, told) = channel();
    thread::spawn(move || tell.send(run()));
    told
}

/// What [`beside`] has returned.
#[track_caller]
fn outcome<T>(told: &Receiver<T>) -> T {
    told.recv_timeout(LONG).expect("a wait was not released, or has panicked")
}

/// Waits in every way, through another handle; then `act` releases all of them, asleep.
fn releases(ways: Ways, event: &SharedEvent, act: impl Fn(&SharedEvent)) {
    let waits: Vec<_> = (0..4)
        .map(|way| {
            let event = another(event);
            beside(move || match way {
                0 => (ways.forever)(&event).map(|()| true),
                1 => (ways.timeout)(&event, LONG),
                2 => (ways.deadline)(&event, Instant::now() + LONG),
                _ => pollster::block_on((ways.begun)(&event)).map(|()| true),
            })
        })
        .collect();
    // Each has a handle of its own; the task is shown by its reactor thread.
    until_waiters(event, 4);
    assert!(waits.iter().all(|told| told.try_recv().is_err()), "a wait ended before that");
    act(event);
    for told in &waits {
        assert!(outcome(told).unwrap());
    }
    until_waiters(event, 0);
}

#[test]
fn a_wait_until_unset_is_released_by_a_clear_even_if_a_set_follows() {
    let (_directory, events) = events();
    for event in events {
        assert!(event.wait_unset_timeout(Duration::ZERO).unwrap(), "it is unset");
        event.wait_unset().unwrap();
        event.set().unwrap();
        assert!(!event.wait_unset_timeout(Duration::ZERO).unwrap());
        assert!(!event.wait_unset_timeout(Duration::from_millis(70)).unwrap());
        assert!(!event.wait_unset_deadline(Instant::now()).unwrap());
        releases(UNSET, &event, |event| event.clear().unwrap());
        event.set().unwrap();
        releases(UNSET, &event, |event| event.clear().and_then(|()| event.set()).unwrap());
        assert!(event.is_set().unwrap());
        releases(UNSET, &event, |event| event.pulse().unwrap());
    }
}

#[test]
fn a_wait_until_unset_counts_from_its_creation() {
    let (_directory, events) = events();
    for event in events {
        event.set().unwrap();
        let mut wait = Box::pin(event.wait_unset_async());
        event.set().unwrap();
        assert!(!is_released(&mut wait), "a set changes nothing");
        event.clear().unwrap();
        event.set().unwrap();
        let mut later = Box::pin(event.wait_unset_async());
        assert!(is_released(&mut wait) && !is_released(&mut later));
    }
}

#[test]
fn a_wait_for_the_next_set_is_released_by_a_set_of_a_set_event() {
    let (_directory, events) = events();
    for event in events {
        let clear = || event.clear().unwrap();
        for is_set in [false, true] {
            for act in [
                |event: &SharedEvent| event.set().unwrap(),
                |event: &SharedEvent| event.pulse().unwrap(),
                |event: &SharedEvent| event.clear().and_then(|()| event.set()).unwrap(),
                |event: &SharedEvent| drop(event.hold().unwrap()),
            ] {
                if is_set {
                    event.set().unwrap()
                } else {
                    clear()
                }
                assert!(!event.wait_next_timeout(Duration::ZERO).unwrap());
                assert!(!event.wait_next_timeout(Duration::from_millis(60)).unwrap());
                assert!(!event.wait_next_deadline(Instant::now()).unwrap());
                releases(NEXT, &event, act);
            }
        }
    }
}

#[test]
fn a_wait_for_the_next_set_counts_from_its_creation_and_no_clear_releases_it() {
    let (_directory, events) = events();
    for event in events {
        event.set().unwrap();
        let mut wait = Box::pin(event.wait_next_async());
        assert!(!is_released(&mut wait), "an earlier set");
        event.clear().unwrap();
        assert!(!is_released(&mut wait));
        event.set().unwrap();
        assert!(is_released(&mut wait));
        let mut wait = Box::pin(event.wait_next_async());
        event.set().unwrap();
        let mut later = Box::pin(event.wait_next_async());
        assert!(is_released(&mut wait) && !is_released(&mut later), "not by a set before it");
        assert!(is_released(&mut wait), "it stays released");
    }
}

/// A thread that waits for one `set` after the other is released once by each, never twice.
#[test]
fn each_set_releases_a_wait_for_the_next_once() {
    const SETS: usize = 200;
    let event = SharedEvent::anonymous().unwrap();
    for clears in [false, true] {
        let (ready, readied) = channel();
        let waiter = another(&event);
        let waits = beside(move || {
            for _ in 0..SETS {
                let next = waiter.wait_next_async();
                ready.send(()).unwrap();
                pollster::block_on(next).unwrap();
            }
            let mut none = Box::pin(waiter.wait_next_async());
            assert!(!is_released(&mut none));
        });
        for _ in 0..SETS {
            readied.recv_timeout(LONG).expect("a wait was not released");
            event.set().unwrap();
            if clears {
                event.clear().unwrap();
            }
        }
        outcome(&waits);
    }
}

/// Several threads set at the same time while others wait for the next `set` in a loop: nobody misses the last one.
#[test]
fn no_set_is_lost_on_those_who_wait_for_the_next() {
    let event = SharedEvent::anonymous().unwrap();
    event.set().unwrap();
    for round in 0..300 {
        let (begin, begun) = channel();
        let waits: Vec<_> = (0..2)
            .map(|index| {
                let (waiter, begin) = (another(&event), begin.clone());
                beside(move || {
                    if index == 0 {
                        let wait = waiter.wait_next_async();
                        begin.send(()).unwrap();
                        pollster::block_on(wait).unwrap();
                    } else {
                        begin.send(()).unwrap();
                        // It begins before or after the set; the second one comes later in any case.
                        let _ = waiter.wait_next_timeout(Duration::from_micros(round));
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            begun.recv_timeout(LONG).unwrap();
        }
        event.set().unwrap();
        waits.iter().for_each(outcome);
    }
}

#[test]
fn a_removal_ends_every_wait() {
    for ways in [UNSET, NEXT] {
        let directory = tempfile::tempdir().unwrap();
        let event = SharedEvent::open_in(&directory, "event").unwrap();
        event.set().unwrap();
        let [first, second] = [(); 2].map(|()| another(&event));
        let blocked = beside(move || (ways.forever)(&first));
        let awaited = beside(move || pollster::block_on((ways.begun)(&second)));
        until_waiters(&event, 2);
        event.remove().unwrap();
        assert!(outcome(&blocked).unwrap_err().is_removed());
        assert!(outcome(&awaited).unwrap_err().is_removed());
        assert!((ways.timeout)(&event, Duration::ZERO).unwrap_err().is_removed());
        let later = beside(move || pollster::block_on((ways.begun)(&event)));
        assert!(outcome(&later).unwrap_err().is_removed());
    }
}

/// A dropped wait leaves nothing: a `set` of a set event wakes nobody any more.
#[test]
fn a_wait_that_is_given_up_is_forgotten() {
    let event = SharedEvent::anonymous().unwrap();
    event.set().unwrap();
    for _ in 0..100 {
        let mut waits = [Box::pin(event.wait_unset_async()), Box::pin(event.wait_next_async())];
        assert!(waits.iter_mut().all(|wait| !is_released(wait)));
    }
    until_waiters(&event, 0);
    assert_eq!(crate::waiting(&event), 0);
}

/// While its event changes from set to unset, a wait for the next `set` is still listed.
#[test]
fn a_wait_for_the_next_set_is_listed_before_and_after_a_clear() {
    let event = SharedEvent::anonymous().unwrap();
    event.set().unwrap();
    let waiter = another(&event);
    let wait = beside(move || waiter.wait_next());
    until_waiters(&event, 1);
    event.clear().unwrap();
    until_waiters(&event, 1);
    event.set().unwrap();
    outcome(&wait).unwrap();
}

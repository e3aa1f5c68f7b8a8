//! What is noted of events is up to date, whoever sets them and takes their releases.
#![cfg(not(miri))]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Waker};
use std::thread;

use tantara::waits::{self, Awaited};
use tantara::{AutoResetEvent, Event, Waitable, all, any};

use crate::{is_alone, labelled, until_waiting, waits_for};

fn is_pending(wait: Pin<&mut impl Future>) -> bool {
    wait.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// What is known of the event that is the only one of the only wait.
fn awaited(label: &str) -> Awaited {
    until_waiting(label, 1).remove(0).events.remove(0)
}

#[test]
fn a_set_without_waiters_ends_what_was_noted_of_an_auto_reset_event() {
    let event = labelled(Arc::new(AutoResetEvent::new()), "stored");
    event.set_on_drop().disarm();
    let mut wait = Box::pin(event.wait_async());
    assert!(is_pending(wait.as_mut()));
    assert!(awaited("stored").abandoned.is_some());
    drop(wait);
    let line = line!() + 1;
    event.set();
    event.wait();
    let mut wait = pin!(event.wait_async());
    assert!(is_pending(wait.as_mut()));
    let noted = awaited("stored");
    assert_eq!((noted.abandoned, noted.last_set.map(|set| set.place.line)), (None, Some(line)));
    assert_eq!(noted.taken.map(|taken| taken.place.line), Some(line + 1));
}

#[test]
fn whoever_takes_a_release_is_noted() {
    let event = labelled(Arc::new(AutoResetEvent::new()), "takers");
    let taken_at = || {
        let mut wait = pin!(event.wait_async());
        assert!(is_pending(wait.as_mut()));
        awaited("takers").taken.map(|taken| taken.place.line)
    };
    event.set();
    event.wait();
    assert_eq!(taken_at(), Some(line!() - 1));
    event.set();
    assert!(!is_pending(pin!(event.wait_async())));
    assert_eq!(taken_at(), Some(line!() - 1));
    event.set();
    assert_eq!(any([&*event]).wait(), 0);
    assert_eq!(taken_at(), Some(line!() - 1));
    let mut both = pin!(all([&*event, &*event]));
    assert!(is_pending(both.as_mut()));
    event.set();
    event.set();
    assert!(!is_pending(both.as_mut()));
    assert_eq!(taken_at(), Some(line!() - 5));
    event.set();
    event.clear();
    assert!(!event.is_set() && !event.wait_timeout(std::time::Duration::ZERO));
}

#[test]
fn a_wait_for_all_is_recorded_until_it_is_ready_and_notes_the_sets_of_each_event() {
    let events = ["first of all", "second of all"].map(|label| labelled(Arc::new(Event::new()), label));
    let mut wait = pin!(all(events.each_ref().map(|event| &**event)));
    assert!(is_pending(wait.as_mut()));
    let line = line!() + 1;
    events[1].set();
    events[1].clear();
    let second = until_waiting("second of all", 1).remove(0).events.remove(1);
    assert_eq!(second.last_set.map(|set| set.place.line), Some(line));
    assert!(second.has_released);
    events[0].set();
    assert!(!is_pending(wait.as_mut()));
    assert!(waits_for("first of all").is_empty(), "although the future still exists");
}

/// The others of an `all` are not queued at first.
#[test]
fn a_wait_for_all_shows_nothing_of_an_event_that_was_moved_away() {
    let open = labelled(Arc::new(Event::new()), "open of all");
    let mut slot = Some(Event::new());
    waits::label(slot.as_ref().unwrap(), "moved of all");
    let moved = slot.replace(Event::new());
    let mut wait = pin!(all([&*open, slot.as_ref().unwrap()]));
    assert!(is_pending(wait.as_mut()));
    assert_eq!(until_waiting("open of all", 1)[0].events[1].label, None);
    assert!(waits_for("moved of all").is_empty());
    drop(moved);
}

#[test]
fn an_auto_reset_event_that_was_moved_leaves_no_label() {
    let mut slot = Some(AutoResetEvent::new());
    waits::label(slot.as_ref().unwrap(), "moved, auto");
    waits::record(true);
    let moved = slot.replace(AutoResetEvent::new());
    let mut wait = pin!(slot.as_ref().unwrap().wait_async());
    assert!(is_pending(wait.as_mut()));
    assert!(waits_for("moved, auto").is_empty());
    drop(moved);
}

#[test]
fn nothing_is_left_of_what_was_noted_before_the_record_was_off() {
    if !is_alone("noted::nothing_is_left_of_what_was_noted_before_the_record_was_off") {
        return;
    }
    let event = labelled(Arc::new(Event::new()), "off and on");
    let mut wait = Box::pin(event.wait_async());
    assert!(is_pending(wait.as_mut()));
    event.set();
    event.clear();
    let duty = event.set_on_drop();
    event.set_on_drop().disarm();
    let given_up = event.set_on_drop();
    waits::record(false);
    assert!(awaited("off and on").last_set.is_none(), "others may set it from now on");
    given_up.disarm();
    event.set();
    event.clear();
    drop(wait);
    waits::record(true);
    let mut wait = pin!(event.wait_async());
    assert!(is_pending(wait.as_mut()));
    let noted = awaited("off and on");
    assert_eq!((noted.last_set, noted.abandoned, noted.setters.len()), (None, None, 1));
    waits::record(false);
    drop(duty);
    assert!(awaited("off and on").setters.is_empty());
}

/// A label that is given while nothing is recorded is shown later, and ends with its event.
#[test]
fn a_label_that_is_given_while_the_record_is_off_is_kept() {
    if !is_alone("noted::a_label_that_is_given_while_the_record_is_off_is_kept") {
        return;
    }
    let mut slot = Some(Event::new());
    waits::label(slot.as_ref().unwrap(), "early");
    slot.as_ref().unwrap().set();
    slot.as_ref().unwrap().clear();
    waits::record(true);
    let count = |slot: &Option<Event>| {
        let mut wait = pin!(slot.as_ref().unwrap().wait_async());
        assert!(is_pending(wait.as_mut()));
        waits_for("early").len()
    };
    assert_eq!(count(&slot), 1);
    waits::record(false);
    slot = None;
    waits::record(true);
    slot.get_or_insert_with(Event::new);
    assert_eq!(count(&slot), 0);
}

#[test]
fn a_label_is_not_lost_if_it_is_given_at_the_first_wait() {
    const ROUNDS: usize = 1_000;
    if !is_alone("noted::a_label_is_not_lost_if_it_is_given_at_the_first_wait") {
        return;
    }
    waits::record(true);
    let (turn, mut lost) = (AtomicUsize::new(0), 0);
    let slot = std::sync::Mutex::new(Arc::new(Event::new()));
    let meet = |count: usize| {
        turn.fetch_add(1, SeqCst);
        let mut tries = 0;
        while turn.load(SeqCst) < count {
            tries += 1;
            if tries % 1000 == 0 { thread::yield_now() } else { std::hint::spin_loop() }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                meet(6 * round + 2);
                let event = Arc::clone(&slot.lock().unwrap());
                meet(6 * round + 4);
                // Later by some nanoseconds, or some hundreds.
                (0..round % 64).for_each(|_| std::hint::spin_loop());
                waits::label(&*event, "at once");
                meet(6 * round + 6);
            }
        });
        for round in 0..ROUNDS {
            let event = Arc::new(Event::new());
            let other = event.clone();
            *slot.lock().unwrap() = other;
            meet(6 * round + 2);
            let mut wait = pin!(event.wait_async());
            meet(6 * round + 4);
            assert!(is_pending(wait.as_mut()));
            meet(6 * round + 6);
            let noted = waits::waits().remove(0).events.remove(0);
            // Not asserted at once, for which the other thread would wait.
            lost += usize::from(noted.label.as_deref() != Some("at once"));
        }
    });
    assert_eq!(lost, 0);
}

#[test]
fn both_kinds_can_be_mixed_in_a_wait_that_is_recorded() {
    let (event, auto) = (labelled(Arc::new(Event::new()), "mixed"), Arc::new(AutoResetEvent::new()));
    let mut wait = pin!(all([&*event as &dyn Waitable, &*auto]));
    assert!(is_pending(wait.as_mut()));
    auto.set();
    event.set();
    assert!(!is_pending(wait.as_mut()));
    assert!(waits_for("mixed").is_empty() && !auto.is_set());
}

//! Events between processes: who holds them, and what is noted of their sets.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Barrier};
use std::task::{Context, Waker};
use std::thread;

use tantara::{SharedEvent, waits};

use crate::{LONG, until, until_waiting, waits_for};

fn event(name: &str) -> (tempfile::TempDir, SharedEvent) {
    waits::record(true);
    let dir = tempfile::tempdir().unwrap();
    let event = SharedEvent::open_in(dir.path(), name).unwrap();
    (dir, event)
}

#[test]
fn a_wait_until_an_event_is_unset_names_who_holds_it() {
    let (_dir, event) = event("held");
    let line = line!() + 1;
    let hold = event.hold().unwrap();
    let thread = thread::spawn({
        let event = event.clone();
        move || event.wait_unset_timeout(LONG)
    });
    let mut task = pin!(event.wait_unset_async());
    assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let held = format!(" is held by thread {} (", thread::current().name().unwrap());
    for wait in until_waiting("held", 2) {
        let (text, place) = (wait.to_string(), format!("{}:{line}", file!()));
        assert!(
            text.contains(" waits for held to be unset at ") && text.contains(&held) && text.contains(&place),
            "{text}"
        );
    }
    assert!(event.set_on_drop().is_ok());
    drop(hold);
    // It is set: by the value that was dropped.
    let wait = until_waiting("held", 2).remove(0).to_string();
    assert!(!wait.contains("is held by"), "{wait}");
    event.clear().unwrap();
    assert!(thread.join().unwrap().unwrap());
    until(|| task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready().then_some(()));
    until_waiting("held", 0);
}

#[test]
fn two_who_hold_what_the_other_waits_for_are_no_cycle() {
    let (_dir, own) = event("own-hold");
    let (_other_dir, others) = event("other-hold");
    let ready = Arc::new(Barrier::new(2));
    let member = |name: &str, holds: &SharedEvent, waits_for: &SharedEvent| {
        let (holds, waits_for, ready) = (holds.clone(), waits_for.clone(), Arc::clone(&ready));
        let run = move || {
            let _hold = holds.hold().unwrap();
            ready.wait();
            let _ = waits_for.wait_unset();
        };
        thread::Builder::new().name(name.into()).spawn(run).unwrap()
    };
    let _members = [member("one", &own, &others), member("two", &others, &own)];
    until_waiting("own-hold", 1);
    let wait = until_waiting("other-hold", 1).remove(0);
    assert_eq!(wait.cycle, None, "each may have moved its hold to another thread");
    assert!(wait.to_string().contains("other-hold is held by thread two "), "{wait}");
    // Ends the waits with an error.
    own.remove().unwrap();
    others.remove().unwrap();
}

/// `SharedEvent::set` may be called in a signal handler, or in another process: nobody notes it here.
#[test]
fn what_is_noted_of_an_event_ends_with_the_next_set_by_anybody() {
    let (_dir, event) = event("noted");
    let mut wait = pin!(event.wait_async());
    assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let noted = || waits_for("noted").remove(0).events.remove(0);
    event.set_on_drop().unwrap().disarm();
    assert!(noted().abandoned.is_some() && waits_for("noted")[0].is_abandoned());
    event.set().unwrap();
    assert!(noted().abandoned.is_none(), "its executor has not polled it");
    event.clear().unwrap();
    event.set_on_drop().unwrap().disarm();
    assert!(noted().abandoned.is_some());
    event.pulse().unwrap();
    assert!(noted().abandoned.is_none());

    drop(event.set_on_drop().unwrap());
    assert!(noted().last_set.is_some());
    drop(event.set_on_drop().unwrap());
    assert!(noted().last_set.is_some(), "of a set event");
    event.clear().unwrap();
    assert!(noted().last_set.is_some());
    event.set().unwrap();
    assert!(noted().last_set.is_none(), "another one has set it since");
}

/// Another process may set it.
#[test]
fn who_waits_for_an_event_that_it_is_to_set_itself_is_in_no_cycle() {
    let (_dir, event) = event("own-duty");
    let waiter = thread::spawn({
        let event = event.clone();
        move || {
            let _duty = event.set_on_drop().unwrap();
            event.wait().unwrap();
        }
    });
    until_waiting("own-duty", 1);
    let wait = until(|| Some(until_waiting("own-duty", 1).remove(0)).filter(|wait| wait.events[0].setters.len() == 1));
    assert_eq!(wait.cycle, None, "{wait}");
    event.set().unwrap();
    waiter.join().unwrap();
}

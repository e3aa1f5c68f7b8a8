//! Programs that hang, each by another mistake: the record names the place of the mistake in the code.
//!
//! Of twelve such programs ten are here. For a process that was killed, see the tests of `tantara ps`; for a machine
//! that has died, those and the ones of `etcd-for-tests`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Barrier};
use std::task::{Context, Waker};
use std::thread;

use tantara::{AutoResetEvent, Event, Waitable};

use crate::{labelled, until, until_waiting};

fn event(label: &str) -> Arc<Event> {
    labelled(Arc::new(Event::new()), label)
}

/// The report of the only wait for the event.
fn report(label: &str) -> String {
    until_waiting(label, 1).remove(0).to_string()
}

/// Runs `hang`, which waits for an event with this label for ever, on a thread with that name.
fn hangs(label: &str, event: &Arc<Event>, name: &str) -> String {
    let event = Arc::clone(event);
    thread::Builder::new().name(name.into()).spawn(move || event.wait()).unwrap();
    report(label)
}

fn place(line: u32) -> String {
    format!("{}:{line}", file!())
}

#[track_caller]
fn names(report: &str, what: &str, line: u32) {
    let line = place(line);
    assert!(report.lines().any(|text| text.contains(what) && text.contains(&line)), "{what} {line}: {report}");
}

#[test]
fn a_forgotten_set_names_who_was_to_set() {
    let event = event("forgotten");
    let (line, loader) = (line!() + 2, Arc::clone(&event));
    let loader = thread::Builder::new().name("loader".into()).spawn(move || {
        std::mem::forget(loader.set_on_drop());
    });
    loader.unwrap().join().unwrap();
    let report = hangs("forgotten", &event, "waiter");
    names(&report, "forgotten is to be set by thread loader", line);
    assert!(report.contains("a thread that has ended"), "{report}");
}

#[test]
fn a_setter_that_panics_after_it_has_taken_the_duty_over_is_named() {
    let event = event("panicked");
    let line = line!() + 2;
    let work = || {
        event.set_on_drop().disarm();
        if event.is_set() {
            return;
        }
        panic!("before the set");
    };
    assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
    names(&hangs("panicked", &event, "waiter"), "abandoned: the last who was to set panicked gave up, by", line);
}

#[test]
fn a_guard_that_was_disarmed_is_named() {
    let event = event("disarmed");
    let guard = Arc::clone(&event).set_on_drop_owned();
    let line = line!() + 1;
    guard.disarm();
    names(&hangs("disarmed", &event, "waiter"), "abandoned", line);
}

fn ring(count: usize) {
    let label = |number| format!("circle {count}.{}", number % count);
    let events: Vec<_> = (0..count).map(|number| event(&label(number))).collect();
    let ready = Arc::new(Barrier::new(count));
    let line = line!() + 5;
    for number in 0..count {
        let (own, next) = (Arc::clone(&events[number]), Arc::clone(&events[(number + 1) % count]));
        let ready = Arc::clone(&ready);
        let run = move || {
            let _guard = own.set_on_drop();
            ready.wait();
            next.wait();
        };
        thread::Builder::new().name(format!("member {number}")).spawn(run).unwrap();
    }
    for number in 0..count {
        until_waiting(&label(number), 1);
    }
    let report = report(&label(1));
    names(&report, &format!("{} is to be set by thread member 1", label(1)), line);
    names(&report, &format!("waits for {} at", label(1)), line + 2);
    assert!(
        report.contains("a cycle: member 0 waits for circle") && report.contains("which member 0 is to set"),
        "{report}"
    );
    events[0].set();
    (0..count).for_each(|number| _ = until_waiting(&label(number), 0));
}

#[test]
fn a_cycle_of_two_is_named() {
    ring(2);
}

#[test]
fn a_cycle_of_three_is_named() {
    ring(3);
}

#[test]
fn an_event_that_is_cleared_too_soon_names_its_last_set() {
    let event = event("cleared");
    let line = line!() + 1;
    event.set();
    event.clear();
    names(&hangs("cleared", &event, "waiter"), "cleared was last set by", line);
}

#[test]
fn a_pulse_before_the_wait_is_named() {
    let event = event("pulsed");
    let mut early = Box::pin(event.wait_async());
    assert!(early.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let line = line!() + 1;
    event.set();
    event.clear();
    drop(early);
    names(&hangs("pulsed", &event, "too late"), "pulsed was last set by", line);
}

#[test]
fn who_has_taken_the_release_of_an_auto_reset_event_is_named() {
    let event = labelled(Arc::new(AutoResetEvent::new()), "taken");
    let (line, thief) = (line!() + 1, Arc::clone(&event));
    let thief = thread::Builder::new().name("thief".into()).spawn(move || thief.wait()).unwrap();
    until_waiting("taken", 1);
    event.set();
    thief.join().unwrap();
    let waiter = Arc::clone(&event);
    thread::spawn(move || waiter.wait());
    names(&report("taken"), "the last release of taken was taken by thread thief", line);
}

#[test]
#[cfg_attr(miri, ignore = "waits for seconds")]
fn an_executor_that_is_blocked_is_named() {
    let (done, other) = (event("done"), event("other"));
    let executor = {
        let (done, other) = (Arc::clone(&done), Arc::clone(&other));
        move || {
            let mut task = pin!(done.wait_async());
            assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            other.wait();
        }
    };
    let line = line!() - 3;
    thread::Builder::new().name("executor".into()).spawn(executor).unwrap();
    until_waiting("done", 1);
    until_waiting("other", 1);
    done.set();
    let released = until(|| Some(report("done")).filter(|report| report.contains(", but it was not polled since")));
    assert!(
        released.contains("first polled by thread executor (") && released.contains("done released it "),
        "{released}"
    );
    names(&report("other"), "thread executor (", line);
    other.set();
}

#[test]
#[cfg_attr(miri, ignore = "waits for seconds")]
fn the_wrong_event_that_was_set_is_named() {
    let (right, wrong) = (event("orders_loaded"), event("offers_loaded"));
    let line = line!() + 3;
    let loader = Arc::clone(&wrong);
    let loader = thread::Builder::new().name("loader".into()).spawn(move || {
        loader.set();
    });
    loader.unwrap().join().unwrap();
    hangs("orders_loaded", &right, "waiter");
    let report = until(|| Some(report("orders_loaded")).filter(|report| report.contains("perhaps the wrong event")));
    names(&report, "perhaps the wrong event was set: offers_loaded was set by thread loader", line);

    // Nobody needs such a guess of a wait whose setter is known, or of an event that somebody waits for.
    let _duty = right.set_on_drop();
    let known = self::report("orders_loaded");
    assert!(!known.contains("perhaps"), "{known}");
    let other = event("unrelated");
    let mut early = Box::pin(other.wait_async());
    assert!(early.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    wrong.clear();
    let mut heard = Box::pin(wrong.wait_async());
    assert!(heard.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let is_old = |report: &tantara::waits::Waiting| report.waited.as_secs() >= 4;
    until(|| until_waiting("unrelated", 1).iter().any(is_old).then_some(()));
    let unrelated = self::report("unrelated");
    assert!(!unrelated.contains("offers_loaded"), "{unrelated}");
    wrong.set();
    drop(heard);
    let unrelated = self::report("unrelated");
    assert!(!unrelated.contains("offers_loaded"), "somebody waited for it: {unrelated}");
    wrong.clear();
    wrong.set();
    let unrelated = self::report("unrelated");
    assert!(!unrelated.contains("offers_loaded"), "somebody has waited for it before: {unrelated}");
}

#[test]
fn a_wait_for_several_events_names_what_is_known_of_each() {
    let (one, other) = (event("first of two"), event("second of two"));
    let line = line!() + 1;
    one.set_on_drop().disarm();
    let guard = other.set_on_drop();
    let both = [Arc::clone(&one) as Arc<dyn Waitable>, Arc::clone(&other) as Arc<dyn Waitable>];
    thread::spawn(move || tantara::all(both).wait());
    let report = report("first of two");
    names(&report, "abandoned: the last who was to set first of two gave up", line);
    names(&report, "second of two is to be set by", line + 1);
    drop(guard);
    one.set();
}

//! What is recorded of waits, and until when.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, SystemTime};

use tantara::waits::{EventKind, Mode};
use tantara::{AutoResetEvent, Event, Waitable, all, any, waits};

use crate::{LONG, labelled, until, until_waiting, waits_for};

const HERE: &str = file!();

/// An event in an `Arc` with a label.
fn event(label: &str) -> Arc<Event> {
    labelled(Arc::new(Event::new()), label)
}

fn is_pending(wait: std::pin::Pin<&mut impl Future>) -> bool {
    wait.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[test]
fn a_thread_that_sleeps_is_recorded_with_its_name_its_place_and_its_deadline() {
    let event = event("thread");
    let before = SystemTime::now();
    let (line, sleeper) = (line!() + 2, Arc::clone(&event));
    let thread = thread::Builder::new().name("sleeper".into()).spawn(move || {
        assert!(sleeper.wait_timeout(LONG));
    });
    let waiting = until_waiting("thread", 1).remove(0);
    assert_eq!((&*waiting.place.file, waiting.place.line), (HERE, line));
    assert_eq!((waiting.thread.name.as_deref(), waiting.thread.has_ended), (Some("sleeper"), false));
    assert_eq!((waiting.mode, waiting.task, waiting.events[0].kind), (Mode::One, None, EventKind::Event));
    assert!(waiting.since >= before - Duration::from_secs(1) && waiting.since <= SystemTime::now());
    assert!(tantara::waits().iter().any(|other| other.place == waiting.place));
    assert!(waiting.time_left.unwrap() <= LONG);
    assert!(waiting.to_string().starts_with("thread sleeper ("), "{waiting}");
    assert!(waiting.to_string().contains(&format!("waits for thread at {HERE}:{line}, for ")), "{waiting}");
    event.set();
    thread.unwrap().join().unwrap();
    assert!(waits_for("thread").is_empty());
}

#[test]
fn a_task_is_recorded_from_its_first_poll_until_it_is_ready_or_dropped() {
    let event = event("task");
    let line = line!() + 1;
    let mut wait = Box::pin(event.wait_async());
    let mut other = Box::pin(Arc::clone(&event).wait_owned());
    assert!(waits_for("task").is_empty());
    assert!(is_pending(wait.as_mut()) && is_pending(other.as_mut()) && is_pending(other.as_mut()));
    let waits = waits_for("task");
    assert_eq!(waits.iter().map(|waiting| waiting.place.line).collect::<Vec<_>>(), [line, line + 1]);
    assert!(waits.iter().all(|waiting| waiting.task.is_some() && waiting.time_left.is_none()));
    drop(other);
    assert_eq!(waits_for("task").len(), 1);
    event.set();
    event.clear();
    assert!(waits_for("task")[0].is_released(), "its executor has not polled it");
    assert!(!is_pending(wait.as_mut()));
    assert!(waits_for("task").is_empty());
}

#[test]
fn auto_reset_events_too_and_who_has_taken_the_last_release() {
    let event = labelled(Arc::new(AutoResetEvent::new()), "auto");
    let (taker, taken_at) = (Arc::clone(&event), line!() + 1);
    let thread = thread::Builder::new().name("taker".into()).spawn(move || taker.wait()).unwrap();
    let waiting = until_waiting("auto", 1).remove(0);
    assert_eq!((waiting.task, waiting.events[0].kind), (None, EventKind::AutoResetEvent));
    let mut wait = pin!(event.wait_async());
    assert!(is_pending(wait.as_mut()));
    let line = line!() + 1;
    event.set();
    thread.join().unwrap();
    let waiting = until_waiting("auto", 1).remove(0);
    assert!(waiting.task.is_some());
    let taken = waiting.events[0].taken.as_ref().unwrap();
    assert_eq!((taken.by.name.as_deref(), taken.place.line), (Some("taker"), taken_at));
    assert_eq!(waiting.events[0].last_set.as_ref().unwrap().place.line, line);
    event.set();
    assert!(!is_pending(wait.as_mut()));
    assert!(waits_for("auto").is_empty());
}

#[test]
fn any_and_all_are_one_wait_with_several_events() {
    let (one, other) = (event("one of many"), labelled(Arc::new(AutoResetEvent::new()), "other of many"));
    let line = line!() + 1;
    let mut first = pin!(any([&*one as &dyn Waitable, &*other]));
    assert!(is_pending(first.as_mut()) && is_pending(first.as_mut()));
    let waits = waits_for("one of many");
    assert_eq!((waits.len(), waits[0].mode, waits[0].place.line), (1, Mode::Any, line));
    let labels: Vec<_> = waits[0].events.iter().map(ToString::to_string).collect();
    assert_eq!(labels, ["one of many", "other of many"]);
    assert!(waits[0].to_string().contains("waits for any of one of many, other of many at "), "{}", waits[0]);

    let thread = thread::spawn({
        let one = Arc::clone(&one);
        move || all([&*one]).wait_timeout(LONG)
    });
    let waits = until_waiting("one of many", 2);
    let blocked = waits.iter().find(|waiting| waiting.mode == Mode::All).unwrap();
    assert!(blocked.task.is_none() && blocked.time_left.is_some());
    one.set();
    assert!(thread.join().unwrap());
    assert!(waits_for("one of many")[0].is_released());
    assert!(!is_pending(first.as_mut()));
    assert!(waits_for("one of many").is_empty(), "although the future still exists");
}

#[test]
fn who_set_an_event_last_is_known_from_its_first_wait_on() {
    let event = Arc::new(Event::new());
    waits::record(true);
    let mut wait = Box::pin(event.wait_async());
    assert!(is_pending(wait.as_mut()));
    let (line, setter) = (line!() + 3, Arc::clone(&event));
    let setter = thread::Builder::new().name("setter".into()).spawn(move || {
        // Also without waiters.
        setter.set();
    });
    setter.unwrap().join().unwrap();
    assert!(!is_pending(wait.as_mut()));
    event.clear();
    let mut wait = Box::pin(event.wait_async());
    assert!(is_pending(wait.as_mut()));
    waits::label(&event, "set before");
    let set = waits_for("set before").remove(0).events.remove(0).last_set.unwrap();
    assert_eq!((set.place.line, set.by.name.as_deref(), set.by.has_ended), (line, Some("setter"), true));
    assert!(!waits_for("set before")[0].is_released(), "that was before it began");
}

#[test]
fn who_will_set_an_event_is_declared_and_a_setter_that_gives_up_abandons_it() {
    let event = event("declared");
    let mut wait = Box::pin(event.wait_async());
    assert!(is_pending(wait.as_mut()));
    let line = line!() + 1;
    let (first, second) = (event.set_on_drop(), event.set_on_drop());
    let setters = || waits_for("declared").remove(0).events.remove(0).setters;
    assert_eq!(setters().iter().map(|setter| setter.place.line).collect::<Vec<_>>(), [line, line]);
    first.disarm();
    assert_eq!(setters().len(), 1);
    assert!(!waits_for("declared")[0].is_abandoned(), "there is another");
    let line = line!() + 1;
    second.disarm();
    let waiting = waits_for("declared").remove(0);
    assert!(waiting.is_abandoned());
    assert_eq!(waiting.events[0].abandoned.as_ref().unwrap().place.line, line);
    assert!(waiting.to_string().contains("abandoned: the last who was to set declared gave up"), "{waiting}");
    let line = line!() + 1;
    let third = event.set_on_drop();
    assert!(!waits_for("declared")[0].is_abandoned(), "somebody else has declared to set it");
    drop(third);
    let waiting = waits_for("declared").remove(0);
    assert!(waiting.is_released() && waiting.events[0].setters.is_empty());
    assert_eq!(waiting.events[0].last_set.as_ref().unwrap().place.line, line);
    assert!(!is_pending(wait.as_mut()));
}

#[test]
fn a_label_ends_when_its_event_is_dropped_or_moved() {
    let mut slot = Some(labelled(Event::new(), "not kept"));
    // `labelled` has moved it; and no label is left at an address where another event is made.
    waits::label(slot.as_ref().unwrap(), "short-lived");
    let wait_for = |slot: &Option<Event>| {
        let event = slot.as_ref().unwrap();
        let mut wait = Box::pin(event.wait_async());
        assert!(is_pending(wait.as_mut()));
        (waits_for("short-lived").len(), waits_for("not kept").len())
    };
    assert_eq!(wait_for(&slot), (1, 0));
    slot = None;
    slot.get_or_insert_with(Event::new);
    assert_eq!(wait_for(&slot), (0, 0), "dropped");
    waits::label(slot.as_ref().unwrap(), "short-lived");
    let moved = slot.replace(Event::new());
    assert_eq!(wait_for(&slot), (0, 0), "moved");
    drop(moved);
}

#[test]
fn a_label_outlives_sets_and_can_be_replaced() {
    let event = event("first name");
    for _ in 0..3 {
        event.set();
        event.clear();
    }
    let mut wait = Box::pin(event.wait_async());
    assert!(is_pending(wait.as_mut()));
    assert_eq!(waits_for("first name").len(), 1);
    waits::label(&*event, "second name");
    assert_eq!((waits_for("first name").len(), waits_for("second name").len()), (0, 1));
}

/// Thousands of waits come and go on four threads, while others read.
#[test]
fn readers_see_whole_waits_while_thousands_come_and_go() {
    const EACH: usize = if cfg!(miri) { 20 } else { 5_000 };
    let events: Vec<_> = (0..4).map(|number| event(&format!("storm {number}"))).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let storms: Vec<_> = events
            .iter()
            .map(|event| {
                scope.spawn(move || {
                    for round in 0..EACH {
                        let mut waits: Vec<_> = (0..8).map(|_| Box::pin(event.wait_async())).collect();
                        waits.iter_mut().for_each(|wait| assert!(is_pending(wait.as_mut())));
                        if round % 3 == 0 {
                            event.set();
                            waits.iter_mut().for_each(|wait| assert!(!is_pending(wait.as_mut())));
                            event.clear();
                        }
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !is_over.load(SeqCst) {
                for number in 0..4 {
                    for waiting in waits_for(&format!("storm {number}")) {
                        assert_eq!((&*waiting.place.file, waiting.mode), (HERE, Mode::One));
                        assert!(waiting.task.is_some() && waiting.waited < LONG);
                        seen += 1;
                    }
                }
            }
            seen
        });
        storms.into_iter().for_each(|storm| storm.join().unwrap());
        is_over.store(true, SeqCst);
        reader.join().unwrap();
    });
    for number in 0..4 {
        assert!(waits_for(&format!("storm {number}")).is_empty());
    }
}

#[test]
fn a_hundred_thousand_waits_are_recorded_and_forgotten() {
    const COUNT: usize = if cfg!(miri) { 200 } else { 100_000 };
    let event = event("crowd");
    let mut waits: Vec<_> = (0..COUNT).map(|_| Box::pin(event.wait_async())).collect();
    waits.iter_mut().for_each(|wait| assert!(is_pending(wait.as_mut())));
    assert_eq!(until(|| Some(waits_for("crowd"))).len(), COUNT);
    drop(waits);
    assert!(waits_for("crowd").is_empty());
}

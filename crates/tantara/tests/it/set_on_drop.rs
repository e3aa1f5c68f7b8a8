//! Events that are set when a value is dropped, however that comes about.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use tantara::{AutoResetEvent, Event, SetOnDrop};

use crate::{LONG, WakeCounter, poll, until_waiting};

fn panics(work: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
}

#[test]
fn it_sets_at_the_end_of_its_scope_and_not_before() {
    let event = Event::new();
    let guard = event.set_on_drop();
    assert!(!event.is_set());
    drop(guard);
    assert!(event.is_set());
}

#[test]
fn it_sets_in_a_panic() {
    let event = Event::new();
    panics(|| {
        let _guard = event.set_on_drop();
        panic!("the setter dies");
    });
    assert!(event.is_set());

    let event = Arc::new(Event::new());
    let guard = Arc::clone(&event).set_on_drop_owned();
    let setter = thread::spawn(move || {
        let _guard = guard;
        panic!("the setter dies");
    });
    assert!(event.wait_timeout(LONG));
    assert!(setter.join().is_err());
}

#[test]
fn it_sets_when_its_task_is_dropped_in_the_middle() {
    let (event, other) = (Event::new(), Event::new());
    let mut task = Box::pin(async {
        let _guard = event.set_on_drop();
        other.wait_async().await;
    });
    assert!(poll(&mut task, &WakeCounter::new().1).is_pending());
    assert!(!event.is_set());
    drop(task);
    assert!(event.is_set());
}

#[test]
fn disarmed_or_forgotten_it_sets_nothing() {
    let event = Event::new();
    event.set_on_drop().disarm();
    assert!(!event.is_set());
    std::mem::forget(event.set_on_drop());
    assert!(!event.is_set());
    let owned = Arc::new(event);
    Arc::clone(&owned).set_on_drop_owned().disarm();
    assert!(!owned.is_set());
    assert_eq!(Arc::strong_count(&owned), 1);
}

#[test]
fn it_keeps_the_event_that_it_owns() {
    let event = Arc::new(Event::new());
    let alive = Arc::downgrade(&event);
    let guard: SetOnDrop<'static> = event.set_on_drop_owned();
    let waiter = thread::spawn({
        let event = alive.upgrade().unwrap();
        move || event.wait_timeout(LONG)
    });
    until_waiting(&*alive.upgrade().unwrap(), 1);
    drop(guard);
    assert!(waiter.join().unwrap());
    assert!(alive.upgrade().is_none());
}

#[test]
fn an_auto_reset_event_releases_one() {
    let event = Arc::new(AutoResetEvent::new());
    drop(event.set_on_drop());
    assert!(event.wait_timeout(Duration::ZERO));
    drop(Arc::clone(&event).set_on_drop_owned());
    assert!(event.wait_timeout(Duration::ZERO));
    event.set_on_drop().disarm();
    assert!(!event.wait_timeout(Duration::ZERO));
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker panics");
    }
}

/// Without care the second panic would abort the process.
#[test]
fn a_waker_that_panics_while_the_setter_panics_aborts_nothing() {
    let event = Event::new();
    let waker = Waker::from(Arc::new(Panics));
    let mut wait = pin!(event.wait_async());
    assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    panics(|| {
        let _guard = event.set_on_drop();
        panic!("the setter dies");
    });
    assert!(event.is_set());
    event.clear();
    let mut wait = pin!(event.wait_async());
    assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    panics(|| drop(event.set_on_drop()));
}

#[test]
fn debug_shows_the_event() {
    let event = Event::new();
    assert_eq!(format!("{:?}", event.set_on_drop()), "SetOnDrop(Event { set: false, waiting: 0 })");
    let event = AutoResetEvent::new();
    assert_eq!(format!("{:?}", event.set_on_drop()), "SetOnDrop(AutoResetEvent { set: false, waiting: 0 })");
}

#[cfg(shared_events)]
#[test]
fn a_shared_event_is_set_for_every_process_or_refuses_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let open = || tantara::SharedEvent::open_in(dir.path(), "done").unwrap();
    let (event, other) = (open(), open());
    panics(move || {
        let _guard = event.set_on_drop().unwrap();
        panic!("the setter dies");
    });
    assert!(other.is_set().unwrap());
    other.clear().unwrap();
    other.set_on_drop().unwrap().disarm();
    assert!(!other.is_set().unwrap());
    let guard = other.set_on_drop().unwrap();
    assert!(other.remove().unwrap());
    assert!(other.set_on_drop().unwrap_err().is_removed());
    drop(guard);
}

//! Waits that last too long, and waits that can never end.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Barrier, OnceLock, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use tantara::waits::{self, Waiting};
use tantara::{Event, all, any};

use crate::{LONG, is_alone, labelled, until, until_waiting};

#[test]
fn a_late_wait_is_reported_once_and_once_more_when_it_has_ended() {
    let event = labelled(Arc::new(Event::new()), "late");
    let (report, reports) = mpsc::channel();
    waits::longer_than(Duration::from_millis(30), move |wait| {
        if wait.events.iter().any(|event| event.label.as_deref() == Some("late")) {
            report.send(wait.clone()).unwrap();
            panic!("the watchdog goes on");
        }
    });
    for _ in 0..2 {
        let thread = thread::spawn({
            let event = Arc::clone(&event);
            move || event.wait()
        });
        let late = reports.recv().unwrap();
        assert!(!late.has_ended && late.waited >= Duration::from_millis(30), "{late}");
        event.set();
        thread.join().unwrap();
        event.clear();
        let ended = reports.recv().unwrap();
        assert!(ended.has_ended && ended.since == late.since && ended.waited >= late.waited, "{ended}");
        assert!(ended.to_string().contains(" has waited for late at "), "{ended}");
    }
}

/// A thread with this name that declares to set one event and waits for another.
fn waits_in_a_ring(name: &str, sets: &Arc<Event>, waits_for: &Arc<Event>, ready: &Arc<Barrier>) {
    let (sets, waits_for, ready) = (Arc::clone(sets), Arc::clone(waits_for), Arc::clone(ready));
    let run = move || {
        let _setter = sets.set_on_drop();
        ready.wait();
        waits_for.wait();
    };
    thread::Builder::new().name(name.into()).spawn(run).unwrap();
}

#[test]
fn threads_that_wait_for_one_another_are_a_cycle() {
    for count in 1..=3 {
        let label = |number: usize| format!("ring {count}.{number}");
        let events: Vec<_> = (0..count).map(|number| labelled(Arc::new(Event::new()), &label(number))).collect();
        let ready = Arc::new(Barrier::new(count));
        for number in 0..count {
            let name = format!("thread {count}.{number}");
            waits_in_a_ring(&name, &events[number], &events[(number + 1) % count], &ready);
        }
        let first = until(|| until_waiting(&label(1 % count), 1).remove(0).cycle);
        let step = |number: usize| {
            let next = (number + 1) % count;
            format!("thread {count}.{number} waits for ring {count}.{next}, which thread {count}.{next} is to set")
        };
        let expected: Vec<_> = (0..count).map(step).collect();
        assert_eq!(first, expected.join("; "));
        let whole = until_waiting(&label(1 % count), 1).remove(0).to_string();
        assert!(whole.contains(&format!("a cycle: {first}")), "{whole}");

        // Another thread could set it.
        let other = events[0].set_on_drop();
        let last = until_waiting(&label(0), 1).remove(0);
        assert_eq!(last.cycle, None, "{last}");
        drop(other);
        (0..count).for_each(|number| _ = until_waiting(&label(number), 0));
    }
}

#[test]
fn any_is_stuck_only_if_each_of_its_events_is() {
    let [one, other, open] = ["any one", "any other", "any open"].map(|label| labelled(Arc::new(Event::new()), label));
    let ready = Arc::new(Barrier::new(2));
    // It waits for its own events.
    let run = {
        let (one, other, ready) = (Arc::clone(&one), Arc::clone(&other), Arc::clone(&ready));
        move || {
            let _setters = [one.set_on_drop(), other.set_on_drop()];
            ready.wait();
            any([&*one, &*other]).wait()
        }
    };
    let stuck = thread::spawn(run);
    let run = {
        let (one, open) = (Arc::clone(&one), Arc::clone(&open));
        move || {
            ready.wait();
            any([&*one, &*open]).wait();
            all([&*open]).wait();
        }
    };
    let free = thread::spawn(run);
    let waits =
        until(|| Some(until_waiting("any one", 2)).filter(|waits| waits.iter().any(|wait| wait.cycle.is_some())));
    let of = |label: &str| waits.iter().find(|wait| wait.events[1].label.as_deref() == Some(label)).unwrap();
    assert!(of("any other").cycle.is_some(), "{}", of("any other"));
    assert_eq!(of("any open").cycle, None, "`any open` may be set by anybody");
    one.set();
    open.set();
    stuck.join().unwrap();
    free.join().unwrap();
}

/// Without a label: the first wait for an event that is known by a declaration alone.
#[test]
fn a_declaration_before_the_first_wait_is_kept() {
    waits::record(true);
    let event = Arc::new(Event::new());
    let declared = Arc::clone(&event).set_on_drop_owned();
    let (line, waiter) = (line!() + 1, Arc::clone(&event));
    let waiter = thread::spawn(move || waiter.wait());
    let is_here = |wait: &Waiting| wait.place.file == file!() && wait.place.line == line;
    let wait = until(|| waits::waits().into_iter().find(is_here));
    assert_eq!(wait.events[0].setters.len(), 1, "{wait}");
    drop(declared);
    waiter.join().unwrap();

    event.clear();
    let line = line!() + 1;
    let mut wait = pin!(event.wait_async());
    let declared = event.set_on_drop();
    assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let is_here = |wait: &Waiting| wait.place.file == file!() && wait.place.line == line;
    let recorded = until(|| waits::waits().into_iter().find(is_here));
    assert_eq!(recorded.events[0].setters.len(), 1, "{recorded}");
    drop(declared);
}

/// It waits for what another thread is to do.
#[test]
fn a_declaration_that_may_have_been_moved_is_in_no_cycle() {
    let done = labelled(Arc::new(Event::new()), "moved duty");
    let (work, works) = mpsc::channel::<()>();
    let starter = thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let duty = Arc::clone(&done).set_on_drop_owned();
            let worker = thread::spawn(move || {
                let _duty = duty;
                let _ = works.recv();
            });
            done.wait();
            worker.join().unwrap();
        }
    });
    let wait = until_waiting("moved duty", 1).remove(0);
    assert_eq!((wait.events[0].setters.len(), wait.cycle), (1, None));
    drop(work);
    starter.join().unwrap();
}

/// It is a task that is to set the event, which another thread may poll.
#[test]
fn a_declaration_by_a_thread_that_polls_tasks_is_in_no_cycle() {
    let [done, open] = ["duty of a task", "open to a task"].map(|label| labelled(Arc::new(Event::new()), label));
    let executor = thread::spawn({
        let (done, open) = (Arc::clone(&done), Arc::clone(&open));
        move || {
            let mut task = pin!(async {
                let _duty = done.set_on_drop();
                open.wait_async().await;
            });
            assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            done.wait();
        }
    });
    until_waiting("open to a task", 1);
    let wait = until_waiting("duty of a task", 1).remove(0);
    assert_eq!((wait.events[0].setters.len(), wait.cycle), (1, None));
    done.set();
    executor.join().unwrap();
}

/// Their wakers have no data by which to tell them apart.
#[test]
fn tasks_have_distinct_numbers() {
    let event = labelled(Arc::new(Event::new()), "numbers");
    let mut waits = [Box::pin(event.wait_async()), Box::pin(event.wait_async())];
    waits.iter_mut().for_each(|wait| assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()));
    let tasks: Vec<_> = until_waiting("numbers", 2).iter().map(|wait| wait.task.unwrap()).collect();
    assert!(tasks[0] != tasks[1] && !tasks.contains(&0), "{tasks:?}");
}

/// A wait that ends by itself holds nobody up for ever.
#[test]
fn a_wait_with_a_timeout_is_in_no_cycle() {
    let [own, others] = ["no circle 0", "no circle 1"].map(|label| labelled(Arc::new(Event::new()), label));
    let member = |own: &Arc<Event>, other: &Arc<Event>, timeout: Option<Duration>| {
        let (own, other) = (Arc::clone(own), Arc::clone(other));
        thread::spawn(move || {
            let _duty = own.set_on_drop();
            timeout.map_or_else(|| other.wait(), |timeout| assert!(other.wait_timeout(timeout)));
        })
    };
    let first = member(&own, &others, Some(LONG));
    until_waiting("no circle 1", 1);
    let second = member(&others, &own, None);
    let wait = until_waiting("no circle 0", 1).remove(0);
    assert_eq!(wait.cycle, None, "{wait}");
    own.set();
    second.join().unwrap();
    first.join().unwrap();
}

/// The environment turns the record on, and the first wait looks at it. Those that begin with it are recorded too.
#[test]
fn waits_that_begin_together_with_the_first_one_are_recorded() {
    const CHILD: &str = "BEGIN_TOGETHER";
    const COUNT: usize = 8;
    if std::env::var_os(CHILD).is_none() {
        for _ in 0..10 {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let name = "late::waits_that_begin_together_with_the_first_one_are_recorded";
            child.args([name, "--exact"]).env(CHILD, "1").env("TANTARA_WAITS", "1");
            let output = child.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        return;
    }
    let (event, ready) = (Arc::new(Event::new()), Arc::new(Barrier::new(COUNT)));
    for _ in 0..COUNT {
        let (event, ready) = (Arc::clone(&event), Arc::clone(&ready));
        thread::spawn(move || {
            ready.wait();
            event.wait();
        });
    }
    until(|| (waits::waits().len() == COUNT).then_some(()));
}

/// In the later rounds of such destructors those of Rust's thread-locals have run, and std no longer knows the thread.
#[cfg(unix)]
#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn a_wait_in_a_destructor_of_the_c_library_is_recorded() {
    static EVENT: Event = Event::new();
    static KEY: OnceLock<libc::pthread_key_t> = OnceLock::new();

    extern "C" fn wait_in_the_third_round(round: *mut libc::c_void) {
        match round.addr() {
            3 => EVENT.wait(),
            // SAFETY: the key was created. The destructor runs once more, as it has a value again.
            _ => _ = unsafe { libc::pthread_setspecific(*KEY.get().unwrap(), round.wrapping_byte_add(1)) },
        }
    }

    // The report of the panic that the record catches is not to stand among the results of the tests.
    if !is_alone("late::a_wait_in_a_destructor_of_the_c_library_is_recorded") {
        return;
    }
    waits::record(true);
    waits::label(&EVENT, "destructor of C");
    let mut key = 0;
    // SAFETY: `key` is a place for a key, and the destructor takes its value for a number.
    assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(wait_in_the_third_round)) }, 0);
    KEY.set(key).unwrap();
    let thread = thread::Builder::new().name("C".into()).spawn(move || {
        // SAFETY: the key was created above.
        assert_eq!(unsafe { libc::pthread_setspecific(key, std::ptr::without_provenance(1)) }, 0);
    });
    let wait = until_waiting("destructor of C", 1).remove(0);
    assert_eq!(wait.thread.name, None, "{wait}");
    EVENT.set();
    thread.unwrap().join().unwrap();
}

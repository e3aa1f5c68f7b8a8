//! `AutoResetEvent`: one set, one release.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use tantara::AutoResetEvent;

use crate::{LONG, WakeCounter, poll, until_waiting, waiting};

#[test]
fn a_set_is_stored_once() {
    let event = AutoResetEvent::new();
    assert!(!event.is_set());
    event.set();
    event.set();
    assert!(event.is_set());
    event.wait();
    assert!(!event.is_set());
    assert!(!event.wait_timeout(Duration::ZERO));
    assert!(!event.wait_deadline(Instant::now()));
}

#[test]
fn clear_takes_the_stored_release_back() {
    let event = AutoResetEvent::new();
    event.set();
    event.clear();
    event.clear();
    assert!(!event.wait_timeout(Duration::from_millis(1)));
}

#[test]
fn a_set_releases_exactly_one() {
    let event = Arc::new(AutoResetEvent::new());
    let out = Arc::new(AtomicUsize::new(0));
    let participants: Vec<_> = (0..6)
        .map(|number| {
            let (event, out) = (Arc::clone(&event), Arc::clone(&out));
            thread::spawn(move || {
                if number % 2 == 0 {
                    event.wait()
                } else {
                    pollster::block_on(event.wait_async())
                }
                out.fetch_add(1, SeqCst);
            })
        })
        .collect();
    until_waiting(&*event, 6);
    for released in 1..=6 {
        event.set();
        until_waiting(&*event, 6 - released);
        while out.load(SeqCst) < released {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(2));
        assert_eq!(out.load(SeqCst), released, "a set released more than one");
    }
    participants.into_iter().for_each(|participant| participant.join().unwrap());
    assert!(!event.is_set());
}

#[test]
fn first_come_first_served_threads_and_tasks_alike() {
    let event = Arc::new(AutoResetEvent::new());
    let (sender, order) = std::sync::mpsc::channel();
    let participants: Vec<_> = (0..8)
        .map(|number| {
            let participant = thread::spawn({
                let (event, sender) = (Arc::clone(&event), sender.clone());
                move || {
                    if number % 2 == 0 {
                        event.wait()
                    } else {
                        pollster::block_on(event.wait_async())
                    }
                    sender.send(number).unwrap();
                }
            });
            until_waiting(&*event, number + 1);
            participant
        })
        .collect();
    for expected in 0..8 {
        event.set();
        assert_eq!(order.recv_timeout(LONG), Ok(expected));
    }
    participants.into_iter().for_each(|participant| participant.join().unwrap());
}

#[test]
fn a_newcomer_cannot_snatch_a_release_that_was_handed_out() {
    let event = AutoResetEvent::new();
    let (counter, waker) = WakeCounter::new();
    let mut first = Box::pin(event.wait_async());
    assert!(poll(&mut first, &waker).is_pending());
    event.set();
    assert_eq!(counter.wakes(), 1);
    assert!(!event.wait_timeout(Duration::ZERO));
    assert!(poll(&mut Box::pin(event.wait_async()), &waker).is_pending());
    assert!(poll(&mut first, &waker).is_ready());
}

#[test]
fn a_dropped_wait_passes_its_release_on() {
    let event = AutoResetEvent::new();
    let (counter, waker) = WakeCounter::new();
    let mut first = Box::pin(event.wait_async());
    let mut second = Box::pin(event.wait_async());
    assert!(poll(&mut first, &WakeCounter::new().1).is_pending());
    assert!(poll(&mut second, &waker).is_pending());
    event.set();
    drop(first);
    assert_eq!(counter.wakes(), 1);
    // No other waiter is queued, so the release is stored again.
    drop(second);
    assert!(event.is_set());
}

#[test]
fn a_wait_that_was_used_up_passes_nothing_on() {
    let event = AutoResetEvent::new();
    event.set();
    let mut wait = Box::pin(event.wait_async());
    assert!(poll(&mut wait, &WakeCounter::new().1).is_ready());
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut wait, &WakeCounter::new().1))).is_err(), "documented to panic");
    drop(wait);
    assert!(!event.is_set());
}

#[test]
fn leavers_leave_the_line_in_order() {
    let event = AutoResetEvent::new();
    let counters: Vec<_> = (0..5).map(|_| WakeCounter::new()).collect();
    let mut waits: Vec<_> = counters
        .iter()
        .map(|(_, waker)| {
            let mut wait = Box::pin(event.wait_async());
            assert!(poll(&mut wait, waker).is_pending());
            wait
        })
        .collect();
    // The first, the middle and the last.
    drop(waits.remove(4));
    drop(waits.remove(2));
    drop(waits.remove(0));
    assert_eq!(waiting(&event), 2);
    event.set();
    event.set();
    let wakes: Vec<_> = counters.iter().map(|(counter, _)| counter.wakes()).collect();
    assert_eq!(wakes, [0, 1, 0, 1, 0]);
    waits.iter_mut().for_each(|wait| assert!(poll(wait, &WakeCounter::new().1).is_ready()));
}

//! A process that waits for the first of many events.

use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread;
use std::time::Duration;

use tantara::SharedEvent;

use super::children::{self, Alone};
use super::peers::{Descriptor, Signal};
use super::workloads::median;
use crate::names::Figures;
use crate::pin;

/// A contender that supports waiting for the first of many.
pub trait Many: Signal {
    /// Waits, and returns the index of an event that is set.
    fn any(events: &[Self]) -> usize;
}

impl Many for SharedEvent {
    fn any(events: &[Self]) -> usize {
        tantara::any(events).wait()
    }
}

/// By `poll`. The requests are rebuilt for each wait, as for the other contenders.
impl<const FIFO: bool> Many for Descriptor<FIFO> {
    fn any(events: &[Self]) -> usize {
        let mut requests: Vec<_> = events.iter().map(|event| Self::poll_of(event.as_raw_fd())).collect();
        // SAFETY: the pointer refers to this many requests, which outlive the call.
        while unsafe { libc::poll(requests.as_mut_ptr(), requests.len() as libc::nfds_t, -1) } < 1 {}
        requests.iter().position(|request| request.revents != 0).expect("one that is ready")
    }
}

#[derive(Default)]
struct Answers {
    released: Alone<AtomicU64>,
    spent: Alone<AtomicU64>,
    /// The number of rounds of the waiter, and the round after which the event was cleared.
    done: Alone<AtomicUsize>,
    cleared: Alone<AtomicUsize>,
}

fn until(count: &AtomicUsize, turns: usize) {
    while count.load(Acquire) < turns {
        thread::sleep(Duration::from_micros(500));
    }
}

/// The time of a wait for the first of `count` events if one is set. And if another process sets one while the waiter
/// sleeps, the time until it is released, and the processor time of the whole wait.
pub fn any<E: Many>(count: usize, smoke: bool) -> Figures {
    let turns = if smoke { 2 } else { 11 };
    let chosen = |turn: usize| (turn * 7919 + count - 1) % count;
    let places: Vec<_> = (0..count).map(|index| E::make(&format!("event-{index}"), 1)).collect();
    let answers: &Answers = children::in_common();
    let cpus = pin::processors();
    let waiter = children::start(|| {
        pin::to(&cpus[cpus.len() - 1..]);
        let events: Vec<E> = places.iter().map(E::open).collect();
        for turn in 0..turns {
            let before = children::time_of_process();
            let index = E::any(&events);
            answers.released.0.store(children::now(), Release);
            answers.spent.0.store(children::time_of_process() - before, Release);
            assert_eq!(index, chosen(turn), "the one that was set");
            answers.done.0.store(turn + 1, Release);
            until(&answers.cleared.0, turn + 1);
        }
    });
    pin::to(&cpus[..1]);
    let events: Vec<E> = places.iter().map(E::open).collect();
    let (mut released, mut spent) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        children::until_asleep(std::slice::from_ref(&waiter));
        let began = children::now();
        events[chosen(turn)].set();
        until(&answers.done.0, turn + 1);
        released.push(answers.released.0.load(Acquire) - began);
        spent.push(answers.spent.0.load(Acquire));
        events[chosen(turn)].clear();
        answers.cleared.0.store(turn + 1, Release);
    }
    waiter.join();
    let when_set = {
        events[count - 1].set();
        let times = (0..turns * 10).map(|_| {
            let began = children::now();
            assert_eq!(black_box(E::any(&events)), count - 1, "the one that is set");
            children::now() - began
        });
        median(times.collect())
    };
    let each = |time: f64| time / count as f64;
    vec![
        ("when set, per event", each(when_set)),
        ("released", median(released)),
        ("processor time, per event", each(median(spent))),
    ]
}

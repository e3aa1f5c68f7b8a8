//! The workloads of one process and of two.

use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::thread;
use std::time::{Duration, Instant};

use super::children::{self, Alone};
use super::peers::{Level, Signal};
use crate::latency::{self, Latencies};
use crate::names::Figures;
use crate::pin;

/// One process, nobody waits.
pub fn uncontended<E: Level>(smoke: bool) -> Figures {
    let event = E::open(&E::make("event", 1));
    let is_set = nanoseconds_each(smoke, || {
        black_box(black_box(&event).is_set());
    });
    let set_clear = nanoseconds_each(smoke, || {
        black_box(&event).set();
        black_box(&event).clear();
    });
    assert!(!event.is_set(), "it was cleared");
    event.set();
    assert!(event.is_set(), "it was set");
    let wait = nanoseconds_each(smoke, || {
        black_box(&event).wait();
        black_box(&event).stay_set();
    });
    assert!(event.is_set(), "it stayed set");
    vec![("is_set", is_set), ("set+clear", set_clear), ("wait when set", wait)]
}

/// The mean of as many calls as fill a fixed time, whatever one call costs.
fn nanoseconds_each(smoke: bool, mut act: impl FnMut()) -> f64 {
    let enough = Duration::from_millis(if smoke { 1 } else { 50 });
    let mut count = 100_u32;
    loop {
        let began = Instant::now();
        for _ in 0..count {
            act();
        }
        let elapsed = began.elapsed();
        if elapsed >= enough {
            return elapsed.as_nanos() as f64 / f64::from(count);
        }
        count *= 2;
    }
}

/// Two processes, each bound to its processor, answer each other through two events.
pub fn round_trip<E: Signal>(cpus: [usize; 2], smoke: bool) -> f64 {
    let rounds: u64 = if smoke { 50 } else { 20_000 };
    let places = [E::make("ping", 1), E::make("pong", 1)];
    // The first rounds are counted on both sides, to detect early releases.
    let (rehearsal, count) = (rounds / 10, children::in_common::<Alone<AtomicU64>>());
    let other = children::start(|| {
        pin::to(&cpus[1..]);
        let [ping, pong] = places.each_ref().map(E::open);
        for round in 0..rehearsal {
            ping.wait();
            ping.clear();
            assert_eq!(count.0.swap(2 * round + 2, Relaxed), 2 * round + 1, "ping, and not before");
            pong.set();
        }
        for _ in 0..rounds {
            ping.wait();
            ping.clear();
            pong.set();
        }
    });
    pin::to(&cpus[..1]);
    let [ping, pong] = places.each_ref().map(E::open);
    children::until_asleep(std::slice::from_ref(&other));
    for round in 0..rehearsal {
        count.0.store(2 * round + 1, Relaxed);
        ping.set();
        pong.wait();
        pong.clear();
        assert_eq!(count.0.load(Relaxed), 2 * round + 2, "pong, and not before");
    }
    let began = Instant::now();
    for _ in 0..rounds {
        ping.set();
        pong.wait();
        pong.clear();
    }
    let elapsed = began.elapsed();
    other.join();
    elapsed.as_nanos() as f64 / rounds as f64
}

/// A round trip in which each side is busy before it answers, until the other one sleeps: the time of `set`, and the
/// time from its beginning until the other side has returned.
pub fn wake<E: Signal>(cpus: [usize; 2], smoke: bool) -> Figures {
    const BUSY: u64 = 200_000;
    let rounds = if smoke { 20 } else { 1_500 };
    let places = [E::make("ping", 1), E::make("pong", 1)];
    let answered = children::in_common::<Alone<AtomicU64>>();
    let busy = || children::busy(BUSY);
    let other = children::start(|| {
        pin::to(&cpus[1..]);
        let [ping, pong] = places.each_ref().map(E::open);
        for _ in 0..rounds {
            ping.wait();
            ping.clear();
            busy();
            answered.0.store(children::now(), Release);
            pong.set();
        }
    });
    pin::to(&cpus[..1]);
    let [ping, pong] = places.each_ref().map(E::open);
    children::until_asleep(std::slice::from_ref(&other));
    let (mut set, mut woken) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        busy();
        let began = children::now();
        ping.set();
        set.push(children::now() - began);
        pong.wait();
        woken.push(children::now() - answered.0.load(Acquire));
        pong.clear();
    }
    other.join();
    vec![("set", median(set)), ("until awake", median(woken))]
}

#[derive(Default)]
struct Turn {
    /// The round that the setter may begin, and when it has called `set`.
    ready: Alone<AtomicU64>,
    began: Alone<AtomicU64>,
}

/// One process sets an event on which another one sleeps: the time from just before the `set` until that process runs.
/// On one core the setter leaves the processor when its `set` has returned.
pub fn latency<E: Signal>(cpus: [usize; 2], smoke: bool) -> Figures {
    let rounds = latency::rounds(smoke);
    let place = E::make("event", 1);
    let turn: &Turn = children::in_common();
    let setter = children::start(|| {
        pin::to(&cpus[..1]);
        let event = E::open(&place);
        for round in 1..=rounds {
            while turn.ready.0.load(Acquire) < round {
                thread::yield_now();
            }
            children::busy(latency::PAUSE);
            turn.began.0.store(children::now(), Release);
            event.set();
        }
    });
    pin::to(&cpus[1..]);
    let event = E::open(&place);
    let mut latencies = Latencies::new();
    for round in 1..=rounds {
        turn.ready.0.store(round, Release);
        event.wait();
        let woken = children::now();
        let began = turn.began.0.swap(0, AcqRel);
        assert_ne!(began, 0, "it is not released before the set");
        latencies.record(woken.saturating_sub(began));
        event.clear();
    }
    setter.join();
    latencies.figures()
}

pub fn median(mut times: Vec<u64>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2] as f64
}

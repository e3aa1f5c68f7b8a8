//! Whether the other processes continue when one is killed at any instruction.
//!
//! One process sets and clears all the time, and one waits repeatedly. Beside them victims, one after the other, do
//! both or sleep, and are killed. The two surviving processes must make progress within [`BOUND`].

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::{Duration, Instant};

use super::children::{self, Alone, Member};
use super::peers::Signal;
use crate::names::Figures;

/// A process without progress for this time hangs. Contenders that work need a thousandth of it.
const BOUND: Duration = Duration::from_secs(2);

pub const KILLS: &str = "kills";
pub const SURVIVED: &str = "survived";

#[derive(Default)]
struct Steps {
    setter: Alone<AtomicU64>,
    waiter: Alone<AtomicU64>,
    victim: Alone<AtomicU64>,
    /// Odd: the setter must pause.
    rest: Alone<AtomicU64>,
    /// The last such number that the setter has obeyed.
    rested: Alone<AtomicU64>,
}

/// The number of kills, and after how many of them the others still make progress. Ends after the first failure.
pub fn survive<E: Signal>(smoke: bool) -> Figures {
    let kills = if smoke { 4 } else { 100 };
    let place = E::make("event", 3);
    let steps: &Steps = children::in_common();
    let (setter, waiter) =
        (children::start(|| set_and_clear(&E::open(&place), steps)), children::start(|| wait(&E::open(&place), steps)));
    assert!(get_on(steps), "they hang before anybody was killed");
    let mut random = children::now() | 1;
    let survived = (0..kills).take_while(|kill| {
        // Every second victim sleeps when it is killed, if possible.
        kill_one::<E>(&place, steps, kill % 2 == 1, &mut random);
        get_on(steps)
    });
    let survived = survived.count();
    [setter, waiter].into_iter().for_each(Member::kill);
    vec![(KILLS, f64::from(kills)), (SURVIVED, survived as f64)]
}

fn set_and_clear<E: Signal>(event: &E, steps: &Steps) {
    loop {
        let rest = steps.rest.0.load(Acquire);
        steps.rested.0.store(rest, Release);
        if rest % 2 == 1 {
            thread::sleep(Duration::from_micros(50));
            continue;
        }
        event.set();
        // Long enough for contenders that lose pulses.
        let until = Instant::now() + Duration::from_micros(10);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        event.clear();
        steps.setter.0.fetch_add(1, Release);
    }
}

fn wait<E: Signal>(event: &E, steps: &Steps) {
    loop {
        event.wait();
        steps.waiter.0.fetch_add(1, Release);
    }
}

fn kill_one<E: Signal>(place: &E::Place, steps: &Steps, asleep: bool, random: &mut u64) {
    if asleep {
        let rest = steps.rest.0.fetch_add(1, Release) + 1;
        comes_true(|| steps.rested.0.load(Acquire) == rest);
    }
    let before = steps.victim.0.load(Acquire);
    let victim = children::start(|| {
        let event = E::open(place);
        steps.victim.0.fetch_add(1, Release);
        loop {
            if !asleep {
                event.set();
                event.clear();
            }
            event.wait();
        }
    });
    comes_true(|| steps.victim.0.load(Acquire) > before && (!asleep || victim.is_asleep()));
    let until = Instant::now() + Duration::from_nanos(next(random) % 500_000);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    victim.kill();
    if asleep {
        steps.rest.0.fetch_add(1, Release);
    }
}

/// Whether both surviving processes make progress.
fn get_on(steps: &Steps) -> bool {
    let done = || (steps.setter.0.load(Acquire), steps.waiter.0.load(Acquire));
    let before = done();
    comes_true(|| {
        let now = done();
        now.0 >= before.0 + 3 && now.1 >= before.1 + 3
    })
}

fn comes_true(is_true: impl Fn() -> bool) -> bool {
    let end = Instant::now() + BOUND;
    while !is_true() {
        if Instant::now() >= end {
            return is_true();
        }
        thread::sleep(Duration::from_micros(100));
    }
    true
}

/// Marsaglia's xorshift.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

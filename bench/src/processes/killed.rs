//! Whether the others can go on when one is killed, at whatever instruction.
//!
//! One process sets and clears all the time, one waits again and again. Beside them, one victim after the other does
//! all of that, or sleeps, and is killed. The two who are left must get on within the [`BOUND`].

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::{Duration, Instant};

use super::children::{self, Alone, Member};
use super::peers::Signal;
use crate::names::Figures;

/// Who does not get on within this time hangs. Those that work take a thousandth of it.
const BOUND: Duration = Duration::from_secs(2);

pub const KILLS: &str = "kills";
pub const SURVIVED: &str = "survived";

#[derive(Default)]
struct Steps {
    setter: Alone<AtomicU64>,
    waiter: Alone<AtomicU64>,
    victim: Alone<AtomicU64>,
    /// Odd: the setter is asked to rest.
    rest: Alone<AtomicU64>,
    /// The last such number that it has heeded.
    rested: Alone<AtomicU64>,
}

/// How many kills there are, and after how many the others still get on; it ends with the first after which they do
/// not.
pub fn survive<E: Signal>(smoke: bool) -> Figures {
    let kills = if smoke { 4 } else { 100 };
    let place = E::make("event", 3);
    let steps: &Steps = children::in_common();
    let (setter, waiter) =
        (children::start(|| set_and_clear(&E::open(&place), steps)), children::start(|| wait(&E::open(&place), steps)));
    assert!(get_on(steps), "they hang before anybody was killed");
    let mut random = children::now() | 1;
    let survived = (0..kills).take_while(|kill| {
        // Every second victim sleeps when it is killed, as far as that can be arranged.
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
        // Long enough for those who forget pulses.
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

/// Whether both who are left do something more.
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

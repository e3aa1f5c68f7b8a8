//! Whether to spin before going to sleep.
//!
//! A signal between two running processors arrives in well under a microsecond, but falling asleep
//! and being woken takes tens of them. So a waiter spins first: always for [`MOMENT`] looks, and if
//! its last sleep was short, for about as long as a sleep costs ([`WORTH`]), which is at worst
//! twice the best choice (Karlin, Manasse, Rudolph, Sleator, "Competitive Snoopy Caching", 1988).
//! [`MOMENT`] looks alone would not suffice: two threads that answer each other and both sleep
//! would wake each other again and again, and no answer would come that fast.
//!
//! Spinning does not pay if the other thread needs this processor. So the waiter then yields the
//! processor once, and looks again. If the other thread has run and signalled by then, nobody
//! sleeps and nobody is woken. A wait with a deadline yields only if the last sleep was short: a
//! thread that yields may not run again before its deadline.
//!
//! Neither pays if signals are far apart, and yielding does not pay if a third thread keeps the
//! processor. So after each failure a thread skips the attempt twice as many times, up to
//! [`MOST_SKIPPED`]. After a success it tries again the next time. This state is kept per thread.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::sync::{self, per_thread, spin_loop, yield_now};
use crate::sys;

/// Whether to spin at all: that takes a clock, and the standard library's panics in a browser.
const SPINS: bool = sync::SPINS && !cfg!(all(target_family = "wasm", target_os = "unknown"));
/// Looks of a short spin, and between two looks at the clock.
const MOMENT: u32 = 24;
/// About the cost of falling asleep and being woken.
const WORTH: Duration = Duration::from_micros(50);
/// How long others may run meanwhile, if it is to pay that a thread gives way. A thread that never
/// leaves the processor keeps it for longer: Linux takes it away after 0.7 ms at the earliest.
const TURN: Duration = Duration::from_micros(250);
/// One in so many attempts to give way is timed, as long as all pay.
const MEASURED: u8 = 8;
/// Hints of a pause: some hundred nanoseconds, in which a cache line changes hands several times.
const PAUSE: u32 = 16;
/// A thread tries at least once in this many waits.
const MOST_SKIPPED: u32 = 4_096;

/// Leaves a contended word to other threads for a while.
pub(crate) fn pause() {
    for _ in 0..PAUSE {
        spin_loop();
    }
}

/// How often an attempt that may not pay is made.
#[derive(Clone, Copy)]
struct Habit {
    /// How many of the next waits skip it.
    skip: u32,
    /// How many waits will skip it after the next failure.
    skip_next: u32,
}

impl Habit {
    const NEW: Habit = Habit { skip: 0, skip_next: 1 };

    /// Whether this wait is to try it.
    fn is_due(&mut self) -> bool {
        let is_due = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        is_due
    }

    fn note(&mut self, has_paid: bool) {
        self.skip = if has_paid { 0 } else { self.skip_next };
        self.skip_next = (2 * self.skip).clamp(1, MOST_SKIPPED);
    }
}

#[derive(Clone, Copy)]
struct Habits {
    spin: Habit,
    give_way: Habit,
    /// The last sleep that was timed was short.
    slept_shortly: bool,
    /// How often it has given way, and that has paid, since the time was measured.
    unmeasured: u8,
    /// Whether this thread may give way: not known, or not for long.
    may_give_way: Option<bool>,
}

impl Habits {
    const NEW: Habits =
        Habits { spin: Habit::NEW, give_way: Habit::NEW, slept_shortly: false, unmeasured: 0, may_give_way: None };
}

per_thread! {
    static HABITS: Cell<Habits> = const {
        Cell::new(Habits::NEW)
    }
}

/// Calls `released` repeatedly for a while, unless that is not worth it. Whether it returned
/// `true`.
#[inline]
pub(crate) fn until(deadline: Deadline, released: impl Fn() -> bool) -> bool {
    if !SPINS {
        return false;
    }
    // A thread whose thread-locals are being destroyed does not spin.
    let Ok(mut habits) = HABITS.try_with(Cell::get) else { return false };
    let mut came = false;
    if habits.spin.is_due() {
        came = look(deadline, habits.slept_shortly, &released);
        habits.spin.note(came);
    }
    let may_be_late = habits.slept_shortly || deadline.instant().is_none();
    if !came && may_be_late && habits.give_way.is_due() {
        came = give_way(&mut habits, released);
    }
    let _ = HABITS.try_with(|kept| kept.set(habits));
    came
}

/// Yields the processor once. It pays if the signal has come by then, and soon: a third thread may
/// have kept the processor, while a thread that sleeps would have been woken.
fn give_way(habits: &mut Habits, released: impl Fn() -> bool) -> bool {
    if !*habits.may_give_way.get_or_insert_with(sys::may_yield) {
        habits.give_way.note(false);
        return false;
    }
    let began = (habits.unmeasured == 0).then(Instant::now);
    yield_now();
    let came = released();
    let is_short = began.is_none_or(|began| began.elapsed() < TURN);
    habits.give_way.note(came && is_short);
    habits.unmeasured = if came && is_short { (habits.unmeasured + 1) % MEASURED } else { 0 };
    if !is_short {
        // The thread's scheduling may have been changed.
        habits.may_give_way = None;
    }
    came
}

fn look(deadline: Deadline, for_long: bool, released: &impl Fn() -> bool) -> bool {
    let mut end = None;
    loop {
        for _ in 0..MOMENT {
            if released() {
                return true;
            }
            spin_loop();
        }
        if !for_long {
            return released();
        }
        let now = Instant::now();
        if now >= *end.get_or_insert_with(|| deadline.at_most(now + WORTH)) {
            return released();
        }
    }
}

/// Sleeps, and records whether the sleep was short, if one of the next two waits will spin.
#[inline]
pub(crate) fn noting_sleep<R>(sleep: impl FnOnce() -> R) -> R {
    if !SPINS || !HABITS.try_with(Cell::get).is_ok_and(|habits| habits.spin.skip <= 1) {
        return sleep();
    }
    let began = Instant::now();
    let outcome = sleep();
    // Twice, because both sides of an exchange may sleep.
    let slept_shortly = began.elapsed() < 2 * WORTH;
    let _ = HABITS.try_with(|kept| kept.set(Habits { slept_shortly, ..kept.get() }));
    outcome
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_pay_is_tried_ever_more_rarely_and_what_pays_each_time() {
        let mut habit = Habit::NEW;
        let mut waits_until_due = |has_paid: bool| {
            habit.note(has_paid);
            (0..).find(|_| habit.is_due()).unwrap()
        };
        for skipped in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 4_096] {
            assert_eq!(waits_until_due(false), skipped);
        }
        assert_eq!([true, true, false, false].map(waits_until_due), [0, 0, 1, 2]);
    }

    #[test]
    fn a_wait_gives_way_unless_it_could_miss_its_deadline_by_that() {
        let gives_way = |slept_shortly, deadline| {
            HABITS.with(|kept| kept.set(Habits { slept_shortly, may_give_way: Some(true), ..Habits::NEW }));
            assert!(!until(deadline, || false));
            HABITS.with(Cell::get).give_way.skip > 0
        };
        let later = Deadline::At(Instant::now() + Duration::from_secs(3600));
        assert!([false, true].iter().all(|&shortly| gives_way(shortly, Deadline::Never)));
        assert!([false, true].iter().all(|&shortly| gives_way(shortly, Deadline::Open)));
        assert!(!gives_way(false, later));
        assert!(gives_way(true, later));
    }

    #[test]
    fn a_signal_that_comes_while_another_thread_runs_is_seen() {
        let mut habits = HABITS.with(Cell::get);
        habits.may_give_way = Some(false);
        assert!(!give_way(&mut habits, || panic!("a thread that may not give way does not look either")));
        habits.may_give_way = None;
        assert!(give_way(&mut habits, || true), "it has come meanwhile");
        assert!(!give_way(&mut habits, || false));
    }
}

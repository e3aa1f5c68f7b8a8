//! Whether to spin before going to sleep.
//!
//! A signal between two running processors arrives in well under a microsecond, but falling asleep and being woken
//! takes tens of them. So a waiter spins first: always for [`MOMENT`] looks, and if its last sleep was short, for
//! about as long as a sleep costs ([`WORTH`]), which is at worst twice the best choice (Karlin, Manasse, Rudolph,
//! Sleator, "Competitive Snoopy Caching", 1988). [`MOMENT`] looks alone would not suffice: two threads that answer
//! each other and both sleep would wake each other again and again, and no answer would come that fast.
//!
//! Spinning does not pay if the other thread needs this processor, or if signals are far apart. So after each failure
//! a thread skips it twice as many times, up to [`MOST_SKIPPED`], and after each success it spins the next time. This
//! state is kept per thread.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::sync::{SPINS, per_thread, spin_loop};

/// Looks of a short spin, and between two looks at the clock.
const MOMENT: u32 = 24;
/// About the cost of falling asleep and being woken.
const WORTH: Duration = Duration::from_micros(50);
/// A thread spins at least once in this many waits.
const MOST_SKIPPED: u32 = 4_096;

#[derive(Clone, Copy)]
struct Habit {
    /// How many of the next waits do not spin.
    skip: u32,
    /// How many will not spin after the next failure.
    skip_next: u32,
    /// The last sleep that was timed was short.
    slept_shortly: bool,
}

per_thread! {
    static HABIT: Cell<Habit> = const { Cell::new(Habit { skip: 0, skip_next: 1, slept_shortly: false }) }
}

/// Calls `released` repeatedly for a while, unless that is not worth it. Whether it returned `true`.
#[inline]
pub(crate) fn until(deadline: Deadline, released: impl Fn() -> bool) -> bool {
    if !SPINS {
        return false;
    }
    // A thread whose thread-locals are being destroyed does not spin.
    let Ok(mut habit) = HABIT.try_with(Cell::get) else { return false };
    let mut came = false;
    if habit.skip > 0 {
        habit.skip -= 1;
    } else {
        came = look(deadline, habit.slept_shortly, released);
        let skip = if came { 0 } else { habit.skip_next };
        habit = Habit { skip, skip_next: (2 * skip).clamp(1, MOST_SKIPPED), ..habit };
    }
    let _ = HABIT.try_with(|kept| kept.set(habit));
    came
}

fn look(deadline: Deadline, for_long: bool, released: impl Fn() -> bool) -> bool {
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
    if !SPINS || !HABIT.try_with(Cell::get).is_ok_and(|habit| habit.skip <= 1) {
        return sleep();
    }
    let began = Instant::now();
    let outcome = sleep();
    // Twice, because both sides of an exchange may sleep.
    let slept_shortly = began.elapsed() < 2 * WORTH;
    let _ = HABIT.try_with(|kept| kept.set(Habit { slept_shortly, ..kept.get() }));
    outcome
}

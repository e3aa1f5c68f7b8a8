//! Whether to look again for a while before going to sleep.
//!
//! A signal between two processors that are awake arrives in well under a microsecond; to fall asleep and be woken
//! takes tens of them. So a waiter looks again first: always for a moment ([`MOMENT`] looks), and, if its last sleep
//! was a short one, for about as long as a sleep costs ([`WORTH`]), which is at worst twice the best choice (Karlin,
//! Manasse, Rudolph, Sleator, "Competitive Snoopy Caching", 1988). The moment alone would not do: two threads that
//! answer each other and have both fallen asleep wake each other up again and again, and no answer ever comes within
//! a moment.
//!
//! Where it does not pay, because the other needs this very processor or because signals are just far apart, a thread
//! gives it up: after each time in vain it sleeps at once twice as many times, up to [`MOST_SKIPPED`], before it
//! tries again. The first success makes it try every time. Each thread keeps this habit to itself.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::sync::{SPINS, per_thread, spin_loop};

/// Looks in a moment, and between two looks at the clock.
const MOMENT: u32 = 24;
/// About what it costs to sleep and be woken.
const WORTH: Duration = Duration::from_micros(50);
/// A thread tries at least once in so many waits.
const MOST_SKIPPED: u32 = 4_096;

#[derive(Clone, Copy)]
struct Habit {
    /// How many waits will go to sleep at once.
    skip: u32,
    /// How many will after the next time in vain.
    skip_next: u32,
    /// The last sleep that was timed was hardly worth it.
    slept_shortly: bool,
}

per_thread! {
    static HABIT: Cell<Habit> = const { Cell::new(Habit { skip: 0, skip_next: 1, slept_shortly: false }) }
}

/// Looks at `released` again and again for a while, if that promises anything. Says whether it came true.
#[inline]
pub(crate) fn until(deadline: Deadline, released: impl Fn() -> bool) -> bool {
    if !SPINS {
        return false;
    }
    // A thread that is being torn down has no habits any more: it sleeps.
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

/// Sleeps, and notes whether the sleep was a short one, if the next wait but one will want to know.
#[inline]
pub(crate) fn noting_sleep<R>(sleep: impl FnOnce() -> R) -> R {
    if !SPINS || !HABIT.try_with(Cell::get).is_ok_and(|habit| habit.skip <= 1) {
        return sleep();
    }
    let began = Instant::now();
    let outcome = sleep();
    // Twice, for both sides of an exchange may sleep.
    let slept_shortly = began.elapsed() < 2 * WORTH;
    let _ = HABIT.try_with(|kept| kept.set(Habit { slept_shortly, ..kept.get() }));
    outcome
}

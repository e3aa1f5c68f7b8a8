//! Whether to look again a few times before going to sleep.
//!
//! A signal between two processors arrives in under a microsecond; falling asleep and being woken costs tens of them. So
//! a waiter spins for about as long as a sleep would cost ([`SPINS`] looks), which is at worst twice the best choice
//! (Karlin et al., "Competitive Snoopy Caching", 1988). Where the waiter can run on one processor only, the one who would
//! signal it usually needs that same processor: there it spins only while spinning has lately paid.

#![forbid(unsafe_code)]

use std::cell::Cell;

use super::platform;
use crate::sync::{SPINS, per_thread, spin_loop};

/// How many waits in vain on one processor until a thread stops to spin there.
const PATIENCE: u8 = 8;
/// A thread asks anew where it may run, and forgets its disappointment, once in so many waits.
const ROUND: u8 = 250;

/// What a thread knows about its own spinning.
#[derive(Clone, Copy)]
struct Habit {
    /// Waits until the next question where this thread may run; 0 is "ask now".
    left_in_round: u8,
    one_processor: bool,
    /// How often in a row spinning was in vain.
    in_vain: u8,
}

per_thread! {
    static HABIT: Cell<Habit> = const { Cell::new(Habit { left_in_round: 0, one_processor: false, in_vain: 0 }) }
}

/// Looks at `released` again and again for a short while, if that promises anything. Says whether it came true.
pub(crate) fn until(mut released: impl FnMut() -> bool) -> bool {
    if SPINS == 0 {
        return false;
    }
    // A thread that is being torn down has no habits any more: it sleeps.
    let Ok(mut habit) = HABIT.try_with(Cell::get) else { return false };
    if habit.left_in_round == 0 {
        habit.left_in_round = ROUND;
        habit.one_processor = platform::processors() == 1;
        habit.in_vain = habit.in_vain.min(PATIENCE - 1);
    }
    habit.left_in_round -= 1;
    let worthwhile = !habit.one_processor || habit.in_vain < PATIENCE;
    let mut came = false;
    if worthwhile {
        for _ in 0..SPINS {
            if released() {
                came = true;
                break;
            }
            spin_loop();
        }
        habit.in_vain = if came { 0 } else { (habit.in_vain + 1).min(PATIENCE) };
    }
    let _ = HABIT.try_with(|stored| stored.set(habit));
    came
}

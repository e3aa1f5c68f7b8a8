//! How the shared word is changed: set, clear, pulse, remove, and going to sleep. There are no files here. The models
//! at the end run this in every interleaving.
//!
//! A process that is killed has either changed the word or not. A change that has sleepers to wake does so in the same
//! system call (see the table and invariants 1 and 2 of [`word`](crate::protocol::word)). The one exception is a
//! `clear` with watchers, which wakes them in a second step; watchers also look at the word every few seconds.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::time::Duration;

use crate::protocol::word::Word;
use crate::sync::AtomicU32;
use crate::sys::{Awake, shared};

/// The event was removed, or its page lost. Contains its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone(pub(crate) Word);

/// Raises the flag and wakes all sleepers. `note` is called before the flag is raised, with the word over which it is
/// raised. `repeat` is called after a change that may not have changed the counter.
#[inline]
pub(crate) fn set(word: &AtomicU32, note: impl Fn(Word), repeat: impl FnOnce()) -> Result<(), Gone> {
    let mut seen = word.load(Acquire);
    loop {
        let now = Word::from_bits(seen);
        if now.is_gone() {
            return Err(Gone(now));
        }
        if !now.is_set() {
            note(now);
            if now.owes_a_wake_when_set() {
                shared::raise_and_wake_all(word, Word::RAISE_SET);
                // Another process may have set it first. The system call does not tell.
                repeat();
                return Ok(());
            }
        }
        // A set word is stored again, so that whoever observes it sees all that happened before this call.
        match word.compare_exchange_weak(seen, now.set().bits(), AcqRel, Acquire) {
            Ok(_) => {
                if now.is_set() {
                    repeat();
                }
                return Ok(());
            }
            Err(other) => seen = other,
        }
    }
}

/// Lowers the flag, and wakes watchers.
#[inline]
pub(crate) fn clear(word: &AtomicU32) -> Result<(), Gone> {
    let mut seen = word.load(Acquire);
    loop {
        let now = Word::from_bits(seen);
        if now.is_gone() {
            return Err(Gone(now));
        }
        if !now.is_set() {
            return Ok(());
        }
        match word.compare_exchange_weak(seen, now.cleared().bits(), AcqRel, Acquire) {
            Ok(_) => {
                wake_watchers(word, now);
                return Ok(());
            }
            Err(other) => seen = other,
        }
    }
}

/// Raises the flag and lowers it in one step, and wakes all sleepers. A set event is cleared.
pub(crate) fn pulse(word: &AtomicU32, note: impl Fn(Word), repeat: impl FnOnce()) -> Result<(), Gone> {
    let mut seen = word.load(Acquire);
    loop {
        let now = Word::from_bits(seen);
        if now.is_gone() {
            return Err(Gone(now));
        }
        if !now.is_set() {
            note(now);
            if now.owes_a_wake_when_set() {
                // If it is set in between, it stays set, as if the pulse came first.
                shared::add_and_wake_all(word, Word::ADD_PULSE);
                return Ok(());
            }
        }
        let next = if now.is_set() { now.cleared() } else { now.pulsed() };
        match word.compare_exchange_weak(seen, next.bits(), AcqRel, Acquire) {
            Ok(_) => {
                if now.is_set() {
                    repeat();
                    wake_watchers(word, now);
                }
                return Ok(());
            }
            Err(other) => seen = other,
        }
    }
}

/// `before` was changed to a word that is not set.
#[inline]
fn wake_watchers(word: &AtomicU32, before: Word) {
    if before.owes_a_wake_when_cleared() && !before.is_held() {
        shared::wake_all(word);
    }
}

/// Ends a hold: the caller has found no lock of a holder.
pub(crate) fn end_hold(word: &AtomicU32) {
    let mut seen = word.load(Acquire);
    loop {
        let now = Word::from_bits(seen);
        if now.is_gone() || !now.is_held() {
            return;
        }
        match word.compare_exchange_weak(seen, now.released_by_holder().bits(), AcqRel, Acquire) {
            Ok(_) => return shared::wake_all(word),
            Err(other) => seen = other,
        }
    }
}

/// Marks the event as gone and wakes all sleepers.
pub(crate) fn remove(word: &AtomicU32) {
    shared::raise_and_wake_all(word, Word::RAISE_GONE);
}

/// Announces a sleeper in the word, and returns the new word; `None` if the word is no longer `now`. A process that may
/// only read changes nothing.
pub(crate) fn announce_sleep(word: &AtomicU32, now: Word, is_writable: bool) -> Option<Word> {
    if !is_writable {
        return Some(now);
    }
    let asleep = now.with_sleeper();
    let told = now == asleep || word.compare_exchange(now.bits(), asleep.bits(), AcqRel, Acquire).is_ok();
    told.then_some(asleep)
}

/// Sleeps until the word is no longer `now`, or for at most `nap`. May return early.
pub(crate) fn sleep(word: &AtomicU32, now: Word, is_writable: bool, nap: Option<Duration>) -> Awake {
    match announce_sleep(word, now, is_writable) {
        Some(asleep) => shared::wait(word, asleep.bits(), nap),
        None => Awake::Early,
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    fn look(word: &AtomicU32) -> Word {
        Word::from_bits(word.load(Acquire))
    }

    /// Waits as a thread does. Whether it was released, and the event not gone.
    fn wait(word: &AtomicU32, is_writable: bool) -> bool {
        let generation = look(word).generation();
        loop {
            let now = look(word);
            if now.releases(generation) {
                return true;
            }
            if now.is_gone() {
                return false;
            }
            let _ = sleep(word, now, is_writable, None);
        }
    }

    /// Watches until the first pulse is over. (The counter starts at zero.)
    fn watches(word: &AtomicU32) {
        loop {
            let now = look(word);
            if now.counter() >= 2 {
                return;
            }
            let _ = sleep(word, now, true, None);
        }
    }

    fn model(bits: u32, participants: &'static [fn(&AtomicU32)]) {
        let mut builder = loom::model::Builder::new();
        if participants.len() > 2 {
            builder.preemption_bound = Some(3);
        }
        builder.check(move || {
            let word = Arc::new(AtomicU32::new(bits));
            let (last, others) = participants.split_last().unwrap();
            let others: Vec<_> = others
                .iter()
                .map(|&participant| {
                    let word = Arc::clone(&word);
                    thread::spawn(move || participant(&word))
                })
                .collect();
            last(&word);
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }

    const NEW: u32 = 0;
    /// A word that some processes may only read.
    const READ: u32 = 0b0100;

    fn waits(word: &AtomicU32) {
        assert!(wait(word, true));
    }

    fn sets(word: &AtomicU32) {
        set(word, |_| {}, || {}).unwrap();
    }

    fn pulses(word: &AtomicU32) {
        sets(word);
        clear(word).unwrap();
    }

    fn pulses_then_sets(word: &AtomicU32) {
        pulses(word);
        sets(word);
    }

    #[test]
    fn loom_no_waiter_sleeps_on_a_set_event() {
        model(NEW, &[waits, sets]);
        model(NEW, &[waits, waits, sets]);
        model(NEW, &[waits, sets, sets]);
    }

    #[test]
    fn loom_no_waiter_sleeps_through_a_pulse_that_is_followed_by_a_set() {
        model(NEW, &[waits, pulses_then_sets]);
        model(NEW, &[waits, waits, pulses_then_sets]);
    }

    fn pulses_at_once(word: &AtomicU32) {
        pulse(word, |_| {}, || {}).unwrap();
    }

    fn pulses_at_once_then_sets(word: &AtomicU32) {
        pulses_at_once(word);
        sets(word);
    }

    /// A pulse or set releases a wait of its own thread that began before.
    fn is_released_by(word: &AtomicU32, signal: fn(&AtomicU32)) {
        let generation = look(word).generation();
        signal(word);
        assert!(look(word).releases(generation));
    }

    #[test]
    fn loom_a_pulse_at_once_is_a_set_and_a_clear() {
        model(NEW, &[waits, pulses_at_once_then_sets]);
        model(NEW, &[waits, waits, pulses_at_once_then_sets]);
        model(NEW, &[watches, pulses_at_once]);
        model(READ, &[|word| assert!(wait(word, false)), pulses_at_once_then_sets]);
    }

    #[test]
    fn loom_a_pulse_at_once_and_a_set_do_not_undo_each_other() {
        const SLEEPERS: u32 = 0b0001;
        for bits in [NEW, SLEEPERS, READ] {
            model(bits, &[|word| is_released_by(word, pulses_at_once), |word| is_released_by(word, sets)]);
            model(bits, &[|word| is_released_by(word, pulses_at_once), pulses_at_once, sets]);
        }
    }

    #[test]
    fn loom_the_end_of_a_hold_wakes_watchers() {
        const HELD: u32 = 0b1_0000;
        model(HELD, &[watches, end_hold]);
        model(HELD, &[watches, end_hold, end_hold]);
        model(HELD, &[waits, end_hold, sets]);
    }

    #[test]
    fn loom_sleepers_that_may_only_read_are_woken_too() {
        model(READ, &[|word| assert!(wait(word, false)), pulses_then_sets]);
        model(READ, &[|word| assert!(wait(word, false)), waits, sets]);
    }

    #[test]
    fn loom_a_clear_wakes_watchers() {
        model(NEW, &[watches, pulses]);
        model(NEW, &[watches, waits, pulses_then_sets]);
    }

    /// Ends in any case.
    fn waits_for_anything(word: &AtomicU32) {
        wait(word, true);
    }

    fn sets_if_it_can(word: &AtomicU32) {
        let _ = set(word, |_| {}, || {});
    }

    #[test]
    fn loom_a_removal_wakes_all_sleepers() {
        model(NEW, &[waits_for_anything, remove]);
        model(NEW, &[waits_for_anything, sets_if_it_can, remove]);
        model(READ, &[|word| _ = wait(word, false), remove]);
    }
}

//! How the shared word is changed: set, clear, pulse, hold, remove, and going to sleep. There are
//! no files here. The models in `models.rs` run this in every interleaving.
//!
//! A process that is killed has either changed the word or not. A change that has sleepers to wake
//! does so in the same system call (see the table and invariants 1 and 2 of
//! [`word`](crate::protocol::word)). There are exceptions, whose sleepers are woken in a second
//! step: a `clear` with watchers, a `set` of an event that is set, the end of a hold, and every
//! change of a word whose holder was killed, while another process is about to end that hold. Those
//! sleepers also look at the word every second or two.
//!
//! If the word says that the event is held, a change asks whether it is (`is_held`): whether a
//! living process has the lock of a holder. If none has, asking ends the hold as well, but not if
//! another process is about to. That process may be stopped, so the change does not wait for it.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{AcqRel, Acquire, SeqCst};
use std::time::Duration;

use crate::protocol::word::{Sleeper, Word};
use crate::sync::{AtomicU32, fence, fence_in_models};
use crate::sys::{Awake, shared};

/// The event was removed, or its page lost. Contains its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone(pub(crate) Word);

/// What a process records of its `set`.
pub(crate) trait Recorder {
    /// Called before the flag is raised over this word.
    fn raising(&self, before: Word);
    /// Called after other processes have, or may have, raised the flag over the same word, or later
    /// ones, and recorded that at the same time.
    fn raced(&self, before: Word);
    /// Called before a `set` of an event that is set.
    fn repeating(&self, now: Word);
    /// Called after it.
    fn repeated(&self, now: Word);
}

/// Another process has changed the word over which a `set` was recorded.
pub(crate) struct LostRace {
    before: Word,
    /// What it has changed it to.
    found: Word,
}

/// Raises the flag if that is all there is to do: the event is unset, nobody has to be woken, and
/// no process holds it. `raising` is as [`Recorder::raising`]. If the flag was not raised, and
/// nothing was recorded, the error is `None`.
///
/// Apart from [`set`], because a function without calls saves no registers.
#[inline]
pub(crate) fn set_at_once(word: &AtomicU32, raising: impl FnOnce(Word)) -> Result<(), Option<LostRace>> {
    let before = Word::from_bits(word.load(Acquire));
    if !before.is_plainly_unset_without_sleepers() {
        return Err(None);
    }
    raising(before);
    match word.compare_exchange(before.bits(), before.set().bits(), AcqRel, Acquire) {
        Ok(_) => Ok(()),
        Err(found) => Err(Some(LostRace { before, found: Word::from_bits(found) })),
    }
}

/// Raises the flag and wakes all sleepers. A `set` that does not change the counter is counted in
/// `repeats`. `lost` is what became of [`set_at_once`].
pub(crate) fn set(
    word: &AtomicU32,
    repeats: &AtomicU32,
    lost: Option<LostRace>,
    recorder: &impl Recorder,
    is_held: impl Fn() -> bool,
) -> Result<(), Gone> {
    let seen = match lost {
        None => word.load(Acquire),
        // Not a later word: what follows has to notice if it changes while this looks.
        Some(LostRace { before, found }) => {
            recorder.raced(before);
            found.bits()
        }
    };
    change(word, seen, recorder, is_held, Word::set, |now| {
        if now.is_set() {
            recorder.repeating(now);
        } else {
            recorder.raising(now);
            if now.owes_a_wake_when_set() {
                // Another process may have set it first. Then this is not counted: see invariant 4
                // of the word.
                shared::raise_and_wake_all(word, Word::RAISE_SET);
                recorder.raced(now);
                return Ok(());
            }
        }
        // A set word is stored again, so that whoever observes it sees all that happened before
        // this call.
        word.compare_exchange_weak(now.bits(), now.set().bits(), AcqRel, Acquire)?;
        if now.is_set() {
            count_repeat(word, repeats);
            recorder.repeated(now);
        }
        Ok(())
    })
}

/// Makes attempts until one has changed the word, which was `seen`. An attempt is given the word to
/// change, and returns the word that it found instead if it fails. `over_unset` is the change of a
/// word whose holder was killed: see [`change_outlived`].
fn change(
    word: &AtomicU32,
    mut seen: u32,
    recorder: &impl Recorder,
    is_held: impl Fn() -> bool,
    over_unset: impl Fn(Word) -> Word,
    attempt: impl Fn(Word) -> Result<(), u32>,
) -> Result<(), Gone> {
    loop {
        let now = Word::from_bits(seen);
        if now.is_gone() {
            return Err(Gone(now));
        }
        if now.is_held() {
            match change_outlived(word, now, &over_unset, recorder, &is_held) {
                Outlived::Changed => return Ok(()),
                Outlived::Other(other) => {
                    seen = other;
                    continue;
                }
                Outlived::No => {}
            }
        }
        match attempt(now) {
            Ok(()) => return Ok(()),
            Err(other) => {
                seen = other;
                lost_race(recorder, now);
            }
        }
    }
}

/// The change of a word has failed, because another process has changed it. Over a set word nothing
/// was recorded, but perhaps over an unset one before.
#[cold]
fn lost_race(recorder: &impl Recorder, before: Word) {
    recorder.raced(before);
}

/// What has become of the change of a held word.
enum Outlived {
    /// A process holds the event, or it is set beside the hold: it is to be changed as usual.
    No,
    Changed,
    /// The word is another one by now.
    Other(u32),
}

/// Changes a word whose holder was killed, and which still says that it is held: as an unset one.
/// `change` is what to do with the word in which that hold counts as ended.
///
/// A hold that begins meanwhile changes the word too ([`begin_hold`]), so this does not count as a
/// change of a held event.
#[cold]
fn change_outlived(
    word: &AtomicU32,
    now: Word,
    change: impl Fn(Word) -> Word,
    recorder: &impl Recorder,
    is_held: &impl Fn() -> bool,
) -> Outlived {
    if is_held() {
        return Outlived::No;
    }
    let seen = word.load(Acquire);
    if seen != now.bits() {
        return Outlived::Other(seen);
    }
    if !now.depends_on_a_holder() {
        return Outlived::No;
    }
    let unset = now.released_by_holder();
    recorder.raising(unset);
    match word.compare_exchange(seen, change(now.outlived()).bits(), AcqRel, Acquire) {
        Ok(_) => {
            shared::wake_all(word);
            Outlived::Changed
        }
        Err(other) => {
            lost_race(recorder, unset);
            Outlived::Other(other)
        }
    }
}

/// Counts a `set` that did not change the counter, and wakes those who wait for it.
///
/// They announce themselves in the word, and then fall asleep if `repeats` has not changed. This
/// does it in the opposite order, and all four steps are sequentially consistent. So either they
/// find this `set`, or it finds them. They sleep on both words, because the flags of a word that
/// was changed may be the same again.
#[inline]
fn count_repeat(word: &AtomicU32, repeats: &AtomicU32) {
    repeats.fetch_add(1, SeqCst);
    fence_in_models();
    let now = Word::from_bits(word.load(SeqCst));
    if now.has_sleepers() && !now.is_gone() {
        // If the event was cleared in between, they are others, who announce themselves again.
        shared::lower_and_wake_all(word, Word::LOWER_SLEEPERS);
        shared::wake_all(repeats);
    }
}

/// Lowers the flag if that is all there is to do, and returns whether the event is unset now. Apart
/// from [`clear`] for the same reason as [`set_at_once`].
#[inline]
pub(crate) fn clear_at_once(word: &AtomicU32) -> bool {
    let now = Word::from_bits(word.load(Acquire));
    if !now.is_plainly_set() || now.owes_a_wake_when_cleared() {
        return now.is_plain() && !now.is_set();
    }
    word.compare_exchange(now.bits(), now.cleared().bits(), AcqRel, Acquire).is_ok()
}

/// Lowers the flag, and wakes watchers.
pub(crate) fn clear(word: &AtomicU32, is_held: impl Fn() -> bool) -> Result<(), Gone> {
    let mut seen = word.load(Acquire);
    loop {
        let now = Word::from_bits(seen);
        if now.is_gone() {
            return Err(Gone(now));
        }
        if !now.is_set() {
            return Ok(());
        }
        if now.is_held() && !is_held() {
            let other = word.load(Acquire);
            if other != seen {
                seen = other;
                continue;
            }
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
pub(crate) fn pulse(
    word: &AtomicU32,
    repeats: &AtomicU32,
    recorder: &impl Recorder,
    is_held: impl Fn() -> bool,
) -> Result<(), Gone> {
    // To count the end of the hold of a killed process advances the counter like a `set` and a
    // `clear`.
    let over_unset = |unset| unset;
    change(word, word.load(Acquire), recorder, is_held, over_unset, |now| {
        if now.is_set() {
            recorder.repeating(now);
        } else {
            recorder.raising(now);
            if now.owes_a_wake_when_set() {
                // If it is set in between, it stays set, as if the pulse came first.
                shared::add_and_wake_all(word, Word::ADD_PULSE);
                recorder.raced(now);
                return Ok(());
            }
        }
        let next = if now.is_set() { now.cleared() } else { now.pulsed() };
        word.compare_exchange_weak(now.bits(), next.bits(), AcqRel, Acquire)?;
        if now.is_set() {
            count_repeat(word, repeats);
            wake_watchers(word, now);
            recorder.repeated(now);
        }
        Ok(())
    })
}

/// `before` was changed to a word that is not set.
#[inline]
fn wake_watchers(word: &AtomicU32, before: Word) {
    if before.owes_a_wake_when_cleared() && !before.is_held() {
        shared::wake_all(word);
    }
}

/// Begins a hold. The caller has the lock of a holder; `is_held` tells whether others have one.
pub(crate) fn begin_hold(
    word: &AtomicU32,
    repeats: &AtomicU32,
    recorder: &impl Recorder,
    is_held: impl Fn() -> bool,
) -> Result<(), Gone> {
    change(word, word.load(Acquire), recorder, is_held, Word::held, |now| {
        if !now.is_set() {
            recorder.raising(now);
        }
        word.compare_exchange_weak(now.bits(), now.held().bits(), AcqRel, Acquire)?;
        if now.is_set() {
            count_repeat(word, repeats);
        }
        // A process that is killed before this does not hold the event any more.
        shared::wake_all(word);
        Ok(())
    })
}

/// How often to try to end a hold that changes all the time.
const TRIES: u32 = 8;

/// Ends a hold, unless `is_held` finds the lock of another holder. The caller has the lock
/// `ENDING`, so that no other process turns WATCHED off meanwhile.
pub(crate) fn end_hold(word: &AtomicU32, is_held: impl Fn() -> bool) {
    for _ in 0..TRIES {
        let now = Word::from_bits(word.load(Acquire));
        if now.is_gone() || !now.is_held() {
            return;
        }
        if now.owes_a_wake_when_cleared() {
            shared::lower_and_wake_all(word, Word::LOWER_WATCHED);
            continue;
        }
        // A hold that begins from here on turns WATCHED on again.
        if is_held() {
            return;
        }
        let ended = now.released_by_holder().bits();
        if word.compare_exchange(now.bits(), ended, AcqRel, Acquire).is_ok() {
            return shared::wake_all(word);
        }
    }
}

/// Marks the event as gone and wakes all sleepers.
pub(crate) fn remove(word: &AtomicU32) {
    shared::raise_and_wake_all(word, Word::RAISE_GONE);
}

/// Announces a sleeper in the word, and returns the new word; `None` if the word is no longer
/// `now`. A process that may only read (no `sleeper`) changes nothing.
pub(crate) fn announce_sleep(word: &AtomicU32, now: Word, sleeper: Option<Sleeper>) -> Option<Word> {
    let Some(sleeper) = sleeper else { return Some(now) };
    let asleep = now.with_sleeper(sleeper);
    let told = now == asleep || word.compare_exchange(now.bits(), asleep.bits(), AcqRel, Acquire).is_ok();
    told.then_some(asleep)
}

/// Sleeps until the word is no longer `now`, or for at most `nap`. May return early.
pub(crate) fn sleep(word: &AtomicU32, now: Word, sleeper: Option<Sleeper>, nap: Option<Duration>) -> Awake {
    match announce_sleep(word, now, sleeper) {
        Some(asleep) => shared::wait(word, asleep.bits(), nap),
        None => Awake::Early,
    }
}

/// Sleeps until the word is no longer `now` or `repeats` is no longer `before`, or for at most
/// `nap`. May return early.
pub(crate) fn sleep_until_next(
    word: &AtomicU32,
    repeats: &AtomicU32,
    (now, before): (Word, u32),
    sleeper: Option<Sleeper>,
    nap: Duration,
) -> Awake {
    let Some(asleep) = announce_sleep(word, now, sleeper) else { return Awake::Early };
    // Between the announcement and the look at `repeats`: see `count_repeat`. (A `pulse` of a set
    // event counts after it has cleared the event, so this concerns those who find it unset too.)
    fence(SeqCst);
    shared::wait_two((word, asleep.bits()), (repeats, before), nap)
}

/// What a process does, for the models: first the short way, then the long one.
#[cfg(loom)]
pub(crate) mod as_processes_do {
    use super::*;

    pub(crate) fn set(
        word: &AtomicU32,
        repeats: &AtomicU32,
        recorder: &impl Recorder,
        is_held: impl Fn() -> bool,
    ) -> Result<(), Gone> {
        match set_at_once(word, |before| recorder.raising(before)) {
            Ok(()) => Ok(()),
            Err(lost) => super::set(word, repeats, lost, recorder, is_held),
        }
    }

    pub(crate) fn clear(word: &AtomicU32, is_held: impl Fn() -> bool) -> Result<(), Gone> {
        if clear_at_once(word) { Ok(()) } else { super::clear(word, is_held) }
    }
}

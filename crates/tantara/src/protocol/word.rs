//! The state word of the shared page: its transitions, as pure functions. The system calls on it
//! are in [`sys::shared`](crate::sys).
//!
//! ```text
//!   31                              5     4       3        2         1         0
//!  ┌─────────────────────────────────┬──────┬────────┬─────────┬─────────┬──────────┐
//!  │ counter: even unset, odd set    │ HELD │  GONE  │ READERS │ WATCHED │ SLEEPERS │
//!  └─────────────────────────────────┴──────┴────────┴─────────┴─────────┴──────────┘
//! ```
//!
//! * **counter**: setting makes it odd by an OR, so that the kernel can do it in the same system
//!   call that wakes the sleepers. Clearing makes it even again by adding one. A waiter remembers
//!   the even number that it saw, its [`Generation`], and is released as soon as the counter
//!   differs from it.
//! * **SLEEPERS**: waiters may sleep until it is set, or, while it is set, until it is set again. A
//!   `set` that finds it off needs no system call.
//! * **WATCHED**: watchers may sleep until it is cleared. On a held word it also says that a hold
//!   may have begun since a process last looked for the locks of holders: see below.
//! * **READERS**: there may be sleepers that cannot turn SLEEPERS on, because they may only read.
//!   Every `set` wakes.
//! * **GONE**: the event was removed. The word does not change any more.
//! * **HELD**: a process holds the event, so it is set whatever the counter is. With an even
//!   counter, a word with HELD counts as the word with the next odd counter, for every waiter and
//!   watcher. The holder has a *write* lock on one byte of
//!   [`HOLDS`](crate::protocol::layout::HOLDS), through an open file description of its own, which
//!   ends with the process. HELD without such a lock is left by a killed holder: every process that
//!   finds it counts the hold as ended, and turns HELD off if it may, also before it changes the
//!   word. The end of a hold advances an even counter to the next even number, like a `set` and a
//!   `clear`, so that waits that began during the hold are released.
//!
//! | before | `set` | `clear` | asleep until set | asleep until cleared |
//! |---|---|---|---|---|
//! | unset | odd; if SLEEPERS or READERS, in one system call with the wake-up | unchanged | SLEEPERS on | never |
//! | set | unchanged, and counted | next even number, flags off; wakes if WATCHED was on | never | WATCHED on |
//! | held | odd, and counted | even again, by switching the lowest bit off | never | WATCHED on |
//!
//! A wait for the next `set` turns both flags on while the event is set. A `set` that is counted
//! turns SLEEPERS off and wakes them, and a `clear` turns both off.
//!
//! A hold begins with the lock; then HELD and WATCHED are turned on in one step. It ends in three
//! steps: WATCHED is turned off, no other lock is found, and HELD is turned off if WATCHED is still
//! off. Only one process at a time ends a hold (it has the lock
//! [`ENDING`](crate::protocol::layout::ENDING)), and nothing else turns WATCHED off on a held word.
//! So a hold that begins while another one is ended is never ended with it.
//!
//! The process that ends a hold may be stopped half-way. Until it goes on, HELD stays on, and nobody
//! can turn it off. A `set`, a `pulse` or a hold that finds no other holder then adds two to the even
//! counter, as the end of the hold would have done. Without that, a pulse would leave the word as it
//! is, and release nobody.
//!
//! A `pulse` of an unset word adds two to the counter: in one step, or in one call with the
//! wake-up, if SLEEPERS or READERS are on.
//!
//! Invariants:
//!
//! 1. No waiter sleeps on a set event: the kernel compares the word before a thread falls asleep,
//!    and the one system call that sets over SLEEPERS wakes all sleepers.
//! 2. So a `set` that finds SLEEPERS and READERS off, and changes the word that it found, has no
//!    waiter to wake, and its process may be killed right after it.
//! 3. The counter, as waiters see it, never goes back. It wraps after 2^26 sets. A waiter would be
//!    misled only if the event were set exactly that often (or a multiple) while the waiter does
//!    not run.
//! 4. Every `set` changes the counter or is counted in the page's `repeats`, but not both, so that
//!    it releases a thread that waits for one `set` after the other only once. (A `set` that finds
//!    the event unset, and set by another process when it raises the flag, counts as one that came
//!    at the same time as the other.)
//! 5. A `clear` of an event that is not held, and the end of a hold without a `set`, advance the
//!    counter. So a wait until it is unset, which began with an odd counter, compares that alone.
//!    (A `pulse` that finds the event unset, and set by another process when it adds to the
//!    counter, leaves it set and advances the counter all the same.)

#![forbid(unsafe_code)]

const SLEEPERS: u32 = 0b0_0001;
const WATCHED: u32 = 0b0_0010;
const READERS: u32 = 0b0_0100;
const GONE: u32 = 0b0_1000;
const HELD: u32 = 0b1_0000;
/// The lowest bit of the counter.
const SET: u32 = 0b10_0000;
const FLAGS: u32 = SET - 1;

/// One value of the state word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(u32);

/// What a sleeper has to be woken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sleeper {
    /// It is unset, and is set.
    Set,
    /// It is set, and is cleared.
    Clear,
    /// It is set, and is cleared or set again.
    Either,
}

/// The generation in which a wait began: the even counter that it saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Generation(u32);

impl Word {
    /// The word of a page whose file was truncated: not set, gone, and different from every other
    /// word.
    pub(crate) const LOST: Word = Word(!(SET | HELD));
    /// Sets, by `or`.
    pub(crate) const RAISE_SET: u32 = SET;
    /// Sets and clears an unset word, by addition.
    pub(crate) const ADD_PULSE: u32 = 2 * SET;
    /// Says that some processes may only read, by `or`.
    pub(crate) const ADMIT_READERS: u32 = READERS;
    /// Removes, by `or`.
    pub(crate) const RAISE_GONE: u32 = GONE;
    /// Forgets the sleepers, who are woken in the same step, by `and not`.
    pub(crate) const LOWER_SLEEPERS: u32 = SLEEPERS;
    /// Forgets the watchers, who are woken in the same step, by `and not`.
    pub(crate) const LOWER_WATCHED: u32 = WATCHED;

    pub(crate) const fn new(has_readers: bool) -> Word {
        Word(if has_readers { READERS } else { 0 })
    }

    #[inline]
    pub(crate) const fn from_bits(bits: u32) -> Word {
        Word(bits)
    }

    #[inline]
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// Whether it is neither held nor gone: then the word alone tells whether it is set.
    #[inline]
    pub(crate) const fn is_plain(self) -> bool {
        self.0 & (HELD | GONE) == 0
    }

    /// Whether it is set, and neither held nor gone.
    #[inline]
    pub(crate) const fn is_plainly_set(self) -> bool {
        self.0 & (SET | HELD | GONE) == SET
    }

    /// Whether a `set` only has to change it: it is unset, neither held nor gone, and nobody sleeps
    /// who would have to be woken.
    #[inline]
    pub(crate) const fn is_plainly_unset_without_sleepers(self) -> bool {
        self.0 & (SET | HELD | GONE | SLEEPERS | READERS) == 0
    }

    /// Whether it is set, or held.
    #[inline]
    pub(crate) const fn is_set(self) -> bool {
        self.0 & (SET | HELD) != 0
    }

    /// Whether a process holds it, or was killed while it held it.
    #[inline]
    pub(crate) const fn is_held(self) -> bool {
        self.0 & HELD != 0
    }

    /// Whether it is set only if a process holds it.
    #[inline]
    pub(crate) const fn depends_on_a_holder(self) -> bool {
        self.0 & (SET | HELD | GONE) == HELD
    }

    /// Removed, or lost.
    #[inline]
    pub(crate) const fn is_gone(self) -> bool {
        self.0 & GONE != 0
    }

    pub(crate) const fn gone(self) -> Word {
        Word(self.0 | GONE)
    }

    #[inline]
    pub(crate) const fn is_lost(self) -> bool {
        self.0 == Word::LOST.0
    }

    #[inline]
    pub(crate) const fn has_readers(self) -> bool {
        self.0 & READERS != 0
    }

    /// Whether anybody may sleep: whoever may only read found READERS on, and everybody else has
    /// turned a flag on. The flag of a held word may be off for a moment.
    pub(crate) const fn may_have_waiters(self) -> bool {
        self.0 & (SLEEPERS | WATCHED | READERS | HELD) != 0
    }

    /// Whether sleepers may wait until it is set.
    #[inline]
    pub(crate) const fn has_sleepers(self) -> bool {
        self.0 & SLEEPERS != 0
    }

    /// Whether the `set` that finds this word has to wake.
    #[inline]
    pub(crate) const fn owes_a_wake_when_set(self) -> bool {
        self.0 & (SLEEPERS | READERS) != 0
    }

    /// Whether the `clear` that finds this word has to wake.
    #[inline]
    pub(crate) const fn owes_a_wake_when_cleared(self) -> bool {
        self.0 & WATCHED != 0
    }

    #[inline]
    pub(crate) const fn set(self) -> Word {
        Word(self.0 | SET)
    }

    /// The word with the flag lowered. It must be set or held; a held word stays set.
    #[inline]
    pub(crate) const fn cleared(self) -> Word {
        if self.is_held() { Word(self.0 & !SET) } else { Word(self.0.wrapping_add(SET) & !(SLEEPERS | WATCHED)) }
    }

    /// The word after the flag was raised and lowered. It must be unset.
    #[inline]
    pub(crate) const fn pulsed(self) -> Word {
        Word(self.0.wrapping_add(Word::ADD_PULSE))
    }

    /// The word after the beginning of a hold.
    pub(crate) const fn held(self) -> Word {
        Word(self.0 | HELD | WATCHED)
    }

    /// The word after the end of a hold. It must be held.
    pub(crate) const fn released_by_holder(self) -> Word {
        let without = Word(self.0 & !HELD);
        if without.is_set() { without } else { Word(without.pulsed().0 & !(SLEEPERS | WATCHED)) }
    }

    /// The word after the end of a hold whose HELD another process has yet to turn off. It must
    /// depend on a holder. It counts as unset, and as different from the word before.
    pub(crate) const fn outlived(self) -> Word {
        Word(self.0.wrapping_add(Word::ADD_PULSE))
    }

    /// The word that announces a sleeper.
    #[inline]
    pub(crate) const fn with_sleeper(self, sleeper: Sleeper) -> Word {
        let flags = match sleeper {
            Sleeper::Set => SLEEPERS,
            Sleeper::Clear => WATCHED,
            Sleeper::Either => SLEEPERS | WATCHED,
        };
        Word(self.0 | flags)
    }

    /// The word with the flag raised if it is held.
    #[inline]
    const fn effective(self) -> u32 {
        self.0 | if self.is_held() { SET } else { 0 }
    }

    /// How often it was set and cleared: twice the number of generations, plus one while it is set
    /// or held.
    #[inline]
    pub(crate) const fn counter(self) -> u32 {
        self.effective() >> SET.trailing_zeros()
    }

    /// The counter after the last `set` or hold, if there was one.
    pub(crate) const fn last_raised(self) -> Option<u32> {
        match self.counter() {
            0 => None,
            counter if self.is_set() => Some(counter),
            counter => Some(counter - 1),
        }
    }

    /// How often it was set since the word was `earlier`, modulo 2^26.
    pub(crate) fn sets_since(self, earlier: Word) -> u32 {
        self.sets_since_counter(earlier.counter())
    }

    /// How often it was set since it had this counter, modulo 2^26.
    pub(crate) fn sets_since_counter(self, earlier: u32) -> u32 {
        let generation = |counter: u32| counter.div_ceil(2);
        generation(self.counter()).wrapping_sub(generation(earlier)) & (u32::MAX >> (SET.trailing_zeros() + 1))
    }

    /// How often it was set so far, and after another `set`, modulo 2^26: a `set` of a set event counts
    /// as the one before.
    pub(crate) fn sets_until_now_and_next(self) -> (u32, u32) {
        let sets = self.sets_since_counter(0);
        (sets, if self.is_set() { sets } else { sets.wrapping_add(1) & (u32::MAX >> (SET.trailing_zeros() + 1)) })
    }

    /// The generation of a wait that begins now. On a set event it is released already.
    #[cfg(test)]
    pub(crate) const fn generation(self) -> Generation {
        Generation(self.0 & !FLAGS & !SET)
    }

    /// Whether a wait of this generation is released: the event is set, or was set since the wait
    /// began.
    #[inline]
    pub(crate) const fn releases(self, generation: Generation) -> bool {
        self.effective() & !FLAGS != generation.0 && !self.is_lost()
    }
}

impl Generation {
    /// The generation of a wait that began with this counter.
    #[inline]
    pub(crate) const fn of_counter(counter: u32) -> Generation {
        Generation(counter << SET.trailing_zeros() & !SET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind_of_word() -> impl Iterator<Item = Word> {
        let last = u32::MAX / SET;
        let counters = (0..=65).chain(last / 2 - 65..=last / 2 + 65).chain(last - 65..=last);
        counters.flat_map(|counter| (0..SET).map(move |flags| Word(counter * SET + flags)))
    }

    #[test]
    fn set_is_one_or_and_idempotent() {
        for word in every_kind_of_word() {
            assert_eq!(word.set().bits(), word.bits() | Word::RAISE_SET);
            assert!(word.set().is_set());
            assert_eq!(word.set().set(), word.set());
        }
    }

    #[test]
    fn clear_makes_the_next_even_number_and_turns_off_the_flags_of_sleepers() {
        for word in every_kind_of_word().filter(|word| word.is_set() && !word.is_held()) {
            let cleared = word.cleared();
            assert!(!cleared.is_set());
            assert_eq!(cleared.counter(), (word.counter() + 1) & (u32::MAX / SET));
            assert_eq!(cleared.bits() & (SLEEPERS | WATCHED), 0);
            assert_eq!(cleared.bits() & (READERS | GONE), word.bits() & (READERS | GONE));
        }
    }

    #[test]
    fn a_pulse_is_a_set_and_a_clear() {
        for word in every_kind_of_word().filter(|word| !word.is_set()) {
            let [pulsed, one_by_one] = [word.pulsed(), word.set().cleared()];
            assert_eq!(pulsed.counter(), one_by_one.counter());
            assert_eq!(pulsed.sets_since(word), 1);
            assert_eq!(pulsed.bits() & FLAGS, word.bits() & FLAGS, "an addition does not change the flags");
        }
    }

    #[test]
    fn a_generation_is_released_by_level_and_by_pulse_and_by_nothing_else() {
        for word in every_kind_of_word().filter(|word| !word.is_lost()) {
            let generation = word.generation();
            assert_eq!(generation, Generation::of_counter(word.counter()));
            assert_eq!(word.releases(generation), word.is_set(), "level");
            for flag in [SLEEPERS, WATCHED, READERS] {
                let other = Word(word.bits() ^ flag);
                assert!(other.is_lost() || other.releases(generation) == word.is_set(), "flags say nothing");
            }
            assert!(word.set().cleared().releases(generation), "pulse");
            if !word.is_set() {
                for pulsed in [word.set().cleared(), word.pulsed()].into_iter().filter(|pulsed| !pulsed.is_lost()) {
                    assert!(
                        pulsed.releases(generation) && !pulsed.releases(pulsed.generation()),
                        "new waits wait for the next"
                    );
                }
            }
        }
    }

    fn every_held_word() -> impl Iterator<Item = Word> {
        every_kind_of_word().filter(|word| word.is_held())
    }

    #[test]
    fn a_held_event_is_set_whatever_is_set_or_cleared() {
        for word in every_held_word() {
            let again = word.with_sleeper(Sleeper::Either);
            let both = [word.set().cleared(), word.cleared().set()];
            for changed in [word.set(), word.cleared(), word.held(), again].into_iter().chain(both) {
                assert!(changed.is_set() && changed.is_held());
                assert_eq!(changed.counter(), word.counter(), "the counter does not change");
                assert!(changed.releases(word.generation()) && changed.releases(changed.generation()));
                assert_eq!(changed.sets_since(word), 0);
                assert_eq!(changed.last_raised(), word.last_raised());
            }
            assert_eq!(word.held().cleared().bits() & WATCHED, WATCHED, "only the end of a hold turns it off");
            assert_eq!(word.gone().counter(), word.counter());
        }
    }

    #[test]
    fn a_hold_releases_earlier_waits_even_after_its_end() {
        for word in every_kind_of_word().filter(|word| !word.is_held() && !word.is_lost()) {
            let held = word.held();
            assert_eq!((held.is_set(), held.depends_on_a_holder()), (true, !word.is_set() && !word.is_gone()));
            let ended = held.released_by_holder();
            assert!(held.releases(word.generation()) && ended.releases(word.generation()));
            assert_eq!(held.sets_since(word), u32::from(!word.is_set()), "it counts as a set");
            assert_eq!(ended.sets_since(word), held.sets_since(word));
            assert!(ended.counter() == 0 || ended.last_raised() == held.last_raised());
            assert_eq!(ended.is_set(), word.is_set(), "it is set afterwards if it was before");
            assert!(word.is_set() || !ended.releases(ended.generation()), "new waits wait");
            assert_eq!(ended.bits() & (READERS | GONE), word.bits() & (READERS | GONE));
            assert!(held.set().released_by_holder().is_set(), "it was set meanwhile");
            assert!(!held.cleared().released_by_holder().is_set(), "it was cleared meanwhile");
        }
    }

    /// What a process sees that finds no lock of a holder.
    fn seen(word: Word) -> Word {
        if word.depends_on_a_holder() { word.released_by_holder() } else { word }
    }

    #[test]
    fn a_change_after_a_killed_holder_releases_waits_although_held_stays_on() {
        for word in every_held_word().filter(|word| word.depends_on_a_holder()) {
            let before = seen(word);
            let [pulsed, set, held] = [word.outlived(), word.outlived().set(), word.outlived().held()];
            for after in [seen(pulsed), set, held, seen(set.cleared()), seen(held), seen(set).cleared()] {
                assert!(after.is_lost() || after.releases(before.generation()));
                assert_eq!(after.sets_since(before), 1);
            }
            assert_eq!([seen(pulsed), set, held].map(Word::is_set), [false, true, true]);
            assert_eq!(set.last_raised(), Some(before.set().counter()), "what is recorded");
            for after in [pulsed, set] {
                assert_eq!(after.bits() & FLAGS, word.bits() & FLAGS, "whoever ends the hold goes on");
            }
        }
    }

    #[test]
    fn a_lost_page_releases_no_waiter() {
        assert!(Word::LOST.is_gone() && Word::LOST.is_lost() && !Word::LOST.is_set());
        for word in every_kind_of_word() {
            assert!(!Word::LOST.releases(word.generation()));
        }
        assert!(!Word(u32::MAX).is_lost(), "it differs from the value that the kernel compares with");
    }

    #[test]
    fn sets_are_counted_across_every_boundary() {
        for word in every_kind_of_word() {
            let (mut now, mut sets) = (word, 0);
            for _ in 0..5 {
                sets += u32::from(!now.is_set());
                now = now.set();
                assert_eq!(now.sets_since(word), sets);
                now = now.cleared();
                assert_eq!(now.sets_since(word), sets);
            }
        }
    }
}

//! The state word of an [`Event`](crate::Event): its layout and its transitions, as pure functions
//! without atomics.
//!
//! ```text
//!   31                                    3    2     1      0
//!  ┌───────────────────────────────────────┬─────┬───────┬───────┐
//!  │ generation: how often it has been set │ SET │ TASKS │THREADS│
//!  └───────────────────────────────────────┴─────┴───────┴───────┘
//! ```
//!
//! * **generation** grows by one whenever the flag is raised. A waiter remembers the [`Generation`]
//!   in which it began, and is released as soon as the word's generation *differs*. So level ("it
//!   is set") and pulse ("it was set since") are one comparison, and the flag is never read again
//!   after a wake-up. A wait that begins on a set event gets the generation before, which is
//!   released already.
//! * **SET**: the flag. `clear` turns this bit off, whatever the other bits are.
//! * **THREADS**, while the event is unset: threads may sleep on this word, so a `set` must wake
//!   them. While it is set: all threads that the last `set` released are awake, so none of them has
//!   to wake others. A `clear` leaves it on, and the next `set` makes a wake-up call in vain.
//! * **TASKS**: the queue may hold waiters, so a `set` must drain it.
//!
//! | before | `set` | `clear` | a thread goes to sleep | a task is queued | the last thread is awake |
//! |---|---|---|---|---|---|
//! | unset | SET, next generation, THREADS off; wakes by the bits | unchanged | THREADS on | TASKS on | unchanged |
//! | set | unchanged | SET off | never: it is released | never: it is released | THREADS on |
//!
//! # Groups
//!
//! Threads sleep in [groups](Generation::group), which generations use in turn. A wake-up call
//! reaches one group, so threads that began to wait after a `set` do not consume the calls for the
//! threads that it released. Every 16th `set` wakes all threads of half of the groups: the half
//! that was last used eight generations ago. (`event.rs` says how the threads of a group wake one
//! another.)
//!
//! Invariants:
//!
//! 1. No thread goes to sleep on a set event.
//! 2. The generation never goes back. It wraps after 2^29 sets. A waiter would be misled only if
//!    the event were set exactly that often (or a multiple) during a single sleep of that waiter.
//! 3. Between two generations that use the same group, one `set` wakes all of the group.
//! 4. While the queue's lock is free and the queue is not empty, TASKS is on. It may be on while
//!    the queue is empty, because a waiter that leaves does not turn it off.

#![forbid(unsafe_code)]

use crate::sync::GROUPS;

const THREADS: u32 = 0b001;
const TASKS: u32 = 0b010;
/// The flag itself.
const SET: u32 = 0b100;
/// One generation.
const GENERATION: u32 = 0b1000;
/// All bits but the generation.
const BITS: u32 = GENERATION - 1;
/// The generations that use one half of the groups.
const HALF_OF_GROUPS: u32 = GENERATION * (GROUPS / 2);
/// The generation within a half whose `set` wakes the other half: in the middle, as far from the
/// last use of that half as from the next.
const OVERDUE: u32 = HALF_OF_GROUPS / 2 - GENERATION;

/// One value of the state word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(u32);

/// The generation in which a wait began, at its position in the word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Generation(u32);

impl Word {
    /// The word of a new event: unset, without waiters.
    pub(crate) const NEW: Word = Word(0);

    #[inline]
    pub(crate) const fn from_bits(bits: u32) -> Word {
        Word(bits)
    }

    #[inline]
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    #[inline]
    pub(crate) const fn is_set(self) -> bool {
        self.0 & SET != 0
    }

    /// Whether the `set` that found this word has waiters to wake.
    #[inline]
    pub(crate) const fn owes_a_wake(self) -> bool {
        !self.is_set() && self.0 & (THREADS | TASKS) != 0
    }

    /// Whether the `set` that found this word has [`overdue_groups`](Word::overdue_groups).
    #[inline]
    pub(crate) const fn has_overdue_groups(self) -> bool {
        self.0 & (SET | (HALF_OF_GROUPS - GENERATION)) == OVERDUE
    }

    /// Half of the groups, which the `set` that found this word wakes entirely, if it has any:
    /// those that were left some generations ago and will be used again as many generations later.
    #[inline]
    pub(crate) const fn overdue_groups(self) -> u32 {
        let lower = (1 << (GROUPS / 2)) - 1;
        if self.0 & HALF_OF_GROUPS == 0 { lower << (GROUPS / 2) } else { lower }
    }

    #[inline]
    pub(crate) const fn has_threads(self) -> bool {
        self.0 & THREADS != 0
    }

    #[inline]
    pub(crate) const fn has_tasks(self) -> bool {
        self.0 & TASKS != 0
    }

    /// The word with the flag raised. A thread that stores this over an unset word must wake the
    /// waiters that the bits of the old word announce.
    #[inline]
    pub(crate) const fn set(self) -> Word {
        if self.is_set() { self } else { Word((self.0.wrapping_add(GENERATION) | SET) & !THREADS) }
    }

    /// The word that says that all threads of the generation are awake. There is none if the event
    /// was cleared, or set again, since it was released.
    #[inline]
    pub(crate) const fn with_all_awake(self, generation: Generation) -> Option<Word> {
        if self.is_set() && self.generation().0 == generation.0 { Some(self.with_threads()) } else { None }
    }

    /// Lowers the flag, by `and`.
    pub(crate) const ALL_BUT_SET: u32 = !SET;

    /// Says that the queue may hold waiters, by `or`.
    pub(crate) const TASKS_BIT: u32 = TASKS;

    /// Says that the queue is empty, by `and`.
    pub(crate) const ALL_BUT_TASKS: u32 = !TASKS;

    #[inline]
    pub(crate) const fn with_threads(self) -> Word {
        Word(self.0 | THREADS)
    }

    #[inline]
    pub(crate) const fn with_tasks(self) -> Word {
        Word(self.0 | TASKS)
    }

    /// The generation of a wait that begins now. On a set event it is released already.
    #[inline]
    pub(crate) const fn generation(self) -> Generation {
        let generation = self.0 & !BITS;
        Generation(if self.is_set() { generation.wrapping_sub(GENERATION) } else { generation })
    }

    /// Whether a wait of this generation is released: the event is set, or was set since the wait
    /// began.
    #[inline]
    pub(crate) const fn releases(self, generation: Generation) -> bool {
        self.0 & !BITS != generation.0
    }
}

impl Generation {
    /// For a waiter of an event without generations.
    pub(crate) const NONE: Generation = Generation(0);

    /// The group of sleepers that threads of this generation belong to: one bit. A wake-up call for
    /// a group reaches only its members.
    #[inline]
    pub(crate) const fn group(self) -> u32 {
        1 << (self.0 / GENERATION % GROUPS)
    }

    /// Whether a `set` that found the generation `at` releases waiters of this one: they began to
    /// wait no later.
    #[inline]
    pub(crate) const fn is_within(self, at: Generation) -> bool {
        // A difference below half the range means "earlier or equal" in wrapping arithmetic.
        at.0.wrapping_sub(self.0) <= u32::MAX / 2
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const LAST: u32 = u32::MAX / GENERATION;

    impl Word {
        fn clear(self) -> Word {
            Word(self.0 & Word::ALL_BUT_SET)
        }

        fn without_tasks(self) -> Word {
            Word(self.0 & Word::ALL_BUT_TASKS)
        }
    }

    /// Generations around every boundary, with every combination of the low bits.
    fn every_kind_of_word() -> impl Iterator<Item = Word> {
        let generations = (0..=65).chain(LAST / 2 - 65..=LAST / 2 + 65).chain(LAST - 65..=LAST);
        generations.flat_map(|generation| (0..GENERATION).map(move |low| Word(generation * GENERATION + low)))
    }

    #[test]
    fn set_raises_the_flag_and_is_idempotent() {
        for word in every_kind_of_word() {
            let set = word.set();
            assert!(set.is_set());
            assert_eq!(set.has_threads(), word.is_set() && word.has_threads(), "the last set has not woken all yet");
            assert_eq!(set.has_tasks(), word.has_tasks(), "only a drain may declare the queue empty");
            assert_eq!(set.set(), set);
            assert_eq!(set.generation(), word.generation(), "a wait on a set event is released by that set");
            assert!(!set.owes_a_wake(), "a second set has no waiters to wake");
        }
    }

    #[test]
    fn clear_lowers_the_flag_and_touches_nothing_else() {
        for word in every_kind_of_word() {
            let cleared = word.clear();
            assert!(!cleared.is_set());
            assert_eq!(cleared.clear(), cleared);
            assert_eq!((cleared.has_tasks(), cleared.has_threads()), (word.has_tasks(), word.has_threads()));
            assert_eq!(cleared.generation() == word.generation(), !word.is_set(), "a new wait has a new generation");
        }
    }

    #[test]
    fn a_generation_is_released_by_level_and_by_pulse_and_by_nothing_else() {
        for word in every_kind_of_word() {
            let generation = word.generation();
            assert_eq!(word.releases(generation), word.is_set(), "level");
            for other in [word.with_threads(), word.with_tasks(), word.without_tasks()] {
                assert_eq!(other.releases(generation), word.is_set(), "the low bits say nothing about the flag");
            }
            let pulsed = word.set().clear();
            assert!(pulsed.releases(generation), "pulse");
            assert!(!pulsed.releases(pulsed.generation()), "a new wait waits for the next set");
        }
    }

    #[test]
    fn a_set_releases_earlier_generations_and_no_later_ones() {
        for word in every_kind_of_word() {
            let at = word.generation();
            let newcomer = word.set().clear().generation();
            assert!(at.is_within(at));
            assert!(at.is_within(newcomer), "a later set also releases those who came before");
            assert!(!newcomer.is_within(at));
        }
    }

    #[test]
    fn a_wake_is_owed_exactly_over_an_unset_word_with_waiters() {
        for word in every_kind_of_word() {
            let someone = word.has_threads() || word.has_tasks();
            assert_eq!(word.owes_a_wake(), !word.is_set() && someone);
        }
    }

    /// New waiters and released ones do not share a group, however long the released ones take to
    /// wake up.
    #[test]
    fn a_group_is_woken_entirely_between_two_generations_that_use_it() {
        let (mut word, mut woken_at) = (Word((LAST - 2 * GROUPS) * GENERATION), [0; GROUPS as usize]);
        let mut used_at = [0; GROUPS as usize];
        for step in 1..6 * GROUPS {
            let number = word.generation().group().trailing_zeros() as usize;
            assert_eq!(word.generation().group().count_ones(), 1);
            assert!(used_at[number] == 0 || woken_at[number] > used_at[number], "group {number} is used again");
            used_at[number] = step;
            if word.has_overdue_groups() {
                let groups = word.overdue_groups();
                for back in 0..GROUPS / 4 {
                    let recent = (number as u32 + GROUPS - back) % GROUPS;
                    assert_eq!(groups & 1 << recent, 0, "who was just released wakes one another");
                }
                (0..GROUPS).filter(|at| groups & 1 << at != 0).for_each(|at| woken_at[at as usize] = step);
            }
            assert!(!word.set().has_overdue_groups(), "only the set that raises the flag");
            word = word.set().clear();
        }
    }

    /// Every sequence of eight transitions, from every kind of start, compared with a plain flag.
    #[test]
    fn every_sequence_of_transitions_agrees_with_a_plain_flag() {
        // Miri needs minutes for eight, and there is no unsafe code in here.
        const STEPS: u32 = if cfg!(miri) { 3 } else { 8 };
        for start in [Word::NEW, Word(LAST * GENERATION), Word(((LAST - 2) * GENERATION) | SET)] {
            for script in 0..4u32.pow(STEPS) {
                let (mut word, mut flag, mut pulses) = (start, start.is_set(), u32::from(start.is_set()));
                let mut sleeper = false;
                let generation = start.generation();
                for step in 0..STEPS {
                    match script >> (2 * step) & 3 {
                        0 => {
                            assert!(word.owes_a_wake() || flag || !sleeper);
                            (pulses, sleeper, flag) = (pulses + u32::from(!flag), false, true);
                            word = word.set();
                        }
                        1 => {
                            flag = false;
                            word = word.clear();
                        }
                        // A thread registers as asleep only on an unset word.
                        2 if !word.is_set() => (word, sleeper) = (word.with_threads(), true),
                        2 => word = word.with_all_awake(word.generation()).unwrap(),
                        _ => word = word.with_tasks(),
                    }
                    assert_eq!(word.is_set(), flag);
                    assert_eq!(word.releases(generation), pulses > 0);
                    assert!(word.has_threads() || !sleeper, "invariant 1");
                }
            }
        }
    }
}

//! The state word of an [`Event`](crate::Event): its layout and its transitions, as pure functions. No atomics live
//! here.
//!
//! ```text
//!   31                                    3    2     1      0
//!  ┌───────────────────────────────────────┬─────┬───────┬───────┐
//!  │ generation: how often it has been set │ SET │ TASKS │THREADS│
//!  └───────────────────────────────────────┴─────┴───────┴───────┘
//! ```
//!
//! * **generation** grows by one whenever the flag is raised. A waiter remembers the generation that it saw, its
//!   [`Ticket`], and is released as soon as the generation *differs*: level ("it is set") and pulse ("it was set
//!   since") are one comparison, and the flag is never read again after a wake-up. A wait that begins on a set event
//!   gets the ticket of the generation before, which is released already.
//! * **SET**: the flag. To lower it is to switch this bit off, in one operation that needs to know nothing.
//! * **THREADS**: threads may be asleep on this word, so a `set` owes them a wake-up call.
//! * **TASKS**: the queue may hold waiters, so a `set` owes it a drain.
//!
//! | before | `set` | `clear` | a thread goes to sleep | a task is queued |
//! |---|---|---|---|---|
//! | unset | SET, next generation, THREADS off; wakes and drains as the bits said | unchanged | THREADS on | TASKS on |
//! | set | unchanged | SET off | never: it is released | never: it is released |
//!
//! Invariants, which the other rooms lean on:
//!
//! 1. SET implies not THREADS: nobody goes to sleep on a set event.
//! 2. The generation never goes back. It wraps after 2^29 sets; a waiter would be misled only if the event were set
//!    exactly that often (or a multiple) during one single sleep and that waiter did not run once meanwhile.
//! 3. TASKS may be on while the queue is empty (a leaver does not tidy up), never off while it is not and nobody
//!    holds the queue's lock.

#![forbid(unsafe_code)]

const THREADS: u32 = 0b001;
const TASKS: u32 = 0b010;
/// The flag itself.
const SET: u32 = 0b100;
/// One generation.
const GENERATION: u32 = 0b1000;
/// All that is not the generation.
const BITS: u32 = GENERATION - 1;

/// One value of the state word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(u32);

/// What a waiter remembers: the generation that it saw, in the word's own position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket(u32);

impl Word {
    /// A new event's: unset, nobody waits.
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

    /// Whether the `set` that found this word has someone to wake: it was unset and one of the low bits is on.
    #[inline]
    pub(crate) const fn owes_a_wake(self) -> bool {
        !self.is_set() && self.0 & (THREADS | TASKS) != 0
    }

    #[inline]
    pub(crate) const fn has_threads(self) -> bool {
        self.0 & THREADS != 0
    }

    #[inline]
    pub(crate) const fn has_tasks(self) -> bool {
        self.0 & TASKS != 0
    }

    /// The flag raised. Whoever stores this over an unset word must wake those whom that word told of.
    #[inline]
    pub(crate) const fn set(self) -> Word {
        if self.is_set() { self } else { Word((self.0.wrapping_add(GENERATION) | SET) & !THREADS) }
    }

    /// The flag lowered is the word `and` this.
    pub(crate) const ALL_BUT_SET: u32 = !SET;

    /// The word of an empty queue is the word `and` this.
    pub(crate) const ALL_BUT_TASKS: u32 = !TASKS;

    #[inline]
    pub(crate) const fn with_threads(self) -> Word {
        Word(self.0 | THREADS)
    }

    #[inline]
    pub(crate) const fn with_tasks(self) -> Word {
        Word(self.0 | TASKS)
    }

    /// The ticket of a wait that begins now. If the event is set, the ticket is released already.
    #[inline]
    pub(crate) const fn ticket(self) -> Ticket {
        let generation = self.0 & !BITS;
        Ticket(if self.is_set() { generation.wrapping_sub(GENERATION) } else { generation })
    }

    /// Whether a waiter with this ticket is released: the event is set, or was set since the wait began.
    #[inline]
    pub(crate) const fn releases(self, ticket: Ticket) -> bool {
        self.0 & !BITS != ticket.0
    }
}

impl Ticket {
    /// For a waiter that needs no ticket.
    pub(crate) const NONE: Ticket = Ticket(0);

    /// Whether a waiter with this ticket belongs to the cohort of a `set` that found `at`: it began to wait no later.
    #[inline]
    pub(crate) const fn is_within(self, at: Ticket) -> bool {
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

    /// Generations around every boundary, with every combination of the low bits that can be.
    fn every_kind_of_word() -> impl Iterator<Item = Word> {
        let generations = (0..=65).chain(LAST / 2 - 65..=LAST / 2 + 65).chain(LAST - 65..=LAST);
        let words =
            generations.flat_map(|generation| (0..GENERATION).map(move |low| Word(generation * GENERATION + low)));
        words.filter(|word| !(word.is_set() && word.has_threads()))
    }

    #[test]
    fn set_raises_the_flag_and_is_idempotent() {
        for word in every_kind_of_word() {
            let set = word.set();
            assert!(set.is_set());
            assert!(!set.has_threads(), "nobody sleeps on a set event");
            assert_eq!(set.has_tasks(), word.has_tasks(), "the queue is not set's to declare empty");
            assert_eq!(set.set(), set);
            assert_eq!(set.ticket(), word.ticket(), "who comes while it is set is released by the same set");
            assert!(!set.owes_a_wake(), "a second set owes nobody anything");
        }
    }

    #[test]
    fn clear_lowers_the_flag_and_touches_nothing_else() {
        for word in every_kind_of_word() {
            let cleared = word.clear();
            assert!(!cleared.is_set());
            assert_eq!(cleared.clear(), cleared);
            assert_eq!((cleared.has_tasks(), cleared.has_threads()), (word.has_tasks(), word.has_threads()));
            assert_eq!(cleared.ticket() == word.ticket(), !word.is_set(), "newcomers get a new ticket");
        }
    }

    #[test]
    fn a_ticket_is_released_by_level_and_by_pulse_and_by_nothing_else() {
        for word in every_kind_of_word() {
            let ticket = word.ticket();
            assert_eq!(word.releases(ticket), word.is_set(), "level");
            for other in [word.with_threads(), word.with_tasks(), word.without_tasks()] {
                assert_eq!(other.releases(ticket), word.is_set(), "the low bits say nothing about the flag");
            }
            let pulsed = word.set().clear();
            assert!(pulsed.releases(ticket), "pulse");
            assert!(!pulsed.releases(pulsed.ticket()), "newcomers wait for the next set");
        }
    }

    #[test]
    fn a_cohort_holds_everyone_up_to_the_set_and_no_newcomer() {
        for word in every_kind_of_word() {
            let at = word.ticket();
            let newcomer = word.set().clear().ticket();
            assert!(at.is_within(at));
            assert!(at.is_within(newcomer), "a later set also releases those who came before");
            assert!(!newcomer.is_within(at));
        }
    }

    #[test]
    fn owing_a_wake_is_exactly_unset_with_someone_there() {
        for word in every_kind_of_word() {
            let someone = word.has_threads() || word.has_tasks();
            assert_eq!(word.owes_a_wake(), !word.is_set() && someone);
        }
    }

    /// Every sequence of eight transitions from every kind of start, beside the plainest possible model.
    #[test]
    fn every_sequence_of_transitions_agrees_with_a_plain_flag() {
        // Miri needs minutes for eight, and there is no unsafe code in here.
        const STEPS: u32 = if cfg!(miri) { 3 } else { 8 };
        for start in [Word::NEW, Word(LAST * GENERATION), Word(((LAST - 2) * GENERATION) | SET)] {
            for script in 0..4u32.pow(STEPS) {
                let (mut word, mut flag, mut pulses) = (start, start.is_set(), u32::from(start.is_set()));
                let ticket = start.ticket();
                for step in 0..STEPS {
                    match script >> (2 * step) & 3 {
                        0 => {
                            pulses += u32::from(!flag);
                            flag = true;
                            word = word.set();
                        }
                        1 => {
                            flag = false;
                            word = word.clear();
                        }
                        // A thread registers as asleep only on an unset word.
                        2 if !word.is_set() => word = word.with_threads(),
                        _ => word = word.with_tasks(),
                    }
                    assert_eq!(word.is_set(), flag);
                    assert_eq!(word.releases(ticket), pulses > 0);
                    assert!(!(word.is_set() && word.has_threads()), "invariant 1");
                }
            }
        }
    }
}

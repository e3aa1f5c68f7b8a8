//! The state word of an [`Event`](crate::Event): its layout and its transitions, as pure functions. No atomics live
//! here.
//!
//! ```text
//!   31                                    2   1     0
//!  ┌──────────────────────────────────────┬─────┬───────┐
//!  │ counter: even = unset, odd = set     │TASKS│THREADS│
//!  └──────────────────────────────────────┴─────┴───────┘
//! ```
//!
//! * **counter** grows by one with every change of the flag. A waiter remembers the even value that it saw, its
//!   [`Ticket`], and is released as soon as the counter *differs*: level ("it is set") and pulse ("it was set since")
//!   are one comparison, and no flag is ever read again after a wake-up.
//! * **THREADS**: threads may be asleep on this word, so a `set` owes them a wake-up call.
//! * **TASKS**: the queue may hold waiters, so a `set` owes it a drain.
//!
//! | before | `set` | `clear` | a thread goes to sleep | a task is queued |
//! |---|---|---|---|---|
//! | unset, counter *c* | *c*+1, THREADS off; wakes and drains as the bits say | unchanged | THREADS on | TASKS on |
//! | set, counter *c*+1 | unchanged | *c*+2 | never: it is released | never: it is released |
//!
//! Invariants, which the other rooms lean on:
//!
//! 1. SET implies not THREADS: nobody goes to sleep on a set event.
//! 2. The counter never goes back. It wraps after 2^30 changes; a waiter would be misled only if the event were set
//!    exactly 2^29 times (or a multiple) during one single sleep and that waiter did not run once meanwhile.
//! 3. TASKS may be on while the queue is empty (a leaver does not tidy up), never off while it is not and nobody
//!    holds the queue's lock.

#![forbid(unsafe_code)]

const THREADS: u32 = 0b001;
const TASKS: u32 = 0b010;
/// The lowest bit of the counter: the flag itself.
const SET: u32 = 0b100;

/// One value of the state word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(u32);

/// What a waiter remembers: the even counter value that it saw, in the word's own position.
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

    /// The flag raised. Whoever stores this over an unset word with THREADS on must wake the threads.
    #[inline]
    pub(crate) const fn set(self) -> Word {
        Word((self.0 | SET) & !THREADS)
    }

    /// The flag lowered, or `None` if it is not up.
    #[inline]
    pub(crate) const fn clear(self) -> Option<Word> {
        // Adding the lowest counter bit to an odd counter carries: the next even value.
        if self.is_set() { Some(Word(self.0.wrapping_add(SET))) } else { None }
    }

    #[inline]
    pub(crate) const fn with_threads(self) -> Word {
        Word(self.0 | THREADS)
    }

    #[inline]
    pub(crate) const fn with_tasks(self) -> Word {
        Word(self.0 | TASKS)
    }

    #[inline]
    pub(crate) const fn without_tasks(self) -> Word {
        Word(self.0 & !TASKS)
    }

    /// The ticket of a wait that begins now. If the event is set, the ticket is released already.
    #[inline]
    pub(crate) const fn ticket(self) -> Ticket {
        Ticket(self.0 & !(SET | TASKS | THREADS))
    }

    /// Whether a waiter with this ticket is released: the event is set, or was set since the wait began.
    #[inline]
    pub(crate) const fn releases(self, ticket: Ticket) -> bool {
        self.0 & !(TASKS | THREADS) != ticket.0
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

    /// Counters around every boundary, with every combination of the low bits.
    fn every_kind_of_word() -> impl Iterator<Item = Word> {
        let top = u32::MAX >> 2;
        let counters = (0..=65).chain(top / 2 - 65..=top / 2 + 65).chain(top - 65..=top);
        counters.flat_map(|counter| (0..4).map(move |low| Word(counter << 2 | low)))
    }

    #[test]
    fn set_raises_the_flag_and_is_idempotent() {
        for word in every_kind_of_word() {
            let set = word.set();
            assert!(set.is_set());
            assert!(!set.has_threads(), "nobody sleeps on a set event");
            assert_eq!(set.has_tasks(), word.has_tasks(), "the queue is not set's to declare empty");
            assert_eq!(set.set(), set);
            assert_eq!(set.ticket(), word.ticket(), "set does not begin a new generation");
            assert!(!set.owes_a_wake(), "a second set owes nobody anything");
        }
    }

    #[test]
    fn clear_lowers_the_flag_and_is_idempotent() {
        for word in every_kind_of_word() {
            match word.clear() {
                None => assert!(!word.is_set()),
                Some(cleared) => {
                    assert!(word.is_set());
                    assert!(!cleared.is_set());
                    assert_eq!(cleared.clear(), None);
                    assert_eq!(cleared.has_tasks(), word.has_tasks());
                    assert_eq!(cleared.has_threads(), word.has_threads());
                    assert_ne!(cleared.ticket(), word.ticket(), "clear begins a new generation");
                }
            }
        }
    }

    #[test]
    fn a_ticket_is_released_by_level_and_by_pulse_and_by_nothing_else() {
        for word in every_kind_of_word() {
            let ticket = word.ticket();
            assert_eq!(word.releases(ticket), word.is_set(), "level");
            for other in [word.with_threads(), word.with_tasks(), word.without_tasks()] {
                assert_eq!(other.releases(ticket), word.is_set(), "the low bits say nothing about the flag");
                assert_eq!(other.ticket(), ticket);
            }
            let pulsed = word.set().clear().unwrap();
            assert!(pulsed.releases(ticket), "pulse");
            assert!(!pulsed.releases(pulsed.ticket()), "newcomers wait for the next set");
        }
    }

    #[test]
    fn a_cohort_holds_everyone_up_to_the_set_and_no_newcomer() {
        for word in every_kind_of_word() {
            let at = word.ticket();
            let newcomer = word.set().clear().unwrap().ticket();
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

    /// Every sequence of eight transitions from every word, beside the plainest possible model.
    #[test]
    fn every_sequence_of_transitions_agrees_with_a_plain_flag() {
        let starts = [Word(0), Word((u32::MAX >> 2) << 2), Word(((u32::MAX >> 2) - 2) << 2)];
        for start in starts {
            for script in 0..4u32.pow(8) {
                let (mut word, mut flag, mut pulses) = (start, start.is_set(), 0);
                let ticket = start.ticket();
                for step in 0..8 {
                    match script >> (2 * step) & 3 {
                        0 => {
                            pulses += u32::from(!flag);
                            flag = true;
                            word = word.set();
                        }
                        1 => {
                            flag = false;
                            word = word.clear().unwrap_or(word);
                        }
                        // A thread registers as asleep only on an unset word.
                        2 if !word.is_set() => word = word.with_threads(),
                        _ => word = word.with_tasks(),
                    }
                    assert_eq!(word.is_set(), flag);
                    assert_eq!(word.releases(ticket), pulses > 0 || start.is_set());
                    assert!(!(word.is_set() && word.has_threads()), "invariant 1");
                }
            }
        }
    }
}

//! What a wait waits for, as pure functions of the word and of the page's `repeats`.

#![forbid(unsafe_code)]

use std::num::NonZeroU64;

use crate::protocol::word::{Generation, Sleeper, Word};

/// What kind of wait begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Aim {
    /// Until the event is set.
    Set = 1,
    /// Until it is unset.
    Unset = 2,
    /// Until it is set once more, by any `set` from now on.
    Next = 3,
}

/// What releases a wait that has begun: its aim, and the counter and the number of repeats at its
/// beginning. In one number, because every future contains one: asleep (1 bit) | aim (2 bits) |
/// counter (27 bits) | repeats (32 bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target(NonZeroU64);

const COUNTER_AT: u32 = 32;
const AIM_AT: u32 = 60;
/// A thread sleeps on the word by itself, and is counted.
const ASLEEP: u64 = 1 << 62;

impl Target {
    /// The target of a wait that begins now.
    #[inline]
    pub(crate) fn new(aim: Aim, word: Word, repeats: u32) -> Target {
        let counter = u64::from(word.counter()) << COUNTER_AT;
        // The aim is not zero, so `MAX` stands for nothing.
        Target(NonZeroU64::new((aim as u64) << AIM_AT | counter | u64::from(repeats)).unwrap_or(NonZeroU64::MAX))
    }

    fn aim(self) -> Aim {
        match self.0.get() >> AIM_AT & 3 {
            1 => Aim::Set,
            2 => Aim::Unset,
            _ => Aim::Next,
        }
    }

    fn counter(self) -> u32 {
        (self.0.get() >> COUNTER_AT) as u32 & (u32::MAX >> 5)
    }

    /// Whether a thread is noted to sleep.
    pub(crate) fn is_asleep(self) -> bool {
        self.0.get() & ASLEEP != 0
    }

    /// Notes whether a thread sleeps.
    pub(crate) fn note_asleep(&mut self, is_asleep: bool) {
        let without = self.0.get() & !ASLEEP;
        self.0 = NonZeroU64::new(without | if is_asleep { ASLEEP } else { 0 }).unwrap_or(self.0);
    }

    /// The number of repeats at the beginning of the wait, if a `set` of an event that is set may
    /// release it.
    pub(crate) fn repeats(self) -> Option<u32> {
        (self.aim() == Aim::Next).then_some(self.0.get() as u32)
    }

    /// Whether the wait is released.
    #[inline]
    pub(crate) fn is_reached(self, word: Word, repeats: u32) -> bool {
        match self.aim() {
            Aim::Set => word.releases(Generation::of_counter(self.counter())),
            _ if word.is_lost() => false,
            Aim::Unset => !word.is_set() || word.counter() != self.counter(),
            Aim::Next => repeats != self.0.get() as u32 || word.sets_since_counter(self.counter()) != 0,
        }
    }

    /// Whether it is a wait until the event is unset.
    pub(crate) fn is_until_unset(self) -> bool {
        self.aim() == Aim::Unset
    }

    /// Whether the wait may last while the event is set.
    pub(crate) fn is_other(self) -> bool {
        self.aim() != Aim::Set
    }

    /// What a sleeper with this target has to be woken for.
    pub(crate) fn sleeper(self, word: Word) -> Sleeper {
        Sleeper::of(word, self.aim() == Aim::Next)
    }
}

impl Sleeper {
    /// For a wait for any change of this word, and if `counts_repeats` of `repeats` too.
    pub(crate) fn of(word: Word, counts_repeats: bool) -> Sleeper {
        match (word.is_set(), counts_repeats) {
            (false, _) => Sleeper::Set,
            (true, false) => Sleeper::Clear,
            (true, true) => Sleeper::Either,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSET: Word = Word::new(false);

    fn begins(aim: Aim, word: Word) -> Target {
        Target::new(aim, word, 7)
    }

    #[test]
    fn a_target_contains_what_it_began_with() {
        assert_eq!(size_of::<Option<Target>>(), 8);
        for bits in [0, 0b10_0000, 0b100_0000, !0 ^ 0b1_1111, 0b1_0000] {
            let word = Word::from_bits(bits);
            for repeats in [0, 1, u32::MAX] {
                for aim in [Aim::Set, Aim::Unset, Aim::Next] {
                    let target = Target::new(aim, word, repeats);
                    assert_eq!((target.aim(), target.counter()), (aim, word.counter()));
                    assert_eq!(target.repeats(), (aim == Aim::Next).then_some(repeats));
                    let mut asleep = target;
                    asleep.note_asleep(true);
                    assert_eq!((asleep.aim(), asleep.counter(), asleep.is_asleep()), (aim, word.counter(), true));
                    asleep.note_asleep(false);
                    assert_eq!(asleep, target);
                }
            }
        }
    }

    #[test]
    fn a_wait_until_unset_is_released_by_a_clear_even_if_a_set_follows() {
        let word = UNSET.set();
        let target = begins(Aim::Unset, word);
        assert!(!target.is_reached(word, 7) && !target.is_reached(word.set(), 8), "it is set");
        assert!(target.is_reached(word.cleared(), 7) && target.is_reached(word.cleared().set(), 7));
        assert!(begins(Aim::Unset, UNSET).is_reached(UNSET, 7), "level");
        assert!(!target.is_reached(Word::LOST, 0));
    }

    #[test]
    fn a_wait_until_unset_lasts_for_as_long_as_the_event_is_held() {
        let held = UNSET.held();
        let target = begins(Aim::Unset, held);
        for changed in [held.set(), held.set().cleared(), held.cleared(), held.held()] {
            assert!(!target.is_reached(changed, 7));
        }
        assert!(target.is_reached(held.released_by_holder(), 7));
        assert!(!target.is_reached(held.set().released_by_holder(), 7), "it was set meanwhile");
    }

    #[test]
    fn a_wait_for_the_next_set_is_released_by_every_set_and_by_nothing_else() {
        for word in [UNSET, UNSET.set(), UNSET.pulsed(), UNSET.held()] {
            let target = begins(Aim::Next, word);
            assert!(!target.is_reached(word, 7), "it begins");
            assert!(target.is_reached(word, 8), "a repeat");
            if word.is_set() && !word.is_held() {
                assert!(!target.is_reached(word.cleared(), 7), "a clear");
                assert!(target.is_reached(word.cleared().set(), 7) && target.is_reached(word.cleared().pulsed(), 7));
            } else if !word.is_set() {
                assert!(target.is_reached(word.set(), 7) && target.is_reached(word.set().cleared(), 7));
                assert!(target.is_reached(word.pulsed(), 7) && target.is_reached(word.held(), 7));
            } else {
                assert!(!target.is_reached(word.released_by_holder(), 7), "the end of a hold");
            }
            assert!(!target.is_reached(Word::LOST, 0));
        }
    }
}

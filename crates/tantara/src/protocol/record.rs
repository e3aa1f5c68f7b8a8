//! The record of a set: which process raised the flag, when, and why. It is for people; no wait
//! depends on it.
//!
//! A record consists of some numbers that are written one by one, without a lock, by processes that
//! may be killed or stopped in between. So any mixture of the numbers of several records may stand
//! in the page, for any length of time. Each record ends with a *check* over all of its numbers and
//! the counter of the word after the set. A reader takes a record only if its check is right.
//!
//! * A mixture of two records, of different sets or of setters that race, does not have the right
//!   check. (Two mixed records that differ in one number never have; others with a probability of
//!   2^-64, and they are mixed only if two setters meet within nanoseconds, or a setter is stopped
//!   in the middle.)
//! * The record of a set that did not happen, because its process was killed before the word
//!   changed, has the counter of a later generation. There is a slot for each of the last two
//!   generations, so it does not spoil the record of the last set.
//! * A slot that a killed process has left half-written is written again by the next set.
//! * The order in which a reader sees the numbers does not matter. All of them are written before
//!   the word changes.
//!
//! Setters that race write to the same slot, or raise the flag over a later word than they have
//! recorded, or write to the slot of a later set if they are slow. The one whose change fails, or
//! that changes the word by a system call and does not know, looks afterwards for the record of the
//! last set, whatever the word is by then. It writes that record if there is none, or a mixed one.
//! So there is a record of one of them in the end. There is none, until the next set, if that
//! setter is killed before it has looked, or is stopped while it writes the record again and two
//! more sets follow.
//!
//! A `set` of a set event is recorded only if it has a note, in a slot of its own. It counts as
//! long as the record of the generation, over whose check its own check is formed, is the last one.

#![forbid(unsafe_code)]

use std::array;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::time::{Duration, SystemTime};

use crate::note;
use crate::protocol::pair::Pair;
use crate::protocol::signal::Recorder;
use crate::protocol::word::Word;
use crate::sync::{AtomicU32, fence, spin_loop};

/// How many pairs of numbers a note has. One is enough for the models.
const WORDS: usize = if cfg!(loom) { 1 } else { note::LONGEST / 8 };

/// In the nanoseconds: the record has a note.
const HAS_NOTE: u32 = 1 << 31;

/// The slot of `set`s of a set event.
const REPEATED: usize = 2;

/// Two numbers, as they are stored together.
pub(crate) type Numbers = (u32, u32);

/// The records of an event.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Records {
    /// One for each of the last two generations, and one for a set event that was set again.
    slots: [Slot; 3],
    _behind: [Pair; 4],
    notes: [[Pair; WORDS]; 3],
}

#[repr(C)]
#[derive(Debug)]
struct Slot {
    /// Written last.
    check: Pair,
    /// The process, and its PID namespace, or zero if that is not known.
    who: Pair,
    /// Seconds since 1970, until 2106, and nanoseconds.
    at: Pair,
    _behind: Pair,
}

/// A text as it is recorded: padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Note([Numbers; WORDS]);

/// What a setter records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record<'a> {
    /// Its process, and the PID namespace of that number.
    pub(crate) who: Numbers,
    /// Seconds and nanoseconds since 1970.
    pub(crate) at: Numbers,
    pub(crate) note: Option<&'a Note>,
}

/// When an event was last set, by which process, and why. Ordered by time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LastSet {
    /// When, to within some milliseconds.
    pub at: SystemTime,
    /// The process that set it. `None` if it is in another PID namespace, for example in another
    /// container.
    pub pid: Option<u32>,
    /// The note of that `set`, if it had one: up to 64 bytes without control characters.
    pub note: Option<String>,
}

/// The multiplier of PCG: odd, and its bits look random.
const MULTIPLIER: u64 = 0x5851_f42d_4c95_7f2d;

/// Adds two numbers to a check. For a given check, different numbers make different ones.
#[inline]
const fn add(check: u64, (first, second): Numbers) -> u64 {
    let mixed = (check ^ Pair::join(first, second)).wrapping_mul(MULTIPLIER);
    mixed ^ mixed >> 32
}

/// The seed of the check of the set after which the word has this counter, or of a set of an event
/// that has it.
#[inline]
const fn seed(counter: u32, is_repeated: bool) -> u64 {
    (0x74_616e_7461_7261 ^ Pair::join(counter, is_repeated as u32)).wrapping_mul(MULTIPLIER)
}

/// The check of a record, over the seed of its set.
#[inline]
fn check(seed: u64, record: &Record<'_>) -> Numbers {
    // The time comes last, and is known last: no multiplication has to wait for it.
    let check = add(seed, record.who) ^ Pair::join(record.at.0, record.at.1);
    Pair::split(record.note.map_or(check, |note| note.0.iter().fold(check, |check, &word| add(check, word))))
}

impl Note {
    /// `None` for an empty text.
    pub(crate) fn new(text: &str) -> Result<Option<Note>, &'static str> {
        note::check(text)?;
        let mut bytes = [0; 8 * WORDS];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        let number = |at: usize| u32::from_ne_bytes(array::from_fn(|i| bytes[at + i]));
        Ok((!text.is_empty()).then(|| Note(array::from_fn(|word| (number(8 * word), number(8 * word + 4))))))
    }

    /// The text, unless it is not one: a hostile process may have written anything.
    fn text(&self) -> Option<String> {
        let mut bytes: Vec<u8> = Vec::with_capacity(8 * WORDS);
        self.0.iter().for_each(|word| bytes.extend([word.0.to_ne_bytes(), word.1.to_ne_bytes()].as_flattened()));
        let length = bytes.iter().rposition(|&byte| byte != 0)? + 1;
        bytes.truncate(length);
        String::from_utf8(bytes).ok().filter(|text| note::check(text).is_ok())
    }
}

impl Records {
    /// Records from a page that was read, whose numbers at an offset are these.
    pub(crate) fn read(numbers: impl Fn(usize) -> Numbers) -> Records {
        let pair = |at: usize| Pair::new(numbers(at));
        let slot = |at: usize| Slot { check: pair(at), who: pair(at + 8), at: pair(at + 16), _behind: pair(at + 24) };
        let note = |at: usize| array::from_fn(|word| pair(at + 8 * word));
        Records {
            slots: array::from_fn(|index| slot(32 * index)),
            _behind: array::from_fn(|index| pair(96 + 8 * index)),
            notes: array::from_fn(|index| note(128 + 8 * WORDS * index)),
        }
    }

    /// The slot of the set after which the word has this counter.
    #[inline]
    fn index(counter: u32) -> usize {
        (counter >> 1 & 1) as usize
    }

    /// The record of a repeated set belongs to the one in the slot of its generation.
    #[inline]
    fn seed_of_repeated(&self, counter: u32) -> u64 {
        add(seed(counter, true), self.slots[Records::index(counter)].check.load())
    }

    /// Records the set after which the word has this counter. It is to be called before.
    #[inline]
    pub(crate) fn write(&self, counter: u32, record: &Record<'_>) {
        self.put(Records::index(counter), seed(counter, false), record);
    }

    /// Records a set that leaves the counter as it is.
    #[inline]
    pub(crate) fn write_repeated(&self, counter: u32, record: &Record<'_>) {
        self.put(REPEATED, self.seed_of_repeated(counter), record);
    }

    #[inline]
    fn put(&self, index: usize, seed: u64, record: &Record<'_>) {
        let (slot, mut at) = (&self.slots[index], record.at);
        if let Some(note) = record.note {
            at.1 |= HAS_NOTE;
            self.notes[index].iter().zip(note.0).for_each(|(place, word)| place.store(word));
        }
        slot.who.store(record.who);
        slot.at.store(at);
        slot.check.store(check(seed, &Record { at, ..*record }));
    }

    /// Whether there is a record of the set after which the word has this counter.
    pub(crate) fn is_recorded(&self, counter: u32) -> bool {
        self.get(Records::index(counter), seed(counter, false)).is_some()
    }

    /// Whether that set of a set event, or a later one, is recorded.
    pub(crate) fn is_repeated(&self, counter: u32) -> bool {
        self.get(REPEATED, self.seed_of_repeated(counter)).is_some()
    }

    /// The record of the last set that had an effect, or a note; as seen from a PID namespace.
    /// `None` if there is none.
    pub(crate) fn last_of(&self, word: &AtomicU32, namespace: u32) -> Option<LastSet> {
        for _ in 0..READS {
            // For atomics in read-only memory, the language permits only relaxed loads, of at most
            // four bytes on 32-bit processors, and eight on 64-bit ones.
            let counter = Word::from_bits(word.load(Relaxed)).last_raised()?;
            fence(Acquire);
            if let Some(last) = self.last(counter, namespace) {
                return Some(last);
            }
            // Overwritten by later sets, or mixed, which does not last.
            spin_loop();
        }
        None
    }

    /// The record of the last set after which, or during which, the word had this counter. `None`
    /// if it is not there, or not completely.
    fn last(&self, counter: u32, namespace: u32) -> Option<LastSet> {
        let first = || self.get(Records::index(counter), seed(counter, false));
        let (process, at, note) = self.get(REPEATED, self.seed_of_repeated(counter)).or_else(first)?;
        let is_here = namespace != 0 && process.1 == namespace;
        // A hostile process may write any number. Zero and negative numbers have another meaning to
        // the kernel.
        let is_process = |pid: &u32| (1..=i32::MAX as u32).contains(pid);
        let pid = is_here.then_some(process.0).filter(is_process);
        let at = Duration::from_secs(at.0.into()) + Duration::from_nanos(at.1.into());
        let at = SystemTime::UNIX_EPOCH.checked_add(at)?;
        Some(LastSet { at, pid, note: note.and_then(|note| note.text()) })
    }

    /// The numbers of a slot, if they are those of one record over that seed.
    fn get(&self, index: usize, seed: u64) -> Option<(Numbers, Numbers, Option<Note>)> {
        let slot = &self.slots[index];
        let (who, at) = (slot.who.load(), slot.at.load());
        let note = (at.1 & HAS_NOTE != 0).then(|| Note(array::from_fn(|word| self.notes[index][word].load())));
        let is_one = slot.check.load() == check(seed, &Record { who, at, note: note.as_ref() });
        is_one.then_some((who, (at.0, at.1 & !HAS_NOTE), note))
    }
}

#[cfg(all(test, not(loom)))]
impl Records {
    /// The numbers of each slot, and the first ones of each note.
    pub(crate) fn numbers(&self) -> [Numbers; 12] {
        let [one, other, repeated] = self.slots.each_ref().map(|slot| [&slot.check, &slot.who, &slot.at]);
        let notes = self.notes.each_ref().map(|note| &note[0]);
        let all: Vec<_> = [one, other, repeated, notes].into_iter().flatten().map(Pair::load).collect();
        all.try_into().unwrap()
    }
}

/// A process that sets an event, and records it.
pub(crate) struct Setter<'a, F> {
    pub(crate) word: &'a AtomicU32,
    pub(crate) records: &'a Records,
    pub(crate) note: Option<&'a Note>,
    /// The process, with its PID namespace, and the time.
    pub(crate) origin: F,
}

/// How often to write a record again that others write at the same time, before leaving it mixed: a
/// hostile process could write for ever.
const TRIES: usize = 8;

/// How often to read records that change. The models have fewer interleavings with less.
const READS: usize = if cfg!(loom) { 2 } else { 8 };

impl<F: Fn() -> (Numbers, Numbers)> Setter<'_, F> {
    #[inline]
    fn record(&self) -> Record<'_> {
        let (who, at) = (self.origin)();
        Record { who, at, note: self.note }
    }

    /// Whether the last set is that after which the word had this counter.
    fn is_last(&self, counter: u32) -> bool {
        Word::from_bits(self.word.load(Acquire)).last_raised() == Some(counter)
    }
}

impl<F: Fn() -> (Numbers, Numbers)> Recorder for Setter<'_, F> {
    #[inline]
    fn raising(&self, before: Word) {
        self.records.write(before.set().counter(), &self.record());
    }

    #[cold]
    fn raced(&self, before: Word) {
        for _ in 0..TRIES {
            // The last set is not that of `before` if the word was set several times since. This
            // reads the word by a change that changes nothing. So the last one to look sees what
            // all have written, and whoever changes the word later writes over it.
            let last = Word::from_bits(self.word.fetch_or(0, SeqCst)).last_raised();
            let Some(counter) = last.filter(|_| last != before.last_raised()) else { return };
            if self.records.is_recorded(counter) {
                return;
            }
            self.records.write(counter, &self.record());
        }
    }

    #[inline]
    fn repeating(&self, now: Word) {
        if self.note.is_some() {
            self.records.write_repeated(now.counter(), &self.record());
        }
    }

    #[inline]
    fn repeated(&self, now: Word) {
        if self.note.is_none() {
            return;
        }
        let counter = now.counter();
        for _ in 0..TRIES {
            // Each setter of a race has a fence between its last write and its last look. So the
            // last one to look sees what all have written.
            fence(SeqCst);
            if self.records.is_repeated(counter) || !self.is_last(counter) {
                return;
            }
            self.records.write_repeated(counter, &self.record());
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn records() -> Records {
        Records::read(|_| (0, 0))
    }

    fn note(text: &str) -> Note {
        Note::new(text).unwrap().unwrap()
    }

    #[test]
    fn a_note_belongs_to_one_set() {
        let (records, why) = (records(), note("disk full"));
        let noted = Record { who: (1, 7), at: (1, 2), note: Some(&why) };
        let plain = Record { note: None, ..noted };
        let last = |counter| records.last(counter, 7).map(|last| last.note);
        assert_eq!(last(1), None);
        records.write(1, &noted);
        assert_eq!([last(1), last(3), last(5)], [Some(Some("disk full".into())), None, None]);
        records.write(3, &plain);
        records.write(5, &plain);
        assert_eq!([last(1), last(3), last(5)], [None, Some(None), Some(None)], "that of an earlier set is gone");
    }

    #[test]
    fn a_repeated_set_with_a_note_counts_until_the_next_generation() {
        let (records, one, other) = (records(), note("one"), note("other"));
        let plain = Record { who: (1, 7), at: (1, 0), note: None };
        let last = |counter| records.last(counter, 7).and_then(|last| last.note);
        records.write(1, &plain);
        for (text, note) in [("one", &one), ("other", &other)] {
            records.write_repeated(1, &Record { note: Some(note), ..plain });
            assert!(records.is_repeated(1) && last(1).as_deref() == Some(text));
        }
        for counter in [3, 5] {
            records.write(counter, &plain);
            assert_eq!(last(counter), None);
        }
        records.write(1, &Record { at: (2, 0), ..plain });
        assert_eq!(last(1), None, "even if the counter is the same again");
    }

    /// Every mixture of two records, number by number.
    #[test]
    fn no_mixture_of_two_records_is_taken_for_one() {
        let (long, short) = (note(&"x".repeat(64)), note("y"));
        let records_of = |counter: u32, pid, second, note| {
            let records = records();
            records.write(counter, &Record { who: (pid, 7), at: (second, 5), note });
            records
        };
        let pairs = |of: &Records| -> Vec<Numbers> {
            let slot = &of.slots[0];
            [&slot.check, &slot.who, &slot.at].into_iter().chain(&of.notes[0]).map(Pair::load).collect()
        };
        for (counter, notes) in
            [(1, [Some(&long), Some(&short)]), (1, [Some(&long), None]), (5, [None, None]), (5, [None, Some(&short)])]
        {
            let both = [records_of(1, 1, 1, notes[0]), records_of(counter, 2, 2, notes[1])];
            let [one, other] = both.each_ref().map(pairs);
            for choice in 0..1_u32 << one.len() {
                let mixed = records();
                let slot = &mixed.slots[0];
                let places = [&slot.check, &slot.who, &slot.at].into_iter().chain(&mixed.notes[0]);
                for (index, place) in places.enumerate() {
                    place.store(if choice >> index & 1 == 0 { one[index] } else { other[index] });
                }
                for counter in [1, 5] {
                    let Some(last) = mixed.last(counter, 7) else { continue };
                    let whole = both.iter().find_map(|of| of.last(counter, 7).filter(|whole| *whole == last));
                    assert!(whole.is_some(), "{last:?} of {choice:b} after {counter}");
                }
            }
        }
    }

    #[test]
    fn hostile_numbers_are_no_process_and_no_text() {
        let records = records();
        let hostile = |who, at, words: [Numbers; WORDS]| {
            let note = Note(words);
            records.write(1, &Record { who, at, note: Some(&note) });
            let last = records.last(1, 7).unwrap();
            (last.pid, last.note)
        };
        let bytes = |text: &[u8; 4]| (u32::from_ne_bytes(*text), 0);
        let words = |first| array::from_fn(|index| if index == 0 { first } else { (0, 0) });
        assert_eq!(hostile((1, 7), (1, 1), words(bytes(b"why\0"))), (Some(1), Some("why".into())));
        for text in [b"a\nb\0", b"\x1b[2J", b"\xff\xff\xff\xff", b"\0\0\0\0", b"a\0b\0"] {
            assert_eq!(hostile((0, 7), (u32::MAX, u32::MAX), words(bytes(text))), (None, None), "{text:?}");
        }
        assert_eq!(hostile((u32::MAX, 7), (1, 1), [(u32::MAX, u32::MAX); WORDS]), (None, None));
    }
}

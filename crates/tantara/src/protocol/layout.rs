//! The layout of the page that processes share. For the state word see
//! [`word`](crate::protocol::word), and for who has set the event
//! [`record`](crate::protocol::record).
//!
//! | byte | holds |
//! |---|---|
//! | 0 | `"tantara\n"` |
//! | 8, 12 | the version of this layout; the kind of the event |
//! | 128 | the word |
//! | 132 | the seal |
//! | 136 | `repeats`: how often `set` was called without being seen in the word |
//! | 256, 288 | who raised the flag, in each of the last two generations, and when |
//! | 320 | who last set the event with a note while it was set, and when |
//! | 384, 448, 512 | why: a text of up to 64 bytes for each of the three |
//! | 1024 | PID namespaces: 256 numbers |
//!
//! All other bytes are zero and reserved. Numbers have 32 bits, which every processor changes in
//! one step, and the byte order of the machine, which all processes that share the page have in
//! common.
//!
//! The seal is constant. If the file is truncated before it, the rest of the page reads as zeros; a
//! word of zeros without a seal is not valid.
//!
//! Data that different processes write at the same time is 128 bytes apart, in cache lines that are
//! not fetched together. So a waiter that reads the word does not slow down a setter that records
//! its set.
//!
//! Processes with an earlier layout of the records, in which the numbers at 256 and 288 are counters,
//! share all else with those that have this one. Each takes the records of the other for mixed ones,
//! and shows none.
//!
//! A process number is valid only in its own PID namespace, so the inode number of that namespace
//! (`/proc/self/ns/pid`, never zero) is recorded with it. The range of a lock has no room for that
//! number. It contains an index into `namespaces`, a table of the namespaces whose processes have
//! used the event: the position plus one, or zero if the table is full. A process that does not
//! find its namespace writes it to the first free place, in one step. The first entry is that of
//! the process that made the event.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, fence};

use crate::protocol::record::{LastSet, Note, Numbers, Records, Setter};
use crate::protocol::word::Word;

/// Length of a page, and of a file.
pub(crate) const PAGE: usize = 4096;
/// Length of the part that is used.
pub(crate) const HEAD: usize = 2048;
/// Offset of the word.
pub(crate) const WORD_AT: usize = 128;
/// Offset of the records of who has set the event, and of what is behind them.
const RECORDS_AT: usize = 256;
const BEHIND_AT: usize = 576;
const NAMESPACES_AT: usize = 1024;

const MAGIC: [u8; 8] = *b"tantara\n";
pub(crate) const VERSION: u32 = 2;
/// The only kind so far: an event that stays set until it is cleared.
const EVENT: u32 = 1;

/// The constant behind the word.
const SEAL: u32 = u32::from_ne_bytes(*b"seal");

/// The range of the locks of holders, most of it beyond the end of the file, and all of it below
/// the marks of waiters.
pub(crate) const HOLDS: Range<u64> = 0..(1 << 41) - 1;
/// The byte that the process locks that ends a hold.
pub(crate) const ENDING: u64 = HOLDS.end;

/// The page, as it is mapped.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Page {
    magic: [AtomicU32; 2],
    version: AtomicU32,
    kind: AtomicU32,
    _reserved: [AtomicU32; (WORD_AT - 16) / 4],
    /// The state word.
    pub(crate) word: AtomicU32,
    seal: AtomicU32,
    /// How often `set` was called without changing the counter.
    pub(crate) repeats: AtomicU32,
    _apart: [AtomicU32; (RECORDS_AT - WORD_AT) / 4 - 3],
    records: Records,
    _behind: [AtomicU32; (NAMESPACES_AT - BEHIND_AT) / 4],
    /// The PID namespaces of waiters and holders.
    namespaces: [AtomicU32; 256],
}

const _: () = assert!(std::mem::offset_of!(Page, word) == WORD_AT);
const _: () = assert!(std::mem::offset_of!(Page, records) == RECORDS_AT);
const _: () = assert!(std::mem::offset_of!(Page, _behind) == BEHIND_AT);
const _: () = assert!(std::mem::offset_of!(Page, namespaces) == NAMESPACES_AT && size_of::<Page>() == HEAD);

/// Why a page is not an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mismatch {
    /// It does not begin with the magic number.
    Magic,
    /// It is damaged.
    Seal,
    /// It has the layout of another version of the library.
    Version(u32),
    /// It is of a kind that only a later version of the library knows.
    Kind(u32),
}

impl Page {
    /// The bytes of a new event's page, made by a process of that PID namespace.
    pub(crate) fn new_bytes(has_readers: bool, namespace: u32) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(0, &MAGIC);
        put(8, &VERSION.to_ne_bytes());
        put(12, &EVENT.to_ne_bytes());
        put(WORD_AT, &Word::new(has_readers).bits().to_ne_bytes());
        put(WORD_AT + 4, &SEAL.to_ne_bytes());
        put(NAMESPACES_AT, &namespace.to_ne_bytes());
        bytes
    }

    /// A page from bytes that were read, for inspection. Without what is reserved.
    pub(crate) fn from_bytes(bytes: &[u8; HEAD]) -> Page {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let number = |at: usize| AtomicU32::new(word(at));
        let mut namespaces = [const { AtomicU32::new(0) }; 256];
        // The table has no holes.
        for (index, place) in namespaces.iter_mut().enumerate() {
            match word(NAMESPACES_AT + 4 * index) {
                0 => break,
                namespace => *place.get_mut() = namespace,
            }
        }
        Page {
            magic: [number(0), number(4)],
            version: number(8),
            kind: number(12),
            _reserved: [const { AtomicU32::new(0) }; (WORD_AT - 16) / 4],
            word: number(WORD_AT),
            seal: number(WORD_AT + 4),
            repeats: number(WORD_AT + 8),
            _apart: [const { AtomicU32::new(0) }; (RECORDS_AT - WORD_AT) / 4 - 3],
            records: Records::read(|at| (word(RECORDS_AT + at), word(RECORDS_AT + at + 4))),
            _behind: [const { AtomicU32::new(0) }; (NAMESPACES_AT - BEHIND_AT) / 4],
            namespaces,
        }
    }

    /// Checks that this is an event's page.
    pub(crate) fn check(&self) -> Result<(), Mismatch> {
        let magic = self.magic.each_ref().map(|half| half.load(Relaxed).to_ne_bytes());
        if magic.as_flattened() != MAGIC {
            return Err(Mismatch::Magic);
        }
        // Other versions may have the seal elsewhere.
        if self.version.load(Relaxed) == VERSION && !self.is_whole() {
            return Err(Mismatch::Seal);
        }
        let (version, kind) = (self.version.load(Relaxed), self.kind.load(Relaxed));
        match (version, kind) {
            (VERSION, EVENT) => Ok(()),
            (VERSION, _) => Err(Mismatch::Kind(kind)),
            _ => Err(Mismatch::Version(version)),
        }
    }

    #[inline]
    pub(crate) fn word(&self) -> Word {
        // For atomics in read-only memory, the language permits relaxed loads only.
        let word = self.word.load(Relaxed);
        fence(Acquire);
        Word::from_bits(word)
    }

    /// Whether the word is valid, and not what is left of a truncated file.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.seal.load(Relaxed) == SEAL
    }

    /// How often `set` was called without changing the counter.
    #[inline]
    pub(crate) fn repeats(&self) -> u32 {
        // Relaxed, as with the word.
        let repeats = self.repeats.load(Relaxed);
        fence(Acquire);
        repeats
    }

    /// The index of a PID namespace. Zero if it has none, and the table is full or this process may
    /// only read.
    pub(crate) fn index_of_namespace(&self, namespace: u32, is_writable: bool) -> u32 {
        if namespace == 0 {
            return 0;
        }
        let is_at = |place: &AtomicU32| match place.load(Relaxed) {
            0 if is_writable => {
                let put = place.compare_exchange(0, namespace, Relaxed, Relaxed);
                put.is_ok() || put == Err(namespace)
            }
            there => there == namespace,
        };
        self.namespaces.iter().position(is_at).map_or(0, |place| place as u32 + 1)
    }

    /// Whether that is the index of this PID namespace.
    pub(crate) fn is_namespace(&self, index: u32, namespace: u32) -> bool {
        let place = (index as usize).checked_sub(1).and_then(|place| self.namespaces.get(place));
        namespace != 0 && place.is_some_and(|place| place.load(Relaxed) == namespace)
    }

    /// What a process records that sets the event. `origin` is the process, with its PID namespace,
    /// and the time in seconds and nanoseconds.
    #[inline]
    pub(crate) fn setter<'a, F>(&'a self, note: Option<&'a Note>, origin: F) -> Setter<'a, F>
    where
        F: Fn() -> (Numbers, Numbers),
    {
        Setter { word: &self.word, records: &self.records, note, origin }
    }

    /// When the event was last set, if that was recorded, as seen from a PID namespace.
    pub(crate) fn last_set(&self, namespace: u32) -> Option<LastSet> {
        self.records.last_of(&self.word, namespace)
    }

    /// Records that there may be sleepers that may only read.
    pub(crate) fn admit_readers(&self) {
        if !self.word().has_readers() {
            self.word.fetch_or(Word::ADMIT_READERS, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::array;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::protocol::signal::Recorder;

    fn page() -> Page {
        Page::from_bytes(Page::new_bytes(false, 7)[..HEAD].try_into().unwrap())
    }

    #[test]
    fn the_last_set_is_shown_and_one_that_did_not_happen_is_not() {
        let page = page();
        page.check().unwrap();
        assert_eq!(page.last_set(7), None);
        for round in 1..5_u32 {
            let before = page.word();
            page.setter(None, || ((round, 7), (round, 7))).raising(before);
            let noted = page.last_set(7);
            assert_eq!(noted.map(|last| last.pid), (round > 1).then_some(Some(round - 1)), "not yet");
            page.word.store(before.set().bits(), Relaxed);
            let last = page.last_set(7).unwrap();
            assert_eq!((last.pid, last.at), (Some(round), SystemTime::UNIX_EPOCH + Duration::new(round.into(), 7)));
            for after in [before.set().cleared(), before.pulsed()] {
                page.word.store(after.bits(), Relaxed);
                assert_eq!(page.last_set(7).as_ref(), Some(&last), "it is still the last");
            }
        }
    }

    /// It has seen an unset word, and writes its record to the slot of the set before the last.
    #[test]
    fn a_slow_setter_records_the_last_set_again() {
        for sets in 1..5_u32 {
            let page = page();
            let before = page.word();
            for round in 1..=sets {
                let now = page.word();
                page.setter(None, || ((round, 7), (1, 0))).raising(now);
                let after = if round == sets { now.set() } else { now.set().cleared() };
                page.word.store(after.bits(), Relaxed);
            }
            let slow = page.setter(None, || ((9, 7), (2, 0)));
            slow.raising(before);
            slow.raced(before);
            let is_overwritten = sets % 2 == 1;
            let pid = page.last_set(7).unwrap().pid;
            assert_eq!(pid, Some(if is_overwritten { 9 } else { sets }), "after {sets} sets");
        }
    }

    #[test]
    fn a_setter_that_lost_no_race_to_another_set_leaves_the_last_one_without_a_record() {
        let page = page();
        let before = page.word().pulsed();
        page.word.store(before.bits(), Relaxed);
        let setter = page.setter(None, || ((9, 7), (2, 0)));
        setter.raising(before);
        setter.raced(before);
        assert_eq!(page.last_set(7), None, "its own set did not happen yet");
    }

    #[test]
    fn a_process_number_is_shown_in_its_own_namespace_only() {
        let page = page();
        page.setter(None, || ((1, 7), (1, 0))).raising(page.word());
        page.word.store(page.word().set().bits(), Relaxed);
        let pid = |namespace| page.last_set(namespace).unwrap().pid;
        assert_eq!([pid(7), pid(8), pid(0)], [Some(1), None, None]);
    }

    #[test]
    fn each_namespace_has_one_index_until_the_table_is_full() {
        let page = Page::from_bytes(Page::new_bytes(false, 7)[..HEAD].try_into().unwrap());
        assert_eq!(page.index_of_namespace(7, false), 1, "the maker's");
        assert_eq!(page.index_of_namespace(8, false), 0, "a process that may only read writes nothing");
        for _ in 0..2 {
            for namespace in 8..263 {
                assert_eq!(page.index_of_namespace(namespace, true), namespace - 6);
                assert!(page.is_namespace(namespace - 6, namespace) && !page.is_namespace(namespace - 6, 7));
            }
        }
        assert_eq!(page.index_of_namespace(263, true), 0);
        assert_eq!(page.index_of_namespace(0, true), 0, "one that is not known");
        assert!(!page.is_namespace(0, 7) && !page.is_namespace(0, 0) && !page.is_namespace(511, 7));
    }

    #[test]
    fn a_page_that_is_not_an_event_is_refused_with_a_reason() {
        let with = |at: usize, value: u8| {
            let mut bytes = Page::new_bytes(true, 0);
            bytes[at] = value;
            Page::from_bytes(bytes[..HEAD].try_into().unwrap()).check()
        };
        assert_eq!(with(0, b'T'), Err(Mismatch::Magic));
        assert_eq!(with(7, b'T'), Err(Mismatch::Magic));
        assert!(matches!(with(8, 9), Err(Mismatch::Version(_))));
        assert_eq!(with(8, 1), Err(Mismatch::Version(if cfg!(target_endian = "little") { 1 } else { 0x0100_0002 })));
        assert!(matches!(with(12, 9), Err(Mismatch::Kind(_))));
        assert_eq!(with(WORD_AT + 4, 0), Err(Mismatch::Seal));
        for reserved in [16, WORD_AT - 1, WORD_AT + 12, RECORDS_AT - 1, BEHIND_AT, NAMESPACES_AT, HEAD, PAGE - 1] {
            assert_eq!(with(reserved, 9), Ok(()), "reserved bytes may be used by later versions");
        }
    }

    #[test]
    fn a_page_that_is_read_is_the_page_that_is_mapped() {
        let bytes: [u8; HEAD] = array::from_fn(|at| (at * 7 % 251) as u8);
        let page = Page::from_bytes(&bytes);
        let at = |at: usize| u32::from_ne_bytes(array::from_fn(|i| bytes[at + i]));
        let read = |word: &AtomicU32| word.load(Relaxed);
        assert_eq!([read(&page.word), read(&page.seal), read(&page.repeats)], [128, 132, 136].map(at));
        let pair = |of: usize| (at(of), at(of + 4));
        assert_eq!(page.records.numbers(), [256, 264, 272, 288, 296, 304, 320, 328, 336, 384, 448, 512].map(pair));
        assert_eq!([read(&page.namespaces[0]), read(&page.namespaces[255])], [1024, 2044].map(at));
    }
}

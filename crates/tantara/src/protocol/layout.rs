//! The layout of the page that processes share. For the state word see
//! [`word`](crate::protocol::word).
//!
//! | byte | holds |
//! |---|---|
//! | 0 | `"tantara\n"` |
//! | 8, 12 | the version of this layout; the kind of the event |
//! | 128 | the word |
//! | 132 | the seal |
//! | 136 | `repeats`: how often `set` was called without being seen in the word |
//! | 256, 288 | who raised the flag, in each of the last two generations, and when ([`Raised`]) |
//! | 384, 448 | why: a text of up to 64 bytes for each of them |
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
//! For each of the last two generations, the page records who raised the flag and when
//! ([`Raised`]). This is recorded before the word changes, and counts only once the word has
//! reached the generation that it names. So a setter that is killed in between does not spoil the
//! record of the set before.
//!
//! A process number is valid only in its own PID namespace, so the inode number of that namespace
//! (`/proc/self/ns/pid`, never zero) is recorded with it. The range of a lock has no room for that
//! number. It contains an index into `namespaces`, a table of the namespaces whose processes have
//! used the event: the position plus one, or zero if the table is full. A process that does not
//! find its namespace writes it to the first free place, in one step. The first entry is that of
//! the process that made the event.

#![forbid(unsafe_code)]

use std::array;
use std::ops::Range;
#[cfg(target_has_atomic = "64")]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, fence};
use std::time::{Duration, SystemTime};

use crate::protocol::word::Word;

/// Length of a page, and of a file.
pub(crate) const PAGE: usize = 4096;
/// Length of the part that is used.
pub(crate) const HEAD: usize = 2048;
/// Offset of the word.
pub(crate) const WORD_AT: usize = 128;
/// Offset of the records of who raised the flag.
const RAISED_AT: usize = 256;
const NOTES_AT: usize = 384;
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
    _apart: [AtomicU32; (RAISED_AT - WORD_AT) / 4 - 3],
    raised: [Raised; 2],
    _behind: [AtomicU32; (NOTES_AT - RAISED_AT) / 4 - 16],
    /// Reserved: why the event was set, for each of `raised`.
    _notes: [[AtomicU32; 16]; 2],
    _between: [AtomicU32; (NAMESPACES_AT - NOTES_AT) / 4 - 32],
    /// The PID namespaces of waiters and holders.
    namespaces: [AtomicU32; 256],
}

const _: () = assert!(std::mem::offset_of!(Page, word) == WORD_AT);
const _: () = assert!(std::mem::offset_of!(Page, raised) == RAISED_AT);
const _: () = assert!(std::mem::offset_of!(Page, _notes) == NOTES_AT);
const _: () = assert!(std::mem::offset_of!(Page, namespaces) == NAMESPACES_AT && size_of::<Page>() == HEAD);

/// Who raised the flag, and when.
#[repr(C)]
#[derive(Debug)]
struct Raised {
    /// The counter after this set. It is written last.
    counter: AtomicU32,
    _reserved: AtomicU32,
    /// The process, and its PID namespace, or zero if that is not known.
    who: Pair,
    /// Seconds since 1970, until 2106, and nanoseconds.
    at: Pair,
    _behind: [AtomicU32; 2],
}

/// Two numbers, one behind the other. Where the processor can, they are written in one step: a
/// `set` waits until all that it has written before is in the cache.
#[cfg(target_has_atomic = "64")]
#[repr(transparent)]
#[derive(Debug)]
struct Pair(AtomicU64);

#[cfg(target_has_atomic = "64")]
impl Pair {
    fn new([first, second]: [u32; 2]) -> Pair {
        Pair(AtomicU64::new(Pair::join(first, second)))
    }

    /// In memory the first number stands first, in each order of bytes.
    #[inline]
    fn join(first: u32, second: u32) -> u64 {
        let [low, high] = if cfg!(target_endian = "little") { [first, second] } else { [second, first] };
        u64::from(high) << 32 | u64::from(low)
    }

    #[inline]
    fn store(&self, (first, second): (u32, u32)) {
        self.0.store(Pair::join(first, second), Relaxed);
    }

    fn load(&self) -> (u32, u32) {
        let both = self.0.load(Relaxed);
        let (high, low) = ((both >> 32) as u32, both as u32);
        if cfg!(target_endian = "little") { (low, high) } else { (high, low) }
    }
}

#[cfg(not(target_has_atomic = "64"))]
#[repr(C, align(8))]
#[derive(Debug)]
struct Pair([AtomicU32; 2]);

#[cfg(not(target_has_atomic = "64"))]
impl Pair {
    fn new(both: [u32; 2]) -> Pair {
        Pair(both.map(AtomicU32::new))
    }

    fn store(&self, (first, second): (u32, u32)) {
        self.0[0].store(first, Relaxed);
        self.0[1].store(second, Relaxed);
    }

    fn load(&self) -> (u32, u32) {
        (self.0[0].load(Relaxed), self.0[1].load(Relaxed))
    }
}

/// When an event was last set, and by which process. Ordered by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LastSet {
    /// When, to within some milliseconds.
    pub at: SystemTime,
    /// The process that set it. `None` if it is in another PID namespace, for example in another
    /// container.
    pub pid: Option<u32>,
}

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

    /// A page from bytes that were read, for inspection.
    pub(crate) fn from_bytes(bytes: &[u8; HEAD]) -> Page {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let number = |at: usize| AtomicU32::new(word(at));
        // By constant offsets, which compiles to copies.
        let raised = |at: usize| Raised {
            counter: number(at),
            _reserved: number(at + 4),
            who: Pair::new([word(at + 8), word(at + 12)]),
            at: Pair::new([word(at + 16), word(at + 20)]),
            _behind: array::from_fn(|i| number(at + 24 + 4 * i)),
        };
        Page {
            magic: array::from_fn(|i| number(4 * i)),
            version: number(8),
            kind: number(12),
            _reserved: array::from_fn(|i| number(16 + 4 * i)),
            word: number(WORD_AT),
            seal: number(WORD_AT + 4),
            repeats: number(WORD_AT + 8),
            _apart: array::from_fn(|i| number(WORD_AT + 12 + 4 * i)),
            raised: array::from_fn(|i| raised(RAISED_AT + size_of::<Raised>() * i)),
            _behind: array::from_fn(|i| number(RAISED_AT + 2 * size_of::<Raised>() + 4 * i)),
            _notes: array::from_fn(|note| array::from_fn(|i| number(NOTES_AT + 64 * note + 4 * i))),
            _between: array::from_fn(|i| number(NOTES_AT + 128 + 4 * i)),
            namespaces: array::from_fn(|i| number(NAMESPACES_AT + 4 * i)),
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

    /// Records the process, with its PID namespace, that is about to raise the flag over `before`,
    /// and the time in seconds and nanoseconds.
    #[inline]
    pub(crate) fn note_raising(&self, before: Word, who: (u32, u32), at: (u32, u32)) {
        let counter = before.set().counter();
        let raised = self.raised(counter);
        // If several processes raise it at once, one is recorded, perhaps with the time of another.
        raised.who.store(who);
        raised.at.store(at);
        raised.counter.store(counter, Release);
    }

    fn raised(&self, counter: u32) -> &Raised {
        &self.raised[counter as usize >> 1 & 1]
    }

    /// When the event was last raised, if that was recorded, as seen from a PID namespace.
    pub(crate) fn last_set(&self, namespace: u32) -> Option<LastSet> {
        let last = self.word().last_raised()?;
        let raised = self.raised(last);
        let is_noted = || raised.counter.load(Acquire) == last;
        if !is_noted() {
            return None;
        }
        let (process, its_namespace) = raised.who.load();
        let is_here = namespace != 0 && its_namespace == namespace;
        // A hostile process may write any number. Zero and negative numbers have another meaning to
        // the kernel.
        let is_process = |pid: &u32| (1..=i32::MAX as u32).contains(pid);
        let pid = is_here.then_some(process).filter(is_process);
        let (seconds, nanoseconds) = raised.at.load();
        let at = Duration::from_secs(seconds.into()) + Duration::from_nanos(nanoseconds.into());
        let at = SystemTime::UNIX_EPOCH.checked_add(at)?;
        // The record is overwritten two sets later.
        fence(Acquire);
        is_noted().then_some(LastSet { at, pid })
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
    use super::*;

    #[test]
    fn the_last_set_is_shown_and_one_that_did_not_happen_is_not() {
        let page = Page::from_bytes(Page::new_bytes(false, 7)[..HEAD].try_into().unwrap());
        page.check().unwrap();
        assert_eq!(page.last_set(7), None);
        for round in 1..5_u32 {
            let before = page.word();
            page.note_raising(before, (round, 7), (round, 7));
            let noted = page.last_set(7);
            assert_eq!(noted.map(|last| last.pid), (round > 1).then_some(Some(round - 1)), "not yet");
            page.word.store(before.set().bits(), Relaxed);
            let last = page.last_set(7).unwrap();
            assert_eq!((last.pid, last.at), (Some(round), SystemTime::UNIX_EPOCH + Duration::new(round.into(), 7)));
            for after in [before.set().cleared(), before.pulsed()] {
                page.word.store(after.bits(), Relaxed);
                assert_eq!(page.last_set(7), Some(last), "it is still the last");
            }
        }
    }

    #[test]
    fn a_process_number_is_shown_in_its_own_namespace_only() {
        let page = Page::from_bytes(Page::new_bytes(false, 7)[..HEAD].try_into().unwrap());
        page.note_raising(page.word(), (1, 7), (1, 0));
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
        for reserved in [16, WORD_AT - 1, WORD_AT + 12, RAISED_AT - 1, NOTES_AT, NAMESPACES_AT, HEAD, PAGE - 1] {
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
        assert_eq!(read(&page.raised[1].counter), at(288));
        assert_eq!([page.raised[1].who.load(), page.raised[1].at.load()], [(at(296), at(300)), (at(304), at(308))]);
        assert_eq!(read(&page._notes[1][0]), at(448));
        assert_eq!([read(&page.namespaces[0]), read(&page.namespaces[255])], [1024, 2044].map(at));
    }
}

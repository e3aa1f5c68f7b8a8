//! The page that processes share: what stands where in it. For the state word see [`word`](crate::protocol::word).
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
//! All else is zero, and reserved: nobody looks at it. Numbers are in the byte order
//! of the machine, which all who can share the page have in common, and have 32 bits, which every processor changes in
//! one step.
//!
//! The seal is always the same. If the file is cut off before it, what is left of the page reads as zeros; and a word
//! of zeros without a seal is no word.
//!
//! What different processes write at the same time stands 128 bytes apart, where processors do not fetch it together: a
//! waiter that looks at the word does not slow down a setter that notes that it is about to set.
//!
//! Beside the word stands, for the last two generations each, who raised it and when ([`Raised`]). It is noted before
//! the word changes, and counts only if the generation that it names has come: a setter that is killed in between has
//! not spoilt the note of the set before.
//!
//! A process number means something in its own PID namespace alone, so the number of that namespace's inode
//! (`/proc/self/ns/pid`, never zero) stands beside it. A lock cannot carry that number. It carries an index of
//! `namespaces`, which is a table of the namespaces whose processes have used the event: one more than the place, or
//! zero if the table is full. A process that does not find its own namespace puts it into the first place that is zero,
//! in one step; whoever makes the event begins with its own.

#![forbid(unsafe_code)]

use std::array;
use std::ops::Range;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, fence};
use std::time::{Duration, SystemTime};

use crate::protocol::word::Word;

/// How long a page is, and so a file.
pub(crate) const PAGE: usize = 4096;
/// How much of it holds anything.
pub(crate) const HEAD: usize = 2048;
/// Where the word stands.
pub(crate) const WORD_AT: usize = 128;
/// Where it is noted who raised it.
const RAISED_AT: usize = 256;
const NOTES_AT: usize = 384;
const NAMESPACES_AT: usize = 1024;

const MAGIC: [u8; 8] = *b"tantara\n";
pub(crate) const VERSION: u32 = 2;
/// The one kind that there is: an event that stays set until it is cleared.
const EVENT: u32 = 1;

/// What stands behind the word.
const SEAL: u32 = u32::from_ne_bytes(*b"seal");

/// Where the locks of holders are: bytes that no file has, below those of the marks of waiters.
pub(crate) const HOLDS: Range<u64> = 0..1 << 41;

/// The page, as it is mapped.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Page {
    magic: [AtomicU32; 2],
    version: AtomicU32,
    kind: AtomicU32,
    _reserved: [AtomicU32; (WORD_AT - 16) / 4],
    /// The state.
    pub(crate) word: AtomicU32,
    seal: AtomicU32,
    /// How often `set` was called, but for calls that changed the counter.
    repeats: AtomicU32,
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
    /// The counter that this made. It is written last.
    counter: AtomicU32,
    /// The process.
    process: AtomicU32,
    /// The PID namespace in which it has that number, or zero if that is not known.
    namespace: AtomicU32,
    /// Seconds since 1970, which will do until 2106.
    seconds: AtomicU32,
    nanoseconds: AtomicU32,
    _reserved: [AtomicU32; 3],
}

/// When an event was last raised, and by which process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastSet {
    /// When: the time of day, to within some milliseconds.
    pub at: SystemTime,
    /// The process that set it, if it has a number here: not if it is in another PID namespace (in another container,
    /// say).
    pub pid: Option<u32>,
}

/// Why a page is no event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mismatch {
    /// It does not begin as events do.
    Magic,
    /// It is damaged.
    Seal,
    /// It was made by another version of the library.
    Version(u32),
    /// It is something else that a later library made.
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

    /// The same from bytes that were read, for those who only look.
    pub(crate) fn from_bytes(bytes: &[u8; HEAD]) -> Page {
        // The fields stand in the order of the page.
        let mut words =
            bytes.chunks_exact(4).map(|word| AtomicU32::new(u32::from_ne_bytes(array::from_fn(|i| word[i]))));
        let mut next = || words.next().unwrap_or_default();
        Page {
            magic: array::from_fn(|_| next()),
            version: next(),
            kind: next(),
            _reserved: array::from_fn(|_| next()),
            word: next(),
            seal: next(),
            repeats: next(),
            _apart: array::from_fn(|_| next()),
            raised: array::from_fn(|_| Raised {
                counter: next(),
                process: next(),
                namespace: next(),
                seconds: next(),
                nanoseconds: next(),
                _reserved: array::from_fn(|_| next()),
            }),
            _behind: array::from_fn(|_| next()),
            _notes: array::from_fn(|_| array::from_fn(|_| next())),
            _between: array::from_fn(|_| next()),
            namespaces: array::from_fn(|_| next()),
        }
    }

    /// Whether this is an event's page.
    pub(crate) fn check(&self) -> Result<(), Mismatch> {
        let magic = self.magic.each_ref().map(|half| half.load(Relaxed).to_ne_bytes());
        if magic.as_flattened() != MAGIC {
            return Err(Mismatch::Magic);
        }
        // Another version may have its seal elsewhere.
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
        // Of atomics in memory that may only be read, the language promises no more than a relaxed load.
        let word = self.word.load(Relaxed);
        fence(Acquire);
        Word::from_bits(word)
    }

    /// Whether the word is one, and not what is left where the file was cut off.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.seal.load(Relaxed) == SEAL
    }

    /// Counts a `set` that may have found the event set.
    #[inline]
    pub(crate) fn count_repeat(&self) {
        self.repeats.fetch_add(1, Release);
    }

    /// The index of a PID namespace; zero if it has none, and gets none because the table is full, or because this
    /// process may only read.
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

    /// Notes who is about to raise the flag over `before`: a process by its number, and the PID namespace of that.
    #[inline]
    pub(crate) fn note_raising(&self, before: Word, (process, namespace): (u32, u32), at: Duration) {
        let counter = before.set().counter();
        let raised = self.raised(counter);
        // Of several who raise it at once one is noted, perhaps with the time of another.
        raised.process.store(process, Relaxed);
        raised.namespace.store(namespace, Relaxed);
        raised.seconds.store(at.as_secs() as u32, Relaxed);
        raised.nanoseconds.store(at.subsec_nanos(), Relaxed);
        raised.counter.store(counter, Release);
    }

    fn raised(&self, counter: u32) -> &Raised {
        &self.raised[counter as usize >> 1 & 1]
    }

    /// When the event was last raised, if that was noted, as it is seen from a PID namespace.
    pub(crate) fn last_set(&self, namespace: u32) -> Option<LastSet> {
        let last = self.word().last_raised()?;
        let raised = self.raised(last);
        let is_noted = || raised.counter.load(Acquire) == last;
        if !is_noted() {
            return None;
        }
        let is_here = namespace != 0 && raised.namespace.load(Relaxed) == namespace;
        // A hostile process may write any number, and the kernel has another meaning for zero and for negative ones.
        let is_process = |pid: &u32| (1..=i32::MAX as u32).contains(pid);
        let pid = is_here.then(|| raised.process.load(Relaxed)).filter(is_process);
        let (seconds, nanoseconds) = (raised.seconds.load(Relaxed), raised.nanoseconds.load(Relaxed));
        let at = Duration::from_secs(seconds.into()) + Duration::from_nanos(nanoseconds.into());
        let at = SystemTime::UNIX_EPOCH.checked_add(at)?;
        // The place is used again two sets later.
        fence(Acquire);
        is_noted().then_some(LastSet { at, pid })
    }

    /// Says so that there may be sleepers that only read.
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
    fn the_last_two_sets_are_noted_and_one_that_did_not_come_about_is_not() {
        let page = Page::from_bytes(Page::new_bytes(false, 7)[..HEAD].try_into().unwrap());
        page.check().unwrap();
        assert_eq!(page.last_set(7), None);
        for round in 1..5_u32 {
            let before = page.word();
            page.note_raising(before, (round, 7), Duration::new(round.into(), 7));
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
    fn a_process_number_is_told_in_its_own_namespace_alone() {
        let page = Page::from_bytes(Page::new_bytes(false, 7)[..HEAD].try_into().unwrap());
        page.note_raising(page.word(), (1, 7), Duration::from_secs(1));
        page.word.store(page.word().set().bits(), Relaxed);
        let pid = |namespace| page.last_set(namespace).unwrap().pid;
        assert_eq!([pid(7), pid(8), pid(0)], [Some(1), None, None]);
    }

    #[test]
    fn each_namespace_has_one_index_until_the_table_is_full() {
        let page = Page::from_bytes(Page::new_bytes(false, 7)[..HEAD].try_into().unwrap());
        assert_eq!(page.index_of_namespace(7, false), 1, "the maker's");
        assert_eq!(page.index_of_namespace(8, false), 0, "who may only read puts nothing there");
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
    fn what_is_no_event_says_why() {
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
            assert_eq!(with(reserved, 9), Ok(()), "what is not used yet may be used later");
        }
    }

    #[test]
    fn a_page_that_is_read_is_the_page_that_is_mapped() {
        let bytes: [u8; HEAD] = array::from_fn(|at| (at * 7 % 251) as u8);
        let page = Page::from_bytes(&bytes);
        let at = |at: usize| u32::from_ne_bytes(array::from_fn(|i| bytes[at + i]));
        let read = |word: &AtomicU32| word.load(Relaxed);
        assert_eq!([read(&page.word), read(&page.seal), read(&page.repeats)], [128, 132, 136].map(at));
        assert_eq!([read(&page.raised[1].counter), read(&page.raised[1].nanoseconds)], [288, 304].map(at));
        assert_eq!(read(&page._notes[1][0]), at(448));
        assert_eq!([read(&page.namespaces[0]), read(&page.namespaces[255])], [1024, 2044].map(at));
    }
}

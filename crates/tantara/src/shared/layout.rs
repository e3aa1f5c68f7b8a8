//! The page that processes share: where what stands in it, and the transitions of its state word. The word's are pure
//! functions; what it means to the kernel is in [`sys::shared`](crate::sys).
//!
//! ```text
//!   byte 0        8         12     16               128    132    136    256         272         288    4096
//!   ┌────────────┬─────────┬──────┬────────────────┬──────┬──────┬──────┬───────────┬───────────┬──────┐
//!   │ "tantara\n"│ version │ kind │ zero, reserved │ word │ seal │ zero │ raised, 0 │ raised, 1 │ zero │
//!   └────────────┴─────────┴──────┴────────────────┴──────┴──────┴──────┴───────────┴───────────┴──────┘
//!
//!   the word:  31                              4     3        2         1         0
//!             ┌─────────────────────────────────┬────────┬─────────┬─────────┬──────────┐
//!             │ counter: even unset, odd set    │  GONE  │ READERS │ WATCHED │ SLEEPERS │
//!             └─────────────────────────────────┴────────┴─────────┴─────────┴──────────┘
//! ```
//!
//! The seal is always the same. If the file is cut off before it, what is left of the page reads as zeros; and a word
//! of zeros without a seal is no word.
//!
//! What different parties write at the same time stands 128 bytes apart, where processors do not fetch it together: a
//! waiter that looks at the word does not slow down a setter who notes that it is about to set.
//!
//! Numbers are in the byte order of the machine, which all who can share the page have in common.
//!
//! * **counter**: to set is to make it odd, which is one OR, so that the kernel can do it in the same system call that
//!   wakes those who sleep. To clear is to make it even again by adding one. A waiter remembers the even number that it
//!   saw, its [`Ticket`], and is released as soon as the counter differs from it.
//! * **SLEEPERS**: somebody may be asleep until it is set. A `set` that finds it off needs no system call.
//! * **WATCHED**: somebody may be asleep until it is cleared.
//! * **READERS**: there may be sleepers that can say nothing, because they may only read. Every `set` wakes.
//! * **GONE**: the event was removed. Nothing changes it any more.
//!
//! | before | `set` | `clear` | asleep until set | asleep until cleared |
//! |---|---|---|---|---|
//! | unset | odd; if SLEEPERS or READERS, in one call with the wake-up | unchanged | SLEEPERS on | never |
//! | set | unchanged | next even number, SLEEPERS and WATCHED off; then wakes, if WATCHED was on | never | WATCHED on |
//!
//! Invariants:
//!
//! 1. Nobody sleeps on a set event waiting for it to be set: the kernel looks at the word before it lets anyone sleep,
//!    and the one call that sets over SLEEPERS wakes all who do.
//! 2. So a `set` that finds SLEEPERS and READERS off, and changes the word that it found, owes nobody a call, and may
//!    be killed right after it.
//! 3. The counter never goes back. It wraps after 2^27 sets; a waiter would be misled only if the event were set
//!    exactly that often (or a multiple) while that waiter was not running.
//!
//! Beside the word stands, for the last two generations each, who raised it and when ([`Raised`]). It is noted before
//! the word changes, and counts only if the generation that it names has come: a setter that is killed in between has
//! not spoilt the note of the set before.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};
use std::time::{Duration, SystemTime};

/// How long a page is, and so a file.
pub(crate) const PAGE: usize = 4096;
/// How much of it holds anything.
pub(crate) const HEAD: usize = 288;
/// Where the word stands.
pub(crate) const WORD_AT: usize = 128;
/// Where it is noted who raised it.
const RAISED_AT: usize = 256;

const MAGIC: u64 = u64::from_ne_bytes(*b"tantara\n");
const VERSION: u32 = 1;
/// The one kind that there is: an event that stays set until it is cleared.
const EVENT: u32 = 1;

/// What stands behind the word.
const SEAL: u32 = u32::from_ne_bytes(*b"seal");

const SLEEPERS: u32 = 0b0001;
const WATCHED: u32 = 0b0010;
const READERS: u32 = 0b0100;
const GONE: u32 = 0b1000;
/// The lowest bit of the counter.
const SET: u32 = 0b1_0000;
const FLAGS: u32 = SET - 1;

/// The page, as it is mapped.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Page {
    magic: AtomicU64,
    version: AtomicU32,
    kind: AtomicU32,
    _reserved: [AtomicU32; (WORD_AT - 16) / 4],
    /// The state.
    pub(crate) word: AtomicU32,
    seal: AtomicU32,
    _apart: [AtomicU32; (RAISED_AT - WORD_AT) / 4 - 2],
    raised: [Raised; 2],
}

const _: () = assert!(std::mem::offset_of!(Page, word) == WORD_AT);
const _: () = assert!(std::mem::offset_of!(Page, raised) == RAISED_AT && size_of::<Page>() == HEAD);

/// Who raised the flag, and when.
#[repr(C)]
#[derive(Debug)]
struct Raised {
    /// The counter that this made, in the upper half, and the process.
    by: AtomicU64,
    /// Nanoseconds since 1970.
    at: AtomicU64,
}

/// When an event was last raised, and by which process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastSet {
    /// When: the time of day, to within some milliseconds.
    pub at: SystemTime,
    /// The process that set it, by the number that it has in its own namespace.
    pub pid: u32,
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
    /// The bytes of a new event's page.
    pub(crate) fn new_bytes(has_readers: bool) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(0, &MAGIC.to_ne_bytes());
        put(8, &VERSION.to_ne_bytes());
        put(12, &EVENT.to_ne_bytes());
        put(WORD_AT, &Word::new(has_readers).bits().to_ne_bytes());
        put(WORD_AT + 4, &SEAL.to_ne_bytes());
        bytes
    }

    /// The same from bytes that were read, for those who only look.
    pub(crate) fn from_bytes(bytes: &[u8; HEAD]) -> Page {
        let small = |at: usize| AtomicU32::new(u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i])));
        let large = |at: usize| AtomicU64::new(u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i])));
        let raised = |at: usize| Raised { by: large(at), at: large(at + 8) };
        Page {
            magic: large(0),
            version: small(8),
            kind: small(12),
            _reserved: std::array::from_fn(|_| AtomicU32::new(0)),
            word: small(WORD_AT),
            seal: small(WORD_AT + 4),
            _apart: std::array::from_fn(|_| AtomicU32::new(0)),
            raised: [raised(RAISED_AT), raised(RAISED_AT + size_of::<Raised>())],
        }
    }

    /// Whether this is an event's page.
    pub(crate) fn check(&self) -> Result<(), Mismatch> {
        if self.magic.load(Relaxed) != MAGIC {
            return Err(Mismatch::Magic);
        }
        // A later version may have its seal elsewhere.
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
        let word = Word(self.word.load(Relaxed));
        fence(Acquire);
        word
    }

    /// Whether the word is one, and not what is left where the file was cut off.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.seal.load(Relaxed) == SEAL
    }

    /// Notes who is about to raise the flag over `before`.
    #[inline]
    pub(crate) fn note_raising(&self, before: Word, process: u32, at: Duration) {
        let counter = before.set().counter();
        let raised = &self.raised[counter as usize >> 1 & 1];
        let by = u64::from(counter) << 32 | u64::from(process);
        // Of several who raise it at once one is noted, perhaps with the time of another.
        raised.by.store(by, Relaxed);
        raised.at.store(at.as_nanos() as u64, Relaxed);
    }

    /// When the event was last raised, if that was noted.
    pub(crate) fn last_set(&self) -> Option<LastSet> {
        let last = self.word().last_raised()?;
        let raised = &self.raised[last as usize >> 1 & 1];
        let (by, at) = (raised.by.load(Relaxed), raised.at.load(Relaxed));
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(at))?;
        ((by >> 32) as u32 == last).then_some(LastSet { at, pid: by as u32 })
    }

    /// Says so that there may be sleepers that only read.
    pub(crate) fn admit_readers(&self) {
        if !self.word().has_readers() {
            self.word.fetch_or(READERS, Release);
        }
    }
}

/// One value of the state word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(u32);

/// What a waiter remembers: the even counter that it saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket(u32);

impl Word {
    /// What stands where the word was, once the page is lost: not set, gone, and like no word that can be.
    pub(crate) const LOST: Word = Word(!SET);
    /// What to raise in order to set.
    pub(crate) const RAISE_SET: u32 = SET;
    /// What to raise in order to remove.
    pub(crate) const RAISE_GONE: u32 = GONE;

    fn new(has_readers: bool) -> Word {
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

    #[inline]
    pub(crate) const fn is_set(self) -> bool {
        self.0 & SET != 0
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

    /// Whether somebody has said that they sleep until it is set.
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

    /// The flag lowered. It must be up.
    #[inline]
    pub(crate) const fn cleared(self) -> Word {
        Word(self.0.wrapping_add(SET) & !(SLEEPERS | WATCHED))
    }

    /// Before somebody goes to sleep on it: until it is set, or, if it is, until it is cleared.
    #[inline]
    pub(crate) const fn with_sleeper(self) -> Word {
        Word(self.0 | if self.is_set() { WATCHED } else { SLEEPERS })
    }

    /// How often it was set and cleared: twice the number of generations, and one more while it is set.
    #[inline]
    pub(crate) const fn counter(self) -> u32 {
        self.0 >> SET.trailing_zeros()
    }

    /// The counter that the last `set` made, if there was one.
    const fn last_raised(self) -> Option<u32> {
        match self.counter() {
            0 => None,
            counter if self.is_set() => Some(counter),
            counter => Some(counter - 1),
        }
    }

    /// How often it was set since the word was `earlier`, as long as that was not 2^27 times or more.
    pub(crate) fn sets_since(self, earlier: Word) -> u32 {
        let generation = |word: Word| word.counter().div_ceil(2);
        generation(self).wrapping_sub(generation(earlier)) & (u32::MAX >> (SET.trailing_zeros() + 1))
    }

    /// The ticket of a wait that begins now. If the event is set, the ticket is released already.
    #[inline]
    pub(crate) const fn ticket(self) -> Ticket {
        Ticket(self.0 & !FLAGS & !SET)
    }

    /// Whether a waiter with this ticket is released: the event is set, or was set since the wait began.
    #[inline]
    pub(crate) const fn releases(self, ticket: Ticket) -> bool {
        self.0 & !FLAGS != ticket.0 && !self.is_lost()
    }
}

impl Ticket {
    /// As a number of 27 bits.
    pub(crate) const fn generation(self) -> u32 {
        self.0 >> (SET.trailing_zeros() + 1)
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
    fn clear_makes_the_next_even_number_and_forgets_those_who_were_woken() {
        for word in every_kind_of_word().filter(|word| word.is_set()) {
            let cleared = word.cleared();
            assert!(!cleared.is_set());
            assert_eq!(cleared.counter(), (word.counter() + 1) & (u32::MAX / SET));
            assert_eq!(cleared.bits() & (SLEEPERS | WATCHED), 0);
            assert_eq!(cleared.bits() & (READERS | GONE), word.bits() & (READERS | GONE));
        }
    }

    #[test]
    fn a_ticket_is_released_by_level_and_by_pulse_and_by_nothing_else() {
        for word in every_kind_of_word().filter(|word| !word.is_lost()) {
            let ticket = word.ticket();
            assert_eq!(word.releases(ticket), word.is_set(), "level");
            for flag in [SLEEPERS, WATCHED, READERS] {
                assert_eq!(Word(word.bits() ^ flag).releases(ticket), word.is_set(), "flags say nothing");
            }
            let pulsed = word.set().cleared();
            assert!(pulsed.releases(ticket), "pulse");
            assert!(!pulsed.releases(pulsed.ticket()), "newcomers wait for the next set");
        }
    }

    #[test]
    fn a_lost_page_releases_nobody() {
        assert!(Word::LOST.is_gone() && Word::LOST.is_lost() && !Word::LOST.is_set());
        for word in every_kind_of_word() {
            assert!(!Word::LOST.releases(word.ticket()));
        }
        assert!(!Word(u32::MAX).is_lost(), "what the kernel compares with is not it");
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

    #[test]
    fn the_last_two_sets_are_noted_and_one_that_did_not_come_about_is_not() {
        let page = Page::from_bytes(Page::new_bytes(false)[..HEAD].try_into().unwrap());
        page.check().unwrap();
        assert_eq!(page.last_set(), None);
        for round in 1..5_u32 {
            let before = page.word();
            page.note_raising(before, round, Duration::from_secs(round.into()));
            let noted = page.last_set();
            assert_eq!(noted.map(|last| last.pid), (round > 1).then_some(round - 1), "not yet");
            page.word.store(before.set().bits(), Relaxed);
            let last = page.last_set().unwrap();
            assert_eq!((last.pid, last.at), (round, SystemTime::UNIX_EPOCH + Duration::from_secs(round.into())));
            page.word.store(before.set().cleared().bits(), Relaxed);
            assert_eq!(page.last_set(), Some(last), "it is still the last");
        }
    }

    #[test]
    fn what_is_no_event_says_why() {
        let with = |at: usize, value: u8| {
            let mut bytes = Page::new_bytes(true);
            bytes[at] = value;
            Page::from_bytes(bytes[..HEAD].try_into().unwrap()).check()
        };
        assert_eq!(with(0, b'T'), Err(Mismatch::Magic));
        assert!(matches!(with(8, 9), Err(Mismatch::Version(_))));
        assert!(matches!(with(12, 9), Err(Mismatch::Kind(_))));
        assert_eq!(with(WORD_AT + 4, 0), Err(Mismatch::Seal));
        assert_eq!(with(HEAD, 9), Ok(()), "what is not used yet may be used later");
    }
}

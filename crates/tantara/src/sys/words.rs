//! Linux: words of several events that one thread sleeps on (`man 2 futex_waitv`).

#![forbid(unsafe_code)]

use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use super::shared::{MOST_WORDS, ManyError, Sleep, can_wait_many, futex_wait, wait_many};
use super::sleep::Awake;

/// Words of events that a thread sleeps on until one of them changes, together with a word of its
/// own.
#[derive(Debug)]
pub(crate) struct Words(Vec<Sleep>);

impl Words {
    /// `None` if the kernel does not have the system call, as far as is known.
    pub(crate) fn new(words: usize) -> Option<Words> {
        can_wait_many().then(|| Words(Vec::with_capacity(MOST_WORDS.min(words + 1))))
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether that many words fit.
    pub(crate) fn have_room_for(words: usize) -> bool {
        words < MOST_WORDS
    }

    pub(crate) fn add(&mut self, word: &AtomicU32, expected: u32) {
        self.0.push(Sleep::on(word, expected));
    }

    /// Sleeps if each of the words has its expected value, until a wake-up call for any of them, or
    /// until the deadline. May return early.
    pub(crate) fn wait(&mut self, own: &AtomicU32, expected: u32, deadline: Instant) -> Awake {
        self.0.push(Sleep::on_private(own, expected));
        let slept = wait_many(&self.0, deadline);
        self.0.pop();
        match slept {
            // If it is not supported, the caller's next call of `new` shows it.
            Ok(()) | Err(ManyError::Unsupported) => Awake::Called,
            Err(ManyError::Interrupted) => Awake::Interrupted,
            Err(ManyError::TimedOut) => Awake::TimedOut,
            Err(ManyError::Refused) => futex_wait(own, libc::FUTEX_PRIVATE_FLAG, expected, Some(REFUSED)),
        }
    }
}

/// How long to sleep on the own word alone if the kernel has refused to sleep on all.
const REFUSED: Duration = Duration::from_millis(5);

//! Linux: the futex (`man 2 futex`). What is exported here is private to the process.

use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use super::{Awake, TimedOut};
use crate::deadline::Deadline;
use crate::interrupt;

pub(crate) fn wait(word: &AtomicU32, expected: u32, deadline: Deadline) -> Result<(), TimedOut> {
    // A relative time, measured by CLOCK_MONOTONIC as `Instant` is, and taken anew for each sleep so that early
    // returns add up to nothing.
    let left = match deadline.instant() {
        None => None,
        Some(deadline) => {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
            Some(left.ok_or(TimedOut)?)
        }
    };
    let longest = interrupt::longest_sleep(deadline);
    let nap = left.into_iter().chain(longest).min();
    match futex_wait(word, libc::FUTEX_PRIVATE_FLAG, expected, nap) {
        Awake::TimedOut if nap == left => Err(TimedOut),
        Awake::TimedOut | Awake::Interrupted if interrupt::gives_up(deadline) => Err(TimedOut),
        _ => Ok(()),
    }
}

/// `flags` say who may wake.
pub(super) fn futex_wait(word: &AtomicU32, flags: libc::c_int, expected: u32, timeout: Option<Duration>) -> Awake {
    let timeout = timeout.map(|timeout| libc::timespec {
        // A time beyond the kernel's range is clamped by it to "for ever", and so is ours.
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos() as _,
    });
    let timeout: *const libc::timespec = timeout.as_ref().map_or(ptr::null(), |timeout| timeout);
    // SAFETY: `word` is valid and aligned for the whole call because it is borrowed; the kernel only reads it,
    // atomically.
    // `timeout` is null or points to a timespec that lives until the end of this function.
    let result = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | flags, expected, timeout) };
    if result == 0 {
        return Awake::Called;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::ETIMEDOUT) => Awake::TimedOut,
        Some(libc::EINTR) => Awake::Interrupted,
        // EAGAIN: the word has changed. A kernel that refuses futexes altogether would make the caller spin, correct
        // but slow; std would not start on it either.
        _ => Awake::Called,
    }
}

pub(crate) fn wake_one(word: &AtomicU32) {
    wake(word, 1);
}

pub(crate) fn wake_all(word: &AtomicU32) {
    wake(word, i32::MAX);
}

fn wake(word: &AtomicU32, most: i32) {
    // SAFETY: FUTEX_WAKE uses the address as a key alone; it neither reads nor writes the word.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, most);
    }
}

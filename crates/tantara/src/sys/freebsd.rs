//! FreeBSD: `_umtx_op` (`man 2 _umtx_op`), private to the process.

mod errno;

use std::io;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::sleep::{ALL, Awake, refused, sleep_until};
use crate::deadline::Deadline;
use errno::keeping_errno;

/// There is no advice: events within the process report no errors of the system.
pub(crate) fn advice(_: &io::Error) -> &'static str {
    ""
}

/// All sleepers of a word are woken together.
pub(crate) const HAS_GROUPS: bool = false;

pub(crate) fn wait_in_group(word: &AtomicU32, expected: u32, _: u32, deadline: Deadline) -> Awake {
    sleep_until(deadline, |nap| sleep(word, expected, nap))
}

fn sleep(word: &AtomicU32, expected: u32, nap: Option<Duration>) -> Awake {
    let until = nap.map(|nap| libc::_umtx_time {
        _timeout: libc::timespec {
            // A sleep is no longer than a year, which every `time_t` can count.
            tv_sec: nap.as_secs() as libc::time_t,
            tv_nsec: nap.subsec_nanos() as libc::c_long,
        },
        // Relative.
        _flags: 0,
        _clockid: libc::CLOCK_MONOTONIC as u32,
    });
    let (size, until) = match &until {
        // The system takes the size of the time in the place of a pointer.
        Some(time) => (ptr::without_provenance_mut(size_of_val(time)), ptr::from_ref(time).cast_mut().cast()),
        None => (ptr::null_mut(), ptr::null_mut()),
    };
    let operation = libc::UMTX_OP_WAIT_UINT_PRIVATE;
    // SAFETY: the word is borrowed, and so valid and aligned for the whole call; the system reads
    // it atomically, and does not write. `until` is null or points to a time of the size that is
    // given, which lives until the end of this function; it is only read.
    let result = unsafe { libc::_umtx_op(word.as_ptr().cast(), operation, expected.into(), size, until) };
    if result == 0 {
        // Woken, or the word was not as expected: the system does not tell which.
        return Awake::Called;
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::ETIMEDOUT) => Awake::TimedOut,
        Some(libc::EINTR) => Awake::Interrupted,
        // The next look at the word touches its page.
        Some(libc::EFAULT) => Awake::Early,
        _ => refused(nap),
    }
}

/// Whether this thread may yield to others.
pub(crate) fn may_yield() -> bool {
    true
}

pub(crate) fn wake_one(word: &AtomicU32) {
    wake(word, 1);
}

pub(crate) fn wake_group(word: &AtomicU32, _: u32, _: i32) -> bool {
    wake(word, ALL);
    true
}

fn wake(word: &AtomicU32, most: i32) {
    let (operation, none) = (libc::UMTX_OP_WAKE_PRIVATE, ptr::null_mut());
    keeping_errno(|| {
        // SAFETY: to wake, the system uses the address as a key only, and ignores the two pointers.
        unsafe { libc::_umtx_op(word.as_ptr().cast(), operation, most as libc::c_ulong, none, none) }
    });
}

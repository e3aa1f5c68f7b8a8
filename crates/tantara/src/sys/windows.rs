//! Windows: `WaitOnAddress`, within the process (Windows 8 and newer).

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::sleep::{Awake, sleep_until};
use crate::deadline::Deadline;

// As `synchapi.h` declares them.
#[link(name = "synchronization")]
unsafe extern "system" {
    fn WaitOnAddress(word: *const c_void, unwanted: *const c_void, size: usize, milliseconds: u32) -> i32;
    fn WakeByAddressSingle(word: *const c_void);
    fn WakeByAddressAll(word: *const c_void);
}

/// No timeout.
const INFINITE: u32 = u32::MAX;

/// There is no advice: events within the process report no errors of the system.
pub(crate) fn advice(_: &io::Error) -> &'static str {
    ""
}

/// All sleepers of a word are woken together.
pub(crate) const HAS_GROUPS: bool = false;

pub(crate) fn wait_in_group(word: &AtomicU32, expected: u32, _: u32, deadline: Deadline) -> Awake {
    sleep_until(deadline, |nap| {
        let milliseconds = nap.map_or(INFINITE, milliseconds);
        // SAFETY: both addresses point to four bytes that live until the call returns, as borrows
        // do. The system reads the word atomically, because it is aligned.
        let is_called =
            unsafe { WaitOnAddress(address(word), ptr::from_ref(&expected).cast(), size_of::<u32>(), milliseconds) };
        // It fails only because the time has passed; the caller reads the clock in any case.
        if is_called != 0 { Awake::Called } else { Awake::TimedOut }
    })
}

/// Rounded up, so that a sleep does not end before its time; and at most 49 days, after which the
/// caller sleeps again.
fn milliseconds(nap: Duration) -> u32 {
    let milliseconds = nap.as_nanos().div_ceil(1_000_000);
    milliseconds.try_into().unwrap_or(INFINITE).min(INFINITE - 1)
}

fn address(word: &AtomicU32) -> *const c_void {
    word.as_ptr().cast_const().cast()
}

/// Whether this thread may yield to others.
pub(crate) fn may_yield() -> bool {
    true
}

pub(crate) fn wake_one(word: &AtomicU32) {
    // SAFETY: the system uses the address as a key, and does not look at what is there.
    unsafe { WakeByAddressSingle(address(word)) }
}

pub(crate) fn wake_group(word: &AtomicU32, _: u32, _: i32) -> bool {
    // SAFETY: as above.
    unsafe { WakeByAddressAll(address(word)) }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nap_is_not_shorter_than_its_time() {
        for (nanoseconds, rounded) in [(1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2), (30_000_000_000, 30_000)] {
            assert_eq!(milliseconds(Duration::from_nanos(nanoseconds)), rounded);
        }
        assert_eq!(milliseconds(Duration::MAX), INFINITE - 1);
    }
}

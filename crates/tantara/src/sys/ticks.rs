//! x86-64: the time as of the last look at the clock, for as long as the processor's time stamp
//! counter says that this was a moment ago. Reading the counter takes no call, and happens while an
//! atomic operation waits.
//!
//! Any thread may note a time, and so may a signal handler. [`NOTED_AT`] changes with each time
//! that is noted. So whoever finds it unchanged after reading [`TIME`] has read the time that
//! belongs to it. Only the thread that has changed it to [`BEING_NOTED`] changes the time. If that
//! thread never goes on, no time is noted any more.

use std::arch::x86_64::{__cpuid, _rdtsc};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::platform::keeping_errno;

/// For how many ticks a time counts as recent: at a gigahertz, for a millisecond. The kernel's own
/// ticks are as far apart, or further.
const RECENT: u64 = 1 << 20;

/// When the time was read, in ticks; or one of the two numbers below.
static NOTED_AT: AtomicU64 = AtomicU64::new(NOT_NOTED);
/// In seconds and nanoseconds.
static TIME: AtomicU64 = AtomicU64::new(0);

/// A counter that counts from zero does not get here.
const NOT_NOTED: u64 = 1 << 63;
const BEING_NOTED: u64 = NOT_NOTED | 1;

/// Whether the ticks can be relied on.
static HAS_TICKS: AtomicU32 = AtomicU32::new(NOT_ASKED);
const NOT_ASKED: u32 = 0;
const YES: u32 = 1;
const NO: u32 = 2;

/// The time that was noted, if that was within the last millisecond.
#[inline]
pub(crate) fn recent_time() -> Option<(u32, u32)> {
    let noted_at = NOTED_AT.load(Acquire);
    if noted_at & NOT_NOTED != 0 {
        return None;
    }
    let time = TIME.load(Acquire);
    // The difference is large if the counter of this processor is behind that of another.
    let is_recent = ticks().wrapping_sub(noted_at) < RECENT;
    (is_recent && NOTED_AT.load(Relaxed) == noted_at).then_some((time as u32, (time >> 32) as u32))
}

/// The time by `clock`, which is noted if this is called often.
#[cold]
pub(crate) fn noted(clock: fn() -> (u32, u32)) -> (u32, u32) {
    let (has_ticks, noted_at) = (HAS_TICKS.load(Relaxed), NOTED_AT.load(Relaxed));
    // Read before the time, which is no older then.
    let at = if has_ticks == YES { ticks().min(NOT_NOTED) } else { NOT_NOTED };
    let time = clock();
    if has_ticks == NO {
        return time;
    }
    let both = u64::from(time.1) << 32 | u64::from(time.0);
    // Asking takes a microsecond or more. So do it at the second call within one tick of the
    // kernel.
    if has_ticks == NOT_ASKED && TIME.load(Relaxed) == both {
        HAS_TICKS.store(if keeping_errno(are_steady) { YES } else { NO }, Relaxed);
    }
    let begun = noted_at != BEING_NOTED && NOTED_AT.compare_exchange(noted_at, BEING_NOTED, AcqRel, Relaxed).is_ok();
    if begun {
        // Whoever sees this time sees BEING_NOTED too.
        TIME.store(both, Release);
        NOTED_AT.store(at, Release);
    }
    time
}

/// In the child of a fork: another thread of the parent may have been noting a time.
pub(crate) fn forget() {
    NOTED_AT.store(NOT_NOTED, Relaxed);
}

/// The counter. It must have been found to be steady.
#[inline]
fn ticks() -> u64 {
    // SAFETY: every x86-64 has the instruction, and `are_steady` has found that this process may
    // use it.
    unsafe { _rdtsc() }
}

/// Whether the counter may be read, and counts at a constant rate, also while the processor sleeps.
/// All processors of this kind count faster than a gigahertz. (A thread that may not read it cannot
/// call the C library's clock either.)
fn are_steady() -> bool {
    const EXTENDED: u32 = 0x8000_0000;
    const POWER: u32 = 0x8000_0007;
    const INVARIANT: u32 = 1 << 8;
    let mut mode: libc::c_int = 0;
    // SAFETY: writes to the number, which is valid.
    if unsafe { libc::prctl(libc::PR_GET_TSC, &raw mut mode) } != 0 || mode != libc::PR_TSC_ENABLE {
        return false;
    }
    #[allow(unused_unsafe, reason = "newer versions of Rust call the instruction safe")]
    // SAFETY: every x86-64 has the instruction.
    let [most, power] = [EXTENDED, POWER].map(|leaf| unsafe { __cpuid(leaf) });
    most.eax >= POWER && power.edx & INVARIANT != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::platform::now;

    fn clock() -> (u32, u32) {
        let time = now(libc::CLOCK_REALTIME_COARSE);
        (time.as_secs() as u32, time.subsec_nanos())
    }

    /// Other tests note times as well, so this compares with the clock.
    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn a_recent_time_is_that_of_the_clock() {
        let tick = std::time::Duration::from_millis(30);
        let in_full = |(seconds, nanoseconds): (u32, u32)| std::time::Duration::new(seconds.into(), nanoseconds);
        let mut found = 0;
        for round in 0..3_000 {
            let before = in_full(clock());
            let recent = recent_time();
            if let Some(recent) = recent.map(in_full) {
                found += 1;
                assert!(recent + tick > before && recent <= in_full(clock()), "{recent:?}, not {before:?}");
            } else {
                noted(clock);
            }
            if round % 1_000 == 0 {
                std::thread::sleep(4 * tick);
            }
        }
        assert_eq!(found > 0, HAS_TICKS.load(Relaxed) == YES);
    }
}

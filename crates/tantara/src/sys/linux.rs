//! Linux: the futex (`man 2 futex`), private to the process.

pub(crate) mod files;
pub(crate) mod shared;
pub(crate) mod unforked;

pub(crate) use shared::Words;

use std::io;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use super::{Awake, TimedOut};
use crate::deadline::Deadline;
use crate::interrupt;

/// What to do about an error of the system, to be appended to its message.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "; close some files, or raise the limit (ulimit -n)",
        Some(libc::ENOMEM) => "; there are too many maps (sysctl vm.max_map_count), or too little memory",
        _ => "",
    }
}

/// Sleepers are divided into groups.
pub(crate) const HAS_GROUPS: bool = true;

pub(crate) fn wait(word: &AtomicU32, expected: u32, deadline: Deadline) -> Result<(), TimedOut> {
    let awake = wait_until(deadline, |nap| futex_wait(word, libc::FUTEX_PRIVATE_FLAG, expected, nap));
    if awake.ends_the_wait(deadline) { Err(TimedOut) } else { Ok(()) }
}

pub(crate) fn wait_in_group(word: &AtomicU32, expected: u32, group: u32, deadline: Deadline) -> Awake {
    wait_until(deadline, |nap| {
        // This call, unlike the other, takes a moment of CLOCK_MONOTONIC, which `Instant` does not
        // reveal.
        let until = nap.map(|nap| now(libc::CLOCK_MONOTONIC).saturating_add(nap));
        let operation = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
        futex(word, operation, expected, until, group).unwrap_or_else(|| refused(nap))
    })
}

/// `sleep` gets the time for which it may sleep. `TimedOut` says that the deadline has passed.
fn wait_until(deadline: Deadline, sleep: impl FnOnce(Option<Duration>) -> Awake) -> Awake {
    // A relative time, measured by CLOCK_MONOTONIC as `Instant` is. It is computed anew for each
    // sleep, so early returns do not add up.
    let left = match deadline.instant() {
        None => None,
        Some(deadline) => {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
            let Some(left) = left else { return Awake::TimedOut };
            Some(left)
        }
    };
    let longest = interrupt::longest_sleep(deadline);
    let nap = left.into_iter().chain(longest).min();
    match sleep(nap) {
        // A signal may have come just before the sleep.
        Awake::TimedOut if nap != left => Awake::Interrupted,
        awake => awake,
    }
}

/// The time by `clock`.
pub(super) fn now(clock: libc::clockid_t) -> Duration {
    // SAFETY: all zeros are a valid timespec. (With a 64-bit `time_t` on 32-bit processors, it has
    // a hidden field.)
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: `time` is valid for writing. The clocks that are used exist on every Linux.
    unsafe {
        libc::clock_gettime(clock, &mut time);
    }
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// The kernel's `long`, which does not depend on the C library's `time_t`.
#[cfg(any(target_pointer_width = "64", target_arch = "x86_64"))]
type KernelLong = i64;
#[cfg(not(any(target_pointer_width = "64", target_arch = "x86_64")))]
type KernelLong = i32;

/// The timeout of `SYS_futex`: 32-bit numbers on 32-bit processors, even where `libc::timespec` has
/// 64 bits. That is enough, because the time is relative, or counted from the start of the machine.
#[repr(C)]
struct Timeout {
    seconds: KernelLong,
    nanoseconds: KernelLong,
}

/// How long to sleep if the kernel refuses a futex wait.
const REFUSED_NAP: Duration = Duration::from_millis(1);

/// `flags`: private to the process, or shared. `timeout` is relative.
pub(super) fn futex_wait(word: &AtomicU32, flags: libc::c_int, expected: u32, timeout: Option<Duration>) -> Awake {
    futex(word, libc::FUTEX_WAIT | flags, expected, timeout, 0).unwrap_or_else(|| refused(timeout))
}

/// Sleeps; `None` if the kernel refuses to. `bits` is what FUTEX_WAIT_BITSET takes.
fn futex(
    word: &AtomicU32,
    operation: libc::c_int,
    expected: u32,
    timeout: Option<Duration>,
    bits: u32,
) -> Option<Awake> {
    let kernel_timeout = timeout.map(|timeout| Timeout {
        // A time beyond the range is decades, after which the caller looks again.
        seconds: timeout.as_secs().try_into().unwrap_or(KernelLong::MAX),
        nanoseconds: timeout.subsec_nanos() as KernelLong,
    });
    let kernel_timeout: *const Timeout = kernel_timeout.as_ref().map_or(ptr::null(), |timeout| timeout);
    let second_word = ptr::null::<u32>();
    // SAFETY: `word` is valid and aligned for the whole call because it is borrowed; the kernel
    // only reads it, atomically. `kernel_timeout` is null or points to a timeout that lives until
    // the end of this function. Neither operation looks at the second word, and FUTEX_WAIT does not
    // look at the bits.
    let result = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), operation, expected, kernel_timeout, second_word, bits)
    };
    if result == 0 {
        return Some(Awake::Called);
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::ETIMEDOUT) => Some(Awake::TimedOut),
        Some(libc::EINTR) => Some(Awake::Interrupted),
        // The word has changed, or its page is no longer mapped, which the caller's next look
        // shows.
        Some(libc::EAGAIN | libc::EFAULT) => Some(Awake::Early),
        _ => None,
    }
}

/// Whether this thread may give way to others by `sched_yield`. A thread of the deadline class
/// would give up the rest of its period with it, and one of a real-time class makes way for its
/// equals only.
pub(crate) fn may_yield() -> bool {
    // Set together with the class.
    const RESET_ON_FORK: libc::c_int = 0x4000_0000;
    // SAFETY: zero stands for this thread.
    let class = keeping_errno(|| unsafe { libc::sched_getscheduler(0) });
    [libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&(class & !RESET_ON_FORK))
}

/// The kernel has no memory for it, or a sandbox forbids it. Sleeps, so that the caller does not
/// spin.
#[cold]
fn refused(timeout: Option<Duration>) -> Awake {
    std::thread::sleep(timeout.map_or(REFUSED_NAP, |timeout| timeout.min(REFUSED_NAP)));
    Awake::Early
}

pub(crate) fn wake_one(word: &AtomicU32) {
    futex_wake(word, libc::FUTEX_PRIVATE_FLAG, 1);
}

/// `flags`: as for [`futex_wait`].
pub(super) fn futex_wake(word: &AtomicU32, flags: libc::c_int, most: i32) {
    futex_wake_bits(word, libc::FUTEX_WAKE | flags, most, 0);
}

pub(crate) fn wake_group(word: &AtomicU32, groups: u32, most: i32) -> bool {
    let woken = futex_wake_bits(word, libc::FUTEX_WAKE_BITSET | libc::FUTEX_PRIVATE_FLAG, most, groups);
    if woken < 0 {
        // A sandbox forbids it.
        futex_wake(word, libc::FUTEX_PRIVATE_FLAG, super::ALL);
    }
    (0..libc::c_long::from(most)).contains(&woken)
}

/// How many were woken.
fn futex_wake_bits(word: &AtomicU32, operation: libc::c_int, most: i32, bits: u32) -> libc::c_long {
    let (timeout, second_word) = (ptr::null::<Timeout>(), ptr::null::<u32>());
    keeping_errno(|| {
        // SAFETY: to wake, the kernel uses the address only as a key; it neither reads nor writes
        // the word. It does not look at the timeout and the second word.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, most, timeout, second_word, bits) }
    })
}

/// Runs `call`, and leaves `errno` as it was: a signal handler may call `set` between a call of the
/// program and the program's look at `errno`.
pub(crate) fn keeping_errno<R>(call: impl FnOnce() -> R) -> R {
    // SAFETY: takes nothing and always succeeds.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: `errno` is this thread's own, and always initialised.
    let before = unsafe { *errno };
    let outcome = call();
    // SAFETY: as above.
    unsafe { *errno = before };
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_time_thread_does_not_give_way() {
        std::thread::spawn(|| {
            assert!(may_yield(), "an ordinary thread");
            // SAFETY: all zeros are valid parameters.
            let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
            parameters.sched_priority = 1;
            // SAFETY: zero stands for this thread, and the parameters are valid.
            if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) } == -1 {
                println!("SKIPPED: no right to real-time scheduling");
                return;
            }
            assert!(!may_yield());
        })
        .join()
        .unwrap();
    }
}

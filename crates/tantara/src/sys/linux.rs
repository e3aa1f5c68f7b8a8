//! Linux and Android: the futex (`man 2 futex`), private to the process.

mod errno;

pub(crate) use errno::keeping_errno;

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use super::sleep::{ALL, Awake, refused, sleep_until};
use crate::deadline::Deadline;

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

pub(crate) fn wait_in_group(word: &AtomicU32, expected: u32, group: u32, deadline: Deadline) -> Awake {
    sleep_until(deadline, |nap| {
        // FUTEX_WAIT_BITSET, unlike FUTEX_WAIT, takes an absolute time of CLOCK_MONOTONIC, which
        // `Instant` does not reveal.
        let until = nap.map(|nap| now(libc::CLOCK_MONOTONIC).saturating_add(nap));
        let operation = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
        futex(word, operation, expected, until, group).unwrap_or_else(|| refused(nap))
    })
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

/// A timeout in the kernel's format. A 32-bit kernel may use 32-bit numbers instead of 64-bit ones.
#[repr(C)]
struct Timeout<T> {
    seconds: T,
    nanoseconds: T,
}

impl<T: TryFrom<u64> + From<i32>> Timeout<T> {
    fn new(timeout: Duration, most: T) -> Timeout<T> {
        // A time beyond the range is decades, after which the caller looks again.
        let seconds = timeout.as_secs().try_into().unwrap_or(most);
        Timeout { seconds, nanoseconds: (timeout.subsec_nanos() as i32).into() }
    }
}

/// Whether the kernel's `long` has 32 bits. (That of x32 has not.)
const IS_NARROW: bool = cfg!(all(target_pointer_width = "32", not(target_arch = "x86_64")));
/// The numbers of MIPS' system calls begin here.
const FIRST_CALL: libc::c_long = if cfg!(any(target_arch = "mips", target_arch = "mips32r6")) { 4000 } else { 0 };
/// The system call that takes 64-bit times on 32-bit processors (Linux'
/// `include/uapi/asm-generic/unistd.h`).
const SYS_FUTEX_TIME64: libc::c_long = FIRST_CALL + 422;

/// Whether this is a 32-bit kernel that has only `futex_time64`.
static HAS_WIDE_ALONE: AtomicBool = AtomicBool::new(false);

/// A futex call: `call` makes it, under the number it gets, with `timeout` in the form that this
/// number takes.
///
/// 32-bit processors have two calls, and a kernel may be built without the older one. That is tried
/// first all the same: sandboxes that do not know the newer call kill the process (Android 10 and
/// older), or refuse the call as if it were forbidden (libseccomp before 2.4.4). No time that is
/// used here needs more than 32 bits: it is relative, or counted from the start of the machine.
pub(super) fn futex_call(
    timeout: Option<Duration>,
    call: impl Fn(libc::c_long, *const c_void) -> libc::c_long,
) -> libc::c_long {
    fn pointer<T>(timeout: &Option<Timeout<T>>) -> *const c_void {
        timeout.as_ref().map_or(ptr::null(), |timeout| ptr::from_ref(timeout).cast())
    }
    let wide = || timeout.map(|timeout| Timeout::new(timeout, i64::MAX));
    if !IS_NARROW {
        return call(libc::SYS_futex, pointer(&wide()));
    }
    let is_missing =
        |result: libc::c_long| result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS);
    if !HAS_WIDE_ALONE.load(Relaxed) {
        let result = call(libc::SYS_futex, pointer(&timeout.map(|timeout| Timeout::new(timeout, i32::MAX))));
        if !is_missing(result) {
            return result;
        }
    }
    let result = call(SYS_FUTEX_TIME64, pointer(&wide()));
    if !is_missing(result) {
        HAS_WIDE_ALONE.store(true, Relaxed);
    }
    result
}

/// Sleeps; `None` if the kernel refuses to. `bits` is what FUTEX_WAIT_BITSET takes.
pub(super) fn futex(
    word: &AtomicU32,
    operation: libc::c_int,
    expected: u32,
    timeout: Option<Duration>,
    bits: u32,
) -> Option<Awake> {
    let result = futex_call(timeout, |number, until| {
        // SAFETY: `word` is valid and aligned for the whole call because it is borrowed; the kernel
        // only reads it, atomically. `until` is null or points to a timeout of the call's form,
        // which lives until it returns. Neither operation looks at the second word, and FUTEX_WAIT
        // does not look at the bits.
        unsafe { libc::syscall(number, word.as_ptr(), operation, expected, until, ptr::null::<u32>(), bits) }
    });
    if result == 0 {
        return Some(Awake::Called);
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::ETIMEDOUT) => Some(Awake::TimedOut),
        Some(libc::EINTR) => Some(Awake::Interrupted),
        // The word has changed, or its page is no longer mapped, which the caller's next look
        // shows.
        Some(libc::EAGAIN | libc::EFAULT) => Some(Awake::Early),
        _ => None,
    }
}

/// Whether this thread may give way to others by `sched_yield`. A thread of the deadline class
/// would give up the rest of its period, and one of a real-time class yields to threads of its own
/// priority only.
pub(crate) fn may_yield() -> bool {
    // For Android, libc has no name for the ordinary class.
    const SCHED_OTHER: libc::c_int = 0;
    // Set together with the class.
    const RESET_ON_FORK: libc::c_int = 0x4000_0000;
    // Miri has neither classes nor this call.
    if cfg!(miri) {
        return true;
    }
    // Not by the C library's function, which POSIX defines for processes and musl does not
    // implement. Linux' call is for threads. SAFETY: zero stands for this thread.
    let class = keeping_errno(|| unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) }) as libc::c_int;
    [SCHED_OTHER, libc::SCHED_BATCH].contains(&(class & !RESET_ON_FORK))
}

pub(crate) fn wake_one(word: &AtomicU32) {
    futex_wake(word, libc::FUTEX_PRIVATE_FLAG, 1);
}

/// `flags`: private to the process, or shared.
pub(super) fn futex_wake(word: &AtomicU32, flags: libc::c_int, most: i32) {
    futex_wake_bits(word, libc::FUTEX_WAKE | flags, most, 0);
}

pub(crate) fn wake_group(word: &AtomicU32, groups: u32, most: i32) -> bool {
    let woken = futex_wake_bits(word, libc::FUTEX_WAKE_BITSET | libc::FUTEX_PRIVATE_FLAG, most, groups);
    if woken < 0 {
        // A sandbox forbids it.
        futex_wake(word, libc::FUTEX_PRIVATE_FLAG, ALL);
    }
    (0..libc::c_long::from(most)).contains(&woken)
}

/// Returns how many were woken.
fn futex_wake_bits(word: &AtomicU32, operation: libc::c_int, most: i32, bits: u32) -> libc::c_long {
    keeping_errno(|| {
        futex_call(None, |number, timeout| {
            // SAFETY: to wake, the kernel uses the address only as a key; it neither reads nor
            // writes the word. It does not look at the timeout and the second word.
            unsafe { libc::syscall(number, word.as_ptr(), operation, most, timeout, ptr::null::<u32>(), bits) }
        })
    })
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
            if unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_FIFO, &parameters) } == -1 {
                println!("SKIPPED: no right to real-time scheduling");
                return;
            }
            assert!(!may_yield());
        })
        .join()
        .unwrap();
    }
}

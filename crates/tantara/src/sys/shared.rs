//! Linux: sleeping on words that other processes can reach, by the futex that is not private (`man 2 futex`), and
//! what else a process must know of itself and of the time to share them.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, fence};
use std::time::{Duration, Instant};

use super::{futex_wait, futex_wake, keeping_errno};
use crate::sys::Awake;

/// See [`super::wait`]; the wake-up call may come from any process that has the word's page mapped. The time is counted
/// from now, which spares those a look at the clock who have no deadline of their own.
pub(crate) fn wait(word: &AtomicU32, expected: u32, nap: Option<Duration>) -> Awake {
    futex_wait(word, 0, expected, nap)
}

/// See [`super::wake_all`].
pub(crate) fn wake_all(word: &AtomicU32) {
    futex_wake(word, 0, i32::MAX);
}

/// Switches `bits` on and wakes all who sleep on the word, in one system call: whoever is killed while in it has done
/// both or neither.
pub(crate) fn raise_and_wake_all(word: &AtomicU32, bits: u32) {
    if !change_and_wake_all(word, libc::FUTEX_OP_OR, bits) {
        word.fetch_or(bits, AcqRel);
        wake_all(word);
    }
}

/// Adds a number and wakes all who sleep on the word, in one system call, as above.
pub(crate) fn add_and_wake_all(word: &AtomicU32, number: u32) {
    if !change_and_wake_all(word, libc::FUTEX_OP_ADD, number) {
        word.fetch_add(number, AcqRel);
        wake_all(word);
    }
}

/// `false`, and nothing is changed, on a kernel without that operation: it takes two steps then.
fn change_and_wake_all(word: &AtomicU32, operation: libc::c_int, operand: u32) -> bool {
    debug_assert!(operand < 1 << 11, "the operand has twelve bits and a sign");
    let operation = (operation as u32) << 28 | operand << 12;
    // The kernel may wake again if the old value meets a condition; ours is that it was all ones, which no word is.
    let never = (libc::FUTEX_OP_CMP_EQ as u32) << 24 | 0xfff;
    // Not every processor's kernel promises that what we did before is seen before the change.
    fence(SeqCst);
    keeping_errno(|| {
        // SAFETY: `word` is borrowed, so valid and aligned for the whole call; the kernel changes it atomically. If its
        // page has gone away the kernel reports EFAULT.
        let woken = unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAKE_OP,
                i32::MAX,
                ptr::null::<libc::timespec>(),
                word.as_ptr(),
                operation | never,
            )
        };
        woken != -1 || io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
    })
}

/// A word to sleep on, beside others.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleep {
    expected: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// The most words that [`wait_many`] takes.
pub(crate) const MOST_WORDS: usize = 128;
/// A 32-bit word.
const FUTEX_32: u32 = 2;

/// Why [`wait_many`] has not waited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ManyError {
    /// The deadline has passed.
    TimedOut,
    /// The kernel has no memory for it now.
    OutOfMemory,
    /// The kernel does not know how (before Linux 5.16), or not so, or a sandbox forbids it.
    Unsupported,
}

impl ManyError {
    /// What an error of `futex_waitv` means to the caller; nothing, if it has to look again.
    fn of(errno: Option<i32>) -> Result<(), ManyError> {
        match errno {
            // A word has changed; a signal's handler has run; a page is not there any more, which a look at it shows.
            Some(libc::EAGAIN | libc::EINTR | libc::EFAULT) => Ok(()),
            Some(libc::ETIMEDOUT) => Err(ManyError::TimedOut),
            Some(libc::ENOMEM) => Err(ManyError::OutOfMemory),
            // ENOSYS, EPERM, EACCES, EINVAL, or whatever a sandbox says: it would be the same the next time.
            _ => Err(ManyError::Unsupported),
        }
    }
}

impl Sleep {
    /// On a word that other processes can reach. It may go away meanwhile: the kernel looks at it when the sleep
    /// begins, reports EFAULT if it is not there, and after that knows the file that it belongs to.
    pub(crate) fn on(word: &AtomicU32, expected: u32) -> Sleep {
        Sleep { expected: expected.into(), address: word.as_ptr().addr() as u64, flags: FUTEX_32, reserved: 0 }
    }

    /// On a word of this process.
    pub(crate) fn on_private(word: &AtomicU32, expected: u32) -> Sleep {
        Sleep { flags: FUTEX_32 | libc::FUTEX_PRIVATE_FLAG as u32, ..Sleep::on(word, expected) }
    }
}

/// Sleeps while each of the words holds what is expected of it, until a wake-up call for any of them, until the
/// deadline, or for no reason at all.
pub(crate) fn wait_many(words: &[Sleep], deadline: Instant) -> Result<(), ManyError> {
    #[repr(C)]
    struct Moment {
        seconds: i64,
        nanoseconds: i64,
    }
    // The call wants a moment of the clock that `Instant` is read from, which keeps it to itself.
    let at = now(libc::CLOCK_MONOTONIC) + deadline.saturating_duration_since(Instant::now());
    let at = Moment { seconds: at.as_secs().try_into().unwrap_or(i64::MAX), nanoseconds: at.subsec_nanos().into() };
    let at: *const Moment = &at;
    // SAFETY: the array and the moment live until the end of this function; the kernel only reads them, and the words
    // that they point to it reads as it would any address that a process names.
    let woken =
        unsafe { libc::syscall(libc::SYS_futex_waitv, words.as_ptr(), words.len(), 0_u32, at, libc::CLOCK_MONOTONIC) };
    if woken >= 0 {
        return Ok(());
    }
    ManyError::of(io::Error::last_os_error().raw_os_error())
}

fn now(clock: libc::clockid_t) -> Duration {
    // SAFETY: all zeros are a valid moment. (Where 32-bit processors have a 64-bit `time_t`, it has a hidden field.)
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: `time` is valid for writing. The clocks that are asked for exist on every Linux.
    unsafe {
        libc::clock_gettime(clock, &mut time);
    }
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// The time since 1970, as of the kernel's last tick: some milliseconds coarse, and cheap.
#[inline]
pub(crate) fn coarse_time() -> Duration {
    now(libc::CLOCK_REALTIME_COARSE)
}

/// A clock for times of some seconds, in milliseconds; never zero. It goes round after seven weeks.
pub(crate) fn coarse_milliseconds() -> u32 {
    now(libc::CLOCK_MONOTONIC_COARSE).as_millis() as u32 | 1
}

/// This process. The kernel is asked once, and once more in the child of a fork.
#[inline]
pub(crate) fn process() -> u32 {
    match PROCESS.load(Relaxed) {
        0 => ask_for_process(),
        known => known,
    }
}

/// A number that is another one after each fork, as soon as this was used.
pub(crate) fn forks() -> u32 {
    process();
    FORKS.load(Relaxed)
}

/// The PID namespace of this process, by the number of its inode; zero if the system does not tell. Elsewhere the
/// numbers of this process and its threads mean other processes, or none.
#[inline]
pub(crate) fn pid_namespace() -> u32 {
    match PID_NAMESPACE.load(Relaxed) {
        0 => ask_for_pid_namespace(),
        UNKNOWN => 0,
        known => known,
    }
}

#[cold]
fn ask_for_pid_namespace() -> u32 {
    // So that a child of a fork asks again: it may be in another one.
    process();
    // The first to ask after a fork may be a `set` in a signal handler.
    let namespace =
        keeping_errno(|| std::fs::metadata("/proc/self/ns/pid")).map_or(0, |metadata| metadata.ino() as u32);
    PID_NAMESPACE.store(if namespace == 0 { UNKNOWN } else { namespace }, Relaxed);
    namespace
}

/// Whether a thread of this PID namespace exists, also if others' processes are hidden in /proc.
pub(crate) fn exists(thread: u32) -> bool {
    // SAFETY: takes numbers; the signal zero does nothing.
    let is_found = unsafe { libc::kill(thread as libc::pid_t, 0) } == 0;
    is_found || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Whether a thread of this PID namespace is the first of its process, so that its number is the process's too.
pub(crate) fn is_first_thread(thread: u32) -> bool {
    // SAFETY: takes numbers. The answer is a new descriptor, which is closed on exec.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, thread as libc::pid_t, 0) };
    if descriptor >= 0 {
        // SAFETY: the descriptor is ours.
        unsafe { libc::close(descriptor as libc::c_int) };
    }
    descriptor >= 0
}

static PROCESS: AtomicU32 = AtomicU32::new(0);
static PID_NAMESPACE: AtomicU32 = AtomicU32::new(0);
/// That the system does not tell. No inode has that number.
const UNKNOWN: u32 = u32::MAX;
static FORKS: AtomicU32 = AtomicU32::new(0);

#[cold]
fn ask_for_process() -> u32 {
    extern "C" fn forget() {
        PROCESS.store(0, Relaxed);
        PID_NAMESPACE.store(0, Relaxed);
        FORKS.fetch_add(1, Relaxed);
    }
    // No lock and no `Once`: the child of a fork might wait for ever for another thread of its parent to be done with
    // it. Several threads may register the handler, each before it relies on it; `FORKS` then makes larger steps.
    static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
    if !IS_REGISTERED.load(Acquire) {
        // SAFETY: the handler only stores to atomics, which a child of a fork may do.
        unsafe { libc::pthread_atfork(None, None, Some(forget)) };
        IS_REGISTERED.store(true, Release);
    }
    let process = std::process::id();
    PROCESS.store(process, Relaxed);
    process
}

/// A variable of the environment. The standard library reads it under a lock, which a thread of the parent of a fork
/// may have had; so the child of a fork asks the C library, as every program does that has only one thread.
pub(crate) fn variable(name: &CStr) -> Option<OsString> {
    if forks() == 0 {
        return std::env::var_os(OsStr::from_bytes(name.to_bytes()));
    }
    // SAFETY: the name is a C string. Whoever changes the environment beside other threads has promised that they do
    // not look.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: as above; it is a C string, and copied at once.
    let value = unsafe { CStr::from_ptr(value) };
    Some(OsStr::from_bytes(value.to_bytes()).to_owned())
}

/// This thread, by the number that the kernel knows it by.
pub(crate) fn thread() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) };
    thread as u32
}

/// Runs `start`, which starts a thread. No handler of the program's runs on that thread, not even before its first
/// instruction: it inherits a mask that leaves all signals to the other threads, but for those that a fault of its own
/// raises.
pub(crate) fn starting_without_signals<R>(start: impl FnOnce() -> R) -> R {
    struct Restore(libc::sigset_t);

    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: the mask is the one that this thread had.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
        }
    }

    // SAFETY: all zeros are a valid set.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is valid for writing.
    unsafe { libc::sigfillset(&mut all) };
    for own in [libc::SIGBUS, libc::SIGSEGV, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT] {
        // SAFETY: the set is valid, and the signals exist.
        unsafe { libc::sigdelset(&mut all, own) };
    }
    let mut restore = Restore(all);
    // SAFETY: both sets are valid.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut restore.0) };
    start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_a_sleep_on_many_words_is_looked_at_or_slept_out() {
        for errno in [libc::EAGAIN, libc::EINTR, libc::EFAULT] {
            assert_eq!(ManyError::of(Some(errno)), Ok(()), "{errno}");
        }
        assert_eq!(ManyError::of(Some(libc::ETIMEDOUT)), Err(ManyError::TimedOut));
        assert_eq!(ManyError::of(Some(libc::ENOMEM)), Err(ManyError::OutOfMemory));
        for errno in [libc::ENOSYS, libc::EPERM, libc::EACCES, libc::EINVAL, libc::EIO] {
            assert_eq!(ManyError::of(Some(errno)), Err(ManyError::Unsupported), "{errno}");
        }
    }
}

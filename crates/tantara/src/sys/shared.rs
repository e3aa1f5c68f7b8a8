//! Linux: sleeping on words in shared memory, by the futex that is not private (`man 2 futex`); and
//! process numbers, namespaces and clocks.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::ptr;
#[cfg(target_has_atomic = "64")]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, fence};
use std::time::{Duration, Instant};

use super::{futex, futex_wake, keeping_errno, now, refused};
use crate::sys::Awake;

/// See [`wait`](crate::sys::wait). The wake-up call may come from any process that has the word's
/// page mapped. The time is relative, which saves waits without a deadline a look at the clock.
pub(crate) fn wait(word: &AtomicU32, expected: u32, nap: Option<Duration>) -> Awake {
    futex_wait(word, 0, expected, nap)
}

/// `flags`: private to the process, or shared. `timeout` is relative.
fn futex_wait(word: &AtomicU32, flags: libc::c_int, expected: u32, timeout: Option<Duration>) -> Awake {
    futex(word, libc::FUTEX_WAIT | flags, expected, timeout, 0).unwrap_or_else(|| refused(timeout))
}

/// Wakes all sleepers on the word, in every process.
pub(crate) fn wake_all(word: &AtomicU32) {
    futex_wake(word, 0, i32::MAX);
}

/// Turns `bits` on and wakes all sleepers on the word, in one system call. A process that is killed
/// has done both or neither.
pub(crate) fn raise_and_wake_all(word: &AtomicU32, bits: u32) {
    if !change_and_wake_all(word, libc::FUTEX_OP_OR, bits) {
        word.fetch_or(bits, AcqRel);
        wake_all(word);
    }
}

/// Adds a number and wakes all sleepers on the word, in one system call, as above.
pub(crate) fn add_and_wake_all(word: &AtomicU32, number: u32) {
    if !change_and_wake_all(word, libc::FUTEX_OP_ADD, number) {
        word.fetch_add(number, AcqRel);
        wake_all(word);
    }
}

/// Turns `bits` off and wakes all sleepers on the word, in one system call, as above.
pub(crate) fn lower_and_wake_all(word: &AtomicU32, bits: u32) {
    if !change_and_wake_all(word, libc::FUTEX_OP_ANDN, bits) {
        word.fetch_and(!bits, AcqRel);
        wake_all(word);
    }
}

/// `false`, without a change, if the kernel does not have that operation, or a sandbox forbids it.
fn change_and_wake_all(word: &AtomicU32, operation: libc::c_int, operand: u32) -> bool {
    debug_assert!(operand < 1 << 11, "the operand has twelve bits and a sign");
    let operation = (operation as u32) << 28 | operand << 12;
    // The kernel wakes again if the old value meets a condition. The condition here is all ones,
    // which no word is.
    let never = (libc::FUTEX_OP_CMP_EQ as u32) << 24 | 0xfff;
    // Not on every processor does the kernel order earlier writes before the change.
    fence(SeqCst);
    keeping_errno(|| {
        // SAFETY: `word` is borrowed, so valid and aligned for the whole call; the kernel changes
        // it atomically. If its page has gone away the kernel reports EFAULT.
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

/// A word to sleep on, together with others.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleep {
    expected: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// How often to look at words where a thread cannot sleep on many.
pub(crate) const BLIND: Duration = Duration::from_millis(5);

/// Sleeps if both words have their expected values, until a wake-up call for one of them, or for at
/// most `nap`. May return early.
pub(crate) fn wait_two(first: (&AtomicU32, u32), second: (&AtomicU32, u32), nap: Duration) -> Awake {
    let words = [Sleep::on(first.0, first.1), Sleep::on(second.0, second.1)];
    match wait_many(&words, Instant::now() + nap) {
        // Or called: the system call does not always tell.
        Ok(()) => Awake::Interrupted,
        Err(ManyError::TimedOut) => Awake::TimedOut,
        Err(_) => match wait(second.0, second.1, Some(nap.min(BLIND))) {
            Awake::TimedOut if nap > BLIND => Awake::Early,
            awake => awake,
        },
    }
}

/// The most words that [`wait_many`] takes.
pub(crate) const MOST_WORDS: usize = 128;
/// A 32-bit word.
const FUTEX_32: u32 = 2;

/// Why [`wait_many`] has ended, or has not slept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ManyError {
    /// The deadline has passed.
    TimedOut,
    /// A signal handler has run.
    Interrupted,
    /// The kernel is short of memory.
    OutOfMemory,
    /// The kernel does not have the system call (before Linux 5.16), or a sandbox forbids it.
    Unsupported,
}

impl ManyError {
    /// Classifies an error of `futex_waitv`. `Ok` if the caller has to look at the words again.
    fn of(errno: Option<i32>) -> Result<(), ManyError> {
        match errno {
            // A word has changed, or a page is no longer mapped, which a look at it shows.
            Some(libc::EAGAIN | libc::EFAULT) => Ok(()),
            Some(libc::EINTR) => Err(ManyError::Interrupted),
            Some(libc::ETIMEDOUT) => Err(ManyError::TimedOut),
            Some(libc::ENOMEM) => Err(ManyError::OutOfMemory),
            // ENOSYS, EPERM, EACCES, EINVAL, or any error of a sandbox: the next call would fail as
            // well.
            _ => Err(ManyError::Unsupported),
        }
    }
}

impl Sleep {
    /// On a word in shared memory. It may be unmapped at any time: the kernel reads it when the
    /// sleep begins, reports EFAULT if it is not mapped, and identifies it by its file from then
    /// on.
    pub(crate) fn on(word: &AtomicU32, expected: u32) -> Sleep {
        Sleep { expected: expected.into(), address: word.as_ptr().addr() as u64, flags: FUTEX_32, reserved: 0 }
    }

    /// On a word of this process.
    pub(crate) fn on_private(word: &AtomicU32, expected: u32) -> Sleep {
        Sleep { flags: FUTEX_32 | libc::FUTEX_PRIVATE_FLAG as u32, ..Sleep::on(word, expected) }
    }
}

static CAN_WAIT_MANY: AtomicBool = AtomicBool::new(true);

/// Sleeps if each of the words has its expected value, until a wake-up call for any of them, or
/// until the deadline. May return early.
pub(crate) fn wait_many(words: &[Sleep], deadline: Instant) -> Result<(), ManyError> {
    #[repr(C)]
    struct Moment {
        seconds: i64,
        nanoseconds: i64,
    }
    // The system call takes a time of CLOCK_MONOTONIC, which `Instant` does not reveal.
    let at = now(libc::CLOCK_MONOTONIC) + deadline.saturating_duration_since(Instant::now());
    let at = Moment { seconds: at.as_secs().try_into().unwrap_or(i64::MAX), nanoseconds: at.subsec_nanos().into() };
    let at: *const Moment = &at;
    // SAFETY: the array and the moment live until the end of this function, and the kernel only
    // reads them. It checks the addresses of the words.
    let woken =
        unsafe { libc::syscall(libc::SYS_futex_waitv, words.as_ptr(), words.len(), 0_u32, at, libc::CLOCK_MONOTONIC) };
    if woken >= 0 {
        return Ok(());
    }
    let outcome = ManyError::of(io::Error::last_os_error().raw_os_error());
    if outcome == Err(ManyError::Unsupported) {
        CAN_WAIT_MANY.store(false, Relaxed);
    }
    outcome
}

/// Words of events that a thread sleeps on until one of them changes, together with a word of its
/// own.
#[derive(Debug)]
pub(crate) struct Words(Vec<Sleep>);

impl Words {
    /// `None` if the kernel does not have the system call, as far as is known.
    pub(crate) fn new(words: usize) -> Option<Words> {
        CAN_WAIT_MANY.load(Relaxed).then(|| Words(Vec::with_capacity(MOST_WORDS.min(words + 1))))
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether there is room for that many.
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
            Err(ManyError::OutOfMemory) => futex_wait(own, libc::FUTEX_PRIVATE_FLAG, expected, Some(SHORT_OF_MEMORY)),
        }
    }
}

/// How long to sleep on the own word alone if there is no memory for all.
const SHORT_OF_MEMORY: Duration = Duration::from_millis(5);

/// The time since 1970 at the kernel's last tick, in seconds and nanoseconds: cheap, with a
/// resolution of some milliseconds. Not a `Duration`, whose arithmetic would take a tenth of a
/// `set`.
#[inline]
pub(crate) fn coarse_time() -> (u32, u32) {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `time` is valid for writing. Every Linux has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, time.as_mut_ptr()) };
    // SAFETY: all zeros are a valid timespec, and so is what the call has written.
    let time = unsafe { time.assume_init() };
    (time.tv_sec as u32, time.tv_nsec as u32)
}

/// The monotonic time at the kernel's last tick.
pub(crate) fn coarse_monotonic_time() -> Duration {
    now(libc::CLOCK_MONOTONIC_COARSE)
}

/// A clock for short times, in milliseconds; never zero. It wraps after seven weeks.
pub(crate) fn coarse_milliseconds() -> u32 {
    now(libc::CLOCK_MONOTONIC_COARSE).as_millis() as u32 | 1
}

/// This process's number, which is cached until a fork.
#[inline]
pub(crate) fn process() -> u32 {
    match PROCESS.load(Relaxed) {
        0 => ask_for_process(),
        known => known,
    }
}

/// A number that changes with each fork, once this was called.
pub(crate) fn forks() -> u32 {
    process();
    FORKS.load(Relaxed)
}

/// The inode number of this process's PID namespace; zero if it is not known. In other namespaces
/// the numbers of this process and its threads are those of others.
#[inline]
pub(crate) fn pid_namespace() -> u32 {
    match PID_NAMESPACE.load(Relaxed) {
        0 => ask_for_pid_namespace(),
        UNKNOWN => 0,
        known => known,
    }
}

/// This process's number, and its PID namespace, which are cached until a fork: by one load, because
/// every `set` needs them.
#[cfg(target_has_atomic = "64")]
#[inline]
pub(crate) fn process_and_namespace() -> (u32, u32) {
    let both = match PROCESS_AND_NAMESPACE.load(Relaxed) {
        0 => ask_for_both(),
        known => known,
    };
    (both as u32, (both >> 32) as u32)
}

#[cfg(target_has_atomic = "64")]
#[cold]
fn ask_for_both() -> u64 {
    let both = u64::from(pid_namespace()) << 32 | u64::from(process());
    PROCESS_AND_NAMESPACE.store(both, Relaxed);
    both
}

#[cfg(not(target_has_atomic = "64"))]
#[inline]
pub(crate) fn process_and_namespace() -> (u32, u32) {
    (process(), pid_namespace())
}

#[cold]
fn ask_for_pid_namespace() -> u32 {
    // Registers the fork handler: a child may be in another namespace.
    process();
    // After a fork, a `set` in a signal handler may be the first to need it.
    let namespace =
        keeping_errno(|| std::fs::metadata("/proc/self/ns/pid")).map_or(0, |metadata| metadata.ino() as u32);
    PID_NAMESPACE.store(if namespace == 0 { UNKNOWN } else { namespace }, Relaxed);
    namespace
}

/// Whether a thread of this PID namespace exists, even if /proc hides the processes of other users.
pub(crate) fn exists(thread: u32) -> bool {
    // SAFETY: takes numbers; signal zero has no effect.
    let is_found = unsafe { libc::kill(thread as libc::pid_t, 0) } == 0;
    is_found || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Whether a thread of this PID namespace is the main thread, so that its number is also the
/// process's.
pub(crate) fn is_first_thread(thread: u32) -> bool {
    // SAFETY: takes numbers. Returns a new descriptor, which is closed on exec.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, thread as libc::pid_t, 0) };
    if descriptor >= 0 {
        // SAFETY: the descriptor is ours.
        unsafe { libc::close(descriptor as libc::c_int) };
    }
    descriptor >= 0
}

static PROCESS: AtomicU32 = AtomicU32::new(0);
#[cfg(target_has_atomic = "64")]
static PROCESS_AND_NAMESPACE: AtomicU64 = AtomicU64::new(0);
static PID_NAMESPACE: AtomicU32 = AtomicU32::new(0);
/// The namespace is not known. No inode has this number.
const UNKNOWN: u32 = u32::MAX;
static FORKS: AtomicU32 = AtomicU32::new(0);

#[cold]
fn ask_for_process() -> u32 {
    extern "C" fn forget() {
        PROCESS.store(0, Relaxed);
        PID_NAMESPACE.store(0, Relaxed);
        #[cfg(target_has_atomic = "64")]
        PROCESS_AND_NAMESPACE.store(0, Relaxed);
        FORKS.fetch_add(1, Relaxed);
    }
    // No lock and no `Once`, because the child of a fork could wait for ever for a thread of its
    // parent. Several threads may register the handler, each before it relies on it; then `FORKS`
    // grows in larger steps.
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

/// A variable of the environment. The standard library reads it under a lock, which another thread
/// of the parent may have held at a fork. So the child of a fork asks the C library, as
/// single-threaded programs do.
pub(crate) fn variable(name: &CStr) -> Option<OsString> {
    if forks() == 0 {
        return std::env::var_os(OsStr::from_bytes(name.to_bytes()));
    }
    // SAFETY: the name is a C string. A program that changes the environment must ensure that no
    // other thread reads it.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: as above; it is a C string, and copied at once.
    let value = unsafe { CStr::from_ptr(value) };
    Some(OsStr::from_bytes(value.to_bytes()).to_owned())
}

/// This thread's kernel thread ID.
pub(crate) fn thread() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) };
    thread as u32
}

/// Runs `start`, which starts a thread on which no signal handler of the program runs, from its
/// first instruction on: it inherits a mask that blocks all signals but those that its own faults
/// raise.
pub(crate) fn starting_without_signals<R>(start: impl FnOnce() -> R) -> R {
    struct Restore(libc::sigset_t);

    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: the mask is the previous one of this thread.
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
    fn each_error_of_a_sleep_on_many_words_is_classified() {
        for errno in [libc::EAGAIN, libc::EFAULT] {
            assert_eq!(ManyError::of(Some(errno)), Ok(()), "{errno}");
        }
        assert_eq!(ManyError::of(Some(libc::EINTR)), Err(ManyError::Interrupted));
        assert_eq!(ManyError::of(Some(libc::ETIMEDOUT)), Err(ManyError::TimedOut));
        assert_eq!(ManyError::of(Some(libc::ENOMEM)), Err(ManyError::OutOfMemory));
        for errno in [libc::ENOSYS, libc::EPERM, libc::EACCES, libc::EINVAL, libc::EIO] {
            assert_eq!(ManyError::of(Some(errno)), Err(ManyError::Unsupported), "{errno}");
        }
    }
}

//! Linux: this process, its namespace, its threads and forks, and cheap clocks.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::ptr;
#[cfg(target_has_atomic = "64")]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread;
use std::time::{Duration, SystemTime};

use super::platform::{keeping_errno, now};
use super::ticks;

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

/// The time since an arbitrary moment, as of the kernel's last tick some milliseconds ago. The
/// precise clock would take as long as the rest of recording a wait.
#[inline]
pub(crate) fn clock() -> Duration {
    now(libc::CLOCK_MONOTONIC_COARSE)
}

/// That clock and the system's time, read at the same moment. Their difference changes only if the
/// system's clock is set, so a moment is always converted to the same time.
pub(crate) fn clocks() -> (Duration, SystemTime) {
    loop {
        let own = clock();
        let (seconds, nanoseconds) = coarse_time();
        // If not, there was a tick in between.
        if own == clock() {
            return (own, SystemTime::UNIX_EPOCH + Duration::new(seconds.into(), nanoseconds));
        }
    }
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

/// How many processes in a chain of forks can record waits. A child after that many forks does not.
pub(crate) const GENERATIONS: usize = 4;

/// How many forks lie between the first process that called this and this one.
#[inline]
pub(crate) fn forks() -> u32 {
    process();
    FORKS.load(Relaxed)
}

/// The same, as an index into values of which each process of the chain has its own.
#[inline]
pub(crate) fn generation() -> usize {
    forks() as usize
}

/// The value of this process, out of one for each process in a chain of forks. Each has its own,
/// because another thread of the parent may have held a lock at the moment of the fork. `None`
/// after too many forks.
#[inline]
pub(crate) fn own<T>(of_all: &'static [T; GENERATIONS]) -> Option<&'static T> {
    of_all.get(generation())
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

/// What [`process_and_namespace`] returns, if that takes no call.
#[cfg(target_has_atomic = "64")]
#[inline]
pub(crate) fn known_process_and_namespace() -> Option<(u32, u32)> {
    let both = PROCESS_AND_NAMESPACE.load(Relaxed);
    (both != 0).then_some((both as u32, (both >> 32) as u32))
}

#[cfg(not(target_has_atomic = "64"))]
pub(crate) fn known_process_and_namespace() -> Option<(u32, u32)> {
    None
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

/// The user whose permissions a process of this PID namespace has; `None` if that is hidden, or if there
/// is no such process.
pub(crate) fn user_of(process: u32) -> Option<u32> {
    // Not the owner of the directory: that is root if the process has changed its user.
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_ascii_whitespace().nth(1)?.parse().ok()
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
        ticks::forget();
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

/// Starts a thread on which no signal handler of the program runs, from its first instruction on: it
/// inherits a mask that blocks all signals but those that its own faults raise.
pub(crate) fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
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
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

//! Linux: sleeping on words that other processes can reach, by the futex that is not private (`man 2 futex`), and
//! what else a process must know of itself and of the time to share them.

use std::io;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, fence};
use std::time::{Duration, Instant};

use super::Awake;
use super::platform::futex_wait;

/// See [`super::wait`]; the wake-up call may come from any process that has the word's page mapped. The time is counted
/// from now, which spares those a look at the clock who have no deadline of their own.
pub(crate) fn wait(word: &AtomicU32, expected: u32, nap: Option<Duration>) -> Awake {
    futex_wait(word, 0, expected, nap)
}

/// See [`super::wake_all`].
pub(crate) fn wake_all(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE uses the address as a key alone; it neither reads nor writes the word.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
    }
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
    /// The kernel does not know how (before Linux 5.16), or somebody forbids it.
    Unsupported,
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
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::ETIMEDOUT) => Err(ManyError::TimedOut),
        Some(libc::ENOSYS | libc::EPERM | libc::EACCES) => Err(ManyError::Unsupported),
        // EAGAIN, EINTR, a page that has gone away: look again.
        _ => Ok(()),
    }
}

fn now(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
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

/// This process. The kernel is asked once, and once more in the child of a fork.
#[inline]
pub(crate) fn process() -> u32 {
    match PROCESS.load(Relaxed) {
        0 => ask_for_process(),
        known => known,
    }
}

/// How many forks there were between the first use of this and this process.
pub(crate) fn forks() -> u32 {
    process();
    FORKS.load(Relaxed)
}

static PROCESS: AtomicU32 = AtomicU32::new(0);
static FORKS: AtomicU32 = AtomicU32::new(0);

#[cold]
fn ask_for_process() -> u32 {
    extern "C" fn forget() {
        PROCESS.store(0, Relaxed);
        FORKS.fetch_add(1, Relaxed);
    }
    static FORGETS: Once = Once::new();
    // SAFETY: the handler only stores to an atomic, which a child of a fork may do.
    FORGETS.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(forget));
    });
    let process = std::process::id();
    PROCESS.store(process, Relaxed);
    process
}

/// This thread, by the number that the kernel knows it by.
pub(crate) fn thread() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) };
    thread as u32
}

/// Leaves signals to the other threads, but for those that a fault of this thread's own raises.
pub(crate) fn leave_signals_to_others() {
    let mut signals = std::mem::MaybeUninit::uninit();
    // SAFETY: initialises the set.
    unsafe {
        libc::sigfillset(signals.as_mut_ptr());
    }
    for own in [libc::SIGBUS, libc::SIGSEGV, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT] {
        // SAFETY: the set was initialised above, and the signals exist.
        unsafe {
            libc::sigdelset(signals.as_mut_ptr(), own);
        }
    }
    // SAFETY: the set was initialised above; the old mask is not asked for.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), ptr::null_mut());
    }
}

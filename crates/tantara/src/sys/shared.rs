//! Linux: sleeping on words in shared memory, on one or on many, by the futex that is not private
//! (`man 2 futex`).

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, fence};
use std::time::{Duration, Instant};

use super::platform::{futex, futex_call, futex_wake, keeping_errno, now};
use super::sleep::{Awake, refused};

/// See [`wait`](crate::sys::wait). The wake-up call may come from any process that has the word's
/// page mapped. The time is relative, which saves waits without a deadline a look at the clock.
pub(crate) fn wait(word: &AtomicU32, expected: u32, nap: Option<Duration>) -> Awake {
    futex_wait(word, 0, expected, nap)
}

/// `flags`: private to the process, or shared. `timeout` is relative.
pub(super) fn futex_wait(word: &AtomicU32, flags: libc::c_int, expected: u32, timeout: Option<Duration>) -> Awake {
    futex(word, libc::FUTEX_WAIT | flags, expected, timeout, 0).unwrap_or_else(|| refused(timeout))
}

/// Whether threads can sleep on the word. They cannot in memory that the kernel keeps itself from
/// reading (`man 2 memfd_secret`): each sleep and each wake-up call would fail there.
pub(crate) fn can_wait(word: &AtomicU32) -> bool {
    // Returns at once, because that is not the word's value.
    let other = !word.load(Relaxed);
    let result = futex_call(Some(Duration::ZERO), |number, timeout| {
        // SAFETY: `word` is borrowed, so valid and aligned for the whole call, in which the kernel
        // only reads it. The timeout is null or lives until the call returns. FUTEX_WAIT looks at
        // neither of the other arguments.
        unsafe { libc::syscall(number, word.as_ptr(), libc::FUTEX_WAIT, other, timeout, ptr::null::<u32>(), 0) }
    });
    result != -1 || io::Error::last_os_error().raw_os_error() != Some(libc::EFAULT)
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
        // How many to wake at the second word, which is the same, stands in the place of a timeout.
        let (wakes, none) = (libc::FUTEX_WAKE_OP, ptr::null::<c_void>());
        let woken = futex_call(None, |number, _| {
            // SAFETY: `word` is borrowed, so valid and aligned for the whole call; the kernel
            // changes it atomically. If its page has gone away the kernel reports EFAULT.
            unsafe { libc::syscall(number, word.as_ptr(), wakes, i32::MAX, none, word.as_ptr(), operation | never) }
        });
        if woken < -1 {
            // Linux before 5.1 on ARM64 returns the word's new value for its own success, and then
            // may have woken nobody (fixed by its commit 84ff7a09c371).
            wake_all(word);
        }
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
        Err(ManyError::Interrupted) => Awake::Interrupted,
        Err(ManyError::Refused | ManyError::Unsupported) => match wait(second.0, second.1, Some(nap.min(BLIND))) {
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
    /// The kernel has refused this sleep, and may grant the next one: it is short of memory.
    Refused,
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
            Some(libc::ENOMEM) => Err(ManyError::Refused),
            // ENOSYS, EPERM, EACCES, EINVAL, or any error of a sandbox: the next call would most
            // likely fail as well.
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

/// Whether the kernel has the system call of [`wait_many`], as far as is known.
pub(super) fn can_wait_many() -> bool {
    CAN_WAIT_MANY.load(Relaxed)
}

/// Sleeps if each of the words has its expected value, until a wake-up call for any of them, or
/// until the deadline. May return early.
pub(crate) fn wait_many(words: &[Sleep], deadline: Instant) -> Result<(), ManyError> {
    match call_waitv(words, deadline) {
        // One odd error must not turn it off for the whole process, for good.
        Err(ManyError::Unsupported) if has_waitv() => Err(ManyError::Refused),
        Err(ManyError::Unsupported) => {
            CAN_WAIT_MANY.store(false, Relaxed);
            Err(ManyError::Unsupported)
        }
        outcome => outcome,
    }
}

/// Whether the system call finds that a word does not have its expected value.
#[cold]
fn has_waitv() -> bool {
    let word = AtomicU32::new(0);
    call_waitv(&[Sleep::on_private(&word, 1)], Instant::now()) == Ok(())
}

fn call_waitv(words: &[Sleep], deadline: Instant) -> Result<(), ManyError> {
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
    ManyError::of(io::Error::last_os_error().raw_os_error())
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
        assert_eq!(ManyError::of(Some(libc::ENOMEM)), Err(ManyError::Refused));
        for errno in [libc::ENOSYS, libc::EPERM, libc::EACCES, libc::EINVAL, libc::EIO] {
            assert_eq!(ManyError::of(Some(errno)), Err(ManyError::Unsupported), "{errno}");
        }
    }

    /// Which a process of 32 bits has met once, in a call like all others.
    #[test]
    fn an_odd_error_is_not_taken_for_a_kernel_without_the_call() {
        let word = AtomicU32::new(0);
        let too_many = vec![Sleep::on_private(&word, 0); MOST_WORDS + 1];
        let could = can_wait_many() && has_waitv();
        let outcome = wait_many(&too_many, Instant::now());
        assert_eq!(outcome, Err(if could { ManyError::Refused } else { ManyError::Unsupported }));
        assert_eq!(can_wait_many(), could);
    }

    /// Sends the thread one signal, once it sleeps in `call`.
    fn interrupt_once(thread: libc::pthread_t, id: u32, call: libc::c_long) {
        extern "C" fn handler(_: libc::c_int) {}
        // SAFETY: all zeros are a valid action, which is completed before it is used.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        // SAFETY: the action is complete, and its handler does nothing.
        unsafe { libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut()) };
        let path = format!("/proc/self/task/{id}/syscall");
        while !std::fs::read_to_string(&path).unwrap().starts_with(&format!("{call} ")) {
            std::thread::yield_now();
        }
        // SAFETY: the thread is not joined yet.
        unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
    }

    #[test]
    fn one_signal_interrupts_a_sleep_on_two_words() {
        let words = [0, 0].map(AtomicU32::new);
        let nap = Duration::from_secs(3_600);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let asleep = scope.spawn(|| {
                // SAFETY: takes nothing.
                tell.send((unsafe { libc::pthread_self() } as usize, crate::sys::process::thread())).unwrap();
                let awake = wait_two((&words[0], 0), (&words[1], 0), nap);
                (awake, can_wait_many())
            });
            let (thread, id) = told.recv().unwrap();
            if !can_wait_many() || wait_many(&[Sleep::on(&words[0], 1)], Instant::now()) == Err(ManyError::Unsupported)
            {
                wake_all(&words[1]);
                println!("SKIPPED: no futex_waitv");
                return;
            }
            interrupt_once(thread as _, id, libc::SYS_futex_waitv);
            assert_eq!(asleep.join().unwrap(), (Awake::Interrupted, true));
        });
    }
}

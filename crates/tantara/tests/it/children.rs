//! Children that a child process forks, and what the kernel tells about them.
//!
//! A fork takes a fraction of a millisecond; starting this program anew takes ten. Only child processes fork, because
//! they do one thing: in a process that runs tests side by side, any lock could be held at a fork.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::AtomicU32;

/// A forked child. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: libc::pid_t,
    has_ended: bool,
}

impl Child {
    /// The child runs `body` and exits with 0, or with 1 if `body` has panicked.
    pub(crate) fn fork(body: impl FnOnce()) -> Child {
        // SAFETY: the child has one thread, a copy of this one. The others of a participant only wait for this one, so
        // they hold no lock that the child could need.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: takes numbers. Who is left alone ends as well.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let outcome = catch_unwind(AssertUnwindSafe(body));
            // SAFETY: ends the process, without what the parent wants to have done at its own end.
            unsafe { libc::_exit(i32::from(outcome.is_err())) };
        }
        assert!(pid > 0, "the participant cannot fork");
        Child { pid, has_ended: false }
    }

    /// Waits until its state changes, and returns the new one: see `man 2 wait`.
    pub(crate) fn status(&mut self) -> libc::c_int {
        let mut status = 0;
        // SAFETY: the child is ours and has not been waited for to its end; `status` is valid for writing.
        let waited = unsafe { libc::waitpid(self.pid, &mut status, libc::__WALL) };
        assert_eq!(waited, self.pid, "the child is not ours");
        self.has_ended = !libc::WIFSTOPPED(status);
        status
    }

    /// Whether it has ended. Panics if it has failed.
    pub(crate) fn has_ended(&mut self) -> bool {
        let mut status = 0;
        // SAFETY: the child is ours and has not been waited for to its end; `status` is valid for writing.
        let waited = unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) };
        self.has_ended = waited == self.pid;
        assert!(!self.has_ended || status == 0, "the child has failed");
        self.has_ended
    }

    /// Kills it and waits for its end. It must not have failed before.
    pub(crate) fn kill(mut self) {
        self.send_kill();
        let status = self.status();
        let is_killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        assert!(is_killed || status == 0, "the child has failed: {status:#x}");
    }

    fn send_kill(&self) {
        // SAFETY: the child is ours and was not waited for to its end, so the number is still its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// The system call in which its main thread sleeps, if it does.
    pub(crate) fn call(&self) -> Option<libc::c_long> {
        call(self.pid as u32, self.pid as u32).map(|call| call.number)
    }

    /// Whether it sleeps on a word of its own, as the thread of an async wait does, and without a limit: an event that
    /// waits for the lock of another process sleeps for a moment at a time.
    pub(crate) fn is_parked(&self) -> bool {
        let is_parked = |call: Call| is_futex(call.number) && call.timeout == Some(0);
        call(self.pid as u32, self.pid as u32).is_some_and(is_parked) && !self.is_asleep()
    }

    /// See [`is_asleep`].
    pub(crate) fn is_asleep(&self) -> bool {
        is_asleep(self.pid as u32, self.pid as u32)
    }
}

/// Whether a system call is the futex. On processors of 32 bits another call, of this number on all
/// of them, takes times of 64 bits.
fn is_futex(call: libc::c_long) -> bool {
    call == libc::SYS_futex || (cfg!(target_pointer_width = "32") && call == 422)
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.has_ended {
            self.send_kill();
        }
        while !self.has_ended {
            self.status();
        }
    }
}

/// Whether a thread sleeps on a word in shared memory, according to the kernel. A thread that was woken does not, even
/// if it has not run since.
pub(crate) fn is_asleep(process: u32, thread: u32) -> bool {
    // A thread that was woken still shows the system call in which it slept, but not the state; once it runs, it soon
    // sleeps in another call.
    let is_in_shared_futex = || {
        call(process, thread)
            .is_some_and(|call| is_futex(call.number) && call.operation == Some(libc::FUTEX_WAIT as u64))
    };
    is_in_shared_futex() && is_sleeping(process, thread) && is_in_shared_futex()
}

/// The system call in which a thread sleeps, with two arguments as the futex has them.
struct Call {
    number: libc::c_long,
    operation: Option<u64>,
    /// The address of the timeout.
    timeout: Option<u64>,
}

fn call(process: u32, thread: u32) -> Option<Call> {
    let call = fs::read_to_string(format!("/proc/{process}/task/{thread}/syscall")).ok()?;
    let mut words = call.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut argument = |skipped| u64::from_str_radix(words.nth(skipped)?.trim_start_matches("0x"), 16).ok();
    Some(Call { number, operation: argument(1), timeout: argument(1) })
}

fn is_sleeping(process: u32, thread: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/task/{thread}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, status)| status.starts_with('S'))
}

/// A number in memory that is shared with children forked from here on.
pub(crate) fn shared_memory() -> &'static AtomicU32 {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping where the kernel likes.
    let page = unsafe { libc::mmap(ptr::null_mut(), 4096, access, kind, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    // SAFETY: it is mapped for ever, aligned, zero, and reached as an atomic only.
    unsafe { AtomicU32::from_ptr(page.cast()) }
}

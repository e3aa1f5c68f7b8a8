//! [`interruptible`]: waits that a signal can end, for programs whose signals are handled outside of the handler.
//!
//! A sleep is interrupted in two ways: a handler has run on the sleeping thread (EINTR), or [`NAP`] is over. The second
//! is for the signal that arrives between the last look and the sleep, which nothing else would notice.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::Duration;

use crate::deadline::Deadline;

thread_local! {
    static GIVES_UP: Cell<Option<fn() -> bool>> = const { Cell::new(None) };
}

/// The longest sleep of a wait that can be interrupted.
const NAP: Duration = Duration::from_secs(1);

/// Runs `waits`, and lets signals end the waits in it: whenever a signal's handler has interrupted the sleep of this
/// thread, `gives_up` is asked whether to go on. If not, the wait returns what it returns when its time has passed.
///
/// This is for programs that note a signal in its handler and act on it later, as interpreters of other languages do:
/// `gives_up` is the place to act. It is no signal handler but an ordinary function, called on the thread that waits.
/// It may use the event that is being waited for; a `set` there releases the wait, also
/// if it is followed by a `clear`. It is asked by every wait that can say that it was not released: `wait_timeout`,
/// `wait_deadline` and their sisters, of every kind of event and of [`any`](crate::any) and [`all`](crate::all).
/// [`Duration::MAX`] makes one of those that lasts until the event or the signal. A plain `wait` is not interrupted,
/// nor is a future.
///
/// It may also be asked without a signal, about once in a second: a signal that arrives just before the thread falls
/// asleep is noticed that late. Where sleeps are not made by the kernel's futex, on other systems than Linux, every
/// signal is.
///
/// # Panics
///
/// Of `gives_up` go on through the wait, which is over then, with nothing lost.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::time::Duration;
/// use tantara::{Event, interruptible};
///
/// /// What the program's handler of SIGINT sets.
/// static STOP: AtomicBool = AtomicBool::new(false);
///
/// # STOP.store(true, Ordering::Relaxed);
/// let event = Event::new();
/// let released = interruptible(|| STOP.load(Ordering::Relaxed), || event.wait_timeout(Duration::MAX));
/// assert!(!released, "it was the signal");
/// ```
pub fn interruptible<R>(gives_up: fn() -> bool, waits: impl FnOnce() -> R) -> R {
    struct Restore(Option<fn() -> bool>);

    impl Drop for Restore {
        fn drop(&mut self) {
            set(self.0);
        }
    }

    let _restore = Restore(current());
    set(Some(gives_up));
    waits()
}

fn set(gives_up: Option<fn() -> bool>) {
    // A thread that is being torn down cannot be interrupted.
    let _ = GIVES_UP.try_with(|kept| kept.set(gives_up));
}

fn current() -> Option<fn() -> bool> {
    GIVES_UP.try_with(Cell::get).ok().flatten()
}

/// How long a wait may sleep until it has to [ask](gives_up), if there is anybody to be asked.
pub(crate) fn longest_sleep(deadline: Deadline) -> Option<Duration> {
    (deadline.can_be_given_up() && current().is_some()).then_some(NAP)
}

/// Called when a sleep was interrupted: whether the wait is over.
#[cold]
pub(crate) fn gives_up(deadline: Deadline) -> bool {
    deadline.can_be_given_up() && current().is_some_and(|gives_up| gives_up())
}

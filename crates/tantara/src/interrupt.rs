//! [`interruptible`]: waits that a signal can end, for programs that act on signals outside of their
//! handlers.
//!
//! A sleep is interrupted in two ways: a handler has run on the sleeping thread (EINTR), or [`NAP`]
//! is over. The second is for a signal that arrives between the last check and the sleep, which
//! does not interrupt the sleep.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::Duration;

use crate::deadline::Deadline;

thread_local! {
    static GIVES_UP: Cell<Option<fn() -> bool>> = const { Cell::new(None) };
}

/// The longest sleep of a wait that can be interrupted.
const NAP: Duration = Duration::from_secs(1);

/// Runs `waits`, and lets signals end the waits in it. Whenever a signal's handler has interrupted
/// the sleep of this thread, `gives_up` is called. If it returns `true`, the wait returns what it
/// returns when its time has passed.
///
/// This is for programs that record a signal in its handler and act on it later, as interpreters
/// do. `gives_up` is the place to act: it is an ordinary function, called on the thread that waits.
/// It may use the event that is being waited for; a `set` there releases the wait, even if a
/// `clear` follows. It is called by every wait that can report a timeout: `wait_timeout`,
/// `wait_deadline` and their `try_` variants, of every kind of event and of [`any`](crate::any) and
/// [`all`](crate::all). A timeout of [`Duration::MAX`] lasts until the event or the signal. A plain
/// `wait` is not interrupted, nor is a future.
///
/// It may also be called without a signal, about once a second, so that a signal that arrives just
/// before the thread falls asleep is noticed. On systems other than Linux every signal is noticed
/// that way.
///
/// # Panics
///
/// A panic of `gives_up` ends the wait and propagates, with nothing lost.
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
/// let stops = || STOP.load(Ordering::Relaxed);
/// let released = interruptible(stops, || event.wait_timeout(Duration::MAX));
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
    // A thread whose thread-locals are being destroyed cannot be interrupted.
    let _ = GIVES_UP.try_with(|kept| kept.set(gives_up));
}

fn current() -> Option<fn() -> bool> {
    GIVES_UP.try_with(Cell::get).ok().flatten()
}

/// How long a wait may sleep until it has to call [`gives_up`], if it is interruptible.
pub(crate) fn longest_sleep(deadline: Deadline) -> Option<Duration> {
    (deadline.can_be_given_up() && current().is_some()).then_some(NAP)
}

/// Called when a sleep was interrupted: whether the wait is over.
#[cold]
pub(crate) fn gives_up(deadline: Deadline) -> bool {
    deadline.can_be_given_up() && current().is_some_and(|gives_up| gives_up())
}

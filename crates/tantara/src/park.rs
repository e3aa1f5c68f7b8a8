//! How a thread waits for a future: it polls, and sleeps on a word of its own until its waker is
//! called. If the waker may never be called, it sleeps for a limited time, or also on words of
//! events.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::interrupt;
use crate::sync::{AtomicU32, per_thread, sleep};
use crate::sys::{self, Awake, Words};

/// The thread does not sleep, and was not woken.
const IDLE: u32 = 0;
/// The waker was called, and no wait has consumed the call yet.
const CALLED: u32 = 1;
/// The thread sleeps, or is about to.
const ASLEEP: u32 = 2;

/// What a thread does until the next poll.
pub(crate) enum Rest {
    /// It polls at once.
    None,
    /// It sleeps until its waker is called.
    UntilCalled,
    /// It sleeps for that long: its waker may never be called.
    For(Duration),
    /// It sleeps until one of the words changes or its waker is called, but no longer than that.
    OnWords(Words, Duration),
}

/// What a thread sleeps on. Not `std::thread::park`, because the program may be using its token.
struct Parker {
    word: AtomicU32,
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.word.swap(CALLED, AcqRel) == ASLEEP {
            sys::wake_one(&self.word);
        }
    }
}

impl Parker {
    fn new() -> Arc<Parker> {
        Arc::new(Parker { word: AtomicU32::new(IDLE) })
    }

    /// Sleeps until the waker is called, the deadline passes, or the wait is interrupted. Consumes
    /// the call.
    fn park(&self, deadline: Deadline) -> Result<(), sys::TimedOut> {
        let called = || self.word.load(Relaxed) == CALLED;
        if called() || sys::spin::until(deadline, called) {
            self.word.swap(IDLE, AcqRel);
            return Ok(());
        }
        sys::spin::noting_sleep(|| self.sleep(deadline))
    }

    /// Sleeps for `nap` or until the deadline, whether or not a call comes. Consumes the call.
    fn nap(&self, nap: Duration, deadline: Deadline) -> Result<(), sys::TimedOut> {
        let now = Instant::now();
        sleep(deadline.at_most(now + nap).saturating_duration_since(now));
        self.word.swap(IDLE, AcqRel);
        if interrupt::gives_up(deadline) { Err(sys::TimedOut) } else { Ok(()) }
    }

    /// Sleeps until a call, until one of the words is no longer as expected, or until the deadline,
    /// but no longer than `longest`. Consumes the call.
    fn sleep_on(&self, mut words: Words, longest: Duration, deadline: Deadline) -> Result<(), sys::TimedOut> {
        let longest = interrupt::longest_sleep(deadline).map_or(longest, |most| most.min(longest));
        let until = deadline.at_most(Instant::now() + longest);
        // Fails only if a call has come.
        let is_called = self.word.compare_exchange(IDLE, ASLEEP, Relaxed, Relaxed).is_err();
        let awake = if is_called { Awake::Called } else { words.wait(&self.word, ASLEEP, until) };
        self.word.swap(IDLE, AcqRel);
        let gives_up = awake != Awake::Called && interrupt::gives_up(deadline);
        if gives_up { Err(sys::TimedOut) } else { Ok(()) }
    }

    fn sleep(&self, deadline: Deadline) -> Result<(), sys::TimedOut> {
        // Fails only if a call has come.
        let _ = self.word.compare_exchange(IDLE, ASLEEP, Relaxed, Relaxed);
        let mut outcome = Ok(());
        while self.word.load(Acquire) != CALLED && outcome.is_ok() {
            outcome = sys::wait(&self.word, ASLEEP, deadline);
        }
        // A call that came with the deadline must not end the next wait.
        self.word.swap(IDLE, AcqRel);
        outcome
    }
}

per_thread! {
    /// Kept between waits, to save an allocation. Taken out while in use, because a waker that is
    /// called during a wait may wait itself.
    static PARKER: Cell<Option<Arc<Parker>>> = const { Cell::new(None) }
}

/// Runs `future` on this thread until it is ready, or until the deadline. On a tie the future wins.
pub(crate) fn block_on<F: Future>(mut future: Pin<&mut F>, deadline: Deadline) -> Option<F::Output> {
    block_on_resting(
        |context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Ok(output),
            Poll::Pending => Err(Rest::UntilCalled),
        },
        deadline,
    )
}

/// As [`block_on`], for futures whose waker may never be called: if `poll` is not ready, it returns
/// what to do until the next poll.
pub(crate) fn block_on_resting<T>(
    mut poll: impl FnMut(&mut Context<'_>) -> Result<T, Rest>,
    deadline: Deadline,
) -> Option<T> {
    let parker = PARKER.try_with(Cell::take).ok().flatten().unwrap_or_else(Parker::new);
    let waker = Waker::from(Arc::clone(&parker));
    let mut context = Context::from_waker(&waker);
    let mut out_of_time = deadline.has_passed();
    let output = loop {
        // The clock was read before this poll, so a release before the deadline is seen, however
        // long the poll takes.
        let rest = match poll(&mut context) {
            Ok(output) => break Some(output),
            Err(rest) => rest,
        };
        if out_of_time {
            break None;
        }
        let slept = match rest {
            Rest::None => Ok(()),
            Rest::UntilCalled => parker.park(deadline),
            Rest::For(nap) => parker.nap(nap, deadline),
            Rest::OnWords(words, longest) => parker.sleep_on(words, longest, deadline),
        };
        out_of_time = slept.is_err() || deadline.has_passed();
    };
    let _ = PARKER.try_with(|kept| kept.set(Some(parker)));
    output
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::time::{Duration, Instant};

    /// A poll that takes so long that the deadline passes during it, just after the event was
    /// pulsed.
    #[test]
    fn what_came_before_the_deadline_is_not_reported_as_a_timeout() {
        // Long enough that the first poll begins before it.
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut looks = 0;
        let slow = std::future::poll_fn(|_| {
            looks += 1;
            std::thread::sleep(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
            if looks == 2 { Poll::Ready(()) } else { Poll::Pending }
        });
        assert_eq!(block_on(pin!(slow), Deadline::At(deadline)), Some(()));
    }

    #[test]
    fn a_wake_up_call_is_not_missed_and_a_timeout_ends_the_wait() {
        let mut called = false;
        let calls_itself = std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            if std::mem::replace(&mut called, true) { Poll::Ready(()) } else { Poll::Pending }
        });
        assert_eq!(block_on(pin!(calls_itself), Deadline::Never), Some(()));
        let never = std::future::pending::<()>();
        assert_eq!(block_on(pin!(never), Deadline::after(Duration::from_millis(2))), None);
    }
}

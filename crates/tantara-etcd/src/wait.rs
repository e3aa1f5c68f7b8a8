//! [`ClusterWait`]: a wait that has begun, to be awaited or blocked on, alone or within `any` and
//! `all`.

use std::fmt;
use std::future::Future;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tantara::__private::{External, Identity};
use tantara::waits;

use crate::driver::mailbox::{Aim, Completer, UnlessForked, WaitState};
use crate::driver::runtime::Runtime;
use crate::driver::task::Request;
use crate::error::Error;
use crate::store::keys;
use crate::store::seen::Seen;

/// A wait for a [`ClusterEvent`](crate::ClusterEvent), from
/// [`wait_async`](crate::ClusterEvent::wait_async),
/// [`wait_unset_async`](crate::ClusterEvent::wait_unset_async) or
/// [`wait_next_async`](crate::ClusterEvent::wait_next_async). It has begun: await it under any
/// runtime, or block on it later.
///
/// # Cancel safety
///
/// Dropping it at any moment affects no other wait.
///
/// # Examples
///
/// To miss no answer that comes from another process, begin to wait before you ask:
///
/// ```no_run
/// # let cluster = tantara_etcd::Cluster::connect("127.0.0.1:2379")?;
/// # fn ask_for_it() {}
/// let mut answered = cluster.event("answer").wait_async();
/// answered.begun()?;
/// ask_for_it();
/// answered.wait()?;
/// # Ok::<(), tantara_etcd::Error>(())
/// ```
#[must_use = "a wait has no effect unless it is awaited or blocked on"]
pub struct ClusterWait {
    runtime: Runtime,
    state: Arc<WaitState>,
    /// Created by the first poll.
    over: Option<UnlessForked<()>>,
    /// The call that has begun it.
    place: &'static Location<'static>,
}

impl ClusterWait {
    #[track_caller]
    pub(crate) fn new(runtime: &Runtime, name: &Arc<str>, seen: &Arc<Seen>, aim: Aim) -> ClusterWait {
        let wait = ClusterWait::unbegun(runtime, name, seen, aim);
        if !wait.state.is_over() {
            let until = runtime.store().connection.request_deadline();
            let beginning = runtime.beginnings().add();
            wait.send(Request::Join(Completer(Arc::clone(&wait.state)), until, beginning));
        }
        wait
    }

    /// Reads the event once: a wait whose time has passed already.
    #[track_caller]
    pub(crate) fn poll_once(runtime: &Runtime, name: &Arc<str>, seen: &Arc<Seen>, aim: Aim) -> Result<bool, Error> {
        let wait = ClusterWait::unbegun(runtime, name, seen, aim);
        if !wait.state.is_over() {
            runtime.check_may_block()?;
            wait.block_on_decision();
        }
        wait.result()
    }

    #[track_caller]
    fn unbegun(runtime: &Runtime, name: &Arc<str>, seen: &Arc<Seen>, aim: Aim) -> ClusterWait {
        let state = match keys::check_name(name).and_then(|()| runtime.check_process()) {
            Ok(()) => WaitState::new(name, seen, aim, runtime.store().recorded.event(name)),
            Err(error) => {
                let state = WaitState::new(name, seen, aim, None);
                state.complete(Err(error));
                state
            }
        };
        ClusterWait { runtime: runtime.clone(), state, over: None, place: Location::caller() }
    }

    /// Runs `act`, which may block, for the call that has begun the wait, if waits are recorded.
    fn placed<R>(&self, act: impl FnOnce() -> R) -> R {
        if waits::is_wanted() { waits::with_place(self.place, act) } else { act() }
    }

    fn check_may_block(&self, until: &tantara::Event) -> Result<(), Error> {
        if until.is_set() { Ok(()) } else { self.runtime.check_may_block() }
    }

    fn send(&self, request: Request) {
        if let Err(error) = self.runtime.send(request) {
            self.state.complete(Err(error));
        }
    }

    /// Blocks until the cluster has been read for this wait: every later `set` releases it. The
    /// wait may have ended by then.
    ///
    /// # Errors
    ///
    /// If the wait cannot begin, as for [`ClusterEvent::wait`](crate::ClusterEvent::wait).
    pub fn begun(&mut self) -> Result<(), Error> {
        self.check_may_block(&self.state.begun)?;
        self.state.begun.wait();
        self.state.result().unwrap_or(Ok(true)).map(drop)
    }

    /// Async form of [`begun`](ClusterWait::begun), with the same errors.
    pub async fn begun_async(&mut self) -> Result<(), Error> {
        if !self.state.begun.is_set() {
            self.runtime.check_process()?;
            let state = Arc::clone(&self.state);
            UnlessForked::new(async move { state.begun.wait_async().await }).await?;
        }
        self.state.result().unwrap_or(Ok(true)).map(drop)
    }

    /// Blocks until the wait is released, like [`ClusterEvent::wait`](crate::ClusterEvent::wait).
    ///
    /// # Errors
    ///
    /// As for [`ClusterEvent::wait`](crate::ClusterEvent::wait).
    pub fn wait(self) -> Result<(), Error> {
        self.check_may_block(self.state.over())?;
        self.placed(|| self.state.over().wait());
        self.result().map(drop)
    }

    /// Blocks for at most `timeout`, like
    /// [`ClusterEvent::wait_timeout`](crate::ClusterEvent::wait_timeout).
    ///
    /// # Errors
    ///
    /// As for [`ClusterEvent::wait_timeout`](crate::ClusterEvent::wait_timeout).
    pub fn wait_timeout(self, timeout: Duration) -> Result<bool, Error> {
        self.check_may_block(self.state.over())?;
        if !self.placed(|| self.state.over().wait_timeout(timeout)) {
            self.block_on_decision();
        }
        self.result()
    }

    /// Blocks until `deadline` at the latest, like
    /// [`ClusterEvent::wait_deadline`](crate::ClusterEvent::wait_deadline).
    ///
    /// # Errors
    ///
    /// As for [`ClusterEvent::wait_deadline`](crate::ClusterEvent::wait_deadline).
    pub fn wait_deadline(self, deadline: Instant) -> Result<bool, Error> {
        self.check_may_block(self.state.over())?;
        if !self.placed(|| self.state.over().wait_deadline(deadline)) {
            self.block_on_decision();
        }
        self.result()
    }

    /// The time has passed: blocks until the driver has read the cluster for the last time, or
    /// could not.
    fn block_on_decision(&self) {
        self.send(Request::Decide(Completer(Arc::clone(&self.state))));
        self.state.over().wait();
    }

    /// The result of a wait that is over.
    fn result(&self) -> Result<bool, Error> {
        self.state.result().unwrap_or(Ok(false))
    }

    /// `is_part` of an `any` or `all`, which is recorded as a whole.
    fn poll_result(&mut self, context: &mut Context<'_>, is_part: bool) -> Poll<Result<bool, Error>> {
        if !self.state.is_over() {
            ready!(self.poll_over(context, is_part))?;
        }
        Poll::Ready(self.result())
    }

    fn poll_over(&mut self, context: &mut Context<'_>, is_part: bool) -> Poll<Result<(), Error>> {
        if self.over.is_none() {
            // The wait may have begun in the parent of this process.
            self.runtime.check_process()?;
        }
        let over = self.over.get_or_insert_with(|| {
            let state = Arc::clone(&self.state);
            if is_part {
                UnlessForked::new(async move { waits::unrecorded(state.over()).await })
            } else {
                UnlessForked::new(async move { state.over().wait_async().await })
            }
        });
        let mut poll = || Pin::new(&mut *over).poll(context);
        let is_recorded = !is_part && waits::is_wanted();
        let outcome = ready!(if is_recorded { waits::with_place(self.place, poll) } else { poll() });
        // A later poll creates another one, which is ready at once.
        self.over = None;
        Poll::Ready(outcome)
    }
}

// As for the futures of other events: a panic leaves them in a valid state.
impl UnwindSafe for ClusterWait {}
impl RefUnwindSafe for ClusterWait {}

impl Future for ClusterWait {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_result(context, false).map_ok(drop)
    }
}

impl Drop for ClusterWait {
    fn drop(&mut self) {
        if !self.state.is_over() {
            self.state.leave();
            // This fails in the child of a fork, which has no driver.
            let _ = self.runtime.send(Request::Leave(Arc::clone(&self.state.name)));
        }
    }
}

impl fmt::Debug for ClusterWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterWait")
            .field("event", &self.state.name)
            .field("over", &self.state.is_over())
            .finish_non_exhaustive()
    }
}

impl External for ClusterWait {
    fn poll_outcome(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        _: bool,
    ) -> Poll<Result<bool, tantara::Error>> {
        self.poll_result(context, true).map_err(tantara::Error::from)
    }

    fn identity(&self) -> Option<Identity> {
        self.state.is_recorded().then(|| waits::stand_in(self.state.over()))
    }

    fn needs_poll(&self) -> bool {
        self.state.is_over() && self.result().is_err()
    }

    fn decide(self: Pin<&mut Self>) -> bool {
        if !self.state.is_over() {
            self.send(Request::Decide(Completer(Arc::clone(&self.state))));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_the_child_of_a_fork_has_inherited_fails() {
        let inherited = || {
            let mut wait = ClusterWait::unbegun(&Runtime::inherited(), &"event".into(), &Arc::default(), Aim::Set);
            // It began in the parent.
            wait.state = WaitState::new(&"event".into(), &Arc::default(), Aim::Set, None);
            wait
        };
        let long = Duration::from_secs(60);
        let mut polled = inherited();
        let poll = Pin::new(&mut polled).poll(&mut Context::from_waker(std::task::Waker::noop()));
        let Poll::Ready(outcome) = poll else { panic!("it waits") };
        let mut begins = inherited();
        let poll = std::pin::pin!(begins.begun_async()).poll(&mut Context::from_waker(std::task::Waker::noop()));
        let Poll::Ready(has_begun) = poll else { panic!("it waits") };
        for error in [
            outcome.unwrap_err(),
            has_begun.unwrap_err(),
            inherited().begun().unwrap_err(),
            inherited().wait().unwrap_err(),
            inherited().wait_timeout(long).unwrap_err(),
            inherited().wait_deadline(Instant::now() + long).unwrap_err(),
        ] {
            assert!(error.to_string().contains("connect again"), "{error}");
        }
    }
}

//! Passes values from the runtime thread to other threads and tasks, which block on them or await
//! them.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tantara::Event;
use tantara::waits::Outside;

use crate::error::Error;
use crate::lock::lock;
use crate::store::seen::Seen;
use crate::wake;

/// Fails in a child that the process which made a connection has forked.
pub(crate) fn check_process(made_by: u32) -> Result<(), Error> {
    if made_by == std::process::id() {
        Ok(())
    } else {
        Err(Error::ended("this connection to etcd belongs to the process that made it; connect again in this one"))
    }
}

/// A future that the runtime thread completes. In the child of a fork, where that thread does not run,
/// it fails instead of waiting for ever.
pub(crate) struct UnlessForked<T> {
    process: u32,
    /// Always there, until the drop.
    future: Option<Pin<Box<dyn Future<Output = T> + Send + Sync>>>,
}

impl<T> UnlessForked<T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + Sync + 'static) -> UnlessForked<T> {
        UnlessForked { process: std::process::id(), future: Some(Box::pin(future)) }
    }
}

impl<T> Future for UnlessForked<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T, Error>> {
        check_process(self.process)?;
        let Some(future) = &mut self.future else { return Poll::Pending };
        Poll::Ready(Ok(ready!(future.as_mut().poll(context))))
    }
}

impl<T> Drop for UnlessForked<T> {
    fn drop(&mut self) {
        if check_process(self.process).is_err() {
            // It may stand in a list whose lock the thread of the parent held during the fork.
            std::mem::forget(self.future.take());
        }
    }
}

/// A value, and an event that is set when it was changed.
#[derive(Debug, Default)]
pub(crate) struct Mailbox<V> {
    value: Mutex<V>,
    pub(crate) is_ready: Event,
}

impl<V> Mailbox<V> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, V> {
        lock(&self.value)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut V)) {
        change(&mut self.lock());
        wake::set(&self.is_ready);
    }
}

/// A mailbox for one result.
type Completion<T> = Mailbox<Option<Result<T, Error>>>;

impl<T> Completion<T> {
    /// Sets the result, unless there is one.
    fn complete(&self, result: Result<T, Error>) {
        self.update(|value| {
            value.get_or_insert(result);
        });
    }

    /// The completing side has gone.
    fn abandon(&self) {
        if !self.is_ready.is_set() {
            self.complete(Err(Error::ended("the connection to etcd has been closed")));
        }
    }
}

/// The receiving side of a request.
#[derive(Debug)]
pub(crate) struct Reply<T>(Arc<Completion<T>>);

/// The completing side of a request. If it is dropped without a result, the request fails.
#[derive(Debug)]
pub(crate) struct Promise<T>(Arc<Completion<T>>);

pub(crate) fn promise<T>() -> (Promise<T>, Reply<T>) {
    let completion = Arc::new(Completion::default());
    (Promise(Arc::clone(&completion)), Reply(completion))
}

impl<T> Promise<T> {
    pub(crate) fn complete(self, result: Result<T, Error>) {
        self.0.complete(result);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl<T> Reply<T> {
    /// Blocks until there is a result.
    pub(crate) fn wait(self) -> Result<T, Error> {
        self.0.is_ready.wait();
        self.take()
    }

    /// Blocks until there is a result, or the time has passed.
    pub(crate) fn wait_timeout(&self, timeout: Duration) {
        let _ = self.0.is_ready.wait_timeout(timeout);
    }

    fn take(&self) -> Result<T, Error> {
        self.0.lock().take().expect("a mailbox that is ready has a result")
    }
}

impl<T: Send + 'static> Reply<T> {
    /// Waits until there is a result.
    pub(crate) async fn into_future(self) -> Result<T, Error> {
        UnlessForked::new(async move {
            self.0.is_ready.wait_async().await;
            self.take()
        })
        .await?
    }
}

/// What a wait waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Until the event is set.
    Set,
    /// Until it is unset.
    Unset,
    /// For the next `set`, also of an event that is set.
    Next,
}

/// The state of one wait, shared by its owner and the driver.
#[derive(Debug)]
pub(crate) struct WaitState {
    /// The event's name.
    pub(crate) name: Arc<str>,
    pub(crate) aim: Aim,
    /// What the handle has seen, and what it had seen when the wait was requested.
    seen: Arc<Seen>,
    seen_before: i64,
    /// `true` if the wait was released, `false` if its time passed first.
    end: Completion<bool>,
    /// Set once the cluster has been read for the wait: every later `set` counts.
    pub(crate) begun: Event,
    has_left: AtomicBool,
    /// The event, for the record of waits. Declared after `end`, which stands for it there.
    outside: Option<Arc<Outside>>,
}

impl WaitState {
    /// `outside` is the event if waits are recorded.
    pub(crate) fn new(name: &Arc<str>, seen: &Arc<Seen>, aim: Aim, outside: Option<Arc<Outside>>) -> Arc<WaitState> {
        let (end, begun, has_left) = (Completion::default(), Event::new(), AtomicBool::new(false));
        let (name, seen, seen_before) = (Arc::clone(name), Arc::clone(seen), seen.by_now());
        let state = Arc::new(WaitState { name, aim, seen, seen_before, end, begun, has_left, outside });
        if let Some(outside) = &state.outside {
            outside.is_awaited_by(state.over(), aim == Aim::Unset);
        }
        state
    }

    /// Whether the record of waits knows the event of this wait.
    pub(crate) fn is_recorded(&self) -> bool {
        self.outside.is_some()
    }

    /// The event existed at this revision.
    pub(crate) fn note_existed(&self, revision: i64) {
        self.seen.exists_at(revision);
    }

    /// A read for this wait shows whether the event exists. Returns whether the wait goes on: it fails
    /// if the handle had seen the event.
    pub(crate) fn look(&self, revision: i64, exists: bool) -> bool {
        let looked = self.seen.look(self.seen_before, revision, exists, &self.name);
        looked.map_err(|error| self.complete(Err(error))).is_ok()
    }

    /// Ends the wait, unless it has ended.
    pub(crate) fn complete(&self, end: Result<bool, Error>) {
        self.end.complete(end);
        wake::set(&self.begun);
    }

    /// The result, once the wait has ended.
    pub(crate) fn result(&self) -> Option<Result<bool, Error>> {
        self.end.lock().clone()
    }

    /// Set when the wait has ended.
    pub(crate) fn over(&self) -> &Event {
        &self.end.is_ready
    }

    pub(crate) fn is_over(&self) -> bool {
        self.end.is_ready.is_set()
    }

    /// Whether no one waits for the result any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.has_left.load(Relaxed) || self.is_over()
    }

    /// The owner has dropped the wait.
    pub(crate) fn leave(&self) {
        self.has_left.store(true, Relaxed);
    }
}

/// The driver's side of a wait. If it is dropped before the wait has ended, the wait fails.
#[derive(Debug)]
pub(crate) struct Completer(pub(crate) Arc<WaitState>);

impl Completer {
    /// Whether both are of the same wait.
    pub(crate) fn is(&self, other: &Completer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Completer {
    type Target = WaitState;

    fn deref(&self) -> &WaitState {
        &self.0
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        self.end.abandon();
        wake::set(&self.begun);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_request_that_the_parent_of_this_process_has_begun_fails() {
        let (promise, reply) = promise::<()>();
        let request = Arc::clone(&promise.0);
        let mut waits = UnlessForked::new(async move { reply.0.is_ready.wait_async().await });
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut waits).poll(&mut context).is_pending());
        waits.process = waits.process.wrapping_add(1);
        let Poll::Ready(outcome) = Pin::new(&mut waits).poll(&mut context) else { panic!("it waits") };
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains("connect again"), "{error}");
        let owners = Arc::strong_count(&request);
        drop(waits);
        assert_eq!(Arc::strong_count(&request), owners, "the list that it stands in is not touched");
    }
}

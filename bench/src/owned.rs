//! Events for tasks whose futures own the event, so that they can be spawned, stored and returned.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use crate::tasks::{TaskEvent, WakerVec, WakerVecWait};
use crate::threads::EventListener;

/// A contender whose future can own an `Arc` of the event.
pub trait OwnedWait: TaskEvent {
    fn wait_owned(event: Arc<Self>) -> impl Future + Send + 'static;
}

/// The event in an `Arc`. Each wait clones it.
pub struct Owned<E>(Arc<E>);

impl<E: OwnedWait> TaskEvent for Owned<E> {
    fn new() -> Self {
        Self(Arc::new(E::new()))
    }
    fn wait(&self) -> impl Future + '_ {
        E::wait_owned(Arc::clone(&self.0))
    }
    fn set(&self) {
        self.0.set();
    }
}

impl OwnedWait for WakerVec {
    fn wait_owned(event: Arc<Self>) -> impl Future + Send + 'static {
        WakerVecWait(event)
    }
}

impl OwnedWait for tantara::Event {
    fn wait_owned(event: Arc<Self>) -> impl Future + Send + 'static {
        event.wait_owned()
    }
}

impl OwnedWait for tokio::sync::Notify {
    fn wait_owned(event: Arc<Self>) -> impl Future + Send + 'static {
        event.notified_owned()
    }
}

/// Its listeners always own the event. The flag beside it does not.
impl OwnedWait for EventListener {
    fn wait_owned(event: Arc<Self>) -> impl Future + Send + 'static {
        async move {
            while !event.0.load(Acquire) {
                let listener = event.1.listen();
                if event.0.load(Acquire) {
                    return;
                }
                listener.await;
            }
        }
    }
}

impl OwnedWait for maitake_sync::WaitQueue {
    fn wait_owned(event: Arc<Self>) -> impl Future + Send + 'static {
        event.wait_owned()
    }
}

impl OwnedWait for asyncband::event::ManualResetEvent {
    fn wait_owned(event: Arc<Self>) -> impl Future + Send + 'static {
        event.wait_owned()
    }
}

/// A handle already. So are those of `events`, whose futures always own it.
pub struct OwnedToken(tokio_util::sync::CancellationToken);

impl TaskEvent for OwnedToken {
    fn new() -> Self {
        Self(tokio_util::sync::CancellationToken::new())
    }
    fn wait(&self) -> impl Future + '_ {
        self.0.clone().cancelled_owned()
    }
    fn set(&self) {
        self.0.cancel();
    }
}

impl TaskEvent for events::ManualResetEvent {
    fn new() -> Self {
        Self::boxed()
    }
    fn wait(&self) -> impl Future + '_ {
        self.wait()
    }
    fn set(&self) {
        self.set();
    }
}

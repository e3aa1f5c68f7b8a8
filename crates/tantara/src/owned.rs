//! `wait_owned`: waits that own their event.

#![forbid(unsafe_code)]

use std::panic::Location;
use std::sync::Arc;

use crate::auto_reset::AutoResetEvent;
use crate::event::Event;
use crate::wait::{OwnedAutoResetWait, OwnedWait, queue_of};

impl Event {
    /// [`wait_async`](Event::wait_async) for an event in an [`Arc`], which the future then owns
    /// together with others. So the future is `'static`: it can be spawned, returned, and stored in
    /// a struct. (An event in a `static` needs no `Arc`: its `wait_async` is `'static` already.)
    ///
    /// The future is ready once the event is set, or was set since the future was made. It
    /// allocates nothing, is `Send`, and works under any runtime. [`any`](crate::any) and
    /// [`all`](crate::all) take `Arc`s too.
    ///
    /// # Memory ordering
    ///
    /// All that happened before the `set` that released the future is visible to the task once the
    /// future is ready.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any moment affects no other wait. A `set` counts from this call on,
    /// not from the first poll. If the future holds the last `Arc`, the event is dropped with it,
    /// or when it is dropped.
    ///
    /// # Fairness
    ///
    /// Tasks are woken in the order in which they were first polled, whether they own the event or
    /// borrow it.
    ///
    /// # Complexity
    ///
    /// As `wait_async`. Cloning and dropping the `Arc` are two atomic operations in addition.
    ///
    /// # Examples
    ///
    /// Spawned, without an `async` block around it:
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tantara::Event;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let ready = Arc::new(Event::new());
    /// let waiter = tokio::spawn(Arc::clone(&ready).wait_owned());
    /// ready.set();
    /// waiter.await.unwrap();
    /// # });
    /// ```
    ///
    /// Stored in a struct, where a borrowing future would need a lifetime:
    ///
    /// ```
    /// use std::future::Future;
    /// use std::pin::Pin;
    /// use std::sync::Arc;
    /// use std::task::{Context, Poll};
    /// use tantara::{Event, OwnedWait};
    ///
    /// /// A service that counts requests until it is told to stop.
    /// struct Service {
    ///     stopped: Pin<Box<OwnedWait>>,
    ///     served: u32,
    /// }
    ///
    /// impl Future for Service {
    ///     type Output = u32;
    ///
    ///     fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<u32> {
    ///         self.served += 1;
    ///         self.stopped.as_mut().poll(context).map(|()| self.served)
    ///     }
    /// }
    ///
    /// let stop = Arc::new(Event::new());
    /// let service = Service { stopped: Box::pin(Arc::clone(&stop).wait_owned()), served: 0 };
    /// stop.set();
    /// assert_eq!(pollster::block_on(service), 1);
    /// ```
    ///
    /// Returned, together with the wait that has begun:
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tantara::{Event, OwnedWait};
    ///
    /// fn next_tick(clock: &Arc<Event>) -> OwnedWait {
    ///     Arc::clone(clock).wait_owned()
    /// }
    ///
    /// let clock = Arc::new(Event::new());
    /// let tick = next_tick(&clock);
    /// clock.set();
    /// clock.clear();
    /// pollster::block_on(tick);   // the tick was over before it was awaited, and counts
    /// ```
    #[inline]
    #[track_caller]
    pub fn wait_owned(self: Arc<Self>) -> OwnedWait {
        OwnedWait::new(queue_of(self, Event::queue), Location::caller())
    }
}

impl AutoResetEvent {
    /// [`wait_async`](AutoResetEvent::wait_async) for an event in an [`Arc`], which the future then
    /// owns together with others. So the future is `'static`: it can be spawned, returned, and
    /// stored in a struct.
    ///
    /// The future is ready once a release was given to it. It allocates nothing, is `Send`, and
    /// works under any runtime.
    ///
    /// # Memory ordering
    ///
    /// All that happened before the `set` whose release the future got is visible to the task once
    /// the future is ready.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped after a release was given to it hands the release on, before it
    /// drops its `Arc`. The future is queued with its first poll.
    ///
    /// # Fairness
    ///
    /// First polled, first released, whether a future owns the event or borrows it.
    ///
    /// # Panics
    ///
    /// The future, if it is polled again after it was ready.
    ///
    /// # Complexity
    ///
    /// As `wait_async`. Cloning and dropping the `Arc` are two atomic operations in addition.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tantara::AutoResetEvent;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let job = Arc::new(AutoResetEvent::new());
    /// let worker = tokio::spawn(Arc::clone(&job).wait_owned());
    /// job.set();
    /// worker.await.unwrap();
    /// assert!(!job.is_set());
    /// # });
    /// ```
    #[inline]
    #[track_caller]
    pub fn wait_owned(self: Arc<Self>) -> OwnedAutoResetWait {
        OwnedAutoResetWait::new(queue_of(self, AutoResetEvent::queue), Location::caller())
    }
}

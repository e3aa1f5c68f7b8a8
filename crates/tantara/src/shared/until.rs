//! The waits of [`SharedEvent`] for something else than that it is set: until it is unset, and for
//! the next `set`.

#![forbid(unsafe_code)]

use std::panic::Location;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::protocol::target::Aim;
use crate::shared::event::SharedEvent;
use crate::shared::wait::SharedWait;

impl SharedEvent {
    /// Blocks the thread until the event is unset. Returns at once if it is, and also if it was
    /// cleared since the call and set again.
    ///
    /// An event that is [held](SharedEvent::hold) is set. If its holder is killed, this returns
    /// within a second.
    ///
    /// # Errors
    ///
    /// If the event was removed, or is removed during the wait.
    ///
    /// # Examples
    ///
    /// Nothing is done during maintenance:
    ///
    /// ```
    /// # let maintenance = tantara::SharedEvent::anonymous()?;
    /// maintenance.wait_unset()?;
    /// # Ok::<(), tantara::Error>(())
    /// ```
    #[track_caller]
    pub fn wait_unset(&self) -> Result<(), Error> {
        self.handle.wait_for(Aim::Unset, Deadline::Never).map(drop)
    }

    /// [`wait_unset`](SharedEvent::wait_unset) for at most `timeout`: `true` if it was released,
    /// `false` if the time passed first, as in [`wait_timeout`](SharedEvent::wait_timeout).
    ///
    /// # Errors
    ///
    /// As with [`wait_unset`](SharedEvent::wait_unset).
    #[track_caller]
    pub fn wait_unset_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        self.handle.wait_for(Aim::Unset, Deadline::after(timeout))
    }

    /// [`wait_unset`](SharedEvent::wait_unset) until `deadline` at the latest, as in
    /// [`wait_deadline`](SharedEvent::wait_deadline).
    ///
    /// # Errors
    ///
    /// As with [`wait_unset`](SharedEvent::wait_unset).
    #[track_caller]
    pub fn wait_unset_deadline(&self, deadline: Instant) -> Result<bool, Error> {
        self.handle.wait_for(Aim::Unset, Deadline::At(deadline))
    }

    /// A future that is ready once the event is unset, or was unset since the future was made. Any
    /// runtime will do.
    ///
    /// # Cancel safety
    ///
    /// As with [`wait_async`](SharedEvent::wait_async).
    ///
    /// # Errors
    ///
    /// As with [`wait_async`](SharedEvent::wait_async).
    #[track_caller]
    pub fn wait_unset_async(&self) -> SharedWait<'_> {
        SharedWait::new(&self.handle, Aim::Unset, Some(Location::caller()))
    }

    /// Blocks the thread until the event is set by a call that begins after this one: a
    /// [`set`](SharedEvent::set), a [`pulse`](SharedEvent::pulse) or a [`hold`](SharedEvent::hold),
    /// whether it finds the event set or not.
    ///
    /// # Errors
    ///
    /// If the event was removed, or is removed during the wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::thread;
    /// # use std::time::Duration;
    ///
    /// let reload = tantara::SharedEvent::anonymous()?;
    /// reload.set()?;
    /// let worker = thread::spawn({
    ///     let reload = reload.clone();
    ///     // The set above does not count.
    ///     move || reload.wait_next()
    /// });
    /// # while reload.waiters()?.is_empty() { thread::sleep(Duration::from_millis(1)) }
    /// reload.set()?;
    /// worker.join().unwrap()?;
    /// # Ok::<(), tantara::Error>(())
    /// ```
    #[track_caller]
    pub fn wait_next(&self) -> Result<(), Error> {
        self.handle.wait_for(Aim::Next, Deadline::Never).map(drop)
    }

    /// [`wait_next`](SharedEvent::wait_next) for at most `timeout`: `true` if it was released,
    /// `false` if the time passed first. A zero timeout is always too short.
    ///
    /// # Errors
    ///
    /// As with [`wait_next`](SharedEvent::wait_next).
    #[track_caller]
    pub fn wait_next_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        self.handle.wait_for(Aim::Next, Deadline::after(timeout))
    }

    /// [`wait_next`](SharedEvent::wait_next) until `deadline` at the latest.
    ///
    /// # Errors
    ///
    /// As with [`wait_next`](SharedEvent::wait_next).
    #[track_caller]
    pub fn wait_next_deadline(&self, deadline: Instant) -> Result<bool, Error> {
        self.handle.wait_for(Aim::Next, Deadline::At(deadline))
    }

    /// A future that is ready once the event is set by a call that begins after this one, as with
    /// [`wait_next`](SharedEvent::wait_next). To miss no answer, make the future before you ask.
    /// Any runtime will do.
    ///
    /// # Cancel safety
    ///
    /// As with [`wait_async`](SharedEvent::wait_async).
    ///
    /// # Errors
    ///
    /// As with [`wait_async`](SharedEvent::wait_async).
    ///
    /// # Examples
    ///
    /// ```
    /// # let answer = tantara::SharedEvent::anonymous()?;
    /// answer.set()?;
    /// let next = answer.wait_next_async();
    /// // Ask, and be answered, although the event is set:
    /// answer.set()?;
    /// pollster::block_on(next)?;
    /// # Ok::<(), tantara::Error>(())
    /// ```
    #[track_caller]
    pub fn wait_next_async(&self) -> SharedWait<'_> {
        SharedWait::new(&self.handle, Aim::Next, Some(Location::caller()))
    }
}

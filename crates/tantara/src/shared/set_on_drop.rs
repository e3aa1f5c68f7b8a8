//! [`SharedEvent::set_on_drop`]: sets an event between processes when a value is dropped.

#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::error::Error;
use crate::set_on_drop::SetOnDrop;
use crate::shared::event::SharedEvent;
use crate::waits::hooks::{self, Count};

impl SharedEvent {
    /// Sets the event when the returned value is dropped, also by a panic: see
    /// [`Event::set_on_drop`](crate::Event::set_on_drop). The value keeps a handle of the event, and
    /// can be moved into a thread or a task.
    ///
    /// The child of a fork has a copy of the value. If both drop it, both set the event.
    ///
    /// A process that is killed runs no destructors. If others must learn of its end, set the event
    /// with a [`hold`](SharedEvent::hold), which ends with the process, and let them wait until it
    /// is unset.
    ///
    /// # Errors
    ///
    /// If the event may only be read, or was removed. If it is removed before the value is dropped,
    /// all waits for it fail, and the drop has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use tantara::SharedEvent;
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    ///
    /// let migrated = SharedEvent::open_in(dir, "migrated")?;
    /// let guard = migrated.set_on_drop()?;
    /// assert!(!migrated.is_set()?);
    /// drop(guard);
    /// assert!(migrated.is_set()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn set_on_drop(&self) -> Result<SetOnDrop<'static>, Error> {
        if !self.is_writable() {
            return Err(self.handle.read_only());
        }
        self.is_set()?;
        if hooks::is_wanted() {
            // The declaration has the event's name.
            let handle = Arc::downgrade(&self.handle);
            let count = move || handle.upgrade().map_or((0, 0), |handle| handle.word().sets_until_now_and_next());
            hooks::count_by(self.handle.identity(), Count::new(count));
        }
        let event = self.clone();
        // An event that was removed since has no waiters, and there is nobody to tell.
        Ok(SetOnDrop::external(Some(self.handle.identity()), move || _ = event.set()))
    }
}

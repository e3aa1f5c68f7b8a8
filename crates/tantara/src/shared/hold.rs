//! [`Hold`]: an event that is set for as long as a process lives.

#![forbid(unsafe_code)]

use std::fmt;
use std::panic::Location;
use std::path::Path;

use crate::error::Error;
use crate::shared::event::SharedEvent;
use crate::shared::holders::Holder;
use crate::sys::process;
use crate::waits::hooks;

/// Keeps an event set for as long as it lives. From [`SharedEvent::hold`].
///
/// Dropping it ends the hold, and so does the end of the process, whatever ends it.
///
/// ```
/// use tantara::SharedEvent;
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
///
/// let up = SharedEvent::open_in(dir, "db-up")?;
/// let hold = up.hold()?;
/// // Serve. Here, and in other processes:
/// assert!(up.is_set()?);
/// drop(hold);
/// assert!(!up.is_set()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the event is set only for as long as this lives"]
pub struct Hold {
    event: SharedEvent,
    holder: Holder,
    /// Its number in the record of waits; zero if it is not recorded.
    recorded: u64,
}

impl Hold {
    /// The event that is held.
    #[must_use]
    pub fn event(&self) -> &SharedEvent {
        &self.event
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holder.release(self.event.handle.page());
        hooks::release(hooks::address(&*self.event.handle), self.recorded);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("event", &self.event).finish_non_exhaustive()
    }
}

impl SharedEvent {
    /// Keeps the event set for as long as the [`Hold`] lives. When the hold is dropped or its
    /// process ends, also by `kill -9`, the event is unset again, unless another process holds it
    /// or it was [`set`](SharedEvent::set). A [`clear`](SharedEvent::clear) undoes a `set`, and
    /// ends no hold.
    ///
    /// A hold releases waits as a `set` does. [`is_set`](SharedEvent::is_set) notices at once that
    /// a holder was killed, and [`wait_unset`](SharedEvent::wait_unset) and
    /// [`changed`](SharedEvent::changed) return within a second. (A process that may only read
    /// looks fifty times a second.)
    ///
    /// The child of a fork does not hold the event, and dropping its copy of the `Hold` has no
    /// effect. (A child that is made by a bare `clone`, without the C library's fork handlers, holds it
    /// until it ends or executes a program.)
    ///
    /// # Errors
    ///
    /// If the event may only be read or was removed, if its file cannot be reopened (too many open
    /// files; no /proc, and no name), or if its file system has no locks. Removing a held event ends the
    /// hold.
    ///
    /// # Complexity
    ///
    /// Some system calls, and a file descriptor for as long as the `Hold` lives. While an event is
    /// held and not set, [`is_set`](SharedEvent::is_set) and waits make a system call, and while
    /// it is held, so do changes. An event that nobody holds costs nothing more.
    #[track_caller]
    pub fn hold(&self) -> Result<Hold, Error> {
        let place = Location::caller();
        let handle = &self.handle;
        if !self.is_writable() {
            return Err(handle.read_only());
        }
        // The hold of a killed process ends before this one begins, so that this one counts as
        // another.
        handle.known_seen();
        let namespace = handle.page().index_of_namespace(process::pid_namespace(), true);
        let holder = Holder::new(&handle.file, namespace)
            .map_err(|error| Error::system("held", Path::new(&handle.name()), error))?;
        let mut hold = Hold { event: self.clone(), holder, recorded: 0 };
        handle.begin_hold(|| hold.holder.is_one_of_several())?;
        if hooks::is_wanted() {
            hold.recorded = hooks::hold(handle.identity(), place);
        }
        Ok(hold)
    }
}

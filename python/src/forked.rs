//! Events in the child of a fork: the child replaces each event by a new one with the same state.
//!
//! A thread of the parent may have held the lock of the old event's waiter list, and the list
//! contains threads that do not exist in the child: an auto-reset event would release them. So the
//! child never touches the old event. It is not freed either, because waits that began before the
//! fork may refer to it.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, OnceLock};

use tantara::{Waitable, waits};

use crate::locked::{lock, try_lock};

/// The number of forks between the first process and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Called in the child of a fork, before Python code runs there.
#[cfg(unix)]
pub(crate) fn note() {
    FORKS.fetch_add(1, Relaxed);
}

/// The number of forks so far. While it does not change, the process is the same.
#[inline]
pub(crate) fn count() -> u32 {
    FORKS.load(Relaxed)
}

/// An event that is replaced in each forked child.
pub(crate) struct Own<T> {
    event: T,
    /// The process in which `event` was created.
    forks: u32,
    /// The replacement in a child of that process.
    later: OnceLock<Box<Own<T>>>,
    /// Its name in the record of waits.
    label: Mutex<Option<Box<str>>>,
}

/// An event that can be copied without its waiters.
pub(crate) trait Like: Waitable {
    /// A new event without waiters, in the same state.
    fn like(&self) -> Self;
}

impl Like for tantara::Event {
    fn like(&self) -> Self {
        let new = tantara::Event::new();
        if self.is_set() {
            new.set();
        }
        new
    }
}

impl Like for tantara::AutoResetEvent {
    fn like(&self) -> Self {
        let new = tantara::AutoResetEvent::new();
        if self.is_set() {
            new.set();
        }
        new
    }
}

impl<T: Like> Own<T> {
    pub(crate) fn new(event: T) -> Own<T> {
        Own { event, forks: count(), later: OnceLock::new(), label: Mutex::default() }
    }

    #[inline]
    pub(crate) fn get(&self) -> &T {
        if self.forks == count() { &self.event } else { &self.later().event }
    }

    /// Gives the event a name in the record of waits. Its replacements have it too.
    pub(crate) fn label(&self, name: &str) {
        let own = if self.forks == count() { self } else { self.later() };
        *lock(&own.label) = Some(name.into());
        waits::label(&own.event, name);
    }

    /// The replacement in this process.
    #[cold]
    fn later(&self) -> &Own<T> {
        let later = self.later.get_or_init(|| {
            let later = Box::new(Own::new(self.event.like()));
            // Another thread of the parent may have had the lock.
            if let Some(name) = try_lock(&self.label).as_ref().and_then(|label| label.as_deref()) {
                later.label(name);
            }
            later
        });
        if later.forks == count() { later } else { later.later() }
    }
}

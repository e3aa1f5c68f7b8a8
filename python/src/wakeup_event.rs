//! How other threads wake a loop: by an event, for which a thread of Python waits. On Windows,
//! where asyncio's usual loop watches no descriptors.

use std::io;

use tantara::AutoResetEvent;

pub(crate) struct Wakeup(AutoResetEvent);

impl Wakeup {
    pub(crate) fn new() -> io::Result<Wakeup> {
        Ok(Wakeup(AutoResetEvent::new()))
    }

    /// None: no loop can watch it.
    pub(crate) fn descriptor(&self) -> Option<i32> {
        None
    }

    pub(crate) fn notify(&self) {
        self.0.set();
    }

    /// Forgets all notifications.
    pub(crate) fn reset(&self) {
        self.0.clear();
    }

    /// Blocks until there is a notification, and takes it.
    pub(crate) fn wait(&self) {
        self.0.wait();
    }
}

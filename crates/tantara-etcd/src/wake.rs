//! Setting an event on the runtime thread, which runs the wakers of tasks that it does not know.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tantara::Event;

/// Sets an event. A waker that panics has failed its own task, whose runtime it belongs to. The panic
/// ends here, because it would end the connection, and all holds and waits of others with it.
pub(crate) fn set(event: &Event) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| event.set())) {
        // The panic was reported when it began. Dropping what it carries might panic again.
        std::mem::forget(payload);
    }
}

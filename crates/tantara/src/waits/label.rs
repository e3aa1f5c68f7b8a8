//! Labels of events.

#![forbid(unsafe_code)]

use crate::slots::Waitable;
use crate::slots::sealed::Seal;
use crate::waits::hooks::{self, Identity};
use crate::waits::known;

/// Gives an event a name, which the records of its waits show. It may be given at any time, whether
/// or not waits are recorded, and be replaced by another.
///
/// The label holds until the event is dropped or moved, because an event in memory is known by its
/// address. So label it where it stays: in a `static`, in an `Arc`, or in a struct that is not moved
/// any more. (The label of an auto-reset event that is moved may be shown for another one that is
/// made at its former address.)
///
/// ```
/// use std::sync::Arc;
/// use tantara::{Event, waits};
///
/// let db_ready = Arc::new(Event::new());
/// waits::label(&db_ready, "db_ready");
/// ```
pub fn label(event: &(impl Waitable + ?Sized), name: &str) {
    if let Some(Identity { address, kind, .. }) = event.identity(Seal(())) {
        hooks::begin_to_know(address, || event.mark_known(Seal(())), || known::label(address, kind, name));
    }
}

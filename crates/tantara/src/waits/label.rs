//! Labels of events.

#![forbid(unsafe_code)]

use crate::slots::Waitable;
use crate::slots::sealed::Seal;
use crate::waits::hooks;

/// Gives an event a name, which the records of its waits show. It may be given at any time, whether
/// or not waits are recorded, and be replaced by another.
///
/// The label holds until the event is dropped or moved, because an event in memory is known by its
/// address. So label it where it stays: in a `static`, in an `Arc`, or in a struct that is not moved
/// any more.
///
/// A label changes nothing of what the event's methods do, also in signal handlers, as long as no waits
/// are recorded. While they are, every `set` of a labelled event is noted. If the record is turned on
/// after the event got its label, that begins with the first recorded wait for the event.
///
/// ```
/// use std::sync::Arc;
/// use tantara::{Event, waits};
///
/// let db_ready = Arc::new(Event::new());
/// waits::label(&db_ready, "db_ready");
/// ```
pub fn label(event: &(impl Waitable + ?Sized), name: &str) {
    if let Some(subject) = event.subject(Seal(())) {
        hooks::label(subject, name, || event.note_sets(Seal(())));
    }
}

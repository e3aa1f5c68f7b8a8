//! What `set`, `clear` and `pulse` do to an event.

/// A change of an event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// With a note, or an empty one.
    Set(&'a str),
    Clear,
    Pulse(&'a str),
}

//! [`SharedEvent`]'s sets with a note, and the record of the last set.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind};
use crate::protocol::record::{LastSet, Note};
use crate::shared::event::SharedEvent;

fn parse(note: &str) -> Result<Option<Note>, Error> {
    Note::new(note).map_err(|why| Error::new(Kind::Note { note: note.to_owned(), why }))
}

impl SharedEvent {
    /// [`set`](SharedEvent::set) with a reason, for people and logs:
    /// [`last_set`](SharedEvent::last_set) and the command `tantara` show it.
    ///
    /// A note is a text of up to 64 bytes without control characters. It belongs to this `set`: the
    /// next one that raises the flag replaces it, by its own or by none. If the event is set, and
    /// the note is not empty, this `set` becomes the last one; the event stays as it is. An empty
    /// note is none.
    ///
    /// # Errors
    ///
    /// If the text cannot be a note ([`is_invalid_note`](Error::is_invalid_note)); then nothing was
    /// done. Else as with [`set`](SharedEvent::set).
    ///
    /// # Examples
    ///
    /// ```
    /// # let cancelled = tantara::SharedEvent::anonymous()?;
    /// cancelled.set_with_note("disk full")?;
    /// let last = cancelled.last_set()?.unwrap();
    /// assert_eq!(last.note.as_deref(), Some("disk full"));
    /// # Ok::<(), tantara::Error>(())
    /// ```
    pub fn set_with_note(&self, note: &str) -> Result<(), Error> {
        self.handle.set_with_note(parse(note)?.as_ref())
    }

    /// [`pulse`](SharedEvent::pulse) with a reason, as in
    /// [`set_with_note`](SharedEvent::set_with_note).
    ///
    /// # Errors
    ///
    /// As with `set_with_note`.
    pub fn pulse_with_note(&self, note: &str) -> Result<(), Error> {
        self.handle.pulse(parse(note)?.as_ref())
    }

    /// Checks a text that is to become a [note](SharedEvent::set_with_note).
    ///
    /// # Errors
    ///
    /// If it cannot be one. The error says why.
    pub fn check_note(note: &str) -> Result<(), Error> {
        parse(note).map(drop)
    }

    /// When it was last set, by which process, and with which note. `None` if it never was. It may
    /// also be `None` if setters raced and one of them was killed or stopped before it had
    /// completed the record.
    ///
    /// All three belong to one `set`. If several processes set it at the same moment, it is the
    /// `set` of one of them. Setters record this themselves, so it proves nothing. Setting a set
    /// event counts only if it has a note.
    ///
    /// # Errors
    ///
    /// If the event was removed.
    pub fn last_set(&self) -> Result<Option<LastSet>, Error> {
        self.handle.last_set()
    }
}

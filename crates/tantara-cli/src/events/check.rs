//! Names and notes, checked before anything is done. The rules are the same in a directory and in a cluster.

use tantara::__private::{check_name, check_note};

use crate::events::text;

/// The error for the given text, which may have any length.
const SHOWN: usize = 61;

/// Says what is wrong with the name of an event.
pub(crate) fn name(given: &str) -> Result<(), String> {
    check_name(given).map_err(|why| format!("{:?} cannot be the name of an event: {why}", text::cut(given, SHOWN)))
}

/// Says what is wrong with a note.
pub(crate) fn note(given: &str) -> Result<(), String> {
    check_note(given).map_err(|why| format!("{:?} cannot be a note: {why}", text::cut(given, SHOWN)))
}

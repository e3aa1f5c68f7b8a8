//! The lines of `watch`, as text or as JSON, and how many of them are left.

use std::cell::Cell;
use std::time::SystemTime;

use serde::Serialize;
use serde::ser::SerializeMap;

use crate::events::origin::Origin;
use crate::events::text;
use crate::failure::Failure;
use crate::output;

/// Why the watch is over.
pub(crate) enum Ended {
    /// The lines of `-n` were printed.
    Enough,
    TimedOut,
}

/// The content of a line.
#[derive(Serialize)]
pub(crate) struct Line<'a> {
    #[serde(serialize_with = "as_moment")]
    pub(crate) at: SystemTime,
    pub(crate) name: &'a str,
    pub(crate) change: &'static str,
    pub(crate) state: &'static str,
    /// The number of sets that the line reports.
    pub(crate) sets: u32,
    /// The last set, if the line reports one.
    #[serde(flatten, serialize_with = "as_last_set")]
    pub(crate) by: Option<Origin>,
}

/// The process of the last set, as far as it is known, and its note.
fn as_last_set<S: serde::Serializer>(by: &Option<Origin>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    if let Some(by) = by {
        by.pid.map_or(Ok(()), |pid| map.serialize_entry("pid", &pid))?;
        by.host.as_ref().map_or(Ok(()), |host| map.serialize_entry("host", host))?;
        by.note.as_ref().map_or(Ok(()), |note| map.serialize_entry("note", note))?;
    }
    map.end()
}

fn as_moment<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text::moment(*time))
}

/// Prints changes, in one form, and counts the lines.
pub(crate) struct Printer {
    is_json: bool,
    /// The number of lines that are left; `None` for no limit.
    left: Cell<Option<u64>>,
}

impl Printer {
    pub(crate) fn new(is_json: bool, most: Option<u64>) -> Printer {
        Printer { is_json, left: Cell::new(most) }
    }

    /// The number of lines that are left; `None` for no limit.
    pub(crate) fn left(&self) -> Option<u64> {
        self.left.get()
    }

    /// Prints a line. Whether it was the last one.
    pub(crate) fn line(&self, change: &Line<'_>) -> Result<bool, Failure> {
        // Another task may have printed the last one.
        if self.left.get() == Some(0) {
            return Ok(true);
        }
        if self.is_json {
            let json = serde_json::to_string(change).map_err(Failure::internal)?;
            let json = text::json(&json);
            output::line(format_args!("{json}"));
        } else {
            print_text(change);
        }
        output::flush();
        self.left.set(self.left.get().map(|left| left - 1));
        Ok(self.left.get() == Some(0))
    }
}

fn print_text(change: &Line<'_>) {
    let Line { at, name, change: what, sets, .. } = *change;
    // One set per line is the usual case, and needs no number.
    let merged = match (what, sets) {
        ("cleared", 1..) | (_, 2..) => format!(" ({sets} {} merged)", if sets == 1 { "set" } else { "sets" }),
        _ => String::new(),
    };
    let last = change.by.as_ref();
    let by = last.filter(|last| last.pid.is_some()).map(|last| format!(" by {}", last.process())).unwrap_or_default();
    let note = last.and_then(|last| last.note.as_ref()).map(|note| format!(": {}", text::shown(note)));
    output::line(format_args!("{} {name} {what}{by}{merged}{}", text::moment(at), note.unwrap_or_default()));
}

//! The events of a directory, for `ls`.

use super::directory::{Directory, origin, waiter};
use super::ps;
use crate::events::entry::Entry;
use crate::failure::Failure;
use crate::output;

/// All events. Files that are no events are reported, if they are among the names or there are none.
pub(crate) fn entries(directory: &Directory, names: &[String]) -> Result<Vec<Entry>, Failure> {
    // The error of a file that is no event is that of opening it.
    names.iter().try_for_each(|name| directory.find(name).map(drop))?;
    let mut events = Vec::new();
    for entry in directory.list()? {
        match entry {
            Ok(event) => events.push(of_shared(event)),
            // One bad file does not hide the other events.
            Err(error) if names.is_empty() => output::note(format_args!("{error}")),
            Err(_) => {}
        }
    }
    let processes = ps::processes(directory)?;
    for event in events.iter_mut().filter(|_| !processes.is_empty()) {
        // By its path, as in the record: events of other directories may have the same name.
        if let Ok(file) = directory.path().join(&event.name).canonicalize() {
            event.inside = processes.iter().filter_map(|process| process.waits_for(&file)).collect();
        }
    }
    Ok(events)
}

fn of_shared(entry: tantara::Entry) -> Entry {
    Entry {
        name: entry.name,
        is_set: entry.is_set,
        last_set: entry.last_set.map(origin),
        holders: None,
        waiters: entry.waiters.iter().map(waiter).collect(),
        inside: Vec::new(),
    }
}

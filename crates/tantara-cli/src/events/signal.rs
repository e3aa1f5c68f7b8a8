//! `tantara set`, `clear`, `pulse`, `is-set`.

use tantara::SharedEvent;

use crate::events::place::{Change, Directory, Place};
use crate::exit::Failure;
use crate::output;

/// Does it to all of the events, after all of them could be opened.
pub(crate) fn run(directory: &Directory, names: &[String], change: Change) -> Result<(), Failure> {
    let verb = match change {
        Change::Set => SharedEvent::set,
        Change::Clear => SharedEvent::clear,
        Change::Pulse => SharedEvent::pulse,
    };
    let events = names.iter().map(|name| directory.open(name)).collect::<Result<Vec<_>, _>>()?;
    if let Some(event) = events.iter().find(|event| !event.is_writable()) {
        // The first thing that it would say, before anything has happened to the others.
        event.set().map_err(Failure::of_event)?;
    }
    for (event, name) in events.iter().zip(names) {
        match verb(event) {
            // Removed by another between the opening and now: there is a new one to be had by that name.
            Err(error) if error.is_removed() => verb(&directory.open(name)?).map_err(Failure::of_event)?,
            outcome => outcome.map_err(Failure::of_event)?,
        }
    }
    Ok(())
}

pub(crate) fn is_set(place: &Place, name: &str) -> Result<(), Failure> {
    if place.is_set(name)? {
        return Ok(());
    }
    let is_known = match place {
        Place::Directory(directory) => directory.find(name)?.is_some(),
        Place::Cluster(_) => place.names().iter().any(|known| known == name),
    };
    if !is_known {
        output::note(format_args!("{}", place.unknown(name)));
    }
    Err(Failure::no())
}

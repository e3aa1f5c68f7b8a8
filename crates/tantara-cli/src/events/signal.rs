//! `tantara set`, `clear`, `pulse`, `is-set`.

use tantara::{Error, SharedEvent};

use crate::events::Place;
use crate::exit::Failure;
use crate::output;

/// Does `verb` to all of the events, after all of them could be opened.
pub(crate) fn run(
    place: &Place,
    names: &[String],
    verb: impl Fn(&SharedEvent) -> Result<(), Error>,
) -> Result<(), Failure> {
    let events = place.open_all(names)?;
    if let Some((event, _)) = events.iter().zip(names).find(|(event, _)| !event.is_writable()) {
        // The first thing that it would say, before anything has happened to the others.
        event.try_set().map_err(Failure::of_event)?;
    }
    for (event, name) in events.iter().zip(names) {
        match verb(event) {
            // Removed by another between the opening and now: there is a new one to be had by that name.
            Err(error) if error.is_removed() => verb(&place.open(name)?).map_err(Failure::of_event)?,
            outcome => outcome.map_err(Failure::of_event)?,
        }
    }
    Ok(())
}

pub(crate) fn pulse(event: &SharedEvent) -> Result<(), Error> {
    event.try_set()?;
    event.try_clear()
}

pub(crate) fn is_set(place: &Place, name: &str) -> Result<(), Failure> {
    match place.find(name)? {
        Some(event) if event.is_set() => Ok(()),
        Some(_) => Err(Failure::no()),
        None => {
            output::note(format_args!("{}", place.unknown(name)));
            Err(Failure::no())
        }
    }
}

//! `tantara rm`.

use crate::events::Place;
use crate::exit::Failure;

pub(crate) fn run(place: &Place, names: &[String]) -> Result<(), Failure> {
    let mut events = Vec::new();
    for name in names {
        let event = place.find(name)?.ok_or_else(|| Failure::usage(place.unknown(name)))?;
        events.push(event);
    }
    events.iter().try_for_each(|event| event.remove()).map_err(Failure::of_event)
}

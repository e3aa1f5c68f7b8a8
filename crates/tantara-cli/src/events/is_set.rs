//! `tantara is-set`.

use crate::events::place::Place;
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(place: &Place, name: &str) -> Result<(), Failure> {
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

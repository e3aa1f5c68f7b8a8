//! `tantara is-set`.

use crate::events::args::IsSet;
use crate::events::place::Place;
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(place: &Place, is_set: &IsSet) -> Result<(), Failure> {
    let mut unset = Vec::new();
    for name in &is_set.names {
        if !place.is_set(name)? {
            unset.push(name);
        }
    }
    if unset.is_empty() {
        return Ok(());
    }
    if !is_set.quiet {
        for name in unset {
            if !place.knows(name)? {
                output::note(format_args!("{}", place.unknown(name)));
            }
        }
    }
    Err(Failure::no())
}

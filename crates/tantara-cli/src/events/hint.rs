//! A hint at a missing `--`.

use std::ffi::OsStr;

use crate::events::place::Place;
use crate::failure::Failure;
use crate::system;

/// If one of the names from the index `first` on is that of a program and not of an event: that name, and the line that
/// would run the program.
pub(crate) fn at_command(
    place: &Place,
    subcommand: &str,
    names: &[String],
    first: usize,
) -> Result<Option<(String, String)>, Failure> {
    for (index, name) in names.iter().enumerate().skip(first) {
        if system::check_program(OsStr::new(name)).is_ok() && !place.knows(name)? {
            let (events, command) = names.split_at(index);
            let words = [&["tantara".to_owned(), subcommand.to_owned()], events, &["--".to_owned()], command].concat();
            return Ok(Some((name.clone(), words.join(" "))));
        }
    }
    Ok(None)
}

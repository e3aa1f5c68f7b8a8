//! Where in a directory an event lies, and under which names. A name may come from an attacker until it
//! is checked.

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::directory;
use crate::error::{Error, Kind};
use crate::sys::files;

/// Where an event lies: an existing directory, and a valid name.
///
/// The directory is held as a descriptor, so it stays the same whatever is renamed, mounted or
/// entered.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// For messages.
    pub(crate) path: PathBuf,
    pub(crate) directory: Arc<File>,
    pub(crate) name: CString,
    /// The name of a file that is being made or removed.
    pub(crate) slot: CString,
}

/// What the name of a slot begins with; the event's name follows.
pub(crate) const SLOT: &str = ".moved-";

/// Checks a name from any source.
pub(crate) fn check(name: &str) -> Result<(), Error> {
    let Err(why) = crate::name::check(name) else { return Ok(()) };
    // Shortened, because it may be of any length. `Debug` escapes control characters.
    let mut shown: String = name.chars().take(60).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    Err(Error::new(Kind::Name { name: shown, why }))
}

impl Place {
    /// In the directory of this user's events. It is made if it is missing, and must belong to this
    /// user only.
    pub(crate) fn of_user(name: &str) -> Result<Place, Error> {
        check(name)?;
        let (directory, path) = directory::of_user()?;
        Place::at(&Arc::new(directory), &path, name)
    }

    /// In a given directory. It is made if only its last component is missing.
    pub(crate) fn in_directory(directory: &Path, name: &str) -> Result<Place, Error> {
        check(name)?;
        Place::at(&Arc::new(directory::made(directory)?), directory, name)
    }

    /// In a directory that is open. The name was checked.
    pub(crate) fn at(directory: &Arc<File>, path: &Path, name: &str) -> Result<Place, Error> {
        let path = path.join(name);
        let c_string = |name: String| CString::new(name).map_err(|error| Error::system("used", &path, error.into()));
        let (slot, name) = (c_string(format!("{SLOT}{name}"))?, c_string(name.to_owned())?);
        Ok(Place { directory: Arc::clone(directory), name, slot, path })
    }

    /// Whether anything in the directory has that name.
    pub(crate) fn is_at_all(&self, name: &CStr) -> io::Result<bool> {
        match files::open_at(&self.directory, name, libc::O_PATH | libc::O_NOFOLLOW, 0) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether that name in the directory is a name of this file.
    pub(crate) fn is_at(&self, name: &CStr, file: &File) -> io::Result<bool> {
        match files::open_at(&self.directory, name, libc::O_PATH | libc::O_NOFOLLOW, 0) {
            Ok(there) => {
                let (there, own) = (there.metadata()?, file.metadata()?);
                Ok((there.dev(), there.ino()) == (own.dev(), own.ino()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_shown_in_one_short_line() {
        assert!(check("db-ready").is_ok());
        let too_long = "x".repeat(10_000);
        let bad =
            ["", ".", "..", "../x", "/etc/passwd", "a/b", ".hidden", "-rf", "~", "a b", "a\nb", "a\0b", "\u{202e}x"];
        for name in bad.into_iter().chain([&*too_long]) {
            let error = check(name).unwrap_err();
            assert!(error.is_invalid_name());
            let text = error.to_string();
            assert!(text.len() < 400 && !text.contains(['\n', '\0', '\u{202e}']), "{text}");
        }
    }
}

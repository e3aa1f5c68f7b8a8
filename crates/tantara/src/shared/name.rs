//! In which directory events lie, and under which names. Names are hostile until checked.

#![forbid(unsafe_code)]

use std::fs::{DirBuilder, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind};
use crate::sys::files;

/// Where an event lies: a directory that exists, and a name that can be.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// Who owns the directory.
    pub(crate) landlord: u32,
    /// Whether nobody else can enter the directory.
    pub(crate) is_private: bool,
}

/// Checks a name, which may come from anywhere.
pub(crate) fn check(name: &str) -> Result<(), Error> {
    let Err(why) = crate::name::check(name) else { return Ok(()) };
    // It may be of any length, and is quoted with its control characters escaped.
    let mut shown: String = name.chars().take(60).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    Err(Error::new(Kind::Name { name: shown, why }))
}

/// The directory of this user's events: `$XDG_RUNTIME_DIR/tantara`; without that variable `/run/user/UID/tantara`;
/// where that does not exist `/dev/shm/tantara-UID`.
pub(crate) fn default_directory() -> PathBuf {
    let user = files::user();
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()) {
        return runtime.join("tantara");
    }
    let runtime = PathBuf::from(format!("/run/user/{user}"));
    let is_own = |metadata: Metadata| metadata.is_dir() && metadata.uid() == user;
    if runtime.symlink_metadata().is_ok_and(is_own) {
        return runtime.join("tantara");
    }
    PathBuf::from(format!("/dev/shm/tantara-{user}"))
}

impl Place {
    /// In the directory of this user's events, which is made if need be and is nobody else's.
    pub(crate) fn of_user(name: &str) -> Result<Place, Error> {
        check(name)?;
        let directory = default_directory();
        let unfit = |why: String| Err(Error::new(Kind::Directory { path: directory.clone(), why }));
        let metadata = match make(&directory, 0o700) {
            Ok(metadata) => metadata,
            // The variable may have come along from another user's session.
            Err(error) => {
                let why = std::error::Error::source(&error).map_or(String::new(), |why| format!(" ({why})"));
                return unfit(format!("it cannot be made{why}; look at $XDG_RUNTIME_DIR, or name another directory"));
            }
        };
        if metadata.uid() != files::user() {
            return unfit(format!("it belongs to user {}, not to you; name another one", metadata.uid()));
        }
        if metadata.permissions().mode() & 0o022 != 0 {
            return unfit("others may write to it; make it yours alone (chmod 700)".into());
        }
        Ok(Place::at(&directory, name, &metadata))
    }

    /// In a directory that the caller names. It is made if only its last part is missing.
    pub(crate) fn in_directory(directory: &Path, name: &str) -> Result<Place, Error> {
        check(name)?;
        // A link is followed: the caller has chosen it.
        let metadata = match directory.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => make(directory, 0o777)?,
            Err(error) => return Err(Error::system("opened", directory, error)),
        };
        if !metadata.is_dir() {
            let why = "it is not a directory".to_owned();
            return Err(Error::new(Kind::Directory { path: directory.to_owned(), why }));
        }
        Ok(Place::at(directory, name, &metadata))
    }

    fn at(directory: &Path, name: &str, metadata: &Metadata) -> Place {
        Place {
            path: directory.join(name),
            landlord: metadata.uid(),
            is_private: metadata.permissions().mode() & 0o077 == 0,
        }
    }
}

/// The directory itself, not what a link in its place leads to; made if it is missing.
fn make(directory: &Path, mode: u32) -> Result<Metadata, Error> {
    match DirBuilder::new().mode(mode).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::system("made", directory, error)),
    }
    let metadata = directory.symlink_metadata().map_err(|error| Error::system("opened", directory, error))?;
    if metadata.is_dir() {
        Ok(metadata)
    } else {
        let why = "it is not a directory".to_owned();
        Err(Error::new(Kind::Directory { path: directory.to_owned(), why }))
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

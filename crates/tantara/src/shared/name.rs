//! In which directory events lie, and under which names. A name may come from an attacker until it
//! is checked.

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Kind};
use crate::sys::{files, shared};

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

/// The directory of this user's events: `$XDG_RUNTIME_DIR/tantara`; without that variable
/// `/run/user/UID/tantara`; where that does not exist `/dev/shm/tantara-UID`.
pub(crate) fn default_directory() -> PathBuf {
    let user = files::user();
    if let Some(runtime) = shared::variable(c"XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()) {
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
    /// In the directory of this user's events. It is made if it is missing, and must belong to this
    /// user only.
    pub(crate) fn of_user(name: &str) -> Result<Place, Error> {
        check(name)?;
        let path = default_directory();
        let unfit = |why: String| Err(Error::new(Kind::Directory { path: path.clone(), why }));
        // A symbolic link is not followed.
        let opened = make(&path, 0o700).and_then(|()| open(&path, libc::O_NOFOLLOW));
        let directory = match opened {
            Ok(directory) => directory,
            Err(error) if is_other(&error) => return unfit("it is not a directory".into()),
            // The variable may come from another user's session.
            Err(error) => {
                let why = format!("it cannot be made ({error}); check $XDG_RUNTIME_DIR, or use another directory");
                return Err(Error::new(Kind::Refused { path, why, error }));
            }
        };
        let metadata = directory.metadata().map_err(|error| Error::system("opened", &path, error))?;
        if metadata.uid() != files::user() {
            return unfit(format!("it belongs to user {}, not to you; use another directory", metadata.uid()));
        }
        if metadata.permissions().mode() & 0o022 != 0 {
            return unfit("it is writable by other users; restrict it (chmod 700)".into());
        }
        Place::at(&Arc::new(directory), &path, name)
    }

    /// In a given directory. It is made if only its last component is missing.
    pub(crate) fn in_directory(directory: &Path, name: &str) -> Result<Place, Error> {
        check(name)?;
        if let Some(there) = open_directory(directory)? {
            return Place::at(&Arc::new(there), directory, name);
        }
        make(directory, 0o777).map_err(|error| Error::system("made", directory, error))?;
        match open_directory(directory)? {
            Some(made) => Place::at(&Arc::new(made), directory, name),
            None => Err(Error::system("opened", directory, ErrorKind::NotFound.into())),
        }
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

/// A given directory, if it exists. Symbolic links are followed, because the caller has chosen the
/// path.
pub(crate) fn open_directory(path: &Path) -> Result<Option<File>, Error> {
    if path.as_os_str().is_empty() {
        let why = "the path is empty; the current directory is \".\"".to_owned();
        return Err(Error::new(Kind::Directory { path: "\"\"".into(), why }));
    }
    match open(path, 0) {
        Ok(directory) => Ok(Some(directory)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if is_other(&error) => {
            let why = "it is not a directory".to_owned();
            Err(Error::new(Kind::Directory { path: path.to_owned(), why }))
        }
        Err(error) => Err(Error::system("opened", path, error)),
    }
}

fn open(path: &Path, flags: libc::c_int) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | flags).open(path)
}

/// Whether the path leads to something other than a directory.
fn is_other(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP))
}

fn make(directory: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
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

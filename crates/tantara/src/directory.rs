//! The directories that events lie in: which they are, and what is checked when they are opened.

#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind};
use crate::sys::{files, process};

/// The directory of this user's events: `$XDG_RUNTIME_DIR/tantara`; without that variable
/// `/run/user/UID/tantara`; where that does not exist `/dev/shm/tantara-UID`.
pub(crate) fn default_directory() -> PathBuf {
    let user = files::user();
    if let Some(runtime) = process::variable(c"XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()) {
        return runtime.join("tantara");
    }
    let runtime = PathBuf::from(format!("/run/user/{user}"));
    let is_own = |metadata: Metadata| metadata.is_dir() && metadata.uid() == user;
    if runtime.symlink_metadata().is_ok_and(is_own) {
        return runtime.join("tantara");
    }
    PathBuf::from(format!("/dev/shm/tantara-{user}"))
}

/// The directory of this user's events, open. It is made if it is missing, and must belong to this
/// user only.
pub(crate) fn of_user() -> Result<(File, PathBuf), Error> {
    let path = default_directory();
    // A symbolic link is not followed.
    let opened = make(&path, 0o700).and_then(|is_new| {
        let directory = open(&path, libc::O_NOFOLLOW)?;
        if is_new {
            undo_umask(&directory, 0o700);
        }
        Ok(directory)
    });
    let directory = match opened {
        Ok(directory) => directory,
        Err(error) if is_other(&error) => return Err(unfit(&path, "it is not a directory".into())),
        // The variable may come from another user's session.
        Err(error) => {
            let why = format!("it cannot be made ({error}); check $XDG_RUNTIME_DIR, or use another directory");
            return Err(Error::new(Kind::Refused { path, why, error }));
        }
    };
    check_own(&directory, &path)?;
    Ok((directory, path))
}

/// Whether the directory of this user's events exists. Fails if it does, and does not belong to this
/// user only: what others have put there must not be taken for this user's events.
pub fn exists_for_user() -> Result<bool, Error> {
    let path = default_directory();
    match open(&path, libc::O_NOFOLLOW) {
        Ok(directory) => check_own(&directory, &path).map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) if is_other(&error) => Err(unfit(&path, "it is not a directory".into())),
        Err(error) => Err(Error::system("opened", &path, error)),
    }
}

fn check_own(directory: &File, path: &Path) -> Result<(), Error> {
    let metadata = directory.metadata().map_err(|error| Error::system("opened", path, error))?;
    if metadata.uid() != files::user() {
        let why = format!("it belongs to user {}, not to you; use another directory", metadata.uid());
        return Err(unfit(path, why));
    }
    if !is_private(&metadata) {
        return Err(unfit(path, "it is writable by other users; restrict it (chmod 700)".into()));
    }
    Ok(())
}

fn unfit(path: &Path, why: String) -> Error {
    Error::new(Kind::Directory { path: path.to_owned(), why })
}

/// Whether only this user, and root, can put files into a directory. (An access control list that
/// grants writing shows in the mode of the group.)
pub(crate) fn is_private(metadata: &Metadata) -> bool {
    [0, files::user()].contains(&metadata.uid()) && metadata.permissions().mode() & 0o022 == 0
}

/// A given directory, open. It is made if only its last component is missing.
pub(crate) fn made(directory: &Path) -> Result<File, Error> {
    if let Some(there) = open_directory(directory)? {
        return Ok(there);
    }
    make(directory, 0o777).map_err(|error| match directory.parent() {
        Some(above) if error.kind() == ErrorKind::NotFound && !above.exists() => {
            let why = match above.to_str() {
                Some("") => "cannot be made: the current directory was removed; enter another one".to_owned(),
                _ => format!("cannot be made: there is no directory {}; create it", above.display()),
            };
            Error::new(Kind::Refused { path: directory.to_owned(), why, error })
        }
        _ => Error::system("made", directory, error),
    })?;
    open_directory(directory)?.ok_or_else(|| Error::system("opened", directory, ErrorKind::NotFound.into()))
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
        Err(error) if is_other(&error) => Err(unfit(path, "it is not a directory".into())),
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

/// Whether it was missing.
fn make(directory: &Path, mode: u32) -> io::Result<bool> {
    match DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true),
    }
}

/// Gives a new directory the mode that it was to get. The umask may have left its owner without the
/// right to use it.
fn undo_umask(directory: &File, mode: u32) {
    if directory.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o777 != mode) {
        // By its descriptor, because the path may lead elsewhere by now.
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let _ = fs::set_permissions(path, Permissions::from_mode(mode));
    }
}

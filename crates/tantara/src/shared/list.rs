//! The events of a directory, looked at without being opened for use.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Kind};
use crate::shared::file;
use crate::shared::layout::{HEAD, LastSet, Page};
use crate::shared::name;
use crate::shared::registry::{self, Waiter};
use crate::sys::shared;

/// An event of a directory, as it was when it was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it was set.
    pub is_set: bool,
    /// When it was last set, and by whom, as far as is known.
    pub last_set: Option<LastSet>,
    /// Who waits, those who have waited longest first.
    pub waiters: Vec<Waiter>,
}

/// See [`SharedEvent::list_in`](crate::SharedEvent::list_in).
pub(crate) fn list(directory: &Path) -> Result<Vec<Result<Entry, Error>>, Error> {
    let failed = |error| Error::system("read", directory, error);
    let landlord = match directory.metadata() {
        Ok(metadata) if !metadata.is_dir() => {
            let why = "it is not a directory".to_owned();
            return Err(Error::new(Kind::Directory { path: directory.to_owned(), why }));
        }
        Ok(metadata) => metadata.uid(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let names: Result<Vec<OsString>, _> =
        fs::read_dir(directory).map_err(failed)?.map(|file| Ok(file?.file_name())).collect();
    let mut names = names.map_err(failed)?;
    names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
    names.sort_unstable();
    Ok(names.into_iter().filter_map(|name| look(directory, &name.to_string_lossy(), landlord).transpose()).collect())
}

fn look(directory: &Path, name: &str, landlord: u32) -> Result<Option<Entry>, Error> {
    let path = directory.join(name);
    name::check(name).map_err(|_| file::not_an_event(&path, "no event can have such a name".into()))?;
    let open =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY).open(&path);
    let mut opened: File = match open {
        Ok(file) => file,
        // Removed in the meantime.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(file::not_an_event(&path, "it is a symbolic link".into()));
        }
        Err(error) => return Err(Error::system("opened", &path, error)),
    };
    let failed = |error| Error::system("read", &path, error);
    file::check_metadata(&opened.metadata().map_err(failed)?, Some(landlord))
        .map_err(|why| file::not_an_event(&path, why))?;
    let mut head = [0; HEAD];
    opened.read_exact(&mut head).map_err(failed)?;
    let page = Page::from_bytes(&head);
    file::check_page(&page).map_err(|why| file::not_an_event(&path, why))?;
    let word = page.word();
    if word.is_gone() {
        return Ok(None);
    }
    let waiters = registry::waiters(&opened, &page).unwrap_or_default();
    Ok(Some(Entry {
        name: name.to_owned(),
        is_set: word.is_set(),
        last_set: page.last_set(shared::pid_namespace()),
        waiters,
    }))
}

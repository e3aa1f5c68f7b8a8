//! The events of a directory, looked at without being opened for use.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::shared::file;
use crate::shared::layout::{HEAD, LastSet, Page};
use crate::shared::name::{self, Place};
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
pub(crate) fn list(path: &Path) -> Result<Vec<Result<Entry, Error>>, Error> {
    let failed = |error| Error::system("read", path, error);
    let Some(directory) = name::open_directory(path)?.map(Arc::new) else { return Ok(Vec::new()) };
    let names: Result<Vec<OsString>, _> =
        fs::read_dir(path).map_err(failed)?.map(|file| Ok(file?.file_name())).collect();
    let mut names = names.map_err(failed)?;
    names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
    names.sort_unstable();
    Ok(names.into_iter().filter_map(|name| look(&directory, path, &name.to_string_lossy()).transpose()).collect())
}

fn look(directory: &Arc<File>, path: &Path, name: &str) -> Result<Option<Entry>, Error> {
    if name::check(name).is_err() {
        return Err(file::not_an_event(&path.join(name), "no event can have such a name".into()));
    }
    let place = Place::at(directory, path, name)?;
    // Removed in the meantime?
    let Some((mut opened, _)) = file::open(&place, &place.name, false)? else { return Ok(None) };
    let failed = |error| Error::system("read", &place.path, error);
    file::check_file(&opened, &place.path)?;
    let mut head = [0; HEAD];
    opened.read_exact(&mut head).map_err(failed)?;
    let page = Page::from_bytes(&head);
    file::check_page(&page).map_err(|why| file::not_an_event(&place.path, why))?;
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

//! The events of a directory, read without being opened for use.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use crate::directory;
use crate::error::Error;
use crate::protocol::layout::{HEAD, PAGE, Page};
use crate::protocol::record::LastSet;
use crate::shared::file::{self, Opened, Reopen};
use crate::shared::holders;
use crate::shared::name::{self, Place, SLOT};
use crate::shared::registry::{self, Waiter};
use crate::sys::{files, process};

/// An event of a directory, as it was when it was read.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it was set.
    pub is_set: bool,
    /// When it was last set, and by whom, as far as is known.
    pub last_set: Option<LastSet>,
    /// The waiters, those who have waited longest first.
    pub waiters: Vec<Waiter>,
}

/// See [`SharedEvent::list_in`](crate::SharedEvent::list_in).
pub(crate) fn list(path: &Path) -> Result<Vec<Result<Entry, Error>>, Error> {
    let failed = |error| Error::system("read", path, error);
    let Some(directory) = directory::open_directory(path)?.map(Arc::new) else { return Ok(Vec::new()) };
    // Nobody else can put a pipe or a device in the place of a file that the directory says is
    // regular.
    let is_private = directory::is_private(&directory.metadata().map_err(failed)?);
    // In the order of the directory, which is that of the inodes: they are read faster that way.
    let (mut names, mut in_slots) = (Vec::new(), BTreeSet::new());
    for file in fs::read_dir(path).map_err(failed)? {
        let file = file.map_err(failed)?;
        let is_regular = is_private && file.file_type().is_ok_and(|kind| kind.is_file());
        match name_of_event(&file.file_name()) {
            Some((name, true)) => _ = in_slots.insert(name),
            Some((name, false)) => names.push((name, is_regular)),
            None => {}
        }
    }
    // An event in its slot has no other name: the process that was removing or making it was
    // stopped or killed.
    if !in_slots.is_empty() {
        names.iter().for_each(|(name, _)| _ = in_slots.remove(name));
    }
    names.extend(in_slots.into_iter().map(|name| (name, false)));
    let again = Reopen::many();
    // One byte more than an event has, instead of a call that asks for its length.
    let mut bytes = [0; PAGE + 1];
    let look = |(name, is_regular): (String, bool)| {
        let quick = if is_regular { read_at_once(&directory, &name, &mut bytes) } else { None };
        let entry = quick.map(Ok).or_else(|| look(&directory, path, &name, &again).transpose())?;
        Some((entry, name))
    };
    let mut entries: Vec<_> = names.into_iter().filter_map(look).collect();
    entries.sort_unstable_by(|(_, one), (_, other)| one.cmp(other));
    Ok(entries.into_iter().map(|(entry, _)| entry).collect())
}

/// The name of the event whose file, or whose slot (`true`), has this name. Nothing for other
/// hidden files.
fn name_of_event(file: &OsStr) -> Option<(String, bool)> {
    let file = file.to_string_lossy();
    match file.strip_prefix(SLOT) {
        Some(name) => name::check(name).is_ok().then(|| (name.to_owned(), true)),
        None => (!file.starts_with('.')).then(|| (file.into_owned(), false)),
    }
}

/// A file's name, which may be any other user's, in a text that may go to a terminal or a log.
fn shown(name: &str) -> String {
    let mut shown = String::new();
    for c in name.chars() {
        match c {
            ' '..='~' => shown.push(c),
            _ if c.is_alphanumeric() => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

fn look(directory: &Arc<File>, path: &Path, name: &str, again: &Reopen) -> Result<Option<Entry>, Error> {
    if name::check(name).is_err() {
        return Err(file::not_an_event(&path.join(shown(name)), "no event can have such a name".into()));
    }
    let place = Place::at(directory, path, name)?;
    if let Some(opened) = file::open(&place, &place.name, false, again)? {
        return read(&place, &opened, name);
    }
    let in_slot = || match file::open(&place, &place.slot, false, again)? {
        Some(opened) => read(&place, &opened, name),
        None => Ok(None),
    };
    // Anything else in the slot is ignored, as it is by `open`.
    if let Ok(Some(entry)) = in_slot() {
        return Ok(Some(entry));
    }
    // It may have been renamed from the slot to its name in between.
    match file::open(&place, &place.name, false, again)? {
        Some(opened) => read(&place, &opened, name),
        None => Ok(None),
    }
}

/// In three system calls. Nothing if [`look`] must decide: for anything but an event that is there.
fn read_at_once(directory: &File, name: &str, bytes: &mut [u8; PAGE + 1]) -> Option<Entry> {
    name::check(name).ok()?;
    // Opening a pipe or a device with these flags affects nobody, should it be one after all.
    let harmless = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = files::open_at(directory, &CString::new(name).ok()?, harmless, 0).ok()?;
    if (&file).read(bytes).ok()? != PAGE {
        return None;
    }
    let page = Page::from_bytes(bytes.first_chunk()?);
    file::check_page(&page).ok()?;
    entry(&file, &page, name)
}

/// Nothing for an event that was removed.
fn read(place: &Place, opened: &Opened, name: &str) -> Result<Option<Entry>, Error> {
    let failed = |error| Error::system("read", &place.path, error);
    file::check_metadata(&opened.metadata).map_err(|why| file::not_an_event(&place.path, why))?;
    let mut head = [0; HEAD];
    (&opened.file).read_exact(&mut head).map_err(failed)?;
    let page = Page::from_bytes(&head);
    file::check_page(&page).map_err(|why| file::not_an_event(&place.path, why))?;
    Ok(entry(&opened.file, &page, name))
}

/// Nothing for an event that was removed.
fn entry(file: &File, page: &Page, name: &str) -> Option<Entry> {
    let word = holders::seen(file, page.word());
    if word.is_gone() {
        return None;
    }
    Some(Entry {
        name: name.to_owned(),
        is_set: word.is_set(),
        last_set: page.last_set(process::pid_namespace()),
        waiters: registry::waiters(file, page).unwrap_or_default(),
    })
}

//! An event's file: how it is opened and checked. Files may come from an attacker until they are
//! checked.
//!
//! Only regular files are opened, because opening a pipe or a device affects the process at its
//! other end. So a name is first resolved with `O_PATH`, and if the file is regular, it is opened
//! through `/proc/self/fd`.
//!
//! How files get their names and lose them is in [`naming`](crate::shared::naming).

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::error::{Error, Kind};
use crate::protocol::layout::{Mismatch, PAGE, Page, VERSION};
use crate::shared::mapping::Mapping;
use crate::shared::name::Place;
use crate::sync::sleep;
use crate::sys::{files, process, shared};

/// An event's file, open and mapped.
#[derive(Debug)]
pub(crate) struct EventFile {
    pub(crate) mapping: Mapping,
    pub(crate) file: File,
    /// Whether this process may set and clear the event.
    pub(crate) is_writable: bool,
    /// Where it was found, if it was opened by name.
    pub(crate) place: Option<Place>,
    /// Since when its name has been missing, by the coarse clock; zero while it is there.
    missing_since: AtomicU32,
}

/// Whether others can find an event by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// Yes, as far as is known.
    InPlace,
    /// No. Other processes may still have it open by another name.
    Missing,
    /// No: the file has no name at all, or was truncated.
    Gone,
}

/// How long a name must be missing to count as missing, because it may be in the middle of a
/// rename.
const LONG_MISSING_MS: u32 = 500;

impl EventFile {
    /// The event with that name in the directory, gone or not.
    pub(crate) fn look(place: &Place, name: &CStr) -> Result<Option<EventFile>, Error> {
        let Some(opened) = open(place, name, true, &Reopen::one())? else { return Ok(None) };
        EventFile::check(opened, &place.path, Some(place)).map(Some)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.mapping.page().word().is_gone()
    }

    /// Checks that an open file is an event, and maps it.
    pub(crate) fn check(opened: Opened, path: &Path, place: Option<&Place>) -> Result<EventFile, Error> {
        let Opened { file, is_writable, metadata } = opened;
        check_metadata(&metadata).map_err(|why| not_an_event(path, why))?;
        // No file in a directory is sealed.
        let is_sealed = place.is_none() && files::is_sealed(&file);
        let mapping = Mapping::new(&file, is_writable, is_sealed);
        let mapping = mapping.map_err(|error| Error::system("mapped", path, error))?;
        let page = mapping.page();
        check_page(page).map_err(|why| not_an_event(path, why))?;
        // A file in a directory is no such memory.
        if place.is_none() && !shared::can_wait(&page.word) {
            return Err(not_an_event(path, "no thread can sleep on its memory".into()));
        }
        if is_writable && has_readers(&metadata) {
            page.admit_readers();
        }
        Ok(EventFile { mapping, file, is_writable, place: place.cloned(), missing_since: AtomicU32::new(0) })
    }

    /// An event without a name.
    pub(crate) fn anonymous() -> Result<EventFile, Error> {
        let nowhere = Path::new("anonymous event");
        let file = files::sealed_memory(&Page::new_bytes(false, process::pid_namespace()));
        let file = file.map_err(|error| Error::system("made", nowhere, error))?;
        // Its content was just written, so it need not be checked.
        let mapping = Mapping::new(&file, true, true).map_err(|error| Error::system("mapped", nowhere, error))?;
        Ok(EventFile { mapping, file, is_writable: true, place: None, missing_since: AtomicU32::new(0) })
    }

    /// Whether the file was truncated.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.len() < PAGE as u64)
    }

    /// Whether others can find it. A name counts as missing if two checks, some time apart, have
    /// not found it. If the system returns an error, it counts as in place.
    pub(crate) fn standing(&self) -> Standing {
        let Some(place) = &self.place else { return Standing::InPlace };
        let Ok(metadata) = self.file.metadata() else { return Standing::InPlace };
        if metadata.nlink() == 0 || metadata.len() < PAGE as u64 {
            return Standing::Gone;
        }
        let is_at = |name| place.is_at(name, &self.file).unwrap_or(true);
        // It may be renamed from the one to the other between the checks, but hardly each time. An
        // event in the slot is found only while nothing else has the name.
        let is_in_slot = || is_at(&place.slot) && !place.is_at_all(&place.name).unwrap_or(false);
        if is_at(&place.name) || is_in_slot() || is_at(&place.name) {
            self.missing_since.store(0, Relaxed);
            return Standing::InPlace;
        }
        let now = process::coarse_milliseconds();
        match self.missing_since.load(Relaxed) {
            0 => self.missing_since.store(now, Relaxed),
            since if now.wrapping_sub(since) >= LONG_MISSING_MS => return Standing::Missing,
            _ => {}
        }
        Standing::InPlace
    }

    /// A new description of the file, whose marks are separate from those of `file`.
    pub(crate) fn again(&self, is_writable: bool) -> io::Result<File> {
        match (EventFile::reopen(&self.file, is_writable), &self.place) {
            // Without /proc, as in an empty root.
            (Err(error), Some(place)) if error.kind() == ErrorKind::NotFound => {
                open_again(place, &place.name, &self.file.metadata()?, is_writable)
            }
            (reopened, _) => reopened,
        }
    }

    /// A new description of the same file, whose marks are separate from those of `file`.
    pub(crate) fn reopen(file: &File, is_writable: bool) -> io::Result<File> {
        Reopen::one().reopen(file, is_writable).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                io::Error::new(ErrorKind::NotFound, "it cannot be opened again without /proc; mount it")
            }
            _ => error,
        })
    }
}

/// A file that was opened, as it was just before.
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) is_writable: bool,
    pub(crate) metadata: Metadata,
}

/// How files are opened again: by the directory of this process's descriptors if it is open, else
/// by its path, which takes long to resolve.
pub(crate) struct Reopen {
    descriptors: Option<File>,
    /// How often to try if another process has a lease on a file, which it is asked to give up.
    tries: u32,
}

const DESCRIPTORS: &str = "/proc/self/fd";
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(1);

impl Reopen {
    /// For one file.
    fn one() -> Reopen {
        Reopen { descriptors: None, tries: 200 }
    }

    /// For many files, of which each may have a lease. In the child of a fork, the directory would
    /// still be the parent's.
    pub(crate) fn many() -> Reopen {
        let descriptors =
            OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(DESCRIPTORS);
        Reopen { descriptors: descriptors.ok(), tries: 1 }
    }

    fn reopen(&self, file: &File, is_writable: bool) -> io::Result<File> {
        let number = file.as_raw_fd();
        let Some(descriptors) = &self.descriptors else {
            let path = format!("{DESCRIPTORS}/{number}");
            return OpenOptions::new().read(true).write(is_writable).custom_flags(libc::O_NONBLOCK).open(path);
        };
        let access = if is_writable { libc::O_RDWR } else { libc::O_RDONLY } | libc::O_NONBLOCK;
        files::open_at(descriptors, &CString::new(number.to_string())?, access, 0)
    }

    /// Opens a file that another process may have a lease on.
    fn patiently(&self, open: impl Fn() -> io::Result<File>) -> io::Result<File> {
        for _ in 1..self.tries {
            match open() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(PAUSE),
                opened => return opened,
            }
        }
        open()
    }
}

pub(crate) fn not_an_event(path: &Path, why: String) -> Error {
    Error::new(Kind::NotAnEvent { path: path.to_owned(), why })
}

/// Opens the file with that name in the directory of `place`, also for writing if that is wanted
/// and allowed. Symbolic links are not followed, and only regular files are opened.
pub(crate) fn open(place: &Place, name: &CStr, wants_to_write: bool, again: &Reopen) -> Result<Option<Opened>, Error> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::WouldBlock => leased(place, error),
        _ => Error::system("opened", &place.path, error),
    };
    let there = match files::open_at(&place.directory, name, libc::O_PATH | libc::O_NOFOLLOW, 0) {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = there.metadata().map_err(failed)?;
    check_kind(&metadata).map_err(|why| not_an_event(&place.path, why))?;
    let open_once = |is_writable| match again.reopen(&there, is_writable) {
        // There is no /proc.
        Err(error) if error.kind() == ErrorKind::NotFound => open_again(place, name, &metadata, is_writable),
        opened => opened,
    };
    let open = |is_writable| again.patiently(|| open_once(is_writable));
    if wants_to_write {
        match open(true) {
            Ok(file) => return Ok(Some(Opened { file, is_writable: true, metadata })),
            Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                // A process that may make events in the directory may set them.
                if files::may(&place.directory, libc::W_OK | libc::X_OK) {
                    return Err(grants_less(place, &metadata, "written to", error));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
    }
    match open(false) {
        Ok(file) => Ok(Some(Opened { file, is_writable: false, metadata })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::PermissionDenied && files::may(&place.directory, libc::R_OK) => {
            Err(grants_less(place, &metadata, "read", error))
        }
        Err(error) => Err(failed(error)),
    }
}

/// By its name once more. Fails if it is another file now.
fn open_again(place: &Place, name: &CStr, seen: &Metadata, is_writable: bool) -> io::Result<File> {
    let access = if is_writable { libc::O_RDWR } else { libc::O_RDONLY };
    let harmless = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = files::open_at(&place.directory, name, access | harmless, 0)?;
    let metadata = file.metadata()?;
    let is_same = (metadata.dev(), metadata.ino()) == (seen.dev(), seen.ino());
    if is_same { Ok(file) } else { Err(ErrorKind::NotFound.into()) }
}

/// The error for a file that grants less than its directory.
fn grants_less(place: &Place, metadata: &Metadata, what: &str, error: io::Error) -> Error {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let why = format!(
        "it may not be {what}, although its directory allows that: it belongs to user {owner} and has mode {mode:04o}; \
         its owner must change the mode, or remove it"
    );
    Error::new(Kind::Refused { path: place.path.clone(), why, error })
}

/// The error for a file on which another process keeps a lease.
fn leased(place: &Place, error: io::Error) -> Error {
    let why = "it cannot be opened, because another process keeps a lease on it (see /proc/locks); end that process, \
               or try again in a minute, when the kernel has ended the lease";
    Error::new(Kind::Refused { path: place.path.clone(), why: why.to_owned(), error })
}

/// Whether a file can be an event, judged by its metadata.
pub(crate) fn check_metadata(metadata: &Metadata) -> Result<(), String> {
    check_kind(metadata)?;
    if metadata.len() != PAGE as u64 {
        return Err(format!("it is {} bytes long, an event has {PAGE}", metadata.len()));
    }
    Ok(())
}

fn check_kind(metadata: &Metadata) -> Result<(), String> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () => "a device or a socket",
    };
    Err(format!("it is {what}"))
}

/// The metadata of a file that can be an event.
pub(crate) fn check_file(file: &File, path: &Path) -> Result<Metadata, Error> {
    let metadata = file.metadata().map_err(|error| Error::system("read", path, error))?;
    check_metadata(&metadata).map_err(|why| not_an_event(path, why))?;
    Ok(metadata)
}

/// Whether a page is an event's.
pub(crate) fn check_page(page: &Page) -> Result<(), String> {
    page.check().map_err(|mismatch| match mismatch {
        Mismatch::Magic => "it does not begin as an event does".into(),
        Mismatch::Seal => "it is damaged; remove it".into(),
        Mismatch::Version(version) if version < VERSION => format!(
            "it was made by an earlier version of tantara (layout {version}, this one has {VERSION}); end the programs \
             that use it, and delete the file"
        ),
        Mismatch::Version(version) => {
            format!(
                "it was made by a later version of tantara (layout {version}, this one has {VERSION}); update this one"
            )
        }
        Mismatch::Kind(kind) => format!("it is of kind {kind}, which only a later version of tantara knows"),
    })
}

/// Whether some users may read the file but not write to it.
pub(crate) fn has_readers(metadata: &Metadata) -> bool {
    let mode = metadata.permissions().mode();
    [6, 3, 0].into_iter().any(|class| mode >> class & 0o6 == 0o4)
}

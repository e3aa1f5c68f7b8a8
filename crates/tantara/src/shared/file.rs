//! The file: how it comes to be, is opened, checked and removed. What lies in a directory is hostile until checked.
//!
//! A file appears complete: it is written without a name and then linked into place, so nobody ever finds half of one,
//! and of two who make the same event one wins and the other opens what the first has made.
//!
//! To remove an event is to mark it GONE, which tells everyone who has it open, and then to take its name away. A file
//! that is marked but still has its name (the remover was killed in between) is buried by whoever opens it next. A name
//! is only taken from the very file that was marked: those who take names away hold the file's advisory lock while they
//! look and unlink; the kernel gives it back if they die.

#![forbid(unsafe_code)]

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Kind};
use crate::shared::layout::{HOLDS, Mismatch, PAGE, Page, VERSION};
use crate::shared::mapping::Mapping;
use crate::shared::name::Place;
use crate::shared::signal;
use crate::sys::{files, shared};

/// An event's file, open and mapped.
#[derive(Debug)]
pub(crate) struct EventFile {
    pub(crate) mapping: Mapping,
    pub(crate) file: File,
    /// Whether the event may be set and cleared, not just waited for.
    pub(crate) is_writable: bool,
}

/// How often to begin again when others make and remove the event in between.
const TRIES: u32 = 1_000;

impl EventFile {
    /// The event at `place`; it is made if it is not there.
    pub(crate) fn open(place: &Place) -> Result<EventFile, Error> {
        for _ in 0..TRIES {
            match EventFile::look(place)? {
                Some(event) if !event.is_gone() => return Ok(event),
                Some(gone) => bury(&gone.file, &place.path)?,
                None => {}
            }
            match make(place) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::system("made", &place.path, error)),
            }
        }
        let unlucky = io::Error::new(ErrorKind::ResourceBusy, "others make and remove it all the time");
        Err(Error::system("opened", &place.path, unlucky))
    }

    /// The event at `place`, if it is there.
    pub(crate) fn find(place: &Place) -> Result<Option<EventFile>, Error> {
        Ok(EventFile::look(place)?.filter(|event| !event.is_gone()))
    }

    /// What lies at `place`, gone or not.
    fn look(place: &Place) -> Result<Option<EventFile>, Error> {
        let Some((file, is_writable)) = open(&place.path)? else { return Ok(None) };
        EventFile::check(file, is_writable, &place.path, Some(place.landlord)).map(Some)
    }

    fn is_gone(&self) -> bool {
        self.mapping.page().word().is_gone()
    }

    /// Makes sure that an open file is an event, and maps it. A file with a name must be owned by the user, by root, or
    /// by the owner of its directory.
    pub(crate) fn check(file: File, is_writable: bool, path: &Path, landlord: Option<u32>) -> Result<EventFile, Error> {
        let metadata = file.metadata().map_err(|error| Error::system("opened", path, error))?;
        check_metadata(&metadata, landlord).map_err(|why| not_an_event(path, why))?;
        let mapping = Mapping::new(&file, is_writable).map_err(|error| Error::system("mapped", path, error))?;
        check_page(mapping.page()).map_err(|why| not_an_event(path, why))?;
        let page = mapping.page();
        if is_writable && has_readers(&metadata) {
            page.admit_readers();
        }
        if is_writable && page.word().is_held() && !files::is_write_locked(&file, HOLDS).unwrap_or(true) {
            // The holder was killed.
            signal::end_hold(&page.word);
        }
        Ok(EventFile { mapping, file, is_writable })
    }

    /// An event without a name.
    pub(crate) fn anonymous() -> Result<EventFile, Error> {
        let nowhere = Path::new("anonymous event");
        let file = files::sealed_memory(&Page::new_bytes(false, shared::pid_namespace()));
        let file = file.map_err(|error| Error::system("made", nowhere, error))?;
        // It is just what was written: to look at it would only cost a page fault.
        let mapping = Mapping::of_sealed(&file).map_err(|error| Error::system("mapped", nowhere, error))?;
        Ok(EventFile { mapping, file, is_writable: true })
    }

    /// Marks the event as gone, wakes everyone who has to know, and takes its name away. Nothing happens to an event
    /// whose name may not be taken away.
    /// `false` if it was marked before.
    pub(crate) fn remove(&self, path: &Path) -> Result<bool, Error> {
        may_unlink(&self.file, path).map_err(|error| Error::system("removed", path, error))?;
        let was_gone = self.is_gone();
        signal::remove(&self.mapping.page().word);
        bury(&self.file, path)?;
        Ok(!was_gone)
    }

    /// Whether the file has lost some of its length.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.len() < PAGE as u64)
    }

    /// Whether the file has lost its name, or some of its length.
    pub(crate) fn is_out_of_place(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0 || metadata.len() < PAGE as u64)
    }

    /// A description of its own for the same file, whose marks are told from those of `file`, and end with it.
    pub(crate) fn reopen(file: &File, is_writable: bool) -> io::Result<File> {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        OpenOptions::new().read(true).write(is_writable).open(path)
    }
}

pub(crate) fn not_an_event(path: &Path, why: String) -> Error {
    Error::new(Kind::NotAnEvent { path: path.to_owned(), why })
}

/// Opens what lies at `path`, for writing too if that is allowed. Links are not followed, and nothing that is not a
/// file can hold us up.
fn open(path: &Path) -> Result<Option<(File, bool)>, Error> {
    let open = |is_writable| {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        OpenOptions::new().read(true).write(is_writable).custom_flags(flags).open(path)
    };
    let opened = match open(true) {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            open(false).map(|file| (file, false))
        }
        opened => opened.map(|file| (file, true)),
    };
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => match error.raw_os_error() {
            Some(libc::ELOOP) => Err(not_an_event(path, "it is a symbolic link".into())),
            Some(libc::EISDIR) => Err(not_an_event(path, "it is a directory".into())),
            Some(libc::ENXIO | libc::ENODEV) => Err(not_an_event(path, "it is a device or a socket".into())),
            _ => Err(Error::system("opened", path, error)),
        },
    }
}

/// Whether a file can be an event, as far as can be told from outside.
pub(crate) fn check_metadata(metadata: &Metadata, landlord: Option<u32>) -> Result<(), String> {
    let kind = metadata.file_type();
    if kind.is_symlink() {
        return Err("it is a symbolic link".into());
    }
    if kind.is_dir() {
        return Err("it is a directory".into());
    }
    if !kind.is_file() {
        return Err(if kind.is_fifo() { "it is a pipe" } else { "it is a device or a socket" }.into());
    }
    let owner = metadata.uid();
    if let Some(landlord) = landlord
        && ![0, landlord, files::user()].contains(&owner)
    {
        return Err(format!("it belongs to user {owner}, who is neither you nor the owner of the directory"));
    }
    if metadata.len() != PAGE as u64 {
        return Err(format!("it is {} bytes long, an event has {PAGE}", metadata.len()));
    }
    Ok(())
}

/// Whether a page is an event's.
pub(crate) fn check_page(page: &Page) -> Result<(), String> {
    page.check().map_err(|mismatch| match mismatch {
        Mismatch::Magic => "it does not begin as events do".into(),
        Mismatch::Seal => "it is damaged; remove it".into(),
        Mismatch::Version(version) if version < VERSION => format!(
            "an earlier tantara made it (layout {version}, where this one has {VERSION}); end the programs that use \
             it, and delete the file"
        ),
        Mismatch::Version(version) => {
            format!("a later tantara made it (layout {version}, where this one has {VERSION}); update this program")
        }
        Mismatch::Kind(kind) => format!("it is of kind {kind}, which this tantara does not know"),
    })
}

/// Whether somebody may read the file and not write to it.
fn has_readers(metadata: &Metadata) -> bool {
    let mode = metadata.permissions().mode();
    [6, 3, 0].into_iter().any(|class| mode >> class & 0o6 == 0o4)
}

/// Makes the file. Its mode is as usual for files (0666 less the umask), but in a directory that nobody else can enter
/// it is 0600, which spares its setters a system call for readers that cannot be.
fn make(place: &Place) -> io::Result<()> {
    let mode = if place.is_private { 0o600 } else { 0o666 };
    let directory = place.path.parent().unwrap_or(Path::new("/"));
    let nameless = OpenOptions::new().read(true).write(true).mode(mode).custom_flags(libc::O_TMPFILE).open(directory);
    let linked = nameless.and_then(|file| {
        fill(&file)?;
        files::link(&file, &place.path)
    });
    match linked {
        Err(error) if is_unable(&error) => make_by_name(place, mode, directory),
        linked => linked,
    }
}

/// Not every file system has files without a name, and not every process has /proc.
fn is_unable(error: &io::Error) -> bool {
    let unable = [libc::EOPNOTSUPP, libc::EISDIR, libc::EINVAL, libc::ENOENT, libc::EXDEV, libc::EPERM];
    error.raw_os_error().is_some_and(|error| unable.contains(&error))
}

fn make_by_name(place: &Place, mode: u32, directory: &Path) -> io::Result<()> {
    static DRAFTS: AtomicU32 = AtomicU32::new(0);
    let draft = loop {
        // Names of events do not begin with a dot.
        let name = format!(".draft-{}-{}", shared::process(), DRAFTS.fetch_add(1, Relaxed));
        let path = directory.join(name);
        match OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&path) {
            Ok(file) => break (path, file),
            // Left behind by one who was killed.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    };
    let (path, file): (PathBuf, File) = draft;
    let linked = fill(&file).and_then(|()| fs::hard_link(&path, &place.path));
    fs::remove_file(&path)?;
    linked
}

/// Every byte is written, so that the disk has a place for it.
fn fill(mut file: &File) -> io::Result<()> {
    file.write_all(&Page::new_bytes(has_readers(&file.metadata()?), shared::pid_namespace()))
}

/// Whether the user may take names away in the directory of `path`.
fn may_unlink(file: &File, path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    files::may_change(directory)?;
    let (home, own, user) = (directory.metadata()?, file.metadata()?, files::user());
    let is_sticky = home.permissions().mode() & libc::S_ISVTX != 0;
    if is_sticky && ![0, home.uid(), own.uid()].contains(&user) {
        return Err(ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

/// Takes the name `path` from the file, if the file has it.
fn bury(file: &File, path: &Path) -> Result<(), Error> {
    let failed = |error| Error::system("removed", path, error);
    // The lock belongs to a description, and those who share one would not exclude each other.
    let own = EventFile::reopen(file, false).or_else(|_| file.try_clone()).map_err(failed)?;
    // Others hold the lock for the moment of two system calls. Whoever holds it for longer means ill, or is stopped;
    // then a name that someone gives to a new file in our own two calls is at risk, and not everyone's for ever.
    let mut patience = 200;
    while files::try_lock(&own).is_err() && patience > 0 {
        patience -= 1;
        thread::sleep(Duration::from_millis(1));
    }
    let metadata = own.metadata().map_err(failed)?;
    match path.symlink_metadata() {
        Ok(there) if (there.dev(), there.ino()) == (metadata.dev(), metadata.ino()) => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        },
        // Another has been quicker.
        _ => Ok(()),
    }
}

//! How the file of an event gets its name, and how it loses it.
//!
//! The kernel unlinks whichever file has the name at that moment, which may not be the file that
//! the process compared before: the process may have been stopped in between. So a file that is
//! being made or removed has a fixed second name, the *slot* `.moved-NAME`.
//!
//! * **Making an event**: the file is written without a name, linked to the slot if that is free,
//!   and renamed from there to its name if that is free.
//! * **Removing an event**: the name is compared with the file, and renamed to the slot if that is
//!   free. The slot is then compared, because it may be another file by now, which is renamed back.
//!   The right file is marked as gone, which tells all processes that have it open, and is unlinked
//!   from the slot.
//! * **Opening an event whose name is missing**: a live event in the slot is renamed to its name,
//!   because the process that was making or removing it was stopped or killed. A process that may
//!   not rename uses it in the slot.
//!
//! Nothing here replaces a file (`RENAME_NOREPLACE`). A process that takes a file out of the slot
//! holds the file's advisory lock and has compared the slot since it got the lock, so it takes no
//! other file. So a process can be stopped or killed between any two calls while others make,
//! remove and open events of that name, and no event is lost. A process that is stopped with the
//! lock keeps the file in the slot: an event that is gone is then ignored, and a live one is used
//! there. The kernel releases the lock when the process dies.
//!
//! That holds on file systems with `RENAME_NOREPLACE` and with locks. Without the former, as on
//! NFS, a rename is a link and an unlink, and the two names are compared before the unlink. Without
//! locks, the slot is compared before a file is taken out. Between the comparison and what follows,
//! other processes may rename the file or make another. So an event may be lost there, but only if
//! several processes make, remove and open the name at that moment.
//!
//! In a directory like /tmp, only the owner can clean up a slot after a killed process. Other users
//! then do without the slot: a file is linked to its name directly, and a name is unlinked after it
//! was compared, with a moment in between.

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Kind};
use crate::protocol::layout::{PAGE, Page};
use crate::protocol::signal;
use crate::shared::file::EventFile;
use crate::shared::mapping::Mapping;
use crate::shared::name::Place;
use crate::shared::policy;
use crate::sync::sleep;
use crate::sys::{files, process};

/// How often to try again when other processes make and remove the event in between.
const TRIES: u32 = 1_000;
/// How long to wait for another process that is making or removing the event, in milliseconds. It
/// may be stopped.
const PATIENCE_MS: u32 = 200;

/// The event at `place`, which is made if it is missing.
pub(crate) fn open(place: &Place) -> Result<EventFile, Error> {
    for _ in 0..TRIES {
        match EventFile::look(place, &place.name)? {
            Some(event) if !event.is_gone() => return Ok(event),
            Some(gone) => {
                take_away(place, &gone).map_err(|error| in_the_way(place, &gone, error))?;
                continue;
            }
            None => {}
        }
        let has_slot = match look_into_slot(place)? {
            Slot::Free => true,
            Slot::Live(event) => {
                if !restore(place, &event) && !event.is_gone() && !place.is_at_all(&place.name).unwrap_or(false) {
                    return Ok(event);
                }
                continue;
            }
            Slot::Gone(gone) => clear(place, &gone).unwrap_or(false),
            Slot::Occupied => false,
        };
        match make(place, has_slot) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::system("made", &place.path, error));
            }
            _ => {}
        }
    }
    Err(Error::system("opened", &place.path, unlucky()))
}

/// The event at `place`, if it exists.
pub(crate) fn find(place: &Place) -> Result<Option<EventFile>, Error> {
    for _ in 0..TRIES {
        if let Some(event) = EventFile::look(place, &place.name)? {
            return Ok(Some(event).filter(|event| !event.is_gone()));
        }
        match look_into_slot(place)? {
            Slot::Live(event) => {
                if !restore(place, &event) && !event.is_gone() && !place.is_at_all(&place.name).unwrap_or(false) {
                    return Ok(Some(event));
                }
            }
            _ => return Ok(None),
        }
    }
    Err(Error::system("opened", &place.path, unlucky()))
}

/// Marks the event as gone, wakes all who wait, and unlinks its name. Nothing happens if the name
/// may not be unlinked. `false` if it was marked before.
pub(crate) fn remove(place: &Place, event: &EventFile) -> Result<bool, Error> {
    let was_gone = event.is_gone();
    take_away(place, event).map_err(|error| Error::system("removed", &place.path, error))?;
    Ok(!was_gone)
}

fn unlucky() -> io::Error {
    io::Error::new(ErrorKind::ResourceBusy, "other processes keep making and removing it")
}

/// Whether another process was faster.
fn is_race(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AlreadyExists) || error.raw_os_error() == Some(libc::ENOENT)
}

fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

/// The error for a removed event whose name a killed process has left, and that this user may not
/// unlink.
fn in_the_way(place: &Place, gone: &EventFile, error: io::Error) -> Error {
    if !is_refused(&error) {
        return Error::system("removed", &place.path, error);
    }
    let owner = gone.file.metadata().map_or(0, |metadata| metadata.uid());
    let why = format!(
        "it was removed by a process that was killed before it unlinked the file, and you may not unlink it ({error}); \
         its owner, user {owner}, or the owner of the directory must delete the file"
    );
    Error::new(Kind::Refused { path: place.path.clone(), why, error })
}

/// What the slot holds.
enum Slot {
    Free,
    Live(EventFile),
    Gone(EventFile),
    /// By something that is not an event, or may not be opened.
    Occupied,
}

fn look_into_slot(place: &Place) -> Result<Slot, Error> {
    match EventFile::look(place, &place.slot) {
        Ok(None) => Ok(Slot::Free),
        Ok(Some(event)) if event.is_gone() => Ok(Slot::Gone(event)),
        Ok(Some(event)) => Ok(Slot::Live(event)),
        Err(error) if is_none(&error) => Ok(Slot::Occupied),
        Err(error) => Err(error),
    }
}

/// Whether the file is no event, as far as this process can tell.
fn is_none(error: &Error) -> bool {
    error.is_not_an_event() || error.is_permission_denied() || error.is_leased()
}

/// Takes the lock of the file in the slot and calls `take`. `true` if the file is no longer in the
/// slot. The caller has `event` for itself.
fn out_of_slot(place: &Place, event: &EventFile, take: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    // Others hold the lock for two system calls, unless they are stopped or hostile.
    for _ in 0..PATIENCE_MS {
        if !place.is_at(&place.slot, &event.file)? {
            return Ok(true);
        }
        match files::try_lock(&event.file) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(1)),
            // Not every file system has such locks.
            _ => {
                let taken = if place.is_at(&place.slot, &event.file)? { take() } else { Ok(()) };
                // Unlocked explicitly, because a child that another thread forks right now keeps
                // the file open.
                files::unlock(&event.file);
                return taken.map(|()| true);
            }
        }
    }
    Ok(false)
}

/// Renames a live event in the slot to its name. `true` if it should be looked for there.
fn restore(place: &Place, event: &EventFile) -> bool {
    let rename = || match files::rename_at(&place.directory, &place.slot, &place.name) {
        Err(error) if is_race(&error) => Ok(()),
        renamed => renamed,
    };
    out_of_slot(place, event, rename).unwrap_or(false)
}

/// Unlinks an event that is gone from the slot, if it is there. `true` if it is no longer there.
fn clear(place: &Place, event: &EventFile) -> io::Result<bool> {
    debug_assert!(event.is_gone());
    out_of_slot(place, event, || files::unlink_at(&place.directory, &place.slot))
}

/// Unlinks the name of the event, which is marked as gone as soon as it is certain that its name
/// can be unlinked.
fn take_away(place: &Place, event: &EventFile) -> io::Result<()> {
    for _ in 0..TRIES {
        if place.is_at(&place.slot, &event.file)? {
            if !event.is_gone() {
                files::may_unlink(&place.directory, &event.file)?;
            }
            mark_as_gone(event);
            if let Some(own) = look(place, &place.slot)?.filter(|own| own.is_gone()) {
                match clear(place, &own) {
                    // The name is free all the same.
                    Err(error) if is_refused(&error) => {}
                    cleared => _ = cleared?,
                }
            }
            // A process that found it alive may have renamed it to its name before it was marked.
            if !place.is_at(&place.name, &event.file)? {
                return Ok(());
            }
        } else if !place.is_at(&place.name, &event.file)? {
            if place.is_at(&place.slot, &event.file)? {
                continue;
            }
            // It has lost the name, or never had it.
            mark_as_gone(event);
            return Ok(());
        }
        match files::rename_at(&place.directory, &place.name, &place.slot) {
            Ok(()) if !place.is_at(&place.slot, &event.file)? => {
                // Another process was faster, and this is a new event.
                if let Some(new) = look(place, &place.slot)?.filter(|new| !new.is_gone()) {
                    restore(place, &new);
                }
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists && !free_slot(place)? => {
                return take_away_directly(place, event);
            }
            Err(error) if !is_race(&error) => return Err(error),
            _ => {}
        }
    }
    Err(unlucky())
}

/// Frees the slot of a file other than the one that has the name. `false` if that is not possible.
fn free_slot(place: &Place) -> io::Result<bool> {
    for tries in 0..PATIENCE_MS {
        let Some(own) = look(place, &place.slot)? else { return Ok(!place.is_at_all(&place.slot)?) };
        if tries + 1 == PATIENCE_MS {
            mark_as_gone(&own);
        }
        if own.is_gone() {
            return match clear(place, &own) {
                Err(error) if is_refused(&error) => Ok(false),
                cleared => cleared,
            };
        }
        // It is being made beside the file that has the name. Its maker will unlink it, unless it
        // was stopped or killed.
        sleep(Duration::from_millis(1));
    }
    Ok(false)
}

/// Opens the file with that name, if it is an event.
fn look(place: &Place, name: &CStr) -> io::Result<Option<EventFile>> {
    match EventFile::look(place, name) {
        Ok(event) => Ok(event),
        Err(error) if is_none(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn mark_as_gone(event: &EventFile) {
    if event.is_writable && !event.is_gone() {
        signal::remove(&event.mapping.page().word);
    }
}

/// As [`take_away`], without the slot, which is occupied.
fn take_away_directly(place: &Place, event: &EventFile) -> io::Result<()> {
    files::may_unlink(&place.directory, &event.file)?;
    mark_as_gone(event);
    // A name is unlinked under the lock.
    let Some(own) = look(place, &place.name)? else { return Ok(()) };
    let mut patience = PATIENCE_MS;
    while files::try_lock(&own.file).is_err() && patience > 0 {
        patience -= 1;
        sleep(Duration::from_millis(1));
    }
    if place.is_at(&place.name, &event.file)? { files::unlink_at(&place.directory, &place.name) } else { Ok(()) }
}

/// Makes the file. It is written before it has a name, so others find it complete.
fn make(place: &Place, has_slot: bool) -> io::Result<()> {
    let directory = &place.directory;
    let first = if has_slot { &place.slot } else { &place.name };
    let nameless = files::open_at(directory, c".", libc::O_TMPFILE | libc::O_RDWR, 0o600);
    let linked = nameless.and_then(|file| {
        fill(&file, directory)?;
        files::link_at(&file, directory, first)?;
        Ok(file)
    });
    let file = match linked {
        Err(error) if is_unable(&error) => make_by_name(place, first)?,
        linked => linked?,
    };
    let renamed = if has_slot { leave_slot(place, &file) } else { Ok(()) };
    if renamed.is_ok() {
        // The last step, because in a sticky directory the file cannot be renamed afterwards.
        policy::give(&file, directory);
    }
    // Unlocked explicitly, because a child that another thread forks right now keeps the file open.
    files::unlock(&file);
    renamed
}

/// Renames a new file, which is locked, from the slot to its name.
fn leave_slot(place: &Place, file: &File) -> io::Result<()> {
    match files::rename_at(&place.directory, &place.slot, &place.name) {
        // The file system has no locks, and another process has renamed it.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // The file system has no locks, and another process has linked it to its name, to
            // unlink the slot next.
            if place.is_at(&place.name, file)? {
                return files::unlink_twin(&place.directory, &place.slot, &place.name);
            }
            // Another event has the name by now. Processes that found no event under the name may
            // use this one.
            if place.is_at(&place.slot, file)? {
                // If it cannot be mapped, they find out when they check whether it has a name.
                if let Ok(mapping) = Mapping::new(file, true, false) {
                    signal::remove(&mapping.page().word);
                }
                files::unlink_at(&place.directory, &place.slot)?;
            }
            Err(error)
        }
        renamed => renamed,
    }
}

/// Writes every byte, so that disk space is allocated.
fn fill(file: &File, directory: &File) -> io::Result<()> {
    let has_readers = policy::apply(file, directory)?;
    files::write(file, &Page::new_bytes(has_readers, process::pid_namespace()))?;
    // No other process has access to the file yet.
    let _ = files::try_lock(file);
    Ok(())
}

/// Whether the file system has no files without a name, or the process has no /proc.
fn is_unable(error: &io::Error) -> bool {
    let unable = [libc::EOPNOTSUPP, libc::EISDIR, libc::EINVAL, libc::ENOENT, libc::EXDEV, libc::EPERM];
    error.raw_os_error().is_some_and(|error| unable.contains(&error))
}

const DRAFT: &str = ".draft-";

fn make_by_name(place: &Place, first: &CStr) -> io::Result<File> {
    static DRAFTS: AtomicU32 = AtomicU32::new(0);
    let directory = &place.directory;
    let number = DRAFTS.fetch_add(1, Relaxed);
    if number % 64 == 0 {
        remove_old_drafts(place);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    // Unique.
    let name = format!("{DRAFT}{}-{}-{now:x}", process::process(), number);
    let name = CString::new(name)?;
    let file = files::open_at(directory, &name, libc::O_CREAT | libc::O_EXCL | libc::O_RDWR, 0o600)?;
    let linked = fill(&file, directory).and_then(|()| files::link_name_at(directory, &name, first));
    files::unlink_at(directory, &name)?;
    linked.map(|()| file)
}

/// From which age on a draft is taken to be left by a killed process.
const OLD: Duration = Duration::from_secs(60);

/// Removes the drafts of killed processes. A draft that is in use is locked, or young.
fn remove_old_drafts(place: &Place) {
    let Some(files) = place.path.parent().and_then(|directory| fs::read_dir(directory).ok()) else { return };
    let drafts = files.flatten().map(|file| file.file_name());
    for draft in drafts.filter(|name| is_draft(name.as_bytes())) {
        let _ = remove_old_draft(place, Path::new(&draft));
    }
}

/// Whether the name has the form that [`make_by_name`] uses. Other programs' files may begin with
/// the same prefix.
fn is_draft(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(DRAFT.as_bytes()) else { return false };
    let parts: Vec<&[u8]> = rest.split(|byte| *byte == b'-').collect();
    let consists_of = |part: &[u8], digit: fn(&u8) -> bool| !part.is_empty() && part.iter().all(digit);
    let [process, number, time] = parts[..] else { return false };
    consists_of(process, u8::is_ascii_digit)
        && consists_of(number, u8::is_ascii_digit)
        && consists_of(time, u8::is_ascii_hexdigit)
}

fn remove_old_draft(place: &Place, name: &Path) -> io::Result<()> {
    let name = CString::new(name.as_os_str().as_bytes())?;
    let there = files::open_at(&place.directory, &name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let metadata = there.metadata()?;
    let age = metadata.modified()?.elapsed().unwrap_or_default();
    if metadata.is_file() && metadata.len() <= PAGE as u64 && age > OLD {
        files::try_lock(&EventFile::reopen(&there, false)?)?;
        files::unlink_at(&place.directory, &name)?;
    }
    Ok(())
}

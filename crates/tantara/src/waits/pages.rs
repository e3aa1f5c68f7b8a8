//! The files in which recording processes publish their waits, so that `tantara ps` can read them: how
//! they are written, how they are found, and how those of dead processes are told apart.
//!
//! A page is a file `.waits-PID-NAMESPACE` in the directory of the events, readable by its owner
//! only. (No event can have such a name: see [`name`](crate::name).) It is never changed: a new
//! version is written to another file and renamed over it. So a reader has one version or the other,
//! whatever happens to the writer. Its writer holds a write lock on it from before it gets its name.
//! The kernel removes the lock when the process ends, so an unlocked page is that of a dead process.
//! A page that its writer cannot replace, as on a full disk, stays with its lock. A second lock marks
//! it as outdated.

#![forbid(unsafe_code)]

use std::collections::hash_map::RandomState;
use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::deadline;
use crate::directory;
use crate::error::Error;
use crate::sync::lock;
use crate::sys::files::{self, Range};
use crate::sys::process::{self, GENERATIONS};
use crate::sys::unforked::Unforked;
use crate::waits::json;
use crate::waits::switch::State;

const PREFIX: &str = ".waits-";
/// What the name of a page ends with while it is written.
const DRAFT: &str = ".new";
/// A page longer than that is not read. (None is written: see [`json`].)
const LONGEST: u64 = 4 << 20;
/// How many pages of this user are read, and how many of other users.
const MOST_OWN: usize = 4096;
const MOST_OTHERS: usize = 64;
/// How often the waits are published, if that takes no longer than a twentieth of the time.
const INTERVAL: Duration = Duration::from_millis(200);
/// How often to check that the page is still there.
const BETWEEN_CHECKS: Duration = Duration::from_secs(2);
/// How often to try to read a page that may be replaced meanwhile.
const READS: u32 = 3;
/// How often to look whether the page is still being written, before it is left behind.
const LOOKS: u32 = 200;
/// Locked for writing while the process lives.
const ALIVE: Range = Range { start: 0, length: 1 };
/// Locked for writing while the page cannot be replaced or removed.
const OUTDATED: Range = Range { start: 1, length: 1 };

/// The page of this process.
struct Published {
    directory: Arc<File>,
    name: CString,
    content: String,
    /// Has the lock.
    file: Unforked,
}

/// One for each process of a line of forks, because another thread of the parent may have held the lock
/// at the moment of the fork.
static PUBLISHED: [Mutex<Option<Published>>; GENERATIONS] = [const { Mutex::new(None) }; GENERATIONS];
/// The process is exiting.
static EXITS: AtomicBool = AtomicBool::new(false);

fn published() -> Option<&'static Mutex<Option<Published>>> {
    process::own(&PUBLISHED)
}

/// In which process the thread runs that publishes: one more than the number of forks before it. Zero if
/// it runs in none.
static RUNS_IN: AtomicUsize = AtomicUsize::new(0);

/// Starts the thread that publishes the waits of this process, unless it runs. If it cannot be started,
/// nothing is published.
pub(crate) fn start() {
    let own = process::generation() + 1;
    // With the fence of `run`: either the thread sees that waits are recorded again, or this sees its end.
    fence(SeqCst);
    if RUNS_IN.swap(own, SeqCst) == own {
        return;
    }
    if process::start_thread("tantara-waits", move || run(own)).is_err() {
        RUNS_IN.store(0, SeqCst);
        return;
    }
    // Children of a fork inherit what is called at the exit.
    static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
    if !IS_REGISTERED.swap(true, Relaxed) {
        extern "C" fn end() {
            EXITS.store(true, Relaxed);
            leave();
        }
        files::at_exit(end);
    }
}

/// Publishes the waits periodically, until they are no longer recorded or the process exits.
fn run(own: usize) {
    let mut checked = Instant::now();
    while !EXITS.load(Relaxed) {
        if !State::now().records() {
            withdraw();
            RUNS_IN.store(0, SeqCst);
            fence(SeqCst);
            if !State::now().records() || RUNS_IN.swap(own, SeqCst) == own {
                return;
            }
        }
        let began = Instant::now();
        let checks = checked.elapsed() > BETWEEN_CHECKS;
        // Without a directory, or on a full disk, the next attempt may succeed.
        let shortest = if publish(checks).is_ok() { INTERVAL } else { BETWEEN_CHECKS };
        if checks {
            checked = began;
        }
        thread::sleep(deadline::pause(began.elapsed(), shortest));
    }
}

/// The directory that the program was given.
static NAMED: OnceLock<PathBuf> = OnceLock::new();

/// Publishes the waits in that directory, whatever `TANTARA_DIR` says. The first call counts. Not part of
/// the public API: the command has `--dir`.
pub fn publish_in(directory: &Path) {
    let _ = NAMED.set(directory.to_owned());
}

/// Where the pages are: where the command looks for events. The directory is made if it is missing, but
/// not a second time: somebody has removed it.
fn place() -> Result<(File, PathBuf), Error> {
    static WAS_THERE: AtomicBool = AtomicBool::new(false);
    let variable = || process::variable(c"TANTARA_DIR").filter(|path| !path.is_empty()).map(PathBuf::from);
    let named = NAMED.get().cloned().or_else(variable);
    let path = named.clone().unwrap_or_else(directory::default_directory);
    if WAS_THERE.load(Relaxed) && !path.is_dir() {
        return Err(Error::system("opened", &path, ErrorKind::NotFound.into()));
    }
    let place = match named {
        Some(path) => (directory::made(&path)?, path),
        None => directory::of_user()?,
    };
    WAS_THERE.store(true, Relaxed);
    Ok(place)
}

fn publish(checks: bool) -> Result<(), Error> {
    let content = json::page();
    let Some(mut published) = published().map(lock) else { return Ok(()) };
    if EXITS.load(Relaxed) || !State::now().records() {
        // Since then. The page was removed under this lock.
        return Ok(());
    }
    if let Some(own) = &*published {
        if own.content == content && !(checks && own.is_lost()) {
            own.mark(false);
            return Ok(());
        }
    }
    match replacement(published.as_ref(), content) {
        // The lock of the old file ends after the new one has got its name.
        Ok(new) => *published = Some(new),
        Err(error) => {
            // Without its lock, the old page would be that of a dead process.
            published.iter().for_each(|old| old.mark(true));
            return Err(error);
        }
    }
    Ok(())
}

/// Writes the page, or a new version of it.
fn replacement(old: Option<&Published>, content: String) -> Result<Published, Error> {
    let directory = match old.filter(|old| !old.is_lost()) {
        Some(old) => Arc::clone(&old.directory),
        None => {
            let (directory, path) = place()?;
            remove_dead(&directory, &path);
            Arc::new(directory)
        }
    };
    write(directory, content).map_err(|error| Error::system("written", Path::new(PREFIX), error))
}

/// Creates the file in which a page is written. [`Unforked::open`] does that again if another thread
/// forks at that moment.
fn create(directory: &File, draft: &CStr) -> io::Result<File> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    match files::open_at(directory, draft, flags, 0o600) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            files::unlink_at(directory, draft)?;
            files::open_at(directory, draft, flags, 0o600)
        }
        created => created,
    }
}

/// Writes a new version of the page.
fn write(directory: Arc<File>, content: String) -> io::Result<Published> {
    let name = format!("{PREFIX}{}-{}", process::process(), process::pid_namespace());
    // By chance, because another copy of this library may publish in the same process.
    let chance = RandomState::new().build_hasher().finish();
    let draft = CString::new(format!("{name}-{chance:x}{DRAFT}"))?;
    let name = CString::new(name)?;
    let file = Unforked::open(|| create(&directory, &draft))?;
    let finish = || {
        let Some(own) = file.file() else { return Err(ErrorKind::NotFound.into()) };
        if !files::try_write_lock(own, ALIVE)? {
            return Err(ErrorKind::ResourceBusy.into());
        }
        files::write(own, content.as_bytes())?;
        files::replace_at(&directory, &draft, &name)
    };
    if let Err(error) = finish() {
        let _ = files::unlink_at(&directory, &draft);
        return Err(error);
    }
    Ok(Published { directory, name, content, file })
}

impl Published {
    /// Marks the page as outdated, or no longer. If that fails, the next attempt may succeed.
    fn mark(&self, is_outdated: bool) {
        match self.file.file() {
            Some(file) if is_outdated => _ = files::try_write_lock(file, OUTDATED),
            Some(file) => files::unmark(file, OUTDATED),
            None => {}
        }
    }

    /// Whether the file has lost its name.
    fn is_lost(&self) -> bool {
        self.file.file().is_none_or(|file| file.metadata().is_ok_and(|metadata| metadata.nlink() == 0))
    }
}

/// Waits for the lock, but not for long.
fn wait_for_page() -> Option<MutexGuard<'static, Option<Published>>> {
    let published = published()?;
    for _ in 0..LOOKS {
        match published.try_lock() {
            Ok(published) => return Some(published),
            Err(TryLockError::Poisoned(published)) => return Some(published.into_inner()),
            // The page is being written. But an exit never hangs, also if the disk does.
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
        }
    }
    None
}

/// Removes the page of this process, which publishes no other one until it records again.
pub(crate) fn withdraw() {
    if let Some(mut published) = wait_for_page() {
        remove(&mut published);
    }
}

fn remove(published: &mut Option<Published>) {
    if let Some(own) = published.take() {
        let removed = files::unlink_at(&own.directory, &own.name);
        if removed.is_err() && !own.is_lost() {
            own.mark(true);
            *published = Some(own);
        }
    }
}

/// The process exits. If it has not set an event that it had declared to set, a page stays that
/// says so.
fn leave() {
    let Some(mut published) = wait_for_page() else { return };
    match json::last_page().filter(|_| State::now().records()) {
        // If that fails, the page stays that was there.
        Some(content) => *published = replacement(published.as_ref(), content).ok().or(published.take()),
        None => remove(&mut published),
    }
}

/// A page: the process that published it, and its text, which that process alone is to be trusted
/// for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageOfWaits {
    /// The number of the process, in the PID namespace of this one; `None` if it is in another.
    pub pid: Option<u32>,
    /// The process has ended without removing the page, or executes another program. Its waits have ended
    /// with it.
    pub has_ended: bool,
    /// The process lives, and cannot replace the page, for example because the disk is full.
    pub is_outdated: bool,
    /// The user who owns the file; `None` if it is this one.
    pub user: Option<u32>,
    /// JSON, if the process has written it.
    pub text: String,
}

/// The pages, in the order of the numbers of their processes: those of living ones, and of those that
/// have ended before they had done what they had declared. Pages of other users are left out; root
/// gets them too, if their processes run as these users. What is no page is left out, too.
///
/// # Errors
///
/// If the directory cannot be read.
pub fn pages(path: &Path) -> Result<Vec<PageOfWaits>, Error> {
    let Some(directory) = directory::open_directory(path)? else { return Ok(Vec::new()) };
    let failed = |error| Error::system("read", path, error);
    let mut pages = Vec::new();
    let (mut own, mut others) = (0..MOST_OWN, 0..MOST_OTHERS);
    for file in fs::read_dir(path).map_err(failed)? {
        let name = file.map_err(failed)?.file_name();
        if let Some((pid, namespace)) = parse(&name) {
            // The lock of a page ends when the next version replaces it: then that one is read.
            let mut reads = (0..READS).filter_map(|_| read(&directory, &name).ok()?);
            let Some(page) = reads.next().filter(|page| !page.has_ended || has_declared(&page.text)) else { continue };
            let pid = (namespace == process::pid_namespace()).then_some(pid);
            let mut page = PageOfWaits { pid, ..page };
            page.user = page.user.filter(|user| *user != files::user());
            let rest = if page.user.is_none() { &mut own } else { &mut others };
            if page.is_credible() && rest.next().is_some() {
                pages.push(page);
            }
        }
    }
    pages.sort_by_key(|page| (page.pid.is_none(), page.pid));
    Ok(pages)
}

impl PageOfWaits {
    /// Whether a process of that number may have written it. Of another PID namespace, or of a process
    /// that has ended, nobody can tell: then the user of the page is all that is known.
    fn is_credible(&self) -> bool {
        match (self.user, self.pid) {
            (Some(user), Some(pid)) if !self.has_ended => process::user_of(pid) == Some(user),
            _ => true,
        }
    }
}

/// The process and its PID namespace, by the name of its page.
fn parse(name: &OsStr) -> Option<(u32, u32)> {
    let (pid, namespace) = name.to_str()?.strip_prefix(PREFIX)?.split_once('-')?;
    // Not a second name of the same process, such as 007.
    let number = |text: &str| text.parse().ok().filter(|number: &u32| number.to_string() == text);
    Some((number(pid)?, number(namespace)?))
}

/// The name of the page that a draft was for.
fn of_draft(name: &OsStr) -> Option<&OsStr> {
    let (page, _) = name.to_str()?.strip_suffix(DRAFT)?.rsplit_once('-')?;
    Some(OsStr::new(page))
}

/// Opens a file of the directory, if it is a regular one, and of this user. Root opens those of other
/// users too.
fn open(directory: &File, name: &OsStr) -> io::Result<Option<File>> {
    let name = CString::new(name.as_bytes())?;
    let there = files::open_at(directory, &name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let metadata = there.metadata()?;
    if !metadata.is_file() || ![0, metadata.uid()].contains(&files::user()) {
        return Ok(None);
    }
    // Its owner may have a lease on it, for the end of which another open would wait.
    let path = format!("/proc/self/fd/{}", there.as_raw_fd());
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map(Some)
}

/// Reads a page. `None` if it was replaced meanwhile, or if it is no page.
fn read(directory: &File, name: &OsStr) -> io::Result<Option<PageOfWaits>> {
    let Some(file) = open(directory, name)? else { return Ok(None) };
    let is_locked = |Range { start, length }| files::is_write_locked(&file, start..start + length);
    let has_ended = !is_locked(ALIVE)?;
    let is_outdated = !has_ended && is_locked(OUTDATED)?;
    // A living process unlocks a page only after that has lost its name.
    let metadata = file.metadata()?;
    if metadata.len() > LONGEST || metadata.nlink() == 0 {
        return Ok(None);
    }
    if has_ended && !metadata.modified().is_ok_and(is_recent) {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(Some(PageOfWaits { pid: None, has_ended, is_outdated, user: Some(metadata.uid()), text }))
}

/// Whether a page contains a declaration of its process to set an event. (In a text of JSON, a
/// quote has a backslash before it.)
fn has_declared(page: &str) -> bool {
    page.contains("\"declared\":[{")
}

/// How many pages of dead processes stay that have declared something, and for how long at most.
const KEPT: usize = 16;
const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

fn is_recent(at: SystemTime) -> bool {
    // A moment in the future: the clock was set.
    at.elapsed().map_or(true, |age| age < KEPT_FOR)
}

/// Removes the pages and drafts that dead processes of this user and this PID namespace have left. The
/// last pages stay that say what their processes had declared to do: others may wait for that.
fn remove_dead(directory: &File, path: &Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    let mut kept = Vec::new();
    for name in entries.filter_map(Result::ok).map(|entry| entry.file_name()) {
        let page = of_draft(&name).unwrap_or(&name);
        let Some((pid, namespace)) = parse(page) else { continue };
        let Ok(Some(file)) = open(directory, &name) else { continue };
        let is_own = file.metadata().is_ok_and(|metadata| metadata.uid() == files::user());
        // A page has its lock before its name, in whatever namespace its process is. A draft has not.
        let is_dead = || match page == name.as_os_str() {
            true => files::is_write_locked(&file, 0..1).is_ok_and(|is_locked| !is_locked),
            false => namespace == process::pid_namespace() && !process::exists(pid),
        };
        if !is_own || !is_dead() {
            continue;
        }
        let written = || file.metadata().and_then(|metadata| metadata.modified()).ok();
        let declares = || read(directory, &name).is_ok_and(|page| page.is_some_and(|page| has_declared(&page.text)));
        let Ok(own_name) = CString::new(name.as_bytes()) else { continue };
        match written().filter(|at| is_recent(*at)).filter(|_| page == name.as_os_str() && declares()) {
            Some(at) => kept.push((at, own_name)),
            None => _ = files::unlink_at(directory, &own_name),
        }
    }
    kept.sort();
    kept.iter().rev().skip(KEPT).for_each(|(_, name)| _ = files::unlink_at(directory, name));
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "forks")]
    fn a_page_is_written_although_another_thread_forks_at_that_moment() {
        let home = tempfile::tempdir().unwrap();
        let directory = directory::open_directory(home.path()).unwrap().unwrap();
        let opened = Cell::new(0);
        let file = Unforked::open(|| {
            let file = create(&directory, c".waits-1-1-1.new")?;
            if opened.replace(opened.get() + 1) == 0 {
                // The standard library forks only if the user is to be another one.
                assert!(Command::new("true").uid(files::user()).status()?.success());
            }
            Ok(file)
        });
        let metadata = file.unwrap().file().unwrap().metadata().unwrap();
        assert_eq!((opened.get(), metadata.nlink()), (2, 1), "the second one has the name");
    }
}

//! Files that are waited for: inotify on the directories on the way to them.
//!
//! A file may appear because it is made, because a directory above it is made, renamed or mounted, or because a
//! symbolic link on the way is replaced. So each directory on the way is watched, as far as it exists, and the way is
//! followed again after each change. Only the last of them, and those with symbolic links, are watched for changes of
//! their entries, because those above may be busy (`/tmp`). The others are watched for their own end. A directory is
//! watched before it is looked into, so that no change is missed.
//!
//! The kernel does not report changes that another machine makes in a network file system, nor the removal of a
//! directory that a process still uses. So callers also look every [`NAP`].

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::mem::{MaybeUninit, take};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::stat;
use rustix::io::Errno;

use crate::failure::Failure;

/// How often to look for changes that the kernel does not report.
pub(crate) const NAP: Duration = Duration::from_secs(60);

/// As the kernel limits it.
const MOST_LINKS: usize = 40;

/// The files that do not exist yet.
pub(crate) struct Files {
    /// An index, and an absolute path.
    missing: Vec<(usize, PathBuf)>,
    pub(crate) notices: OwnedFd,
    /// Reports changes of the mounts. `None` without `/proc`.
    pub(crate) mounts: Option<File>,
    watches: HashSet<i32>,
    /// The names on the way to the missing files. Changes of others do not matter.
    names: HashSet<OsString>,
}

impl Files {
    pub(crate) fn new(files: impl Iterator<Item = (usize, PathBuf)>) -> Result<Files, Failure> {
        let failed = |error: std::io::Error| Failure::internal(format!("cannot watch files: {error}"));
        let mut missing = Vec::new();
        for (index, path) in files {
            missing.push((index, std::path::absolute(path).map_err(failed)?));
        }
        let notices = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| cannot_watch("files", error))?;
        let mounts = File::open("/proc/self/mountinfo").ok();
        Ok(Files { missing, notices, mounts, watches: HashSet::new(), names: HashSet::new() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty()
    }

    /// Whether the kernel has reported a change that may matter.
    pub(crate) fn has_changed(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4 * 1024];
        let mut reader = inotify::Reader::new(&self.notices, &mut buffer);
        let mut has_changed = false;
        loop {
            match reader.next() {
                // The kernel has dropped notices.
                Ok(notice) if notice.events().contains(ReadFlags::QUEUE_OVERFLOW) => has_changed = true,
                // Of a watch that was given up.
                Ok(notice) if !self.watches.contains(&notice.wd()) => {}
                Ok(notice) => {
                    let name = notice.file_name().map(|name| os_string(name.to_bytes()));
                    has_changed |= name.is_none_or(|name| self.names.contains(&name));
                }
                Err(Errno::INTR) => {}
                Err(_) => return has_changed,
            }
        }
    }

    /// Returns those that exist by now, and watches the ways to the others.
    pub(crate) fn look(&mut self) -> Result<Vec<usize>, Failure> {
        let before = take(&mut self.watches);
        self.names.clear();
        let mut found = Vec::new();
        for (index, path) in take(&mut self.missing) {
            if exists(&path)? || { self.watch_way(&path)? } || exists(&path)? {
                found.push(index);
            } else {
                self.missing.push((index, path));
            }
        }
        for &watch in before.difference(&self.watches) {
            // The kernel removes the watches of removed directories itself.
            let _ = inotify::remove_watch(&self.notices, watch);
        }
        Ok(found)
    }

    /// Watches the directories on the way to the file, as far as they exist. Always `false`, if it succeeds.
    fn watch_way(&mut self, path: &Path) -> Result<bool, Failure> {
        let mut left = names(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            let next = at.join(&name);
            self.names.insert(name);
            // A path that cannot be watched matters only if nothing below it exists.
            let mut watched = self.watch(&at, WatchFlags::empty());
            let mut found = fs::symlink_metadata(&next);
            if !found.as_ref().is_ok_and(Metadata::is_dir) {
                let entries = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
                watched = self.watch(&at, entries);
                found = fs::symlink_metadata(&next);
            }
            match found {
                Ok(file) if file.is_dir() => at = next,
                Ok(file) if file.is_symlink() && links < MOST_LINKS => {
                    links += 1;
                    // If it was replaced just now, a notice comes.
                    let Ok(target) = fs::read_link(&next) else { return Ok(false) };
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    names(&target).into_iter().rev().for_each(|name| left.push_front(name));
                }
                _ => {
                    return match watched {
                        // The directory was removed just now, of which it gives notice itself.
                        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
                        Err(error) => Err(cannot_watch(&at.display().to_string(), error)),
                    };
                }
            }
        }
        Ok(false)
    }

    /// Watches the directory for its own end, and for these changes of its entries, beside those of another file.
    fn watch(&mut self, directory: &Path, entries: WatchFlags) -> Result<(), Errno> {
        let own = WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        let flags = entries | own | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD;
        let watch = inotify::add_watch(&self.notices, directory, flags)?;
        self.watches.insert(watch);
        Ok(())
    }
}

/// Whether the file exists, as `test -e` decides it.
fn exists(path: &Path) -> Result<bool, Failure> {
    match stat(path) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
        Err(error @ Errno::NAMETOOLONG) => Err(Failure::usage(format!("{}: {error}", path.display()))),
        Err(error) => Err(Failure::internal(format!("cannot tell whether {} exists: {error}", path.display()))),
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    let is_step = |component: &Component<'_>| matches!(component, Component::Normal(_) | Component::ParentDir);
    path.components().filter(is_step).map(|component| component.as_os_str().to_owned()).collect()
}

fn os_string(bytes: &[u8]) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(bytes.to_vec())
}

fn cannot_watch(what: &str, error: Errno) -> Failure {
    let what_to_do = match error {
        Errno::NOSPC => " (raise the sysctl fs.inotify.max_user_watches)",
        Errno::MFILE => " (raise the sysctl fs.inotify.max_user_instances, or the limit of open files)",
        Errno::ACCESS => " (to wait for a file, its directory must be readable)",
        _ => "",
    };
    Failure::internal(format!("cannot watch {what}: {error}{what_to_do}"))
}

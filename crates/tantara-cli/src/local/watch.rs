//! `watch` in a directory: a task for each event, and inotify for new events.
//!
//! A task remembers the state that it printed last, and waits until the state of the event differs. The state contains
//! a counter of sets, so none is missed. Sets that follow each other faster than the task runs are printed in one
//! line.

use std::collections::HashSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tantara::{SharedEvent, State};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout_at;

use super::directory::{Directory, origin};
use crate::events::printer::{Ended, Line, Printer};
use crate::failure::Failure;
use crate::output;

/// Prints the changes of these events, or of all events of the directory, until enough lines were printed or the time
/// is over.
pub(crate) fn watch(
    place: &Directory,
    names: &[String],
    print: &Rc<Printer>,
    deadline: Option<Instant>,
) -> Result<Ended, Failure> {
    let failed = |error: io::Error| Failure::internal(format!("{}: cannot be watched: {error}", place.shown()));
    make(place.path(), place.mode()).map_err(|error| match place.path().parent() {
        Some(above) if error.kind() == io::ErrorKind::NotFound && !above.as_os_str().is_empty() => {
            let (place, above) = (place.shown(), above.display());
            Failure::internal(format!("{place}: cannot be made: there is no directory {above}; create it"))
        }
        _ => failed(error),
    })?;
    if !place.is_there()? {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    // Before the events are listed, so that no event that is created meanwhile is missed.
    let mut arrivals = arrivals(place).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
    let is_wanted = |name: &String| names.is_empty() || names.contains(name);
    let tasks = async {
        let mut watched = Watched { files: HashSet::new(), tasks: JoinSet::new(), print: Rc::clone(print) };
        for name in place.names().iter().filter(|name| is_wanted(name)) {
            watched.begin(place, name, SharedEvent::state)?;
        }
        if names.is_empty() && output::is_watched() {
            output::note(format_args!("watching {} events in {}", watched.files.len(), place.shown()));
        }
        loop {
            tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some(Arrival::File(name)) if is_wanted(&name) => {
                        watched.begin(place, &name, |_| State::default())?;
                    }
                    Some(Arrival::File(_)) => {}
                    Some(Arrival::Unknown) => {
                        for name in place.names().iter().filter(|name| is_wanted(name)) {
                            watched.begin(place, name, |_| State::default())?;
                        }
                    }
                    None => return Err(Failure::internal("the directory cannot be watched any more")),
                },
                Some(ended) = watched.tasks.join_next() => match ended.map_err(Failure::internal)?? {
                    Some(key) => _ = watched.files.remove(&key),
                    None => return Ok(Ended::Enough),
                },
            }
        }
    };
    let tasks = async {
        match deadline {
            Some(deadline) => timeout_at(deadline.into(), tasks).await.unwrap_or(Ok(Ended::TimedOut)),
            None => tasks.await,
        }
    };
    LocalSet::new().block_on(&runtime, tasks)
}

/// Creates the directory, as the first event in it would.
fn make(directory: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Identifies a file, whatever its name: device and inode number.
type FileId = (u64, u64);

/// A file may have several names, and may be renamed.
type Key = (String, FileId);

struct Watched {
    files: HashSet<Key>,
    /// Each ends when its event was removed, or with `None` when enough lines were printed.
    tasks: JoinSet<Result<Option<Key>, Failure>>,
    print: Rc<Printer>,
}

impl Watched {
    /// Watches one more event, unless it is watched already or was removed again. `first` returns the state from which
    /// changes are printed.
    fn begin(&mut self, place: &Directory, name: &str, first: impl Fn(&SharedEvent) -> State) -> Result<(), Failure> {
        let event = match place.find_shared(name) {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(()),
            // Not an event.
            Err(failure) => {
                output::note(format_args!("{failure}"));
                return Ok(());
            }
        };
        let Ok(file) = identify(&event) else { return Ok(()) };
        let key = (name.to_owned(), file);
        if self.files.insert(key.clone()) {
            let state = first(&event);
            let print = Rc::clone(&self.print);
            self.tasks.spawn_local(async move {
                let ended = follow(&event, &key.0, state, &print).await?;
                Ok(if ended { None } else { Some(key) })
            });
        }
        Ok(())
    }
}

fn identify(event: &SharedEvent) -> io::Result<FileId> {
    use std::os::fd::AsFd;
    let metadata = File::from(event.as_fd().try_clone_to_owned()?).metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Prints every change until the event is removed, or until enough lines were printed (`true`).
async fn follow(event: &SharedEvent, name: &str, mut before: State, print: &Printer) -> Result<bool, Failure> {
    loop {
        let after = match event.changed(before).await {
            Ok(after) => after,
            // Its file was deleted by other means than `remove`.
            Err(error) if error.is_removed() => {
                return print.line(&Line { change: "removed", ..line_of(event, name, before, before) });
            }
            Err(error) => return Err(Failure::of_event(error)),
        };
        let change = line_of(event, name, before, after);
        // The state of a truncated file is not a change of the event.
        let is_change = change.sets > 0 || (before.is_set() != after.is_set() && !after.is_removed());
        if is_change && print.line(&change)? {
            return Ok(true);
        }
        if after.is_removed() {
            return print.line(&Line { change: "removed", sets: 0, by: None, ..change });
        }
        before = after;
    }
}

/// What is printed of a change.
fn line_of<'a>(event: &SharedEvent, name: &'a str, before: State, after: State) -> Line<'a> {
    let sets = after.sets_since(before);
    let change = match (before.is_set(), after.is_set()) {
        (_, true) => "set",
        (true, false) => "cleared",
        (false, false) => "pulsed",
    };
    let by = event.last_set().ok().flatten().filter(|_| sets > 0).map(origin);
    let state = if after.is_set() { "set" } else { "unset" };
    Line { at: SystemTime::now(), name, change, state, sets, by }
}
/// A new file in the directory.
enum Arrival {
    File(String),
    /// The kernel has dropped notifications.
    Unknown,
}

/// Reports files that appear in the directory from now on. A thread of its own reads the notifications.
fn arrivals(place: &Directory) -> io::Result<mpsc::UnboundedReceiver<Arrival>> {
    let notices = inotify::init(CreateFlags::CLOEXEC)?;
    listen(&notices, place.path())?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let (directory, mode) = (place.path().to_owned(), place.mode());
    std::thread::Builder::new().name("arrivals".into()).spawn(move || read(&notices, &directory, mode, &sender))?;
    Ok(receiver)
}

fn listen(notices: &OwnedFd, directory: &Path) -> io::Result<()> {
    inotify::add_watch(notices, directory, WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR)?;
    Ok(())
}

fn read(notices: &OwnedFd, directory: &Path, mode: u32, sender: &mpsc::UnboundedSender<Arrival>) {
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut reader = inotify::Reader::new(notices, &mut buffer);
    loop {
        let arrival = match reader.next() {
            Ok(notice) if notice.events().contains(ReadFlags::QUEUE_OVERFLOW) => Arrival::Unknown,
            // The directory itself was removed. Create it again, as in the beginning.
            Ok(notice) if notice.events().contains(ReadFlags::IGNORED) => {
                if make(directory, mode).and_then(|()| listen(notices, directory)).is_err() {
                    return;
                }
                Arrival::Unknown
            }
            Ok(notice) => match notice.file_name().map(|name| name.to_string_lossy().into_owned()) {
                Some(name) if SharedEvent::check_name(&name).is_ok() => Arrival::File(name),
                _ => continue,
            },
            Err(error) if error == rustix::io::Errno::INTR => continue,
            Err(_) => return,
        };
        if sender.send(arrival).is_err() {
            return;
        }
    }
}

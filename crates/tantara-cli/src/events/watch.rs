//! `tantara watch`: a task for each event, and inotify for new events.
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
use std::time::SystemTime;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use serde::Serialize;
use tantara::{SharedEvent, State};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

use crate::events::place::{Directory, Place, Region};
use crate::events::text;
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(place: &Place, names: &[String], json: bool) -> Result<(), Failure> {
    match place {
        Place::Directory(directory) => watch_directory(directory, names, json),
        Place::Cluster(region) => watch_cluster(place, region, names, json),
    }
}

fn watch_cluster(place: &Place, region: &Region, names: &[String], json: bool) -> Result<(), Failure> {
    let print: Print = if json { print_json } else { print_text };
    let changes = region.cluster.changes().map_err(Failure::of_cluster)?;
    if names.is_empty() && output::is_watched() {
        output::note(format_args!("watching {}", place.shown()));
    }
    let _outages = place.report_outages();
    for change in changes {
        let change = change.map_err(Failure::of_cluster)?;
        if !names.is_empty() && !names.contains(&change.name) {
            continue;
        }
        let what = match (change.is_removed, change.is_set, change.sets) {
            (true, ..) => "removed",
            (_, true, _) => "set",
            (_, false, 0) => "cleared",
            (_, false, _) => "pulsed",
        };
        let sets = u32::try_from(change.sets).unwrap_or(u32::MAX);
        let state = if change.is_set { "set" } else { "unset" };
        print(&Change { at: SystemTime::now(), name: &change.name, change: what, state, sets, pid: None })?;
    }
    Ok(())
}

fn watch_directory(place: &Directory, names: &[String], json: bool) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::internal(format!("{}: cannot be watched: {error}", place.path.display()));
    make(&place.path, place.mode()).map_err(failed)?;
    // Before the events are listed, so that no event that is created meanwhile is missed.
    let mut arrivals = arrivals(place).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(failed)?;
    let print: Print = if json { print_json } else { print_text };
    let is_wanted = |name: &String| names.is_empty() || names.contains(name);
    let tasks = async {
        let mut watched = Watched::default();
        for name in place.names().iter().filter(|name| is_wanted(name)) {
            watched.begin(place, name, print, SharedEvent::state)?;
        }
        if names.is_empty() && output::is_watched() {
            output::note(format_args!("watching {} events in {}", watched.files.len(), place.path.display()));
        }
        loop {
            tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some(Arrival::File(name)) if is_wanted(&name) => {
                        watched.begin(place, &name, print, |_| State::default())?;
                    }
                    Some(Arrival::File(_)) => {}
                    Some(Arrival::Unknown) => {
                        for name in place.names().iter().filter(|name| is_wanted(name)) {
                            watched.begin(place, name, print, |_| State::default())?;
                        }
                    }
                    None => return Err(Failure::internal("the directory cannot be watched any more")),
                },
                Some(ended) = watched.tasks.join_next() => {
                    let key = ended.map_err(Failure::internal)??;
                    watched.files.remove(&key);
                }
            }
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

#[derive(Default)]
struct Watched {
    files: HashSet<Key>,
    tasks: JoinSet<Result<Key, Failure>>,
}

type Print = fn(&Change<'_>) -> Result<(), Failure>;

impl Watched {
    /// Watches one more event, unless it is watched already or was removed again. `first` returns the state from which
    /// changes are printed.
    fn begin(
        &mut self,
        place: &Directory,
        name: &str,
        print: Print,
        first: impl Fn(&SharedEvent) -> State,
    ) -> Result<(), Failure> {
        let event = match place.find(name) {
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
            self.tasks.spawn_local(async move { follow(&event, &key.0, state, print).await.map(|()| key) });
        }
        Ok(())
    }
}

fn identify(event: &SharedEvent) -> io::Result<FileId> {
    use std::os::fd::AsFd;
    let metadata = File::from(event.as_fd().try_clone_to_owned()?).metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Prints every change until the event is removed.
async fn follow(event: &SharedEvent, name: &str, mut before: State, print: Print) -> Result<(), Failure> {
    loop {
        let after = match event.changed(before).await {
            Ok(after) => after,
            // Its file was deleted by other means than `remove`.
            Err(error) if error.is_removed() => {
                return print(&Change { change: "removed", ..Change::new(event, name, before, before) });
            }
            Err(error) => return Err(Failure::of_event(error)),
        };
        let change = Change::new(event, name, before, after);
        // The state of a truncated file is not a change of the event.
        if change.sets > 0 || (before.is_set() != after.is_set() && !after.is_removed()) {
            print(&change)?;
        }
        if after.is_removed() {
            return print(&Change { change: "removed", sets: 0, ..change });
        }
        before = after;
    }
}

/// The content of a line.
#[derive(Serialize, Clone, Copy)]
struct Change<'a> {
    #[serde(serialize_with = "as_moment")]
    at: SystemTime,
    name: &'a str,
    change: &'static str,
    state: &'static str,
    /// The number of sets that the line reports.
    sets: u32,
    /// The process that set it last, if the line reports a set and the process is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
}

fn as_moment<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text::moment(*time))
}

impl<'a> Change<'a> {
    fn new(event: &SharedEvent, name: &'a str, before: State, after: State) -> Change<'a> {
        let sets = after.sets_since(before);
        let change = match (before.is_set(), after.is_set()) {
            (_, true) => "set",
            (true, false) => "cleared",
            (false, false) => "pulsed",
        };
        let pid = event.last_set().ok().flatten().filter(|_| sets > 0).and_then(|last| last.pid);
        let state = if after.is_set() { "set" } else { "unset" };
        Change { at: SystemTime::now(), name, change, state, sets, pid }
    }
}

fn print_text(change: &Change<'_>) -> Result<(), Failure> {
    let Change { at, name, change: what, sets, pid, .. } = *change;
    // One set per line is the usual case, and needs no number.
    let merged = match (what, sets) {
        ("cleared", 1..) | (_, 2..) => format!(" ({sets} {} merged)", if sets == 1 { "set" } else { "sets" }),
        _ => String::new(),
    };
    let by = pid.map(|pid| format!(" by {pid}")).unwrap_or_default();
    output::line(format_args!("{} {name} {what}{by}{merged}", text::moment(at)));
    output::flush();
    Ok(())
}

fn print_json(change: &Change<'_>) -> Result<(), Failure> {
    let json = serde_json::to_string(change).map_err(Failure::internal)?;
    output::line(format_args!("{json}"));
    output::flush();
    Ok(())
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
    listen(&notices, &place.path)?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let (directory, mode) = (place.path.clone(), place.mode());
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

//! `tantara watch`: a task for each event, and inotify for new events.
//!
//! A task remembers the state that it printed last, and waits until the state of the event differs. The state contains
//! a counter of sets, so none is missed. Sets that follow each other faster than the task runs are printed in one
//! line.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use serde::Serialize;
use serde::ser::SerializeMap;
use tantara::{SharedEvent, State};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout_at;

use crate::events::args::Watch;
use crate::events::origin::Origin;
use crate::events::place::{Directory, Place, Region};
use crate::events::text;
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(place: &Place, watch: &Watch, began: Instant) -> Result<(), Failure> {
    let print = Rc::new(Printer { is_json: watch.json, left: Cell::new(watch.most) });
    // A deadline that no clock reaches is none.
    let deadline = watch.timeout.and_then(|timeout| began.checked_add(timeout));
    if watch.timeout == Some(Duration::ZERO) {
        return Err(timed_out(watch, &print));
    }
    let ended = match place {
        Place::Directory(directory) => watch_directory(directory, watch, &print, deadline)?,
        Place::Cluster(region) => watch_cluster(place, region, watch, &print, deadline)?,
    };
    match ended {
        Ended::Enough => Ok(()),
        Ended::TimedOut => Err(timed_out(watch, &print)),
    }
}

/// Why the watch is over.
enum Ended {
    /// The lines of `-n` were printed.
    Enough,
    TimedOut,
}

/// Reports the timeout, if it has cut a number of lines short.
fn timed_out(watch: &Watch, print: &Printer) -> Failure {
    if let (Some(most), Some(left)) = (watch.most, print.left.get()) {
        let after = text::length(watch.timeout.unwrap_or_default());
        output::note(format_args!("timed out after {after}: {} of {most} changes", most - left));
    }
    Failure::timed_out()
}

fn watch_cluster(
    place: &Place,
    region: &Region,
    watch: &Watch,
    print: &Printer,
    deadline: Option<Instant>,
) -> Result<Ended, Failure> {
    let names = &watch.names;
    let mut changes = region.cluster.changes().map_err(Failure::of_cluster)?;
    if names.is_empty() && output::is_watched() {
        output::note(format_args!("watching {}", place.shown()));
    }
    let _outages = place.report_outages();
    loop {
        let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        let Some(change) = changes.next_timeout(left).map_err(Failure::of_cluster)? else {
            return Ok(Ended::TimedOut);
        };
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
        let by = change.last_set.map(Origin::from);
        if print.line(&Change { at: SystemTime::now(), name: &change.name, change: what, state, sets, by })? {
            return Ok(Ended::Enough);
        }
    }
}

fn watch_directory(
    place: &Directory,
    watch: &Watch,
    print: &Rc<Printer>,
    deadline: Option<Instant>,
) -> Result<Ended, Failure> {
    let names = &watch.names;
    let failed = |error: io::Error| Failure::internal(format!("{}: cannot be watched: {error}", place.path.display()));
    make(&place.path, place.mode()).map_err(failed)?;
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
            output::note(format_args!("watching {} events in {}", watched.files.len(), place.path.display()));
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
                return print.line(&Change { change: "removed", ..Change::new(event, name, before, before) });
            }
            Err(error) => return Err(Failure::of_event(error)),
        };
        let change = Change::new(event, name, before, after);
        // The state of a truncated file is not a change of the event.
        let is_change = change.sets > 0 || (before.is_set() != after.is_set() && !after.is_removed());
        if is_change && print.line(&change)? {
            return Ok(true);
        }
        if after.is_removed() {
            return print.line(&Change { change: "removed", sets: 0, by: None, ..change });
        }
        before = after;
    }
}

/// The content of a line.
#[derive(Serialize)]
struct Change<'a> {
    #[serde(serialize_with = "as_moment")]
    at: SystemTime,
    name: &'a str,
    change: &'static str,
    state: &'static str,
    /// The number of sets that the line reports.
    sets: u32,
    /// The last set, if the line reports one.
    #[serde(flatten, serialize_with = "as_last_set")]
    by: Option<Origin>,
}

/// The process of the last set, as far as it is known, and its note.
fn as_last_set<S: serde::Serializer>(by: &Option<Origin>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    if let Some(by) = by {
        by.pid.map_or(Ok(()), |pid| map.serialize_entry("pid", &pid))?;
        by.host.as_ref().map_or(Ok(()), |host| map.serialize_entry("host", host))?;
        by.note.as_ref().map_or(Ok(()), |note| map.serialize_entry("note", note))?;
    }
    map.end()
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
        let by = event.last_set().ok().flatten().filter(|_| sets > 0).map(Origin::from);
        let state = if after.is_set() { "set" } else { "unset" };
        Change { at: SystemTime::now(), name, change, state, sets, by }
    }
}

/// Prints changes, in one form, and counts the lines.
struct Printer {
    is_json: bool,
    /// The number of lines that are left; `None` for no limit.
    left: Cell<Option<u64>>,
}

impl Printer {
    /// Prints a line. Whether it was the last one.
    fn line(&self, change: &Change<'_>) -> Result<bool, Failure> {
        // Another task may have printed the last one.
        if self.left.get() == Some(0) {
            return Ok(true);
        }
        if self.is_json {
            let json = serde_json::to_string(change).map_err(Failure::internal)?;
            let json = text::json(&json);
            output::line(format_args!("{json}"));
        } else {
            print_text(change);
        }
        output::flush();
        self.left.set(self.left.get().map(|left| left - 1));
        Ok(self.left.get() == Some(0))
    }
}

fn print_text(change: &Change<'_>) {
    let Change { at, name, change: what, sets, .. } = *change;
    // One set per line is the usual case, and needs no number.
    let merged = match (what, sets) {
        ("cleared", 1..) | (_, 2..) => format!(" ({sets} {} merged)", if sets == 1 { "set" } else { "sets" }),
        _ => String::new(),
    };
    let last = change.by.as_ref();
    let by = last.filter(|last| last.pid.is_some()).map(|last| format!(" by {}", last.process())).unwrap_or_default();
    let note = last.and_then(|last| last.note.as_ref()).map(|note| format!(": {}", text::shown(note)));
    output::line(format_args!("{} {name} {what}{by}{merged}{}", text::moment(at), note.unwrap_or_default()));
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

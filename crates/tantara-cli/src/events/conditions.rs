//! Conditions that `wait` waits for beside events: that a process has ended, that a file exists, that a server accepts
//! connections.
//!
//! Each is an [`Event`] of this process, which is set once the condition has held. One thread sleeps for all processes
//! and files; each server has a thread of its own, because resolving a name blocks.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tantara::{Event, any};

use crate::events::files::{Files, NAP};
use crate::events::tcp::{Refusal, Target};
use crate::failure::Failure;
use crate::output;

/// The pauses between attempts to connect.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The time limit of an attempt to connect when there is no wait.
const LOOK: Duration = Duration::from_secs(1);

/// A host that cannot be resolved for this long is reported.
const REPORT_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) enum Kind {
    /// The process has ended.
    Pid(Pid),
    /// The file exists.
    File(PathBuf),
    /// The server accepts connections.
    Tcp(Target),
}

impl Kind {
    /// The option that names it, with a path as it was given. No event's name begins with `-`.
    pub(crate) fn as_option(&self) -> Vec<u8> {
        match self {
            Kind::Pid(pid) => format!("--pid={}", pid.as_raw_nonzero()).into_bytes(),
            Kind::File(path) => [b"--file=", path.as_os_str().as_bytes()].concat(),
            Kind::Tcp(target) => format!("--tcp={target}").into_bytes(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) kind: Kind,
    /// Set once the condition has held.
    pub(crate) has_held: Event,
    /// Set once it is known whether it holds.
    was_tried: Event,
    /// Why a server was not reached.
    refusal: Mutex<Option<Refusal>>,
}

impl Condition {
    fn new(kind: Kind) -> Condition {
        Condition { kind, has_held: Event::new(), was_tried: Event::new(), refusal: Mutex::new(None) }
    }

    /// Whether it holds, for a caller who does not wait: after one attempt.
    pub(crate) fn holds_now(&self) -> bool {
        if matches!(self.kind, Kind::Tcp(_)) {
            let _ = any([&self.has_held, &self.was_tried]).wait_timeout(LOOK);
        }
        self.has_held.is_set()
    }

    /// What a wait that has timed out says of it.
    pub(crate) fn failing(&self) -> String {
        match &self.kind {
            Kind::Pid(pid) => format!("process {} has not ended", pid.as_raw_nonzero()),
            Kind::File(path) => format!("{} does not exist", path.display()),
            Kind::Tcp(target) => match &*self.refusal.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(refusal) => format!("{target} not reached: {refusal}"),
                None => format!("{target} not reached"),
            },
        }
    }

    /// What a wait says that it waits for.
    pub(crate) fn waiting(&self) -> String {
        match &self.kind {
            Kind::Pid(pid) => format!("the end of process {}", pid.as_raw_nonzero()),
            Kind::File(path) => format!("the file {}", path.display()),
            Kind::Tcp(target) => match &*self.refusal.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(refusal) => format!("a connection to {target} ({refusal})"),
                None => format!("a connection to {target}"),
            },
        }
    }

    /// Connects until the server accepts.
    fn connect(&self, target: &Target, is_quiet: bool) {
        let began = Instant::now();
        let mut pause = SHORTEST_PAUSE;
        let mut is_reported = is_quiet;
        loop {
            match target.attempt() {
                Ok(()) => return self.has_held.set(),
                Err(refusal) => {
                    if !is_reported && began.elapsed() >= REPORT_AFTER && matches!(refusal, Refusal::Unresolved(_)) {
                        output::note(format_args!("{target}: {refusal}; still trying"));
                        is_reported = true;
                    }
                    *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
                }
            }
            self.was_tried.set();
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Parses a process ID.
pub(crate) fn pid(text: &str) -> Result<Pid, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let pid = text.parse().ok().filter(|_| is_number).and_then(Pid::from_raw);
    pid.ok_or_else(|| "expected the ID of a process, a number from 1 on".to_owned())
}

/// Begins to observe the conditions. Fails if one of them cannot be observed. If one cannot be observed any more later,
/// the whole process fails.
pub(crate) fn begin(kinds: impl Iterator<Item = Kind>, is_quiet: bool) -> Result<Vec<Arc<Condition>>, Failure> {
    let conditions: Vec<Arc<Condition>> = kinds.map(|kind| Arc::new(Condition::new(kind))).collect();
    if conditions.is_empty() {
        return Ok(conditions);
    }
    let mut processes = Vec::new();
    let mut paths = Vec::new();
    for (index, condition) in conditions.iter().enumerate() {
        match &condition.kind {
            Kind::Pid(pid) => match open(*pid)? {
                Some(process) => processes.push((index, process)),
                None => condition.has_held.set(),
            },
            Kind::File(path) if path.as_os_str().is_empty() => {
                return Err(Failure::usage("--file needs the path of a file, not an empty one"));
            }
            Kind::File(path) => paths.push((index, path.clone())),
            Kind::Tcp(_) => {}
        }
    }
    let files = if paths.is_empty() { None } else { Some(Files::new(paths.into_iter())?) };
    let mut sleeper = Sleeper { conditions: conditions.clone(), processes, files };
    sleeper.look_for_files()?;
    sleeper.sleep(Some(Duration::ZERO))?;
    if !sleeper.is_done() {
        start("conditions", move || {
            while !sleeper.is_done() {
                if let Err(failure) = sleeper.sleep(sleeper.files.as_ref().map(|_| NAP)) {
                    output::note(format_args!("{failure}"));
                    exit(failure.code.into());
                }
            }
        })?;
    }
    for condition in &conditions {
        if let Kind::Tcp(target) = &condition.kind {
            let (condition, target) = (Arc::clone(condition), target.clone());
            start("connect", move || condition.connect(&target, is_quiet))?;
        }
    }
    Ok(conditions)
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let started = thread::Builder::new().name(name.into()).spawn(run);
    started.map(drop).map_err(|error| Failure::internal(format!("cannot start a thread: {error}")))
}

/// A descriptor of the process. `None` if there is no such process.
fn open(pid: Pid) -> Result<Option<OwnedFd>, Failure> {
    let number = pid.as_raw_nonzero();
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => Ok(Some(process)),
        Err(Errno::SRCH) => Ok(None),
        Err(Errno::INVAL | Errno::NOENT) => {
            Err(Failure::usage(format!("--pid {number}: this is a thread; give the ID of its process")))
        }
        Err(Errno::NOSYS) => Err(Failure::internal("--pid needs Linux 5.3 or later")),
        Err(error) => Err(Failure::internal(format!("cannot wait for process {number}: {error}"))),
    }
}

/// Sleeps until processes end and files appear.
struct Sleeper {
    conditions: Vec<Arc<Condition>>,
    /// The processes that have not ended, by the indices of the conditions.
    processes: Vec<(usize, OwnedFd)>,
    files: Option<Files>,
}

impl Sleeper {
    fn is_done(&self) -> bool {
        self.processes.is_empty() && self.files.is_none()
    }

    /// Sleeps until something has happened, or for as long as this; then it looks for files in any case.
    fn sleep(&mut self, longest: Option<Duration>) -> Result<(), Failure> {
        let longest = longest.and_then(|longest| Timespec::try_from(longest).ok());
        let mut sources: Vec<PollFd<'_>> =
            self.processes.iter().map(|(_, process)| PollFd::new(process, PollFlags::IN)).collect();
        if let Some(files) = &self.files {
            sources.push(PollFd::new(&files.notices, PollFlags::IN));
            sources
                .extend(files.mounts.as_ref().map(|mounts| PollFd::from_borrowed_fd(mounts.as_fd(), PollFlags::PRI)));
        }
        let is_timeout = match poll(&mut sources, longest.as_ref()) {
            Ok(count) => count == 0,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(Failure::internal(format!("cannot wait for conditions: {error}"))),
        };
        let has_happened: Vec<bool> = sources.iter().map(|source| !source.revents().is_empty()).collect();
        let of_files = &has_happened[self.processes.len()..];
        // The second one is that of the mounts.
        let is_look_due = self.files.as_ref().is_some_and(|files| {
            let has_changed = of_files.first() == Some(&true) && files.has_changed();
            is_timeout || has_changed || of_files.get(1) == Some(&true)
        });
        let mut ended = has_happened.iter();
        self.processes.retain(|(index, _)| {
            let has_ended = ended.next() == Some(&true);
            if has_ended {
                self.conditions[*index].has_held.set();
            }
            !has_ended
        });
        if is_look_due { self.look_for_files() } else { Ok(()) }
    }

    fn look_for_files(&mut self) -> Result<(), Failure> {
        let Some(files) = &mut self.files else { return Ok(()) };
        for index in files.look()? {
            self.conditions[index].has_held.set();
        }
        if files.is_empty() {
            self.files = None;
        }
        Ok(())
    }
}

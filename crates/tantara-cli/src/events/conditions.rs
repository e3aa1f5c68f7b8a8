//! Conditions that `wait` waits for beside events: that a process has ended, that a file exists, that a server accepts
//! connections.
//!
//! Each is an [`Event`] of this process, which is set once the condition has held. One thread sleeps for all processes
//! and files; each server has a thread of its own, because resolving a name blocks.

use std::path::PathBuf;
use std::process::exit;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tantara::{Event, any};

use crate::events::tcp::{Refusal, Target};
use crate::failure::Failure;
use crate::local::Observer;
use crate::lock::lock;
use crate::{output, system};

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
    Pid(u32),
    /// The file exists.
    File(PathBuf),
    /// The server accepts connections.
    Tcp(Target),
}

impl Kind {
    /// The option that names it, with a path as it was given. No event's name begins with `-`.
    pub(crate) fn as_option(&self) -> Vec<u8> {
        match self {
            Kind::Pid(pid) => format!("--pid={pid}").into_bytes(),
            Kind::File(path) => [b"--file=", &*system::bytes_of(path)].concat(),
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
            Kind::Pid(pid) => format!("process {pid} has not ended"),
            Kind::File(path) => format!("{} does not exist", path.display()),
            Kind::Tcp(target) => match &*lock(&self.refusal) {
                Some(refusal) => format!("{target} not reached: {refusal}"),
                None => format!("{target} not reached"),
            },
        }
    }

    /// What a wait says that it waits for.
    pub(crate) fn waiting(&self) -> String {
        match &self.kind {
            Kind::Pid(pid) => format!("the end of process {pid}"),
            Kind::File(path) => format!("the file {}", path.display()),
            Kind::Tcp(target) => match &*lock(&self.refusal) {
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
                    *lock(&self.refusal) = Some(refusal);
                }
            }
            self.was_tried.set();
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Parses a process ID.
pub(crate) fn pid(text: &str) -> Result<u32, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // The system's type has a sign.
    let pid = text.parse().ok().filter(|&pid| is_number && pid > 0 && i32::try_from(pid).is_ok());
    pid.ok_or_else(|| "expected the ID of a process, a number from 1 on".to_owned())
}

/// If the name of an event looks like a server or a process, the option that was probably meant. Users of similar
/// programs pass these without an option.
pub(crate) fn seemingly(name: &str) -> Option<(&'static str, &'static str)> {
    if Target::parse(name).is_ok() {
        Some(("server", "--tcp"))
    } else if pid(name).is_ok() {
        Some(("process", "--pid"))
    } else {
        None
    }
}

/// Begins to observe the conditions. Fails if one of them cannot be observed. If that becomes impossible later, the
/// whole process fails.
pub(crate) fn begin(kinds: impl Iterator<Item = Kind>, is_quiet: bool) -> Result<Vec<Arc<Condition>>, Failure> {
    let conditions: Vec<Arc<Condition>> = kinds.map(|kind| Arc::new(Condition::new(kind))).collect();
    let (mut processes, mut files) = (Vec::new(), Vec::new());
    for (index, condition) in conditions.iter().enumerate() {
        match &condition.kind {
            Kind::Pid(pid) => processes.push((index, *pid)),
            Kind::File(path) if path.as_os_str().is_empty() => {
                return Err(Failure::usage("--file needs the path of a file, not an empty one"));
            }
            Kind::File(path) => files.push((index, path.clone())),
            Kind::Tcp(_) => {}
        }
    }
    if !processes.is_empty() || !files.is_empty() {
        let observed = conditions.clone();
        let mut observer = Observer::new(processes, files, move |index| observed[index].has_held.set())?;
        if !observer.is_done() {
            start("conditions", move || {
                while !observer.is_done() {
                    if let Err(failure) = observer.sleep() {
                        output::note(format_args!("{failure}"));
                        exit(failure.code.into());
                    }
                }
            })?;
        }
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

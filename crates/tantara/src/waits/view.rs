//! What users see of the record: [`Waiting`], with all that is known of its events.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::sys::process;
use crate::waits::cycles::{self, Waits};
use crate::waits::known::{self, Known, OfEvents};
use crate::waits::last_hold::LastHold;
use crate::waits::store::{self, Kind, Record, Source, Target, What};
use crate::waits::threads::{self, Thread};
use crate::word::Generation;

/// A place in the code.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Place {
    /// The file, as the compiler was given it.
    pub file: Cow<'static, str>,
    /// The line, from 1.
    pub line: u32,
}

impl From<Source> for Place {
    fn from(place: Source) -> Place {
        match place {
            Source::Rust(place) => Place { file: place.file().into(), line: place.line() },
            Source::Other(place) => Place { file: Cow::Borrowed(&place.file), line: place.line },
        }
    }
}

/// `src/main.rs:31`
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A thread that has waited, set or declared something.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Actor {
    /// The name that the thread had when it first did so, if it had one.
    pub name: Option<String>,
    /// The thread's number: on Linux, the one that the system gave it. Zero if it is not known any
    /// more.
    pub id: u32,
    /// Whether the thread has ended.
    pub has_ended: bool,
}

impl Actor {
    /// Many threads have ended since.
    const FORGOTTEN: Actor = Actor { name: None, id: 0, has_ended: true };
}

impl From<&Arc<Thread>> for Actor {
    fn from(thread: &Arc<Thread>) -> Actor {
        Actor { name: thread.name.as_deref().map(str::to_owned), id: thread.id, has_ended: thread.has_ended() }
    }
}

/// `thread loader (4711)`
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "thread {name} ({})", self.id)?,
            None => write!(f, "thread {}", self.id)?,
        }
        f.write_str(if self.has_ended { ", which has ended" } else { "" })
    }
}

/// That an event was set, declared to be set, given up, or taken.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Act {
    /// By whom.
    pub by: Actor,
    /// From where.
    pub place: Place,
    /// When. It is measured by a monotonic clock and converted for this report, so after a step of
    /// the system's clock another report shows another time.
    pub at: SystemTime,
}

/// `by thread loader (4711) at src/main.rs:31`
impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Actor { name, id, has_ended } = &self.by;
        match name {
            Some(name) => write!(f, "by thread {name} ({id}) at {}", self.place)?,
            None => write!(f, "by thread {id} at {}", self.place)?,
        }
        f.write_str(if *has_ended { ", a thread that has ended" } else { "" })
    }
}

/// The kind of an event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum EventKind {
    /// An [`Event`](crate::Event).
    Event,
    /// An [`AutoResetEvent`](crate::AutoResetEvent).
    AutoResetEvent,
    /// A `SharedEvent`.
    SharedEvent,
    /// A `ClusterEvent`.
    ClusterEvent,
}

impl EventKind {
    /// The name of its type.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Event => "Event",
            EventKind::AutoResetEvent => "AutoResetEvent",
            EventKind::SharedEvent => "SharedEvent",
            EventKind::ClusterEvent => "ClusterEvent",
        }
    }
}

impl From<Kind> for EventKind {
    fn from(kind: Kind) -> EventKind {
        match kind {
            Kind::Event => EventKind::Event,
            Kind::AutoReset => EventKind::AutoResetEvent,
            Kind::Shared => EventKind::SharedEvent,
            Kind::Cluster => EventKind::ClusterEvent,
        }
    }
}

/// An event that is waited for, and what is known of it.
///
/// A `set` is recorded if a wait for the event was or had been recorded, or if the event has a
/// label or a declared setter. (Any other `set` without waiters reads only the event.)
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Awaited {
    /// Its label, or the name by which it was opened.
    pub label: Option<String>,
    /// Its kind.
    pub kind: EventKind,
    /// Where it lies in memory, or its handle does.
    pub address: usize,
    /// The path of its file, if it is a `SharedEvent` with a name.
    pub path: Option<String>,
    /// Who set it last, as far as was recorded.
    pub last_set: Option<Box<Act>>,
    /// Who has declared to set it, by [`set_on_drop`](crate::Event::set_on_drop), and has not yet.
    pub setters: Vec<Act>,
    /// Who holds it, at this moment, so that it cannot become unset. Only holds of this process,
    /// through the same handle.
    pub holders: Vec<Act>,
    /// Whether the wait is one until the event is unset.
    pub until_unset: bool,
    /// The last declared setter has given up without setting the event, there and then.
    pub abandoned: Option<Box<Act>>,
    /// The last wait that consumed a release of an [`AutoResetEvent`](crate::AutoResetEvent).
    pub taken: Option<Box<Act>>,
    /// Who has held a `ClusterEvent` last, if the hold has ended and the event was not changed
    /// since.
    pub last_hold: Option<Box<LastHold>>,
    /// It has released this wait, but the task was not polled since, or the thread has not run.
    pub has_released: bool,
}

/// `db_ready`, or `Event 0x7f0012`
impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.label {
            Some(label) => f.write_str(label),
            None => write!(f, "{} {:#x}", self.kind.name(), self.address),
        }
    }
}

/// How many of its events a wait needs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Mode {
    /// It waits for one event.
    One,
    /// It waits for any of several events: [`any`](crate::any).
    Any,
    /// It waits for all of several events: [`all`](crate::all).
    All,
}

/// A wait of this process: who waits for what, since when, and where in the code.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Waiting {
    /// The events: one, or those of an `any` or `all`.
    pub events: Vec<Awaited>,
    /// Whether it waits for one event, for any, or for all of them.
    pub mode: Mode,
    /// The thread that blocks; for a task, the thread that polled it first.
    pub thread: Actor,
    /// For a task, a number that it keeps while it waits and that no other waiting task has.
    pub task: Option<u64>,
    /// The name of the task, if it has one: tasks of asyncio do.
    pub task_name: Option<String>,
    /// The call that began the wait.
    pub place: Place,
    /// When it was queued, or began to sleep.
    pub since: SystemTime,
    /// For how long it has waited.
    pub waited: Duration,
    /// The time that is left until it times out. `None` if it never does, or if it is a task.
    pub time_left: Option<Duration>,
    /// Why it can never end, if it is part of a cycle: every thread that has declared to set its
    /// event waits itself for an event that only such threads are to set. This considers only
    /// declarations by values that borrow their events, on threads that poll no tasks: the values
    /// of [`set_on_drop_owned`](crate::Event::set_on_drop_owned) may have been moved to other
    /// threads. Events between processes or machines are never reported in a cycle, because others
    /// may set them.
    pub cycle: Option<String>,
    /// If it has lasted for some seconds, and nothing is known of who is to set its event: events with a
    /// label that were set meanwhile, or some seconds before, and for which no recorded wait was queued
    /// or asleep then or at an earlier `set`. Perhaps one of them was set by mistake. It is a guess: waits
    /// that find an event set are not recorded, so an event that is set once, before anybody waits for
    /// it, is among them as well.
    pub set_in_vain: Vec<Awaited>,
    /// Whether it has ended since: see [`longer_than`](crate::waits::longer_than).
    pub has_ended: bool,
    pub(crate) serial: u64,
}

impl Waiting {
    /// Whether it was released already: then the task has not polled the wait since, or the thread
    /// has not run. If that lasts, the task's executor may be blocked, or the task does not poll
    /// the wait, as in a disabled branch of `select!`.
    #[must_use]
    pub fn is_released(&self) -> bool {
        match self.mode {
            Mode::All => self.events.iter().all(|event| event.has_released),
            Mode::One | Mode::Any => self.events.iter().any(|event| event.has_released),
        }
    }

    /// Whether the event that it needs is abandoned: no known thread is to set it, and the last one
    /// that had declared to do so has given up.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        let is_abandoned = |event: &Awaited| event.abandoned.is_some() && !event.has_released && !event.until_unset;
        match self.mode {
            Mode::Any => !self.events.is_empty() && self.events.iter().all(is_abandoned),
            Mode::One | Mode::All => self.events.iter().any(is_abandoned),
        }
    }
}

/// A block of lines: who waits for what, where and for how long, and what is known of the events.
impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.task, &self.task_name) {
            (Some(_), Some(name)) => write!(f, "task {name} (first polled by {})", self.thread)?,
            (Some(task), None) => write!(f, "task {task:#x} (first polled by {})", self.thread)?,
            (None, _) => write!(f, "{}", self.thread)?,
        }
        let name = |event: &Awaited| if event.until_unset { format!("{event} to be unset") } else { event.to_string() };
        let names: Vec<_> = self.events.iter().map(name).collect();
        let mode = match self.mode {
            Mode::One => "",
            Mode::Any => "any of ",
            Mode::All => "all of ",
        };
        let waited = Duration::from_millis(self.waited.as_millis() as u64);
        let (verb, length) = if self.has_ended { ("has waited", "it took") } else { ("waits", "for") };
        write!(f, " {verb} for {mode}{} at {}, {length} {waited:?}", names.join(", "), self.place)?;
        if self.has_ended {
            return Ok(());
        }
        for event in &self.events {
            event.explain(f, self)?;
        }
        if let Some(cycle) = &self.cycle {
            write!(f, "\n  a cycle: {cycle}")?;
        }
        for event in &self.set_in_vain {
            if let Some(set) = &event.last_set {
                write!(f, "\n  perhaps the wrong event was set: {event} was set {set}, and nobody waited for it")?;
            }
        }
        Ok(())
    }
}

impl Awaited {
    fn explain(&self, f: &mut fmt::Formatter<'_>, wait: &Waiting) -> fmt::Result {
        let now = wait.since + wait.waited;
        let released = self.last_set.as_ref().filter(|_| self.has_released);
        let ago = released.map(|set| now.duration_since(set.at).unwrap_or_default().as_secs());
        // Before that, the task or the thread may just not have run yet.
        if let Some(ago) = ago.filter(|ago| *ago > 0) {
            let missing = if wait.task.is_some() { "was not polled" } else { "has not run" };
            write!(f, "\n  {self} released it {ago}s ago, but it {missing} since")?;
        }
        if let Some(set) = &self.last_set {
            write!(f, "\n  {self} was last set {set}")?;
        }
        if let Some(taken) = &self.taken {
            write!(f, "\n  the last release of {self} was taken {taken}")?;
        }
        for holder in self.holders.iter().filter(|_| self.until_unset) {
            write!(f, "\n  {self} is held {holder}")?;
        }
        if self.until_unset {
            return Ok(());
        }
        for setter in &self.setters {
            write!(f, "\n  {self} is to be set {setter}")?;
        }
        if let Some(hold) = &self.last_hold {
            write!(f, "\n  {self} was last held {hold}")?;
        }
        if let Some(abandoned) = &self.abandoned {
            write!(f, "\n  abandoned: the last who was to set {self} gave up, {abandoned}")?;
        }
        Ok(())
    }
}

/// Converts moments of the record's clock.
#[derive(Clone, Copy)]
struct Clocks {
    /// The record's.
    own: Duration,
    system: SystemTime,
}

impl Clocks {
    fn now() -> Clocks {
        let (own, system) = process::clocks();
        Clocks { own, system }
    }

    fn time(self, at: Duration) -> SystemTime {
        self.system.checked_sub(self.own.saturating_sub(at)).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn act(self, act: &known::Act) -> Act {
        Act { by: Actor::from(&act.thread), place: act.place.into(), at: self.time(act.at) }
    }

    /// An event without recorded waits.
    fn known(self, address: usize, known: &Known) -> Awaited {
        let target = Target { address, kind: known.kind, generation: Generation::NONE, until_unset: false };
        self.awaited(target, Some(known), false)
    }

    fn awaited(self, target: Target, known: Option<&Known>, has_released: bool) -> Awaited {
        let act = |of: fn(&Known) -> Option<&known::Act>| known.and_then(of).map(|act| Box::new(self.act(act)));
        let acts = |of: fn(&Known) -> &Vec<(u64, known::Act)>| {
            known.map_or(Vec::new(), |known| of(known).iter().map(|(_, act)| self.act(act)).collect())
        };
        Awaited {
            label: known.and_then(|known| known.label.as_deref()).map(str::to_owned),
            kind: target.kind.into(),
            address: target.address,
            path: known.and_then(|known| known.path.as_deref()).map(str::to_owned),
            last_set: act(|known| known.last_set.as_ref()),
            setters: acts(|known| &known.setters),
            holders: acts(|known| &known.holders),
            until_unset: target.until_unset,
            abandoned: act(|known| known.abandoned.as_ref()),
            taken: act(|known| known.taken.as_ref()),
            last_hold: known.and_then(|known| known.last_hold.as_deref()).cloned().map(Box::new),
            has_released,
        }
    }
}

/// The waits as they are recorded, those that have waited longest first, with what is known of their
/// events.
pub(crate) struct Snapshot {
    pub(crate) records: Vec<Record>,
    pub(crate) known: OfEvents,
    threads: BTreeMap<u32, Arc<Thread>>,
    set_in_vain: Vec<(usize, Known)>,
    clocks: Clocks,
}

/// How long a wait lasts before a guess is shown.
const UNTIL_GUESS: Duration = Duration::from_secs(3);

/// How long before a wait the wrong event may have been set.
const BEFORE: Duration = Duration::from_secs(10);

impl Snapshot {
    pub(crate) fn new() -> Snapshot {
        let mut records = Vec::with_capacity(store::capacity());
        store::for_each(|record| records.push(record));
        records.sort_by_key(|record| record.since);
        let known = OfEvents::new(records.iter().flat_map(|record| record.what.targets()));
        let clocks = Clocks::now();
        let first = records.first().map(|record| record.since.saturating_sub(BEFORE));
        let mut set_in_vain = first.map_or(Vec::new(), known::set_in_vain);
        // Unless a wait for it is recorded now.
        set_in_vain.retain(|(address, set)| !known.contains(*address, set.kind));
        Snapshot { records, known, threads: threads::threads(), set_in_vain, clocks }
    }

    /// Why waits can never end, by the places of their records.
    pub(crate) fn cycles(&self) -> HashMap<usize, String> {
        let (records, known, threads) = (&self.records, &self.known, &self.threads);
        cycles::cycles(&Waits { records, known, threads })
    }

    /// What was set in vain about when a wait began, or since, if nothing is known of its own events.
    fn set_in_vain(&self, record: &Record) -> Vec<Awaited> {
        let is_nothing_known = |target: &Target| {
            self.known.get(*target).is_none_or(|known| {
                known.last_set.is_none()
                    && known.abandoned.is_none()
                    && known.last_hold.is_none()
                    && known.setters.is_empty()
                    && !self.known.shown(*target).until_unset
            })
        };
        let is_young = self.clocks.own.saturating_sub(record.since) < UNTIL_GUESS;
        if is_young || self.set_in_vain.is_empty() || !record.what.targets().iter().all(is_nothing_known) {
            return Vec::new();
        }
        let is_about_then = |known: &Known| known.last_set.as_ref().is_some_and(|set| set.at + BEFORE >= record.since);
        let set = self.set_in_vain.iter().filter(|(_, known)| is_about_then(known));
        set.map(|(address, known)| self.clocks.known(*address, known)).collect()
    }

    pub(crate) fn waiting(&self, record: &Record) -> Waiting {
        let known = &self.known;
        let awaited = |target: &Target| {
            self.clocks.awaited(known.shown(*target), known.get(*target), known.has_released(*target))
        };
        Waiting {
            events: record.what.targets().iter().map(awaited).collect(),
            mode: match record.what {
                What::One(_) => Mode::One,
                What::Any(_) => Mode::Any,
                What::All(_) => Mode::All,
            },
            thread: self.threads.get(&record.thread).map_or(Actor::FORGOTTEN, Actor::from),
            task: record.task.map(|task| task as u64),
            task_name: record.task_name.as_deref().map(str::to_owned),
            place: record.place.into(),
            since: self.clocks.time(record.since),
            waited: self.clocks.own.saturating_sub(record.since),
            time_left: record.deadline.map(|at| at.saturating_sub(self.clocks.own)),
            cycle: None,
            set_in_vain: self.set_in_vain(record),
            has_ended: false,
            serial: record.serial,
        }
    }
}

/// The events with a path that somebody has declared to set, or holds.
#[cfg_attr(not(shared_events), allow(dead_code, reason = "for what is published"))]
pub(crate) fn declared() -> Vec<Awaited> {
    let clocks = Clocks::now();
    known::declared().iter().map(|(address, known)| clocks.known(*address, known)).collect()
}

/// All waits of this process that are recorded: see [`waits`](crate::waits::waits()).
pub(crate) fn waits() -> Vec<Waiting> {
    let snapshot = Snapshot::new();
    let mut cycles = snapshot.cycles();
    let waiting = |(at, record)| Waiting { cycle: cycles.remove(&at), ..snapshot.waiting(record) };
    snapshot.records.iter().enumerate().map(waiting).collect()
}

#[cfg(all(test, not(loom)))]
pub(crate) mod tests {
    use super::*;

    /// A task's wait that has lasted for so long, for an event that was set so long ago.
    pub(crate) fn wait_of(waited: Duration, set: Option<Duration>) -> Waiting {
        let (by, place) = (Actor::FORGOTTEN, Place { file: "main.rs".into(), line: 1 });
        // Any time will do.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let act = |ago: Duration| Box::new(Act { by: by.clone(), place: place.clone(), at: now - ago });
        let event = Awaited {
            label: Some("done".to_owned()),
            kind: EventKind::Event,
            address: 0,
            path: None,
            last_set: set.map(act),
            setters: Vec::new(),
            holders: Vec::new(),
            until_unset: false,
            abandoned: None,
            taken: None,
            last_hold: None,
            has_released: set.is_some(),
        };
        Waiting {
            events: vec![event],
            mode: Mode::One,
            thread: by.clone(),
            task: Some(1),
            task_name: None,
            place: place.clone(),
            since: now - waited,
            waited,
            time_left: None,
            cycle: None,
            set_in_vain: Vec::new(),
            has_ended: false,
            serial: 1,
        }
    }

    #[test]
    fn a_wait_that_was_released_is_explained_only_if_it_takes_long_to_run() {
        let after = |milliseconds| {
            let mut wait = wait_of(Duration::from_secs(60), Some(Duration::from_millis(milliseconds)));
            let task = wait.to_string();
            wait.task = None;
            (
                task.contains("done released it 3s ago, but it was not polled since"),
                wait.to_string().contains(" run since"),
            )
        };
        assert_eq!((after(3500), after(900), after(0)), ((true, true), (false, false), (false, false)));
        assert!(!wait_of(Duration::from_secs(60), Some(Duration::from_secs(3))).to_string().contains("executor"));
    }
}

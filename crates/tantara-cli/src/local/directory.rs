//! A directory of this machine with events of processes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tantara::__private::{Slot, has_default_directory};
use tantara::SharedEvent;

use crate::events::aim::Aim;
use crate::events::change::Change;
use crate::events::origin::Origin;
use crate::events::waiter::Waiter;
use crate::failure::Failure;
use crate::output;

/// A directory of this machine.
#[derive(Debug)]
pub(crate) struct Directory {
    /// The directory that the user named; `None` for the default.
    named: Option<PathBuf>,
    path: PathBuf,
}

/// An event in a directory.
#[derive(Clone, Debug)]
pub(crate) struct LocalEvent(SharedEvent);

/// The event is set until this is dropped.
pub(crate) struct LocalHold(#[expect(dead_code, reason = "its drop ends the hold")] tantara::Hold);

impl Directory {
    /// The directory that the user named, or the default.
    pub(crate) fn new(named: Option<PathBuf>) -> Result<Directory, Failure> {
        let path = named.clone().unwrap_or_else(SharedEvent::default_directory);
        Ok(Directory { named, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its path, for messages.
    pub(crate) fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// The mode with which the directory is created, less the umask. The default directory belongs to its user alone.
    pub(crate) fn mode(&self) -> u32 {
        if self.named.is_some() { 0o777 } else { 0o700 }
    }

    fn open_shared(&self, name: &str) -> Result<SharedEvent, Failure> {
        let opened = match &self.named {
            Some(directory) => SharedEvent::open_in(directory, name),
            None => SharedEvent::open(name),
        };
        opened.map_err(Failure::of_event)
    }

    /// Opens the event, or creates it.
    pub(crate) fn open(&self, name: &str) -> Result<LocalEvent, Failure> {
        self.open_shared(name).map(LocalEvent)
    }

    /// Fails if the events cannot be changed later. Those that do not exist are created.
    pub(crate) fn prepare(&self, names: &[String]) -> Result<(), Failure> {
        self.open_writable(names).map(drop)
    }

    /// Whether an event is set. One that does not exist is unset, and is not created.
    pub(crate) fn is_set(&self, name: &str) -> Result<bool, Failure> {
        match self.find_shared(name)?.map(|event| event.is_set()) {
            None => Ok(false),
            Some(Err(error)) if error.is_removed() => Ok(false),
            Some(is_set) => is_set.map_err(Failure::of_event),
        }
    }

    /// Changes the events. Nothing is changed if one of them cannot be opened.
    pub(crate) fn change(&self, names: &[String], change: Change<'_>) -> Result<(), Failure> {
        let events = self.open_writable(names)?;
        for (mut event, name) in events.into_iter().zip(names) {
            while let Err(failure) = apply(change, &event) {
                if !event.is_removed() {
                    return Err(failure);
                }
                // Another process removed it after it was opened. Open the name again, which creates a new event. That
                // one may be removed as well.
                event = self.open_shared(name)?;
            }
        }
        Ok(())
    }

    /// Opens all of the events, or fails if one of them cannot be changed.
    fn open_writable(&self, names: &[String]) -> Result<Vec<SharedEvent>, Failure> {
        let events = names.iter().map(|name| self.open_shared(name)).collect::<Result<Vec<_>, _>>()?;
        if let Some(event) = events.iter().find(|event| !event.is_writable()) {
            // Fail with this event's error before any of them is changed.
            event.set().map_err(Failure::of_event)?;
        }
        Ok(events)
    }

    /// Whether there may be events. Fails if the default directory does not belong to this user, because anybody may
    /// have made its events. Existence is checked first, so that a directory that another user creates meanwhile is not
    /// read.
    pub(crate) fn is_there(&self) -> Result<bool, Failure> {
        match self.named {
            Some(_) => Ok(true),
            None => has_default_directory().map_err(Failure::of_event),
        }
    }

    pub(crate) fn find_shared(&self, name: &str) -> Result<Option<SharedEvent>, Failure> {
        if !self.is_there()? {
            return Ok(None);
        }
        SharedEvent::find_in(&self.path, name).map_err(Failure::of_event)
    }

    /// Lists all events with `list_in`.
    pub(crate) fn list(&self) -> Result<Vec<Result<tantara::Entry, tantara::Error>>, Failure> {
        if !self.is_there()? {
            return Ok(Vec::new());
        }
        SharedEvent::list_in(&self.path).map_err(Failure::of_event)
    }

    /// All events. Files that are no events are reported.
    pub(crate) fn all(&self) -> Result<Vec<LocalEvent>, Failure> {
        let mut events = Vec::new();
        for entry in self.list()? {
            match entry {
                // It may have been removed since.
                Ok(entry) => events.extend(self.find(&entry.name)?),
                Err(error) => output::note(format_args!("{error}")),
            }
        }
        Ok(events)
    }

    /// The event, if it exists.
    pub(crate) fn find(&self, name: &str) -> Result<Option<LocalEvent>, Failure> {
        Ok(self.find_shared(name)?.map(LocalEvent))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let listed = self.is_there().is_ok_and(|is_there| is_there).then(|| std::fs::read_dir(&self.path));
        let files = listed.into_iter().flatten().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| SharedEvent::check_name(name).is_ok()).collect();
        names.sort_unstable();
        names
    }
}

fn apply(change: Change<'_>, event: &SharedEvent) -> Result<(), Failure> {
    let done = match change {
        Change::Set(note) => event.set_with_note(note),
        Change::Clear => event.clear(),
        Change::Pulse(note) => event.pulse_with_note(note),
    };
    done.map_err(Failure::of_event)
}

impl LocalEvent {
    /// Its part of a wait for several things.
    pub(crate) fn slot(&self, aim: Aim) -> Slot<'_> {
        match aim {
            Aim::Set => Slot::external(self.0.wait_async()),
            Aim::Unset => Slot::external(self.0.wait_unset_async()),
            Aim::Next => Slot::external(self.0.wait_next_async()),
        }
    }

    /// Waits for this event alone.
    pub(crate) fn wait_until(&self, aim: Aim, deadline: Option<Instant>) -> Result<bool, Failure> {
        let is_released = |()| true;
        let outcome = match (aim, deadline) {
            (Aim::Set, None) => self.0.wait().map(is_released),
            (Aim::Unset, None) => self.0.wait_unset().map(is_released),
            (Aim::Next, None) => self.0.wait_next().map(is_released),
            (Aim::Set, Some(deadline)) => self.0.wait_deadline(deadline),
            (Aim::Unset, Some(deadline)) => self.0.wait_unset_deadline(deadline),
            (Aim::Next, Some(deadline)) => self.0.wait_next_deadline(deadline),
        };
        outcome.map_err(Failure::of_event)
    }

    /// Whether the event is set; `false` if that cannot be read.
    pub(crate) fn seems_set(&self) -> bool {
        self.0.is_set().unwrap_or(false)
    }

    pub(crate) fn waiters(&self) -> Vec<Waiter> {
        self.0.waiters().unwrap_or_default().iter().map(waiter).collect()
    }

    pub(crate) fn last_set(&self) -> Option<Origin> {
        self.0.last_set().ok()?.map(origin)
    }

    pub(crate) fn hold(&self) -> Result<LocalHold, Failure> {
        self.0.hold().map(LocalHold).map_err(Failure::of_event)
    }

    pub(crate) fn remove(&self) -> Result<(), Failure> {
        self.0.remove().map(drop).map_err(Failure::of_event)
    }
}

pub(crate) fn waiter(waiter: &tantara::Waiter) -> Waiter {
    Waiter {
        pid: waiter.pid,
        host: None,
        tid: waiter.tid,
        command: (!waiter.command.is_empty()).then(|| waiter.command.clone()),
        count: 1,
        since: waiter.since,
    }
}

pub(crate) fn origin(last: tantara::LastSet) -> Origin {
    Origin { at: last.at, pid: last.pid, host: None, note: last.note }
}

//! The last `set` of an event: by which process, when, and with which note.

use std::time::{Duration, Instant, SystemTime};

use tokio::time::timeout_at;

use crate::events::place::Event;
use crate::events::text;
use crate::output;

/// The time limit of the question for the last sets of events in a cluster, which delays a command after the wait.
const LOOK: Duration = Duration::from_millis(500);

/// The process that set or holds an event.
pub(crate) struct Origin {
    pub(crate) at: SystemTime,
    /// `None` for a process of another PID namespace.
    pub(crate) pid: Option<u32>,
    /// The machine, in a cluster.
    pub(crate) host: Option<String>,
    /// The note of a `set`.
    pub(crate) note: Option<String>,
}

impl Origin {
    /// For the table.
    pub(crate) fn shown(&self) -> String {
        let note = self.note.as_ref().map(|note| format!(": {}", text::shown(note))).unwrap_or_default();
        format!("{} by {}{note}", text::ago(self.at), self.process())
    }

    /// The process, for messages.
    pub(crate) fn process(&self) -> String {
        let host = self.host.as_ref().map(|host| format!(" on {}", text::shown(host))).unwrap_or_default();
        format!("{}{host}", text::process(self.pid))
    }
}

impl From<tantara::LastSet> for Origin {
    fn from(last: tantara::LastSet) -> Origin {
        Origin { at: last.at, pid: last.pid, host: None, note: last.note }
    }
}

impl From<tantara_etcd::Origin> for Origin {
    fn from(origin: tantara_etcd::Origin) -> Origin {
        Origin { at: origin.at, pid: Some(origin.pid), host: Some(origin.host), note: origin.note }
    }
}

/// Says why the events were set, as far as that is known: it is for people, and no failure.
pub(crate) fn report<'e>(events: impl Iterator<Item = (&'e str, &'e Event)>) {
    let deadline = Instant::now() + LOOK;
    for (name, event) in events {
        let Some(last) = last_set(event, deadline) else { continue };
        if let Some(note) = &last.note {
            output::note(format_args!("{name} was set by {}: {note}", last.process()));
        }
    }
}

fn last_set(event: &Event, deadline: Instant) -> Option<Origin> {
    match event {
        Event::Shared(event) => event.last_set().ok()?.map(Origin::from),
        Event::Cluster(event) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().ok()?;
            let asked = async { timeout_at(deadline.into(), event.last_set_async()).await };
            runtime.block_on(asked).ok()?.ok()?.map(Origin::from)
        }
    }
}

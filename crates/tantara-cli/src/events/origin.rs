//! The last `set` of an event: by which process, when, and with which note.

use std::time::SystemTime;

use crate::events::text;

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

impl From<tantara_etcd::Origin> for Origin {
    fn from(origin: tantara_etcd::Origin) -> Origin {
        Origin { at: origin.at, pid: Some(origin.pid), host: Some(origin.host), note: origin.note }
    }
}

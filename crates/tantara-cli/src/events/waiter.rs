//! Who waits for an event, wherever it is.

use std::time::SystemTime;

/// Who waits, wherever the event is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiter {
    /// Unknown, for one that is not visible from here.
    pub(crate) pid: Option<u32>,
    /// Of another machine, perhaps.
    pub(crate) host: Option<String>,
    pub(crate) tid: Option<u32>,
    pub(crate) command: Option<String>,
    /// How many in that process.
    pub(crate) count: u32,
    pub(crate) since: SystemTime,
}

impl From<&tantara::Waiter> for Waiter {
    fn from(waiter: &tantara::Waiter) -> Waiter {
        Waiter {
            pid: waiter.pid,
            host: None,
            tid: waiter.tid,
            command: (!waiter.command.is_empty()).then(|| waiter.command.clone()),
            count: 1,
            since: waiter.since,
        }
    }
}

impl From<&tantara_etcd::ClusterWaiter> for Waiter {
    fn from(waiter: &tantara_etcd::ClusterWaiter) -> Waiter {
        Waiter {
            pid: Some(waiter.pid),
            host: Some(waiter.host.clone()),
            tid: None,
            command: None,
            count: waiter.count,
            since: waiter.since,
        }
    }
}

//! A waiter of an event, in a directory or in a cluster.

use std::time::SystemTime;

/// A waiting thread of this machine, or a waiting process of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiter {
    /// `None` for a process of another PID namespace.
    pub(crate) pid: Option<u32>,
    /// The machine, in a cluster.
    pub(crate) host: Option<String>,
    pub(crate) tid: Option<u32>,
    pub(crate) command: Option<String>,
    /// The number of waits in that process.
    pub(crate) count: u32,
    pub(crate) since: SystemTime,
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

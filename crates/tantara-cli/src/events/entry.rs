//! An event as `ls` lists it.

use std::time::SystemTime;

use tantara_etcd::ClusterEntry;

use crate::events::origin::Origin;
use crate::events::waiter::Waiter;

/// An event in a directory or in a cluster.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) is_set: bool,
    pub(crate) last_set: Option<Origin>,
    /// The processes that hold it; `None` in a directory.
    pub(crate) holders: Option<Vec<Origin>>,
    pub(crate) waiters: Vec<Waiter>,
    /// The processes that record their waits and wait for it.
    pub(crate) inside: Vec<Inside>,
}

/// The waits of a process for one event.
pub(crate) struct Inside {
    pub(crate) pid: Option<u32>,
    pub(crate) waits: u64,
    /// Where the oldest of them began.
    pub(crate) place: String,
    pub(crate) since: SystemTime,
}

impl From<ClusterEntry> for Entry {
    fn from(entry: ClusterEntry) -> Entry {
        Entry {
            name: entry.name,
            is_set: entry.is_set,
            last_set: entry.last_set.map(Origin::from),
            holders: Some(entry.holders.into_iter().map(Origin::from).collect()),
            waiters: entry.waiters.iter().map(Waiter::from).collect(),
            inside: Vec::new(),
        }
    }
}

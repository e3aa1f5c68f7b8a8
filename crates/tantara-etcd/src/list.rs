//! The events of a namespace, and their waiters, as [`Cluster::list`](crate::Cluster::list) returns
//! them.

use std::sync::Arc;
use std::time::SystemTime;

use crate::client::call::Failure;
use crate::client::proto::KeyValue;
use crate::error::Error;
use crate::store::Store;
use crate::store::keys::{Part, Stamp};
use crate::store::read;
use crate::store::state::State;

/// An event of a namespace. From [`Cluster::list`](crate::Cluster::list).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ClusterEntry {
    /// Its name.
    pub name: String,
    /// Whether it was set.
    pub is_set: bool,
    /// The process that last set it, and when.
    pub last_set: Option<Origin>,
    /// The processes that hold it.
    pub holders: Vec<Origin>,
    /// The processes that wait for it and leave [records](crate::Options::record_waits), those that
    /// have waited longest first.
    pub waiters: Vec<ClusterWaiter>,
}

/// The process that set or holds an event, when, and why, according to that process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Origin {
    /// The name of its machine.
    pub host: String,
    /// Its process ID there.
    pub pid: u32,
    /// When, by its clock.
    pub at: SystemTime,
    /// The [note](crate::ClusterEvent::set_with_note) of a `set`, if it had one: up to 64 bytes
    /// without control characters.
    pub note: Option<String>,
}

/// A process that waits for an event, according to that process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ClusterWaiter {
    /// The name of its machine.
    pub host: String,
    /// Its process ID there.
    pub pid: u32,
    /// When its first waiter began to wait, by its clock.
    pub since: SystemTime,
    /// The number of waiters in it.
    pub count: u32,
}

impl From<Stamp> for Origin {
    fn from(stamp: Stamp) -> Origin {
        Origin { host: stamp.host, pid: stamp.pid, at: stamp.at, note: stamp.note }
    }
}

impl From<Stamp> for ClusterWaiter {
    fn from(stamp: Stamp) -> ClusterWaiter {
        ClusterWaiter { host: stamp.host, pid: stamp.pid, since: stamp.at, count: stamp.count }
    }
}

/// Lists the events of the namespace.
pub(crate) async fn events(store: Arc<Store>) -> Result<Vec<ClusterEntry>, Error> {
    let (events, waiters) = keys(&store).await.map_err(|failure| failure.error)?;
    let mut entries: Vec<(ClusterEntry, State)> = Vec::new();
    for kv in events.iter().chain(&waiters) {
        let Some((name, part)) = store.keys.parse(&kv.key) else { continue };
        let index = match entries.binary_search_by(|(entry, _)| entry.name.as_str().cmp(name)) {
            Ok(index) => index,
            Err(index) => {
                let (name, last_set) = (name.to_owned(), None);
                let entry = ClusterEntry { name, is_set: false, last_set, holders: Vec::new(), waiters: Vec::new() };
                entries.insert(index, (entry, State::default()));
                index
            }
        };
        let (entry, state) = &mut entries[index];
        state.put(part, kv);
        entry.is_set = state.is_set();
        let Some(stamp) = Stamp::parse(&kv.value) else { continue };
        match part {
            Part::Pulse => entry.last_set = Some(stamp.into()),
            Part::Hold => entry.holders.push(stamp.into()),
            Part::Waiter => entry.waiters.push(stamp.into()),
            Part::Level => {}
        }
    }
    let mut entries: Vec<ClusterEntry> = entries.into_iter().map(|(entry, _)| entry).collect();
    entries.iter_mut().for_each(|entry| entry.waiters.sort_by_key(|waiter| waiter.since));
    Ok(entries)
}

/// The keys of all events and of all waits, at one revision.
async fn keys(store: &Store) -> Result<(Vec<KeyValue>, Vec<KeyValue>), Failure> {
    const DOING: &str = "list events";
    let (events, revision) = read::list(store, DOING, store.keys.events(), 0).await?;
    match read::list(store, DOING, store.keys.all_waiters(), revision).await {
        // The revision was compacted meanwhile. Records of waits are for people, so a later
        // revision will do.
        Err(failure) if read::is_about_history(&failure) => {
            let (waiters, _) = read::list(store, DOING, store.keys.all_waiters(), 0).await?;
            Ok((events, waiters))
        }
        waiters => Ok((events, waiters?.0)),
    }
}

/// Lists the processes that wait for an event.
pub(crate) async fn waiters(store: Arc<Store>, name: Arc<str>) -> Result<Vec<ClusterWaiter>, Error> {
    let listed = read::list(&store, "list who waits", store.keys.waiters(&name), 0).await;
    let (kvs, _) = listed.map_err(|failure| failure.error)?;
    let known = kvs.iter().filter(|kv| store.keys.parse(&kv.key) == Some((&*name, Part::Waiter)));
    let mut waiters: Vec<ClusterWaiter> =
        known.filter_map(|kv| Stamp::parse(&kv.value)).map(ClusterWaiter::from).collect();
    waiters.sort_by_key(|waiter| waiter.since);
    Ok(waiters)
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, from_value, json, to_value};

    fn goes_and_comes<T: Serialize + DeserializeOwned>(json: &Value) -> T {
        let parsed: T = from_value(json.clone()).unwrap();
        assert_eq!(to_value(&parsed).unwrap(), *json);
        parsed
    }

    /// The names and their form are part of the public API.
    #[test]
    fn the_form_is_that_of_the_fields() {
        let time = json!({"secs_since_epoch": 7, "nanos_since_epoch": 1});
        let origin = json!({"host": "m1", "pid": 1, "at": time, "note": null});
        let waiter = json!({"host": "m2", "pid": 2, "since": time, "count": 3});
        let entry = json!({
            "name": "door",
            "is_set": true,
            "last_set": {"host": "m1", "pid": 1, "at": time, "note": "disk full"},
            "holders": [origin],
            "waiters": [waiter],
        });
        let parsed: ClusterEntry = goes_and_comes(&entry);
        assert_eq!(parsed.holders, [goes_and_comes::<Origin>(&origin)]);
        assert_eq!(parsed.waiters, [goes_and_comes::<ClusterWaiter>(&waiter)]);
        // What may be unknown may also be left out.
        let older: Origin = from_value(json!({"host": "m1", "pid": 1, "at": time})).unwrap();
        assert_eq!(older, parsed.holders[0]);
    }
}

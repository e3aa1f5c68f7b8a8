//! The page of a process that records its waits, as `ps` reads and prints it.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::events::text;

/// A process that records its waits, as it has described itself. Nothing in here is trusted.
#[derive(Deserialize, Serialize)]
pub(crate) struct Process {
    /// `None` for a process of another PID namespace. Not from the page.
    #[serde(skip_deserializing)]
    pub(super) pid: Option<u32>,
    #[serde(skip_deserializing)]
    pub(super) command: Option<String>,
    /// The user whose process it is, if that is not this one. Not from the page.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<u32>,
    /// It has ended before it had set the events that it had declared to set. Not from the page.
    #[serde(skip_deserializing)]
    pub(super) has_ended: bool,
    /// It cannot replace its page. Not from the page.
    #[serde(skip_deserializing)]
    pub(super) is_outdated: bool,
    pub(super) total: u64,
    /// Waits that were not recorded, because there were too many at the same time.
    #[serde(default)]
    pub(super) missed: u64,
    /// The events of a directory that it has declared to set, or holds.
    #[serde(default, deserialize_with = "the_first::<512, _, _>")]
    pub(super) declared: Vec<Event>,
    #[serde(deserialize_with = "the_first::<512, _, _>")]
    pub(super) groups: Vec<Group>,
}

/// Waits at one place for events of the same names.
#[derive(Deserialize, Serialize)]
pub(super) struct Group {
    pub(super) count: u64,
    pub(super) place: String,
    pub(super) mode: Mode,
    /// The wait was released, but the task was not polled since, or the thread has not run.
    pub(super) released: bool,
    /// The last thread that had declared to set the event has given up.
    pub(super) abandoned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cycle: Option<String>,
    /// Whether all of them wait for the same events. If not, the facts about events are those of the oldest wait.
    #[serde(default)]
    pub(super) same_events: bool,
    pub(super) number_of_events: u64,
    #[serde(deserialize_with = "the_first::<16, _, _>")]
    pub(super) events: Vec<Event>,
    /// Events that were set meanwhile while nobody waited for them, if nothing is known of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "the_first::<16, _, _>")]
    pub(super) set_in_vain: Vec<Event>,
    /// The waiters that have waited longest.
    #[serde(deserialize_with = "the_first::<16, _, _>")]
    pub(super) waiters: Vec<Waiter>,
}

#[derive(Deserialize, Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    One,
    Any,
    All,
}

#[derive(Deserialize, Serialize)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) labelled: bool,
    pub(super) kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    /// The wait is one until the event is unset.
    #[serde(default)]
    pub(super) until_unset: bool,
    /// It has released the wait, when it was last set.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) released: bool,
    #[serde(default)]
    pub(super) last_set: Option<Act>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) taken: Option<Act>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) abandoned: Option<Act>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_hold: Option<LastHold>,
    #[serde(deserialize_with = "the_first::<16, _, _>")]
    pub(super) setters: Vec<Act>,
    #[serde(default, deserialize_with = "the_first::<16, _, _>")]
    pub(super) holders: Vec<Act>,
    /// Other processes that are to set it or hold it, or have ended meanwhile. Not from the page.
    #[serde(skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    pub(super) others: Vec<Other>,
}

/// The last hold of an event between machines, which has ended.
#[derive(Deserialize, Serialize)]
pub(super) struct LastHold {
    pub(super) host: String,
    pub(super) pid: u32,
    #[serde(serialize_with = "moment")]
    pub(super) since: u64,
}

/// A declaration about an event: by another process, or by this one through another opening of it.
#[derive(Serialize, Clone)]
pub(super) struct Other {
    pub(super) pid: Option<u32>,
    /// The user of the other process, if that is not this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<u32>,
    pub(super) has_ended: bool,
    /// It lives but cannot replace its page, so it may have set the event since.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) is_outdated: bool,
    /// Whether it holds the event, or did. If not, it has declared to set it.
    pub(super) holds: bool,
    #[serde(flatten)]
    pub(super) act: Act,
}

#[derive(Deserialize, Serialize)]
pub(super) struct Waiter {
    #[serde(default)]
    pub(super) thread: Option<String>,
    pub(super) tid: u32,
    /// A number, for a task.
    #[serde(default)]
    pub(super) task: Option<String>,
    #[serde(serialize_with = "moment")]
    pub(super) since: u64,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "moment_if_any",
        deserialize_with = "number_if_any"
    )]
    pub(super) until: Option<u64>,
}

/// That an event was set, declared to be set, given up, or taken.
#[derive(Deserialize, Serialize, Clone, PartialEq, Eq)]
pub(super) struct Act {
    #[serde(default)]
    pub(super) thread: Option<String>,
    pub(super) tid: u32,
    #[serde(default)]
    pub(super) has_ended: bool,
    pub(super) place: String,
    #[serde(serialize_with = "moment")]
    pub(super) at: u64,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

pub(super) fn time(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)).unwrap_or(UNIX_EPOCH)
}

fn moment<S: Serializer>(milliseconds: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text::moment(time(*milliseconds)))
}

fn moment_if_any<S: Serializer>(milliseconds: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    moment(&milliseconds.unwrap_or_default(), serializer)
}

/// No more items than a page has. A page with more is not one of this program.
fn the_first<'de, const MOST: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct First<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for First<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut first = Vec::new();
            while first.len() < MOST {
                match items.next_element()? {
                    Some(item) => first.push(item),
                    None => return Ok(first),
                }
            }
            while items.next_element::<IgnoredAny>()?.is_some() {}
            Ok(first)
        }
    }

    deserializer.deserialize_seq(First::<T, MOST>(PhantomData))
}

/// A number that is missing, too large, or something else, hides no other waits.
fn number_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_u64())
}

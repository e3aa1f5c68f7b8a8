//! Who waits for what inside this process, since when, where in the code, and who is to set it.
//!
//! If a program hangs, the question is for which `set` it waits. While waits are recorded,
//! [`waits`](waits()) answers it: for every wait of a thread or a task, the event, the place in the
//! code and the time; for every event, who set it last and who has declared to set it.
//!
//! ```
//! use std::thread;
//! use std::time::Duration;
//! use tantara::{Event, waits};
//!
//! static DB_READY: Event = Event::new();
//!
//! waits::record(true);
//! waits::label(&DB_READY, "db_ready");
//! let worker = thread::Builder::new().name("worker".into()).spawn(|| DB_READY.wait()).unwrap();
//! let waiting = loop {
//!     if let Some(waiting) = waits::waits().pop() {
//!         break waiting;
//!     }
//!     thread::sleep(Duration::from_millis(1));
//! };
//! // thread worker (4711) waits for db_ready at src/main.rs:9, for 3ms
//! println!("{waiting}");
//! assert_eq!(waiting.events[0].label.as_deref(), Some("db_ready"));
//! assert_eq!(waiting.thread.name.as_deref(), Some("worker"));
//! DB_READY.set();
//! worker.join().unwrap();
//! ```
//!
//! The environment variable `TANTARA_WAITS=1` turns the record on in a program that does not do so
//! itself, `TANTARA_WAITS=30s` also prints every wait that lasts longer than that. It is read when
//! something waits for the first time.
//!
//! # From outside
//!
//! On Linux a process that records publishes its waits in the directory of the events
//! (`TANTARA_DIR`, or the default one), in a file that only its user can read. The command
//! `tantara ps` shows them, without a debugger, also if the program hangs. The file is written by a
//! thread of its own, several times a second. It is removed at a normal exit, otherwise by the next
//! process that records there; but if the process has not set an event that it had declared to set,
//! the file stays for a day, so that the waits for that event can be explained.
//!
//! # What is recorded
//!
//! Every wait that begins while the record is on, once its task is queued or its thread goes to
//! sleep. Waits that began before, and waits on events that are set, are not recorded. The child of
//! a fork records its own waits; after four forks in a line a child records nothing. At most eight
//! million waits are recorded at the same time. `tantara ps` shows how many were not recorded.
//!
//! # Complexity
//!
//! While the record is off, a wait that is queued or sleeps reads one byte. Other operations cost
//! nothing. While it is on, such a wait takes a lock that is rarely contended, twice.
//! [`waits`](waits()) takes time linear in the number of waits, and delays none of them for longer
//! than it takes to copy some hundreds.
//!
//! Labels cost nothing while the record is off: only the events that have one look for it, when they are
//! dropped.
//!
//! # Signal handlers
//!
//! While waits are recorded, no method of an event but `is_set` and `clear` is safe in one. After the
//! record was turned off, `set` of an [`Event`](crate::Event) is safe there again from the next `set`
//! on that is called elsewhere. Labels change nothing.

#![forbid(unsafe_code)]

use std::time::Duration;

mod cycles;
#[cfg_attr(not(shared_events), allow(dead_code, reason = "for what is published"))]
mod fold;
pub(crate) mod hooks;
#[cfg(shared_events)]
mod json;
pub(crate) mod known;
mod label;
mod last_hold;
mod origin;
mod outside;
#[cfg_attr(not(shared_events), path = "no_pages.rs")]
mod pages;
pub(crate) mod start;
pub(crate) mod store;
mod switch;
mod threads;
mod view;
mod watchdog;

pub use label::label;
pub use last_hold::LastHold;
#[doc(hidden)]
pub use origin::{with_origin, with_place};
#[doc(hidden)]
pub use outside::{Call, Held, Outside, set_on_drop, stand_in, unrecorded};
#[cfg(shared_events)]
#[doc(hidden)]
pub use pages::{PageOfWaits, pages, publish_in};
#[doc(hidden)]
pub use start::is_wanted;
#[doc(hidden)]
pub use threads::name_thread;
pub use view::{Act, Actor, Awaited, EventKind, Mode, Place, Waiting};

/// Records waits from now on, or no longer. Waits that are recorded stay so until they end.
///
/// It can be turned on and off at any time, by any thread. Until the first call, the environment
/// variable `TANTARA_WAITS` decides. Turning it on or off discards what was recorded of earlier
/// sets, because sets in between are not recorded. Labels and declarations stay.
pub fn record(on: bool) {
    start::record(on);
}

/// Calls `callback` with every wait that lasts longer than `limit`: once when it has lasted so
/// long, and once more, with [`has_ended`](Waiting::has_ended), when it has ended.
///
/// It turns the record on. The callback runs on a thread of its own, up to a second late, for the
/// rest of the process, but not in the child of a fork. If it panics, it is called for the next wait
/// nevertheless.
///
/// With `TANTARA_WAITS=30s` in the environment, waits that last longer than that are printed on
/// standard error.
///
/// ```
/// use std::sync::mpsc;
/// use std::thread;
/// use std::time::Duration;
/// use tantara::{Event, waits};
///
/// static DONE: Event = Event::new();
///
/// let (late, seen) = mpsc::channel();
/// waits::longer_than(Duration::from_millis(50), move |wait| late.send(wait.clone()).unwrap());
/// let thread = thread::spawn(|| DONE.wait());
/// assert!(!seen.recv().unwrap().has_ended);
/// DONE.set();
/// assert!(seen.recv().unwrap().has_ended);
/// thread.join().unwrap();
/// ```
pub fn longer_than(limit: Duration, callback: impl FnMut(&Waiting) + Send + 'static) {
    record(true);
    watchdog::watch(limit, Box::new(callback));
}

/// All waits of this process that are recorded, those that have waited longest first.
///
/// Waits that begin or end meanwhile may be missing. Each one that is returned was in progress when
/// it was read.
#[must_use]
pub fn waits() -> Vec<Waiting> {
    view::waits()
}

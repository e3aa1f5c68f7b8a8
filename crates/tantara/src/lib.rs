//! Resettable events for threads, async tasks and processes.
//!
//! An event is a flag that threads, tasks and processes wait for. It starts unset.
//! [`set`](Event::set) raises it and releases everyone who waits. It stays set, and later waits
//! return at once, until [`clear`](Event::clear) lowers it.
//!
//! # Which event do I need?
//!
//! | who waits | a `set` releases everyone | a `set` releases one waiter |
//! |---|---|---|
//! | threads and tasks of one process | [`Event`] | [`AutoResetEvent`] |
//! | processes of one machine | [`SharedEvent`] | – |
//! | machines | `ClusterEvent` of [tantara-etcd](https://docs.rs/tantara-etcd) | – |
//!
//! | to wait for | call |
//! |---|---|
//! | one event | `wait()`, `wait_timeout(duration)`, `wait_deadline(instant)` or `wait_async().await` |
//! | the first of several events | [`any`]`([&a, &b])`, and one of these methods or `.await` |
//! | each of several events | [`all`]`([&a, &b])`, likewise |
//! | events of several kinds | [`any`] or [`all`] of `&dyn `[`Waitable`] |
//! | to spawn, return or store the wait | [`wait_owned()`](Event::wait_owned), or [`any`] or [`all`] of `Arc`s |
//!
//! To set an event even if its setter panics or returns early, use
//! [`set_on_drop()`](Event::set_on_drop). If a program hangs, [`waits()`] shows who waits for what,
//! and where in the code.
//!
//! Use an event for *state that others wait for*: open, ready, paused, shutting down. Use
//! [`OnceLock`](std::sync::OnceLock) for a value that is made once, a channel to pass values, and
//! [`Barrier`](std::sync::Barrier) to meet a known number of threads.
//!
//! # Examples
//!
//! Threads and tasks wait for the same object, under any async runtime or none:
//!
//! ```
//! use std::{thread, time::Duration};
//! use tantara::{AutoResetEvent, Event, Waitable, any};
//!
//! static READY: Event = Event::new(); // 16 bytes, no allocation
//!
//! let thread = thread::spawn(|| READY.wait());
//! let task = thread::spawn(|| pollster::block_on(READY.wait_async()));
//! assert!(!READY.wait_timeout(Duration::from_millis(5))); // nobody has set it yet
//! READY.set(); // releases both, and all later waits until it is cleared
//! thread.join().unwrap();
//! task.join().unwrap();
//!
//! READY.clear();
//! let next_job = AutoResetEvent::new();
//! next_job.set(); // nobody waits, so the release is stored for the next waiter
//! assert_eq!(any([&READY as &dyn Waitable, &next_job]).wait(), 1);
//! ```
//!
//! Every process of a user that opens the same name has the same event:
//!
//! ```no_run
//! # #[cfg(target_os = "linux")]
//! # fn start() -> Result<(), tantara::Error> {
//! # use std::time::Duration;
//! let ready = tantara::SharedEvent::open("db-ready")?;
//! if !ready.wait_timeout(Duration::from_secs(30))? {
//!     println!("not ready; these wait for it, too: {:?}", ready.waiters()?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! The methods of [`Event`] and [`AutoResetEvent`] cannot fail. Those of events between processes
//! or machines return a `Result`, because other programs can remove such an event. The methods of
//! [`any`] and [`all`] panic if an event fails; their `try_` variants return the [`Error`].
//!
//! # Platforms
//!
//! A thread sleeps on the event's state word, by a system call: `futex` on Linux and Android,
//! `WaitOnAddress` on Windows, `_umtx_op` on FreeBSD, and `os_sync_wait_on_address` on macOS 14.4,
//! iOS 17.4 and later. On all other systems, and everywhere with `--cfg tantara_portable`, it sleeps
//! on a condition variable of its own, which `set` finds in a table. On WebAssembly without threads
//! a wait that would block panics; tasks can wait. [`SharedEvent`] exists on Linux only.
//!
//! The crate needs Rust 1.85. It depends on `libc` on Linux, Android, FreeBSD and Apple's systems, and
//! on nothing elsewhere.
//!
//! # Features
//!
//! `serde` (off by default): `Serialize` and `Deserialize` for the types that describe events
//! between processes and their waiters, such as `Entry`, `LastSet` and `Waiter`.
#![doc = ""]
#![cfg_attr(shared_events, doc = "[`SharedEvent`]: crate::SharedEvent")]
#![cfg_attr(not(shared_events), doc = "[`SharedEvent`]: #platforms")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(docsrs, doc(auto_cfg(hide(shared_events, loom))))]
#![cfg_attr(docsrs, doc(auto_cfg(hide(linux_native, windows_native, apple_native, freebsd_native))))]
#![deny(unsafe_code)]

mod auto_reset;
mod deadline;
#[cfg(shared_events)]
mod directory;
mod error;
mod event;
#[allow(unsafe_code, reason = "keeps waits of any type in place")]
mod external;
mod interrupt;
#[cfg(any(not(loom), test))]
mod lock;
mod many;
mod name;
#[cfg_attr(not(shared_events), allow(dead_code, reason = "for events outside of the process"))]
mod note;
mod owned;
mod park;
#[cfg(any(shared_events, loom))]
mod protocol;
mod set_on_drop;
#[cfg(shared_events)]
#[allow(unsafe_code, reason = "maps files")]
mod shared;
mod sleepers;
#[allow(unsafe_code, reason = "pins slots beside the owners of their events")]
mod slots;
mod stored;
mod sync;
#[allow(unsafe_code, reason = "calls the kernel")]
mod sys;
#[allow(unsafe_code, reason = "the intrusive list")]
mod tasks;
#[allow(unsafe_code, reason = "pins the list's nodes")]
mod wait;
pub mod waits;
#[allow(unsafe_code, reason = "an array that is filled step by step")]
mod wakers;
mod word;

pub use auto_reset::AutoResetEvent;
pub use error::Error;
pub use event::Event;
pub use interrupt::interruptible;
pub use many::{All, Any, all, any};
pub use set_on_drop::SetOnDrop;
#[cfg(shared_events)]
#[cfg_attr(docsrs, doc(cfg(target_os = "linux")))]
pub use shared::{Changed, Entry, Hold, LastSet, OwnedSharedWait, SharedEvent, SharedWait, State, Waiter};
pub use slots::Waitable;
pub use wait::{AutoResetWait, OwnedAutoResetWait, OwnedWait, Wait};
#[doc(no_inline)]
pub use waits::waits;

/// How other crates of this repository add a kind of event. Not part of the public API.
#[doc(hidden)]
pub mod __private {
    #[cfg(shared_events)]
    pub use crate::directory::exists_for_user as has_default_directory;
    pub use crate::error::external as error;
    pub use crate::external::External;
    pub use crate::name::check as check_name;
    pub use crate::note::check as check_note;
    pub use crate::slots::sealed::{IntoSlot, Seal, Sealed};
    pub use crate::slots::{Collected, Slot};
    pub use crate::waits::hooks::Identity;
}

/// The examples of README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! [`Event`]: Event
//! [`AutoResetEvent`]: AutoResetEvent
//! [`any`]: any()
//! [`all`]: all()
#![cfg_attr(shared_events, doc = "[`SharedEvent`]: SharedEvent")]
#![doc = ""]
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]

mod auto_reset;
mod deadline;
mod error;
mod event;
#[allow(unsafe_code, reason = "keeps waits of any type in place")]
mod external;
mod interrupt;
#[cfg(any(not(loom), test))]
mod lock;
mod many;
mod name;
mod park;
#[cfg(any(shared_events, loom))]
mod protocol;
#[cfg(shared_events)]
#[allow(unsafe_code, reason = "maps files")]
mod shared;
mod stored;
mod sync;
#[allow(unsafe_code, reason = "calls the kernel")]
mod sys;
#[allow(unsafe_code, reason = "the intrusive list")]
mod tasks;
#[allow(unsafe_code, reason = "pins the list's nodes")]
mod wait;
#[allow(unsafe_code, reason = "an array that is filled step by step")]
mod wakers;
mod word;

pub use auto_reset::AutoResetEvent;
pub use error::Error;
pub use event::Event;
pub use interrupt::interruptible;
pub use many::{All, Any, Waitable, all, any};
#[cfg(shared_events)]
#[cfg_attr(docsrs, doc(cfg(target_os = "linux")))]
pub use shared::{Changed, Entry, LastSet, SharedEvent, SharedWait, State, Waiter};
pub use wait::{AutoResetWait, Wait};

/// How the crates that build upon this one add a kind of event. No part of the public API.
#[doc(hidden)]
pub mod __private {
    pub use crate::error::external as error;
    pub use crate::external::External;
    pub use crate::many::sealed::{Seal, Sealed};
    pub use crate::name::check as check_name;
    pub use crate::wait::Slot;
}

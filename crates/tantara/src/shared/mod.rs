//! Events between processes, on Linux: a mapped file each.
//!
//! ```text
//!   event ──► wait ──► bridge      the futures, and the thread that sleeps for them
//!     │                  │
//!     ├──► handle ◄──────┘
//!     │      ├───► registry        who waits
//!     │      └───► signal ──► word      the protocol on the word
//!     ├──► naming ──► policy       how a file gets its name, and loses it; what others may do with it
//!     │      │
//!     └──────┴───► file ──► mapping ──► layout ──► word
//!                    └────► name
//! ```
//!
//! Under loom there are only the word and the protocol on it, for the models.

#[cfg(not(loom))]
#[allow(unsafe_code, reason = "keeps lists for ever")]
mod bridge;
#[cfg(not(loom))]
mod event;
#[cfg(not(loom))]
mod file;
#[cfg(not(loom))]
mod handle;
#[cfg_attr(loom, allow(dead_code, unreachable_pub, reason = "only the word is modelled"))]
mod layout;
#[cfg(not(loom))]
mod list;
#[cfg(not(loom))]
#[allow(unsafe_code, reason = "maps the page, and survives its loss")]
mod mapping;
#[cfg(not(loom))]
mod name;
#[cfg(not(loom))]
mod naming;
#[cfg(not(loom))]
mod policy;
#[cfg(not(loom))]
mod registry;
#[cfg_attr(loom, allow(dead_code, reason = "only the models use it"))]
mod signal;
#[cfg(not(loom))]
#[allow(unsafe_code, reason = "pins the futures")]
mod wait;
#[cfg_attr(loom, allow(dead_code, reason = "only the word is modelled"))]
mod word;

#[cfg(not(loom))]
pub use event::SharedEvent;
#[cfg(not(loom))]
pub use layout::LastSet;
#[cfg(not(loom))]
pub use list::Entry;
#[cfg(not(loom))]
pub use registry::Waiter;
#[cfg(not(loom))]
pub use wait::{Changed, SharedWait, State};

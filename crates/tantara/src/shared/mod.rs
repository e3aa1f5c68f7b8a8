//! Events between processes, on Linux: a mapped file each. Arrows lead to what a file uses.
//!
//! ```text
//!   until, hold, note              waits for other things, holds, and sets with a reason
//!     │
//!   event ──► wait ──► reactor     the futures, and the threads that sleep for them
//!     │                  │
//!     ├──► handle ◄──────┘
//!     │      ├───► registry        who waits
//!     │      ├───► holders         who holds it
//!     │      └───► protocol        the shared word, and how it is changed
//!     ├──► naming ──► policy       how a file gets its name, and loses it; what other users may do with it
//!     │      │
//!     └──────┴───► file ──► mapping ──► protocol
//!                    └────► name
//! ```

mod event;
mod file;
mod handle;
mod hold;
mod holders;
mod list;
#[allow(unsafe_code, reason = "maps the page, and survives its loss")]
mod mapping;
mod name;
mod naming;
mod note;
mod policy;
#[allow(unsafe_code, reason = "keeps lists for ever")]
mod reactor;
mod registry;
mod set_on_drop;
mod slots;
mod until;
#[allow(unsafe_code, reason = "pins the futures")]
mod wait;

pub use crate::protocol::record::LastSet;
pub use event::SharedEvent;
pub use hold::Hold;
pub use list::Entry;
pub use registry::Waiter;
pub use wait::{Changed, OwnedSharedWait, SharedWait, State};

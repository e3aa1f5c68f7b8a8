//! Events between processes, on Linux: a mapped file each.
//!
//! ```text
//!   event ──► wait ──► bridge      the futures, and the thread that sleeps for them
//!     ├─────► registry             who waits
//!     └─────► file ──► mapping ──► layout
//!               └────► name
//! ```

mod bridge;
mod event;
mod file;
mod layout;
#[allow(unsafe_code, reason = "maps the page, and survives its loss")]
mod mapping;
mod name;
mod registry;
mod survey;
#[allow(unsafe_code, reason = "pins the futures")]
mod wait;

pub(crate) use bridge::losses;
pub use event::SharedEvent;
pub use layout::LastSet;
pub use registry::Waiter;
pub use survey::{Entry, survey};
pub use wait::{Changed, SharedWait, State};

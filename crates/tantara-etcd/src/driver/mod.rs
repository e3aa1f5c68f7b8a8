//! The runtime thread of a connection and the tasks on it: reads and watches for waits, and records
//! of who waits.

pub(crate) mod beginning;
pub(crate) mod late;
pub(crate) mod mailbox;
pub(crate) mod past;
mod records;
pub(crate) mod runtime;
pub(crate) mod task;
mod waiters;
pub(crate) mod watch;

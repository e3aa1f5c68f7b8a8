//! All that needs events between processes of this machine (Linux): a directory of events, `ps`, the conditions `--pid`
//! and `--file`, the bank whose workers are processes.
//!
//! `not_local.rs` takes the place of this folder on other systems, and refuses all of it.

mod bank;
mod directory;
mod files;
mod list;
mod observer;
mod page;
mod ps;
mod watch;

pub(crate) use bank::{check_bank, run_bank, work_for_bank};
pub(crate) use directory::{Directory, LocalEvent, LocalHold};
pub(crate) use list::entries;
pub(crate) use observer::Observer;
pub(crate) use ps::{check_ps, ps, publish_waits_in};
pub(crate) use watch::watch;

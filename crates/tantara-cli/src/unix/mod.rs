//! What the command asks of a Unix system: signals, programs, the name of the machine.
//!
//! `windows/mod.rs` offers the same on Windows.

mod child;
mod files;
mod interrupt;
mod program;
mod reader;
#[allow(unsafe_code, reason = "reads the action of a signal before `main`, and restores it between fork and exec")]
mod sigpipe;

pub(crate) use child::{Ended, Startable, become_command, end_as};
pub(crate) use files::{bytes_of, host, permit_as_other_files};
pub(crate) use interrupt::{end_by, end_by_signals_as_process_1, ends_with};
pub(crate) use program::check as check_program;
pub(crate) use reader::end_with_reader;

//! What the command asks of Windows: console events, programs, the name of the machine.
//!
//! `unix/mod.rs` offers the same on Unix. There are no signals: Ctrl-C is a console event, which reaches every process
//! of the console, and a process ends with a number of 32 bits.

mod child;
mod files;
mod interrupt;
mod program;

pub(crate) use child::{Ended, Startable, become_command, end_as};
pub(crate) use files::{bytes_of, end_with_reader, host, permit_as_other_files};
pub(crate) use interrupt::{end_by, end_by_signals_as_process_1, ends_with};
pub(crate) use program::check as check_program;

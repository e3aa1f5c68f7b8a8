//! The bank whose workers are processes of this machine.

use std::process::Command;

use tantara_bank::{Audience, Plan, Run, processes};

use crate::failure::Failure;

/// Fails if there cannot be such a bank.
pub(crate) fn check_bank() -> Result<(), Failure> {
    Ok(())
}

/// Runs the bank; `program` is the command of a worker.
pub(crate) fn run_bank(
    plan: Plan,
    audience: Audience,
    program: impl Fn() -> Command + Send + Sync + 'static,
) -> std::io::Result<Run> {
    processes::run(plan, audience, program)
}

/// Runs a worker.
pub(crate) fn work_for_bank(arguments: &[String]) -> Result<(), Failure> {
    tantara::waits::record(true);
    processes::work(arguments).map_err(Failure::internal)
}

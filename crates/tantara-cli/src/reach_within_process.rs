//! Replaces `reach.rs` on platforms without events between processes.

use clap::{Args, Subcommand, ValueEnum};
use tantara_bank::{Audience, Plan, Run};

use crate::failure::Failure;

/// No options: all events are in this process.
#[derive(Args, Debug)]
pub(crate) struct PlaceArgs {}

#[derive(Subcommand, Debug)]
pub(crate) enum Action {}

impl Action {
    pub(crate) fn run(self, _: PlaceArgs) -> Result<(), Failure> {
        match self {}
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReachArg {
    /// A pool of threads
    Threads,
    /// Async tasks on a multi-threaded runtime
    Tasks,
}

impl ReachArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ReachArg::Threads => "threads",
            ReachArg::Tasks => "tasks",
        }
    }
}

/// Where the bank's workers run.
pub(crate) struct Reach(tantara_bank::Reach);

impl Reach {
    pub(crate) fn new(reach: ReachArg, _: usize, _: &PlaceArgs) -> Result<Reach, Failure> {
        Ok(Reach(match reach {
            ReachArg::Threads => tantara_bank::Reach::Threads,
            ReachArg::Tasks => tantara_bank::Reach::Tasks,
        }))
    }

    pub(crate) fn run(self, plan: Plan, audience: Audience) -> std::io::Result<Run> {
        tantara_bank::run(self.0, plan, audience)
    }
}

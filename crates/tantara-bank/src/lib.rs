#![doc = include_str!("../README.md")]
//!
//! # Where things are
//!
//! The steps and lines are data ([`script`]). A runner ([`threads`], [`tasks`], [`machines`]; on
//! Linux `processes`) executes them, and the [`Stage`] records what happens. [`timeline`] and
//! [`trace`] draw pictures from the record.

#![forbid(unsafe_code)]

mod advance;
mod bank;
mod customer;
pub mod machines;
mod plan;
mod pool;
#[cfg(target_os = "linux")]
pub mod processes;
pub mod script;
mod stage;
pub mod tasks;
pub mod threads;
pub mod timeline;
pub mod trace;

use std::io;

pub use customer::{BadList, Customer, Kind, MOST_CUSTOMERS, crowd, default_customers, read_customers};
pub use plan::Plan;
pub use pool::MOST_WORKERS;
pub use stage::{Audience, HearLine, HearLoss, Phase, Run, Span, Stage, Summary, Visit};

pub use script::{Pace, PaceError};

/// The runners within one process. The others need to know how to start a worker: see
/// [`machines::run`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// A pool of threads; a worker serves one customer at a time.
    Threads,
    /// Async tasks on a pool of threads; each customer is a task, and all tasks exist at once.
    Tasks,
}

/// Runs the scenario from the manager's first line to the last.
///
/// # Errors
///
/// If the plan has no workers, or they cannot be started.
///
/// # Panics
///
/// On a thread that runs async tasks of tokio, where nothing may block.
pub fn run(reach: Reach, plan: Plan, audience: Audience) -> io::Result<Run> {
    match reach {
        Reach::Threads => threads::run(plan, audience),
        Reach::Tasks => tasks::run(plan, audience),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_without_workers_is_an_error() {
        for reach in [Reach::Threads, Reach::Tasks] {
            for customers in [0, 1, 4] {
                let plan = Plan { customers: crowd(customers), workers: 0, pace: Pace::new(0.0).unwrap() };
                assert_eq!(run(reach, plan, Audience::nobody()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            }
        }
    }
}

//! The bank: a scenario with two events, and one runner for each reach of `tantara`.
//!
//! A bank is coordinated by two events, `bank_open` and `transactions_open`. Customers come in order; each waits for
//! the bank to open, one who withdraws money also waits for transactions to open, and each is served and leaves. The
//! manager opens the one and then the other.
//!
//! What everyone does and says is data ([`script`]); a runner ([`threads`], [`tasks`]; on Linux `processes`,
//! `machines`) only performs it, and the [`Stage`] notes what happens. The pictures ([`timeline`], [`trace`]) are
//! drawn from those notes.
//!
//! ```
//! use bank::{Run, Plan, Reach};
//!
//! let plan = Plan { customers: bank::default_customers(), workers: 4, pace: bank::Pace::new(0.0).unwrap() };
//! let run = bank::run(Reach::Tasks, plan, bank::Audience::nobody()).unwrap();
//! assert_eq!(run.summary.released_by_transactions_open, 3);
//! ```

#![forbid(unsafe_code)]

mod bank;
mod customer;
#[cfg(target_os = "linux")]
pub mod machines;
mod plan;
#[cfg(target_os = "linux")]
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

pub use customer::{BadList, Customer, Kind, crowd, default_customers, read_customers};
pub use plan::Plan;
pub use stage::{Audience, HearLine, HearLoss, Phase, Run, Span, Stage, Summary, Visit};

pub use script::{Pace, PaceError};

/// How far the events reach within one process, and so who carries a customer. Beyond it, a runner needs to know how to
/// start a worker: see `processes::run`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// A pool of threads; a worker carries one customer at a time.
    Threads,
    /// Async tasks on a pool of threads; each customer is a task, and all of them are there at once.
    Tasks,
}

/// Runs the plan from the manager's first line to the last.
///
/// # Errors
///
/// If the workers cannot be started.
pub fn run(reach: Reach, plan: Plan, audience: Audience) -> io::Result<Run> {
    match reach {
        Reach::Threads => threads::run(plan, audience),
        Reach::Tasks => tasks::run(plan, audience),
    }
}

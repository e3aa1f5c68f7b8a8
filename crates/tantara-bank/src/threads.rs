//! The bank on a pool of threads: a worker serves one customer at a time.
//!
//! The pool is tokio's pool for blocking work, which starts jobs in order, and threads when they
//! are needed.

use std::io;
use std::sync::Arc;
use std::thread;

use crate::bank::{Bank, Manager};
use crate::plan::Plan;
use crate::script::{self, CustomerStep, ManagerStep, SERVICE};
use crate::stage::{Audience, Phase, Run};

/// Runs the plan. See [`crate::run`] with [`Reach::Threads`](crate::Reach::Threads).
///
/// # Errors
///
/// If the plan has no workers, or the pool cannot be created.
///
/// # Panics
///
/// If the system cannot start the first thread, or on a thread that runs async tasks of tokio, where
/// nothing may block.
pub fn run(plan: Plan, audience: Audience) -> io::Result<Run> {
    plan.check()?;
    let pool = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(plan.workers)
        .thread_name("worker")
        .build()?;
    let bank = Bank::new(plan, audience);
    let mut manager = Manager::new(&bank);
    let customers = 0..bank.stage.customers().len();
    let visits: Vec<_> = customers
        .map(|customer| {
            let bank = Arc::clone(&bank);
            pool.spawn_blocking(move || serve(&bank, customer))
        })
        .collect();
    for step in script::MANAGER {
        match *step {
            ManagerStep::Say(line) => bank.stage.announce(line),
            ManagerStep::Pause(pause) => thread::sleep(bank.stage.pace().of(pause)),
            ManagerStep::Open(gate) => manager.open(gate),
        }
    }
    pool.block_on(Bank::last_has_left(visits));
    drop(pool);
    drop(manager);
    Ok(Bank::close(bank))
}

fn serve(bank: &Bank, customer: usize) {
    let mut visit = bank.stage.enter(customer);
    for step in script::customer(bank.stage.customers()[customer].kind) {
        match *step {
            CustomerStep::Say(line) => visit.say(line),
            CustomerStep::Wait(gate) => {
                visit.begin(Phase::Waiting(gate));
                bank.event(gate).wait();
                visit.end();
            }
            CustomerStep::BeServed => {
                visit.begin(Phase::Served);
                thread::sleep(bank.stage.pace().of(SERVICE));
                visit.end();
            }
        }
    }
    visit.leave();
}

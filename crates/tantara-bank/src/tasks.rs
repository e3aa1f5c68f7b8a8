//! The bank on async tasks: every customer is a task, all tasks exist at once, and the workers are
//! the threads of the runtime.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::bank::{Bank, Manager};
use crate::plan::Plan;
use crate::script::{self, CustomerStep, ManagerStep, SERVICE};
use crate::stage::{Audience, Phase, Run};

/// Runs the plan. See [`crate::run`] with [`Reach::Tasks`](crate::Reach::Tasks).
///
/// # Errors
///
/// If the plan has no workers, or the runtime cannot be created.
///
/// # Panics
///
/// If the system cannot start a thread of the runtime, or on a thread that runs async tasks of tokio,
/// where nothing may block.
pub fn run(plan: Plan, audience: Audience) -> io::Result<Run> {
    plan.check()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(plan.workers)
        .thread_name("worker")
        .enable_time()
        .build()?;
    let bank = Bank::new(plan, audience);
    runtime.block_on(manage(&bank));
    // Ends the workers, so that no task refers to the bank any more.
    drop(runtime);
    Ok(Bank::close(bank))
}

async fn manage(bank: &Arc<Bank>) {
    let mut manager = Manager::new(bank);
    let customers = 0..bank.stage.customers().len();
    let visits = customers.map(|customer| tokio::spawn(serve(Arc::clone(bank), customer))).collect();
    for step in script::MANAGER {
        match *step {
            ManagerStep::Say(line) => bank.stage.announce(line),
            ManagerStep::Pause(pause) => sleep(bank.stage.pace().of(pause)).await,
            ManagerStep::Open(gate) => manager.open(gate),
        }
    }
    Bank::last_has_left(visits).await;
}

async fn serve(bank: Arc<Bank>, customer: usize) {
    let mut visit = bank.stage.enter(customer);
    for step in script::customer(bank.stage.customers()[customer].kind) {
        match *step {
            CustomerStep::Say(line) => visit.say(line),
            CustomerStep::Wait(gate) => {
                visit.begin(Phase::Waiting(gate));
                bank.event(gate).wait_async().await;
                visit.end();
            }
            CustomerStep::BeServed => {
                visit.begin(Phase::Served);
                sleep(bank.stage.pace().of(SERVICE)).await;
                visit.end();
            }
        }
    }
    visit.leave();
}

/// Skips the timer if there is no pause.
async fn sleep(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

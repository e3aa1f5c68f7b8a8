//! The bank on async tasks: every customer is a task, all of them are in the bank at once, and the workers are the
//! threads of the runtime.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tantara::Event;

use crate::Plan;
use crate::script::{self, CustomerStep, Gate, ManagerStep, SERVICE};
use crate::stage::{Audience, Phase, Run, Stage};

struct Bank {
    stage: Stage,
    events: [Event; 2],
}

impl Bank {
    fn event(&self, gate: Gate) -> &Event {
        &self.events[gate as usize]
    }
}

/// Runs the plan. See [`crate::run`] with [`Reach::Tasks`](crate::Reach::Tasks).
///
/// # Errors
///
/// If the runtime cannot be started.
pub fn run(plan: Plan, audience: Audience) -> io::Result<Run> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(plan.workers)
        .thread_name("worker")
        .enable_time()
        .build()
        .map_err(|error| io::Error::other(format!("{} workers cannot be started: {error}", plan.workers)))?;
    let bank = Arc::new(Bank { stage: Stage::new(plan, audience), events: [const { Event::new() }; 2] });
    runtime.block_on(manage(&bank));
    bank.stage.announce(script::ALL_DONE);
    // Stops the workers, so that no task holds the bank any more.
    drop(runtime);
    match Arc::try_unwrap(bank) {
        Ok(bank) => Ok(bank.stage.close()),
        Err(_) => unreachable!("every task has been awaited and the runtime is gone"),
    }
}

async fn manage(bank: &Arc<Bank>) {
    let customers = 0..bank.stage.customers().len();
    let visits: Vec<_> = customers.map(|customer| tokio::spawn(serve(Arc::clone(bank), customer))).collect();
    for step in script::MANAGER {
        match *step {
            ManagerStep::Say(line) => bank.stage.announce(line),
            ManagerStep::Pause(pause) => sleep(bank.stage.pace().of(pause)).await,
            ManagerStep::Open(gate) => {
                bank.stage.opens(gate);
                bank.event(gate).set();
            }
        }
    }
    for visit in visits {
        if let Err(error) = visit.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

async fn serve(bank: Arc<Bank>, customer: usize) {
    let mut visit = bank.stage.enter(customer);
    for step in script::customer(bank.stage.customers()[customer].kind) {
        match *step {
            CustomerStep::Say(line) => visit.say(line),
            CustomerStep::Wait(gate) => {
                let begun = visit.begin(Phase::Waiting(gate));
                bank.event(gate).wait_async().await;
                visit.end(begun);
            }
            CustomerStep::BeServed => {
                let begun = visit.begin(Phase::Served);
                sleep(bank.stage.pace().of(SERVICE)).await;
                visit.end(begun);
            }
        }
    }
    visit.leave();
}

/// Without a pause there is nothing to ask the timer for.
async fn sleep(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

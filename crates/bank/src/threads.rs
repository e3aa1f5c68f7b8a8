//! The bank on a pool of threads: a worker carries one customer at a time, from the door to the door.

use std::io;
use std::thread;

use tantara::Event;

use crate::Plan;
use crate::script::{self, CustomerStep, Gate, ManagerStep, SERVICE};
use crate::stage::{Audience, Phase, Run, Stage};

/// Runs the plan. See [`crate::run`] with [`Reach::Threads`](crate::Reach::Threads).
///
/// # Errors
///
/// If the threads cannot be started.
pub fn run(plan: Plan, audience: Audience) -> io::Result<Run> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(plan.workers)
        .thread_name(|number| format!("worker {}", number + 1))
        .build()
        .map_err(|error| io::Error::other(format!("{} workers cannot be started: {error}", plan.workers)))?;
    let stage = Stage::new(plan, audience);
    let events = [const { Event::new() }; 2];
    let event = |gate: Gate| &events[gate as usize];

    // The scope hands the jobs to the pool in order, runs the manager on this thread, and ends with the last job.
    pool.in_place_scope_fifo(|jobs| {
        for customer in 0..stage.customers().len() {
            let (stage, event) = (&stage, &event);
            jobs.spawn_fifo(move |_| serve(stage, customer, event));
        }
        for step in script::MANAGER {
            match *step {
                ManagerStep::Say(line) => stage.announce(line),
                ManagerStep::Pause(pause) => thread::sleep(stage.pace().of(pause)),
                ManagerStep::Open(gate) => {
                    stage.opens(gate);
                    event(gate).set();
                }
            }
        }
    });
    stage.announce(script::ALL_DONE);
    Ok(stage.close())
}

fn serve<'e>(stage: &Stage, customer: usize, event: &impl Fn(Gate) -> &'e Event) {
    let mut visit = stage.enter(customer);
    for step in script::customer(stage.customers()[customer].kind) {
        match *step {
            CustomerStep::Say(line) => visit.say(line),
            CustomerStep::Wait(gate) => {
                let begun = visit.begin(Phase::Waiting(gate));
                event(gate).wait();
                visit.end(begun);
            }
            CustomerStep::BeServed => {
                let begun = visit.begin(Phase::Served);
                thread::sleep(stage.pace().of(SERVICE));
                visit.end(begun);
            }
        }
    }
    visit.leave();
}

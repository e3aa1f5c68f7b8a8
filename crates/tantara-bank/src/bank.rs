//! The bank within one process: its stage and its two events.

use std::sync::Arc;

use tantara::{Event, SetOnDrop, waits};
use tokio::task::JoinHandle;

use crate::plan::Plan;
use crate::script::Gate;
use crate::stage::{Audience, Run, Stage};

/// Shared by the manager and the workers.
#[derive(Debug)]
pub(crate) struct Bank {
    pub(crate) stage: Stage,
    events: [Event; 2],
}

impl Bank {
    pub(crate) fn new(plan: Plan, audience: Audience) -> Arc<Bank> {
        let bank = Arc::new(Bank { stage: Stage::new(plan, audience), events: [const { Event::new() }; 2] });
        Gate::ALL.iter().for_each(|gate| waits::label(bank.event(*gate), gate.event_name()));
        bank
    }

    pub(crate) fn event(&self, gate: Gate) -> &Event {
        &self.events[gate as usize]
    }

    /// Waits until all customers have left. A panic of a worker is propagated.
    pub(crate) async fn last_has_left(visits: Vec<JoinHandle<()>>) {
        for visit in visits {
            if let Err(error) = visit.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    /// Ends the run. This must be the last reference to the bank.
    pub(crate) fn close(bank: Arc<Bank>) -> Run {
        match Arc::try_unwrap(bank) {
            Ok(bank) => bank.stage.close(),
            Err(_) => unreachable!("all visits have been awaited, and the workers have ended"),
        }
    }
}

/// The manager, who has declared to open the gates. If the manager panics, nobody waits for ever.
#[derive(Debug)]
pub(crate) struct Manager<'a> {
    bank: &'a Bank,
    to_open: [Option<SetOnDrop<'a>>; 2],
}

impl Manager<'_> {
    pub(crate) fn new(bank: &Bank) -> Manager<'_> {
        Manager { bank, to_open: Gate::ALL.map(|gate| Some(bank.event(gate).set_on_drop())) }
    }

    pub(crate) fn open(&mut self, gate: Gate) {
        self.bank.stage.opens(gate);
        self.to_open[gate as usize] = None;
    }
}

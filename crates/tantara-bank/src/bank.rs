//! The bank within one process: its stage and its two events.

use std::sync::Arc;

use tantara::Event;
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
        Arc::new(Bank { stage: Stage::new(plan, audience), events: [const { Event::new() }; 2] })
    }

    pub(crate) fn event(&self, gate: Gate) -> &Event {
        &self.events[gate as usize]
    }

    /// The manager opens a gate.
    pub(crate) fn open(&self, gate: Gate) {
        self.stage.opens(gate);
        self.event(gate).set();
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

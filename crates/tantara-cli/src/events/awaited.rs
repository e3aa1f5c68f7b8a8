//! The parts of a wait: events, and conditions.

use std::time::Instant;

use tantara::__private::{Seal, Sealed, Slot};
use tantara::Waitable;

use crate::events::aim::Aim;
use crate::events::conditions::Condition;
use crate::events::place::Event;
use crate::failure::Failure;

/// A part of a wait.
#[derive(Debug)]
pub(crate) enum Awaited<'e> {
    Event(&'e Event, Aim),
    Condition(&'e Condition),
}

impl Waitable for Awaited<'_> {}

impl Sealed for Awaited<'_> {
    fn slot(&self, seal: Seal) -> Slot<'_> {
        match self {
            Awaited::Event(Event::Local(event), aim) => event.slot(*aim),
            Awaited::Event(Event::Cluster(event), Aim::Set) => Slot::external(event.wait_async()),
            Awaited::Event(Event::Cluster(event), Aim::Unset) => Slot::external(event.wait_unset_async()),
            Awaited::Event(Event::Cluster(event), Aim::Next) => Slot::external(event.wait_next_async()),
            Awaited::Condition(condition) => condition.has_held.slot(seal),
        }
    }
}

impl Awaited<'_> {
    /// Waits for this part alone.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> Result<bool, Failure> {
        let is_released = |()| true;
        match self {
            Awaited::Event(Event::Local(event), aim) => event.wait_until(*aim, deadline),
            Awaited::Event(Event::Cluster(event), aim) => match (aim, deadline) {
                (Aim::Set, None) => event.wait().map(is_released),
                (Aim::Unset, None) => event.wait_unset().map(is_released),
                (Aim::Next, None) => event.wait_next().map(is_released),
                (Aim::Set, Some(deadline)) => event.wait_deadline(deadline),
                (Aim::Unset, Some(deadline)) => event.wait_unset_deadline(deadline),
                (Aim::Next, Some(deadline)) => event.wait_next_deadline(deadline),
            }
            .map_err(Failure::of_cluster),
            Awaited::Condition(condition) => match deadline {
                None => {
                    condition.has_held.wait();
                    Ok(true)
                }
                Some(deadline) => Ok(condition.has_held.wait_deadline(deadline)),
            },
        }
    }
}

//! What `wait` waits for: that events are set, clear, or set once more.

use std::time::Instant;

use tantara::__private::{Seal, Sealed, Slot};
use tantara::Waitable;

use crate::events::place::Event;
use crate::failure::Failure;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Aim {
    Set,
    Unset,
    Next,
}

impl Aim {
    /// Whether a look at an event, without a wait, may find that the condition holds.
    pub(crate) fn is_met_by(self, is_set: bool) -> bool {
        match self {
            Aim::Set => is_set,
            Aim::Unset => !is_set,
            Aim::Next => false,
        }
    }

    /// What a wait that has timed out says of an event.
    pub(crate) fn failing(self) -> &'static str {
        match self {
            Aim::Set => "not set",
            Aim::Unset => "still set",
            Aim::Next => "not set meanwhile",
        }
    }

    /// What a wait says that it waits for.
    pub(crate) fn waiting(self) -> &'static str {
        match self {
            Aim::Set => "waiting for",
            Aim::Unset => "waiting until clear:",
            Aim::Next => "waiting for the next set of",
        }
    }
}

/// An event as part of a wait.
#[derive(Debug)]
pub(crate) struct Awaited<'e> {
    pub(crate) event: &'e Event,
    pub(crate) aim: Aim,
}

impl Waitable for Awaited<'_> {}

impl Sealed for Awaited<'_> {
    fn slot(&self, _: Seal) -> Slot<'_> {
        match (self.event, self.aim) {
            (Event::Shared(event), Aim::Set) => Slot::external(event.wait_async()),
            (Event::Shared(event), Aim::Unset) => Slot::external(event.wait_unset_async()),
            (Event::Shared(event), Aim::Next) => Slot::external(event.wait_next_async()),
            (Event::Cluster(event), Aim::Set) => Slot::external(event.wait_async()),
            (Event::Cluster(event), Aim::Unset) => Slot::external(event.wait_unset_async()),
            (Event::Cluster(event), Aim::Next) => Slot::external(event.wait_next_async()),
        }
    }
}

impl Awaited<'_> {
    /// Waits for this event alone.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> Result<bool, Failure> {
        let is_released = |()| true;
        match self.event {
            Event::Shared(event) => match (self.aim, deadline) {
                (Aim::Set, None) => event.wait().map(is_released),
                (Aim::Unset, None) => event.wait_unset().map(is_released),
                (Aim::Next, None) => event.wait_next().map(is_released),
                (Aim::Set, Some(deadline)) => event.wait_deadline(deadline),
                (Aim::Unset, Some(deadline)) => event.wait_unset_deadline(deadline),
                (Aim::Next, Some(deadline)) => event.wait_next_deadline(deadline),
            }
            .map_err(Failure::of_event),
            Event::Cluster(event) => match (self.aim, deadline) {
                (Aim::Set, None) => event.wait().map(is_released),
                (Aim::Unset, None) => event.wait_unset().map(is_released),
                (Aim::Next, None) => event.wait_next().map(is_released),
                (Aim::Set, Some(deadline)) => event.wait_deadline(deadline),
                (Aim::Unset, Some(deadline)) => event.wait_unset_deadline(deadline),
                (Aim::Next, Some(deadline)) => event.wait_next_deadline(deadline),
            }
            .map_err(Failure::of_cluster),
        }
    }
}

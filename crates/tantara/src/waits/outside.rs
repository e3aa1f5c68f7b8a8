//! Events of other crates in the record of waits. Such an event is represented by an [`Outside`]
//! that its waits and holds share. A wait for it ends by an event of this process, which stands for
//! it.
//!
//! Not part of the public API.

#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::event::Event;
use crate::set_on_drop::SetOnDrop;
use crate::wait::{self, Wait};
use crate::waits::hooks::{self, Identity, Kind, Place};
use crate::waits::known::Act;
use crate::waits::last_hold::LastHold;

/// An event outside of this process. What is known of it ends with this value.
#[derive(Debug)]
pub struct Outside {
    name: Box<str>,
}

/// A call that may lead to a hold: by whom, from where, when.
#[derive(Debug)]
pub struct Call(Act);

/// A hold, until it is dropped.
#[derive(Debug)]
pub struct Held {
    event: Arc<Outside>,
    number: u64,
}

impl Call {
    /// By this thread, from that place or from a line of another language.
    #[must_use]
    pub fn now(place: Place) -> Call {
        Call(Act::now(place))
    }
}

impl Outside {
    /// An event of that name, to be made while waits are recorded.
    #[must_use]
    pub fn new(name: &str) -> Arc<Outside> {
        let event = Arc::new(Outside { name: name.into() });
        hooks::label(hooks::outside(event.identity(false)), &event.name, || ());
        event
    }

    fn identity(&self, until_unset: bool) -> Identity {
        Identity { until_unset, ..Identity::new(hooks::address(self), Kind::Cluster) }
    }

    /// A wait for this event, or `until_unset`, ends when `over` is set. This event outlives `over`, which
    /// is not moved.
    pub fn is_awaited_by(&self, over: &Event, until_unset: bool) {
        let queue = over.queue();
        hooks::stands_for(queue.subject(Kind::Event), self.identity(until_unset));
        wait::note_sets(queue);
    }

    /// This process holds the event, because of that call.
    #[must_use]
    pub fn hold(self: &Arc<Self>, call: Call) -> Held {
        let number = hooks::hold_by(self.identity(false), call.0);
        Held { event: Arc::clone(self), number }
    }

    /// The last hold, if it has ended and nothing was done with the event since.
    pub fn note_last_hold(&self, hold: Option<LastHold>) {
        hooks::note_last_hold(hooks::address(self), hold);
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        hooks::dropped(hooks::address(self));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        hooks::release(hooks::address(&*self.event), self.number);
    }
}

/// A value that sets an event outside of this process by that call when it is dropped. `event` is that
/// event, if waits are recorded.
#[track_caller]
pub fn set_on_drop(event: Option<Arc<Outside>>, set: impl FnOnce() + Send + Sync + 'static) -> SetOnDrop<'static> {
    let identity = event.as_ref().map(|event| event.identity(false));
    SetOnDrop::external(identity, move || {
        set();
        drop(event);
    })
}

/// In a wait for several events, the identity of the event that [stands](Outside::is_awaited_by)
/// for another.
#[must_use]
pub fn stand_in(over: &Event) -> Identity {
    Identity::new(hooks::address(over.queue()), Kind::Event)
}

/// A wait that is not recorded: a part of one that is recorded as a whole, or none of the program's.
pub fn unrecorded(event: &Event) -> Wait<'_> {
    Wait::new(event.queue(), None)
}

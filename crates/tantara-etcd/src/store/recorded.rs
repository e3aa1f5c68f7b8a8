//! What this crate tells the record of waits of this process: which event a wait is for, who holds it in
//! this process, and who has held it last.
//!
//! While waits are not recorded, each of these reads one byte.

use std::collections::HashMap;
use std::panic::Location;
use std::sync::{Arc, Mutex, Weak};

use tantara::waits::{self, Call, LastHold, Outside};

use crate::lock::lock;
use crate::store::keys::Stamp;
use crate::store::state::State;

/// The events of a connection that are waited for or held while waits are recorded.
#[derive(Debug, Default)]
pub(crate) struct Recorded(Mutex<Known>);

#[derive(Debug)]
struct Known {
    events: HashMap<Arc<str>, Weak<Outside>>,
    /// At that number, those that are not used any more are removed.
    most: usize,
}

impl Default for Known {
    fn default() -> Known {
        Known { events: HashMap::new(), most: FEWEST }
    }
}

const FEWEST: usize = 64;

/// The call of this thread at that place, if waits are recorded.
pub(crate) fn call(place: &'static Location<'static>) -> Option<Call> {
    waits::is_wanted().then(|| Call::now(place))
}

impl Recorded {
    /// The event of that name, if waits are recorded. Not to be called in the child of a fork, where the
    /// lock may be held for ever.
    pub(crate) fn event(&self, name: &Arc<str>) -> Option<Arc<Outside>> {
        waits::is_wanted().then(|| {
            let mut known = lock(&self.0);
            if let Some(event) = known.events.get(name).and_then(Weak::upgrade) {
                return event;
            }
            let event = Outside::new(name);
            known.events.insert(Arc::clone(name), Arc::downgrade(&event));
            if known.events.len() >= known.most {
                known.events.retain(|_, event| event.strong_count() > 0);
                known.most = FEWEST.max(2 * known.events.len());
            }
            event
        })
    }

    /// Notes what a read shows of an event, if waits are recorded.
    pub(crate) fn note(&self, name: &str, state: &State) {
        if waits::is_wanted() {
            // Dropped after the lock.
            let event = lock(&self.0).events.get(name).and_then(Weak::upgrade);
            if let Some(event) = event {
                let hold = |Stamp { host, pid, at, .. }: Stamp| LastHold::new(&host, pid, at);
                event.note_last_hold(state.ended_hold().map(hold));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_known_for_as_long_as_it_is_used_and_others_are_forgotten() {
        waits::record(true);
        let recorded = Recorded::default();
        let event = |name: &str| recorded.event(&name.into()).unwrap();
        let kept = event("kept");
        assert!(Arc::ptr_eq(&kept, &event("kept")));
        for number in 0..10 * FEWEST {
            drop(event(&number.to_string()));
        }
        assert!(lock(&recorded.0).events.len() <= FEWEST);
        assert!(Arc::ptr_eq(&kept, &event("kept")));
        waits::record(false);
        assert!(recorded.event(&"kept".into()).is_none());
    }
}

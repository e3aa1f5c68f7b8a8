//! Why a wait was released: who set the events, with which note.

use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use crate::events::origin::Origin;
use crate::events::place::Event;
use crate::output;

/// The time limit for reading the last sets of events in a cluster, which delays a command after the wait.
const LOOK: Duration = Duration::from_millis(500);

/// Prints why the events were set, if that is known. An error is ignored, because the wait itself has succeeded.
pub(crate) fn report<'e>(events: impl Iterator<Item = (&'e str, &'e Event)>) {
    let deadline = Instant::now() + LOOK;
    for (name, event) in events {
        let Some(last) = last_set(event, deadline) else { continue };
        if let Some(note) = &last.note {
            output::note(format_args!("{name} was set by {}: {note}", last.process()));
        }
    }
}

fn last_set(event: &Event, deadline: Instant) -> Option<Origin> {
    match event {
        Event::Local(event) => event.last_set(),
        Event::Cluster(event) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().ok()?;
            let asked = async { timeout_at(deadline.into(), event.last_set_async()).await };
            runtime.block_on(asked).ok()?.ok()?.map(Origin::from)
        }
    }
}

//! Reads of events as they were at the revisions of their changes: whether one was unset for a moment.
//!
//! A few go on at the same time. While others wait for their turn, the driver takes no message of the
//! watch, and the window of the stream fills up. So neither fast changes nor a hostile server, which
//! shows changes without end, can make this process keep any number of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::call::Failure;
use crate::driver::waiters::{Waiters, release};
use crate::store::Store;
use crate::store::read::{self, Snapshot};

/// Upper bound on the reads that go on at the same time.
const AT_ONCE: usize = 32;

/// A change of an event that may have unset it: its name, and the revision.
type Moment = (Arc<str>, i64);

type Events = HashMap<Arc<str>, Waiters>;

/// What such a read has shown.
pub(crate) struct Past {
    moment: Moment,
    snapshot: Result<Snapshot, Failure>,
}

pub(crate) struct PastReads {
    store: Arc<Store>,
    doing: &'static str,
    /// The moments to be read next.
    waiting: VecDeque<Moment>,
    reading: JoinSet<Past>,
}

impl PastReads {
    pub(crate) fn new(store: Arc<Store>, doing: &'static str) -> PastReads {
        PastReads { store, doing, waiting: VecDeque::new(), reading: JoinSet::new() }
    }

    /// Requests a read, unless it is already requested.
    pub(crate) fn request(&mut self, name: &Arc<str>, revision: i64, waiters: &mut Waiters) {
        if waiters.late.expect_past(revision) {
            self.waiting.push_back((Arc::clone(name), revision));
        }
    }

    /// Begins as many reads as may go on at the same time.
    pub(crate) fn begin(&mut self, events: &mut Events) {
        while self.reading.len() < AT_ONCE {
            let Some(moment) = self.waiting.pop_front() else { return };
            let Some(waiters) = events.get_mut(&moment.0) else { continue };
            if !waiters.waits_until_unset(moment.1) {
                waiters.late.forget_past(moment.1);
                continue;
            }
            let (store, doing) = (Arc::clone(&self.store), self.doing);
            self.reading.spawn(async move {
                let until = store.connection.request_deadline();
                let snapshot = read::events_at(&store, doing, &[Arc::clone(&moment.0)], moment.1, until).await;
                Past { moment, snapshot }
            });
        }
    }

    /// Whether reads wait for their turn.
    pub(crate) fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next read that has ended; `None` if none goes on. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Past> {
        loop {
            if let Ok(past) = self.reading.join_next().await? {
                return Some(past);
            }
        }
    }

    /// Applies a read to the waits that it concerns. Returns whether the event has to be read as it is now.
    pub(crate) fn apply(&mut self, past: Past, events: &mut Events) -> bool {
        let (name, revision) = past.moment;
        if let Some(waiters) = events.get_mut(&name) {
            waiters.late.forget_past(revision);
            match past.snapshot.map(|snapshot| snapshot.states.into_iter().next()) {
                Ok(Some(Ok(state))) => release(waiters.on_past(revision, &state)),
                Err(failure) if failure.error.is_unreachable() => {
                    waiters.late.fail(revision, &failure.error);
                    // The watch has shown this moment, and will not show it again.
                    if waiters.waits_until_unset(revision) {
                        self.request(&name, revision, waiters);
                    }
                }
                // The history is gone, or could not be read.
                _ => waiters.is_stale = true,
            }
            waiters.end_late(Instant::now(), &name);
        }
        self.begin(events);
        events.get(&name).is_some_and(|waiters| waiters.is_stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::endpoint::parse;
    use crate::driver::mailbox::{Aim, Completer, WaitState};
    use crate::options::Options;

    #[test]
    fn few_reads_go_on_at_the_same_time_and_none_that_no_wait_asks_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let (store, _keep_alive) = Store::new(parse("127.0.0.1:1", false).unwrap(), Options::new(), async {});
        let mut reads = PastReads::new(Arc::new(store), "read");
        let (name, now) = (Arc::from("event"), Instant::now());
        let wait = WaitState::new(&name, &Arc::default(), Aim::Unset, None);
        let waiters = Waiters::with(Completer(Arc::clone(&wait)), 500, now);
        let mut events = Events::from([(Arc::clone(&name), waiters)]);
        for revision in (0..1_000).chain(0..1_000) {
            reads.request(&name, revision, events.get_mut(&name).unwrap());
        }
        assert_eq!(reads.waiting.len(), 1_000, "each is requested once");
        reads.begin(&mut events);
        assert_eq!((reads.reading.len(), reads.waiting.len()), (AT_ONCE, 499 - AT_ONCE));
        assert!(reads.is_full());
        wait.complete(Ok(true));
        events.get_mut(&name).unwrap().forget_ended();
        reads.reading = JoinSet::new();
        reads.begin(&mut events);
        assert!(reads.reading.is_empty() && !reads.is_full());
    }
}

//! Which waits of a connection have not begun yet. The writes that are requested through the same
//! connection after them are sent when they have begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::driver::mailbox::Completer;

/// Counts the waits of a connection that have been requested, and have not begun.
#[derive(Debug, Default)]
pub(crate) struct Beginnings(Arc<AtomicUsize>);

/// A wait that is counted, until this is dropped: it has begun, or never will.
#[derive(Debug)]
pub(crate) struct Beginning(Arc<AtomicUsize>);

impl Beginnings {
    pub(crate) fn add(&self) -> Beginning {
        // Relaxed is enough: a thread that must see this count learns of the wait after this.
        self.0.fetch_add(1, Relaxed);
        Beginning(Arc::clone(&self.0))
    }

    /// Whether no wait that was requested before this call has still to begin.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Acquire) == 0
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        self.0.fetch_sub(1, AcqRel);
    }
}

/// A wait whose first read has not been answered.
pub(crate) struct Joining {
    pub(crate) wait: Completer,
    /// The order in which the waits were requested.
    pub(crate) order: u64,
    /// The deadline of the first read.
    pub(crate) until: Instant,
    pub(crate) _beginning: Beginning,
}

/// The waits for an event for which no read was sent yet, and the writes that come after waits.
#[derive(Default)]
pub(crate) struct Joins {
    waits: Vec<Joining>,
    /// Each with the number of the last wait that was requested before it. It is sent when the sender
    /// is dropped.
    writes: Vec<(u64, oneshot::Sender<()>)>,
    /// Whether a read was sent for waits, and was not answered.
    is_reading: bool,
}

impl Joins {
    pub(crate) fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    pub(crate) fn add(&mut self, wait: Joining) {
        self.waits.push(wait);
    }

    /// A write comes after the waits up to that number.
    pub(crate) fn add_write(&mut self, after: u64, write: oneshot::Sender<()>) {
        self.writes.push((after, write));
        self.send_writes();
    }

    /// The waits for which a read is sent now.
    pub(crate) fn take(&mut self) -> Vec<Joining> {
        self.is_reading = !self.waits.is_empty();
        std::mem::take(&mut self.waits)
    }

    /// That read was answered, or has failed. Those of its waits that have not begun have joined
    /// again.
    pub(crate) fn read_ended(&mut self) {
        self.is_reading = false;
        self.send_writes();
    }

    /// Forgets the waits for which this does not hold.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&Completer) -> bool) {
        self.waits.retain(|joining| is_kept(&joining.wait));
        self.send_writes();
    }

    /// Sends the writes before which nothing has still to begin.
    fn send_writes(&mut self) {
        if !self.is_reading && !self.writes.is_empty() {
            // A wait whose read has failed joins again, after later ones.
            let first = self.waits.iter().map(|joining| joining.order).min();
            self.writes.retain(|(after, _)| first.is_some_and(|first| first <= *after));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::mailbox::{Aim, WaitState};

    #[test]
    fn a_write_waits_for_the_waits_before_it_and_for_no_later_one() {
        let (mut joins, counted) = (Joins::default(), Beginnings::default());
        let joining = |order| {
            let state = WaitState::new(&"event".into(), &Arc::default(), Aim::Set, None);
            Joining { wait: Completer(state), order, until: Instant::now(), _beginning: counted.add() }
        };
        let write = |joins: &mut Joins, after| {
            let (write, sent) = oneshot::channel();
            joins.add_write(after, write);
            sent
        };
        let is_sent = |sent: &mut oneshot::Receiver<()>| sent.try_recv() == Err(oneshot::error::TryRecvError::Closed);
        assert!(is_sent(&mut write(&mut joins, 0)), "nothing is before it");
        joins.add(joining(1));
        let mut early = write(&mut joins, 1);
        assert!(!is_sent(&mut early));
        let read = joins.take();
        joins.add(joining(2));
        let mut late = write(&mut joins, 2);
        // The read has failed, and is repeated.
        read.into_iter().for_each(|wait| joins.add(wait));
        joins.read_ended();
        assert!(!is_sent(&mut early) && !is_sent(&mut late));
        let read = joins.take();
        joins.add(joining(3));
        joins.retain(|_| true);
        assert!(!is_sent(&mut early));
        drop(read);
        joins.read_ended();
        assert!(is_sent(&mut early) && is_sent(&mut late), "only a later wait has not begun");
        let mut last = write(&mut joins, 3);
        assert!(!is_sent(&mut last) && !counted.is_empty());
        joins.retain(|_| false);
        assert!(is_sent(&mut last) && counted.is_empty(), "the wait was dropped");
    }
}

//! Waits whose time has passed, and that may have been released before it: the read that was made since
//! does not show everything.
//!
//! A read shows that an event was set since the wait began, but not that it was unset and set again.
//! The watch shows that, and then the event is read as it was at that moment. So a wait until the event is
//! unset is not answered with `false` while the watch has yet to show the last `set`, nor while such a
//! read goes on. A wait in doubt (`waiters.rs`) is not answered before the watch has had its time.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::driver::mailbox::{Aim, Completer};
use crate::error::Error;
use crate::store::state::State;

/// Whether this state, read after the time of a wait has passed, releases it, however it began; or has
/// failed it, because the event was removed before it began.
pub(crate) fn decides(wait: &Completer, revision: i64, state: &State) -> bool {
    if !wait.begun.is_set() && !wait.look(revision, state.exists()) {
        return true;
    }
    match wait.aim {
        Aim::Set => state.is_set(),
        // To a wait that has begun, a state without the event is a removal.
        Aim::Unset => !state.is_set() && (state.exists() || !wait.begun.is_set()),
        Aim::Next => false,
    }
}

/// How long a late wait is kept.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// How long the watch may take to show what came before the read.
    pub(crate) watch: Instant,
    /// How long reads of the past may take. They have deadlines of their own.
    pub(crate) reads: Instant,
}

/// A wait that the read after its time did not release.
pub(crate) struct Late {
    wait: Completer,
    /// Whether it is in doubt.
    is_in_doubt: bool,
    /// The revision of that read.
    revision: i64,
    /// The last `set` before it that may hide that the event was unset; 0 if none does.
    set_at: i64,
    limits: Limits,
}

impl Late {
    pub(crate) fn new(wait: Completer, is_in_doubt: bool, revision: i64, state: &State, limits: Limits) -> Late {
        let set_at = if wait.aim == Aim::Unset { state.pulse.as_ref().map_or(0, |pulse| pulse.revision) } else { 0 };
        Late { wait, is_in_doubt, revision, set_at, limits }
    }
}

/// The late waits of an event.
#[derive(Default)]
pub(crate) struct LateWaits {
    waits: Vec<Late>,
    /// The revisions at which the event may have been unset, as far as it is still to be read there.
    pasts: BTreeSet<i64>,
}

impl LateWaits {
    /// The event may have been unset at this revision. Returns whether that was not known.
    pub(crate) fn expect_past(&mut self, revision: i64) -> bool {
        self.pasts.insert(revision)
    }

    /// The event was read at this revision, or is not going to be.
    pub(crate) fn forget_past(&mut self, revision: i64) {
        self.pasts.remove(&revision);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Keeps a wait, or ends it if nothing is still to be shown. `shown` is the revision up to which
    /// the watch has shown the changes of the event.
    pub(crate) fn add(&mut self, late: Late, now: Instant, shown: i64) {
        if self.is_open(&late, now, shown) { self.waits.push(late) } else { late.wait.complete(Ok(false)) }
    }

    fn is_open(&self, late: &Late, now: Instant, shown: i64) -> bool {
        let watch_is_behind = late.is_in_doubt || late.set_at > shown;
        let is_read = self.pasts.first().is_some_and(|past| *past <= late.revision);
        watch_is_behind && now < late.limits.watch || is_read && now < late.limits.reads
    }

    /// Removes and returns the waits for which nothing is still to be shown.
    pub(crate) fn take_decided(&mut self, now: Instant, shown: i64) -> Vec<Completer> {
        let waits = std::mem::take(&mut self.waits).into_iter().filter(|late| !late.wait.is_over());
        let (open, decided): (Vec<Late>, Vec<Late>) = waits.partition(|late| self.is_open(late, now, shown));
        self.waits = open;
        decided.into_iter().map(|late| late.wait).collect()
    }

    /// When to call [`take_decided`](LateWaits::take_decided) again, if nothing happens before.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let due = |late: &Late| if now < late.limits.watch { late.limits.watch } else { late.limits.reads };
        self.waits.iter().map(due).min()
    }

    /// The event could not be read at this revision, so it is unknown whether that releases these waits.
    pub(crate) fn fail(&mut self, revision: i64, error: &Error) {
        let failed = self.waits.extract_if(.., |late| revision <= late.revision);
        failed.for_each(|late| late.wait.complete(Err(error.clone())));
    }
}

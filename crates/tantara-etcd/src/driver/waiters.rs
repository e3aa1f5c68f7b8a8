//! The waiters of an event, and the rules by which waits begin and end. This module does no I/O: it
//! takes what was read or received from the watch, and completes waits.
//!
//! A wait is released by a `set` that its first read did not show: the level is set, or the last
//! `set` is another one. A wait for the next `set` is released by another last `set` only. A wait
//! until the event is unset is released by a state that is not set; states between two reads are
//! read at the revisions of the changes that the watch shows.
//!
//! Every fact (the event exists, does not exist, was set) holds at a revision, and arrives late and
//! in any order: an earlier read may be answered later, and a message of the watch may come after a
//! read that shows more.
//!
//! 1. An older fact never overrides a newer one. A wait fails as removed only if the event is known
//!    to have existed at a revision of the wait, and not to have existed at a later one.
//! 2. If a read that began after a fact was learnt is answered at a lower revision, the history was
//!    replaced. Then all facts with revisions are discarded.
//! 3. A watch shows a `set` that came before a removal; a read does not. So if a read shows the
//!    removal, the wait is *in doubt*: the watch has some time to show both in their order.
//! 4. A watch begins after the last read, unless the event may have been set and removed since the
//!    read before, or a wait until it is unset goes on: then it shows all changes since then.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::pause::Pause;
use crate::driver::beginning::{Joining, Joins};
use crate::driver::late::{Late, LateWaits, Limits};
use crate::driver::mailbox::{Aim, Completer};
use crate::error::Error;
use crate::store::keys::Part;
use crate::store::state::{Pulse, State};
use crate::wake;

/// How long a watch that has begun may take to show what came before a removal.
pub(crate) const DOUBT: Duration = Duration::from_secs(1);

/// How long a wait in doubt waits for the watch to begin.
const LONGEST_DOUBT: Duration = Duration::from_secs(30);

/// How long an uninterrupted watch may take to show what came before a read.
const UNINTERRUPTED: Duration = Duration::from_secs(10);

/// A wait that has begun.
pub(crate) struct Waiter {
    wait: Completer,
    order: u64,
    /// The revision of the first read.
    revision: i64,
    /// The last `set` before the wait.
    pulse: Option<Arc<Pulse>>,
    /// The latest revision of the wait at which the event is known to have existed; 0 if there is
    /// none.
    existed: i64,
    /// Whether a read has shown that the event was removed after that.
    is_in_doubt: bool,
    /// The number of reads that had begun when the wait began.
    joined: u64,
}

/// What a read shows of an event.
pub(crate) struct View<'s> {
    /// The number of the read.
    pub(crate) number: u64,
    /// The number of reads that have begun by now.
    pub(crate) reads: u64,
    pub(crate) revision: i64,
    pub(crate) state: &'s State,
    pub(crate) pulse: &'s Option<Arc<Pulse>>,
}

/// How far the changes of an event are known without gaps, and its state there.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    /// The revision at which a watch has to begin; 0 before the first read.
    next: i64,
    has_level: bool,
    has_pulse: bool,
    /// A read that showed no event and so did not advance the position: its revision, the watch
    /// that was open then, and when.
    absent: Option<(i64, i64, Instant)>,
}

/// Whether the watch has shown everything that came before the last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum History {
    Known,
    /// The watch was interrupted, or was requested and has not begun.
    Awaited,
    /// The watch began at this moment, with a revision before the last read.
    Shown(Instant),
}

/// The waiters of an event, and what is known about the event.
pub(crate) struct Waiters {
    pub(crate) joining: Joins,
    begun: Vec<Waiter>,
    /// Waits whose time has passed, and which may have been released before.
    pub(crate) late: LateWaits,
    /// The number of waits that were dropped since the last [`purge`](Waiters::purge).
    pub(crate) left: usize,
    /// Whether the event has to be read, even if no wait joins.
    pub(crate) is_stale: bool,
    /// The ID of the watch on the open stream.
    pub(crate) watch: Option<i64>,
    /// Whether it shows holds too.
    watches_holds: bool,
    /// Whether the position was set back since the watch began.
    is_behind: bool,
    position: Position,
    history: History,
    /// The pause before a watch that the server has refused or ended is requested again, and when
    /// it ends.
    watch_pause: Pause,
    watch_at: Option<Instant>,
    /// Whether the last read left open what came between it and the position.
    has_gap: bool,
    /// The highest revision of any fact, and the number of reads that had begun when it was learnt.
    newest: (i64, u64),
    /// The highest revision of a `set` that the watch has shown.
    newest_set: i64,
    /// When a wait was last found to be in doubt.
    doubt: Option<Instant>,
    /// When the first of the waits joined, or the last one left.
    pub(crate) since: Instant,
    /// Whether the waits have lasted long enough to be recorded.
    pub(crate) is_recorded: bool,
    /// Whether the event is being created, or the user may not create it.
    pub(crate) is_creating: bool,
}

impl Waiter {
    fn is(&self, wait: &Completer) -> bool {
        self.wait.is(wait)
    }

    /// Whether a state after its first read releases it.
    fn is_released_by(&self, state: &State, pulse: &Option<Arc<Pulse>>) -> bool {
        let is_set_again = pulse.is_some() && *pulse != self.pulse;
        match self.wait.aim {
            Aim::Set => state.is_set() || is_set_again,
            Aim::Unset => state.exists() && !state.is_set(),
            Aim::Next => is_set_again,
        }
    }

    /// The event existed at this revision.
    fn note_existed(&mut self, revision: i64) {
        self.existed = self.existed.max(revision);
        self.wait.note_existed(revision);
    }
}

impl Waiters {
    pub(crate) fn new(now: Instant) -> Waiters {
        Waiters {
            joining: Joins::default(),
            begun: Vec::new(),
            late: LateWaits::default(),
            left: 0,
            is_stale: false,
            watch: None,
            watches_holds: false,
            is_behind: false,
            position: Position::default(),
            history: History::Known,
            watch_pause: Pause::new(),
            watch_at: None,
            has_gap: false,
            newest: (0, 0),
            newest_set: 0,
            doubt: None,
            since: now,
            is_recorded: false,
            is_creating: false,
        }
    }

    /// The number of waits that have begun.
    pub(crate) fn count(&self) -> usize {
        self.begun.len()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.begun.is_empty() && self.joining.is_empty()
    }

    /// The first wait joins, or the last one has left.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.since = now;
        (self.is_recorded, self.is_creating) = (false, false);
    }

    /// Forgets the waits that have ended or were dropped.
    pub(crate) fn purge(&mut self) {
        self.left = 0;
        self.begun.retain(|waiter| !waiter.wait.is_abandoned());
        self.joining.retain(|wait| !wait.is_abandoned());
    }

    /// Whether waits have begun, and there is neither one to be counted or decided, nor an event to be
    /// created or watched again.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_decided = self.doubt.is_none() && self.late.is_empty() && self.watch_at.is_none();
        is_decided && self.count() > 0 && self.joining.is_empty() && (self.is_creating || !self.may_not_exist())
    }

    /// Whether a wait does not know that the event exists.
    pub(crate) fn may_not_exist(&self) -> bool {
        self.begun.iter().any(|waiter| waiter.existed == 0)
    }

    /// The revision at which a watch has to begin.
    pub(crate) fn watch_from(&self) -> i64 {
        self.position.next
    }

    /// Notes the revision of a fact. Returns whether a newer one is known.
    fn learn(&mut self, revision: i64, reads: u64) -> bool {
        if revision > self.newest.0 {
            self.newest = (revision, reads);
        }
        revision < self.newest.0
    }

    /// Whether nothing newer is known than a read at this revision.
    pub(crate) fn is_newest(&self, revision: i64) -> bool {
        revision >= self.newest.0
    }

    /// Applies a read to the waits that have begun. Returns those that it releases.
    pub(crate) fn apply(&mut self, view: &View<'_>, now: Instant) -> Vec<Waiter> {
        let &View { number, revision, state, pulse, .. } = view;
        let exists = state.exists();
        let is_replaced = number > self.newest.1 && revision < self.newest.0;
        if is_replaced {
            self.newest = (0, 0);
            self.newest_set = 0;
            self.position.next = 0;
        }
        self.learn(revision, view.reads);
        // A read that began before the wait is newer all the same if its revision is higher.
        let concerns = |waiter: &Waiter| waiter.joined < number || waiter.revision < revision;
        let is_released = |waiter: &mut Waiter| concerns(waiter) && waiter.is_released_by(state, pulse);
        let released: Vec<Waiter> = self.begun.extract_if(.., is_released).collect();
        // What releases a wait shows that the event exists.
        released.iter().for_each(|waiter| waiter.wait.note_existed(revision));
        for waiter in self.begun.iter_mut().filter(|waiter| concerns(waiter)) {
            if is_replaced || revision < waiter.revision {
                // The event was not set in the new history, so the wait begins anew.
                waiter.revision = revision;
                waiter.pulse.clone_from(pulse);
                (waiter.existed, waiter.is_in_doubt) = (if exists { revision } else { 0 }, false);
            } else if exists {
                waiter.note_existed(revision);
            } else if waiter.existed > 0 && waiter.existed < revision && !waiter.is_in_doubt {
                waiter.is_in_doubt = true;
                self.doubt = Some(now);
            }
        }
        self.advance_position(revision, state, now);
        released
    }

    /// Advances the position to a read, unless the event may have been set and removed in between.
    fn advance_position(&mut self, revision: i64, state: &State, now: Instant) {
        let position = &mut self.position;
        if revision < position.next {
            return;
        }
        if position.next > 0 && self.begun.iter().any(|waiter| waiter.wait.aim == Aim::Unset) {
            // It may have been unset and set again.
            self.has_gap = true;
            return;
        }
        self.has_gap = false;
        // Keys that have existed all the time were not removed. Another last `set` has released the
        // waits already.
        let is_continuous = state.pulse.is_some() || (1..position.next).contains(&state.created);
        if is_continuous || position.next == 0 || self.begun.is_empty() {
            let (has_level, has_pulse) = (state.level.is_some(), state.pulse.is_some());
            *position = Position { next: revision.saturating_add(1), has_level, has_pulse, absent: None };
            return;
        }
        self.has_gap = true;
        // While the event does not exist, the position would fall ever further behind. A watch that
        // was not interrupted has shown by now what came before the read that showed no event.
        let Some(watch) = self.watch.filter(|_| !state.exists()) else { return };
        match position.absent {
            Some((_, same, since)) if same == watch && now < since + UNINTERRUPTED => {}
            Some((at, same, _)) if same == watch => {
                let absent = Some((revision, watch, now));
                *position = Position { next: position.next.max(at.saturating_add(1)), absent, ..Position::default() };
            }
            _ => position.absent = Some((revision, watch, now)),
        }
    }

    /// Begins the waits that have joined for this read. Returns those that it releases.
    pub(crate) fn begin(&mut self, joining: Vec<Joining>, view: &View<'_>) -> Vec<Waiter> {
        let (exists, mut joining) = (view.state.exists(), joining);
        joining.retain(|joining| !joining.wait.is_abandoned() && joining.wait.look(view.revision, exists));
        let existed = if exists { view.revision } else { 0 };
        let begun = joining.into_iter().map(|Joining { wait, order, .. }| Waiter {
            wait,
            order,
            revision: view.revision,
            pulse: view.pulse.clone(),
            existed,
            is_in_doubt: false,
            joined: view.reads,
        });
        // The watch may have been faster than this read, and shows nothing twice.
        let is_set_since = view.revision < self.newest_set;
        let (released, begun): (Vec<_>, Vec<_>) = begun.partition(|waiter| match waiter.wait.aim {
            Aim::Set => view.state.is_set() || is_set_since,
            Aim::Unset => !view.state.is_set(),
            Aim::Next => is_set_since,
        });
        if view.revision.saturating_add(1) < self.position.next && begun.iter().any(|it| it.wait.aim == Aim::Unset) {
            // It may have been unset since. The watch has to show that again.
            let (has_level, has_pulse) = (view.state.level.is_some(), view.state.pulse.is_some());
            self.position = Position { next: view.revision.saturating_add(1), has_level, has_pulse, absent: None };
            self.is_behind = true;
        }
        let before = self.begun.len();
        self.begun.extend(begun);
        self.begun[before..].iter().for_each(|waiter| wake::set(&waiter.wait.begun));
        // A newer fact was applied before these waits began.
        self.is_stale |= view.revision < self.newest.0 && self.begun.len() > before;
        released
    }

    /// The event was created, or existed, at this revision.
    pub(crate) fn on_created(&mut self, revision: i64, reads: u64) {
        // A newer fact may be a removal, which ends waits only now that the event is known to have
        // existed.
        self.is_creating = false;
        self.is_stale |= self.learn(revision, reads);
        self.begun.iter_mut().filter(|waiter| waiter.revision <= revision).for_each(|it| it.note_existed(revision));
    }

    /// The watch shows that a key was put or deleted. Returns the waits that this releases.
    pub(crate) fn on_change(
        &mut self,
        part: Part,
        is_delete: bool,
        revision: i64,
        reads: u64,
        name: &str,
    ) -> Vec<Waiter> {
        self.learn(revision, reads);
        let position = &mut self.position;
        let is_new = revision.saturating_add(1) >= position.next;
        if is_new {
            (position.next, position.absent) = (revision.saturating_add(1), None);
            match part {
                Part::Level => position.has_level = !is_delete,
                Part::Pulse => position.has_pulse = !is_delete,
                Part::Hold | Part::Waiter => {}
            }
        }
        if part == Part::Hold {
            // A read decides what the change means for the state: see `on_past`.
            return Vec::new();
        }
        let is_removed = is_new && is_delete && !position.has_level && !position.has_pulse;
        let began_before = |waiter: &mut Waiter| waiter.revision < revision;
        if is_removed {
            let removed = self.begun.extract_if(.., began_before);
            removed.for_each(|waiter| waiter.wait.complete(Err(Error::removed(name))));
        } else if is_delete {
            // The other key may be deleted, too. If it is not, a read shows what is left.
            self.is_stale = true;
            let began_before = self.begun.iter_mut().filter(|waiter| waiter.revision < revision);
            began_before.for_each(|waiter| waiter.note_existed(revision.saturating_sub(1)));
        } else if part == Part::Pulse {
            self.newest_set = self.newest_set.max(revision);
            let is_released = |waiter: &mut Waiter| waiter.revision < revision && waiter.wait.aim != Aim::Unset;
            let released: Vec<Waiter> = self.begun.extract_if(.., is_released).collect();
            released.iter().for_each(|waiter| waiter.wait.note_existed(revision));
            return released;
        } else {
            self.begun.iter_mut().filter(|waiter| waiter.revision <= revision).for_each(|it| it.note_existed(revision));
        }
        Vec::new()
    }

    /// Whether a wait that was begun before this revision waits until the event is unset.
    pub(crate) fn waits_until_unset(&self, revision: i64) -> bool {
        self.begun.iter().any(|waiter| waiter.wait.aim == Aim::Unset && waiter.revision < revision)
    }

    /// The state at the revision of a change, which was read later. Returns the waits that it
    /// releases.
    pub(crate) fn on_past(&mut self, revision: i64, state: &State) -> Vec<Waiter> {
        let is_unset = state.exists() && !state.is_set();
        let is_released = |waiter: &mut Waiter| is_unset && waiter.wait.aim == Aim::Unset && waiter.revision < revision;
        self.begun.extract_if(.., is_released).collect()
    }

    /// Whether holds have to be watched too.
    pub(crate) fn needs_holds(&self) -> bool {
        self.waits_until_unset(i64::MAX)
    }

    /// Takes the watch away if it does not show what has to be watched: holds, or changes from the
    /// position on.
    pub(crate) fn take_unfit_watch(&mut self) -> Option<i64> {
        let is_narrow = self.needs_holds() && !self.watches_holds;
        if is_narrow || self.is_behind { self.watch.take() } else { None }
    }

    /// Whether a watch is needed, and may be requested now.
    pub(crate) fn needs_watch(&self, now: Instant) -> bool {
        self.watch.is_none() && !self.begun.is_empty() && self.watch_at.is_none_or(|at| at <= now)
    }

    /// A watch with this ID was requested, from the position on. The last read was at `revision`.
    pub(crate) fn begin_watch(&mut self, watch: i64, revision: i64) {
        (self.watch, self.watch_at) = (Some(watch), None);
        (self.watches_holds, self.is_behind) = (self.needs_holds(), false);
        let revision = revision.max(self.newest.0);
        self.history = if self.position.next <= revision { History::Awaited } else { History::Known };
    }

    /// The server has begun the watch, and shows what came before now.
    pub(crate) fn on_watch_begun(&mut self, now: Instant) {
        if self.history == History::Awaited {
            self.history = History::Shown(now);
        }
        self.watch_pause = Pause::new();
    }

    /// The stream of the watch has ended.
    pub(crate) fn on_interrupted(&mut self) {
        self.watch = None;
        self.history = History::Awaited;
        self.is_stale = !self.is_idle();
    }

    /// The server has refused the watch, or has ended it because its history is gone. After a
    /// pause, the event is read and watched again. Returns when that pause ends.
    pub(crate) fn on_watch_lost(&mut self, now: Instant) -> Instant {
        self.watch = None;
        self.history = History::Known;
        self.position = Position::default();
        // The watch will show no more than reads have shown.
        self.doubt = self.doubt.map(|since| since.min(now.checked_sub(DOUBT).unwrap_or(since)));
        *self.watch_at.insert(now + self.watch_pause.next())
    }

    /// Ends the waits that have been in doubt for long enough, and marks an event that is to be
    /// watched again as stale. Returns when to call this again.
    pub(crate) fn advance(&mut self, now: Instant, name: &str) -> Option<Instant> {
        let watch_at = self.watch_at.filter(|at| now < *at);
        if self.watch_at.is_some() && watch_at.is_none() {
            self.is_stale |= self.needs_watch(now);
        }
        let due = [watch_at, self.end_late(now, name), self.end_removed(now, name)];
        due.into_iter().flatten().min()
    }

    /// Ends the waits whose time has passed, if nothing is still to be shown. Returns when the next one
    /// ends.
    pub(crate) fn end_late(&mut self, now: Instant, name: &str) -> Option<Instant> {
        let decided = self.late.take_decided(now, self.shown());
        for wait in &decided {
            let is_removed = self.begun.iter().any(|waiter| waiter.is(wait) && waiter.is_in_doubt);
            wait.complete(if is_removed { Err(Error::removed(name)) } else { Ok(false) });
        }
        if !decided.is_empty() {
            self.forget_ended();
        }
        self.late.due(now)
    }

    /// The revision up to which the changes of the event are known without gaps.
    fn shown(&self) -> i64 {
        self.position.next.saturating_sub(1)
    }

    /// Ends the waits in doubt, once the watch has had its time. Returns when that will be.
    fn end_removed(&mut self, now: Instant, name: &str) -> Option<Instant> {
        let doubt = self.doubt?;
        let due = match self.history {
            History::Known => doubt + DOUBT,
            History::Awaited => doubt + LONGEST_DOUBT,
            // A server that shows no history, over streams that end early, would begin new watches
            // again and again.
            History::Shown(since) => (doubt.max(since) + DOUBT).min(doubt + LONGEST_DOUBT),
        };
        let is_in_doubt = |waiter: &mut Waiter| waiter.is_in_doubt;
        if now < due && self.begun.iter_mut().any(is_in_doubt) {
            return Some(due);
        }
        self.doubt = None;
        let removed = self.begun.extract_if(.., is_in_doubt);
        removed.for_each(|waiter| waiter.wait.complete(Err(Error::removed(name))));
        None
    }

    /// Ends a wait whose time has passed, and which the read that was made since did not release. It is
    /// not released, unless something that came before that read is still to be shown.
    pub(crate) fn decide(&mut self, wait: Completer, revision: i64, state: &State, now: Instant, limits: Limits) {
        let is_behind = match self.history {
            History::Known => false,
            History::Awaited => true,
            History::Shown(since) => now < since + DOUBT,
        };
        let Some(waiter) = self.begun.iter().find(|waiter| waiter.is(&wait)) else {
            return wait.complete(Ok(false));
        };
        let is_in_doubt = waiter.is_in_doubt || self.has_gap && is_behind;
        let late = Late::new(wait, is_in_doubt, revision, state, limits);
        self.late.add(late, now, self.shown());
    }

    /// Forgets the waits that have ended.
    pub(crate) fn forget_ended(&mut self) {
        self.begun.retain(|waiter| !waiter.wait.is_over());
        self.joining.retain(|wait| !wait.is_over());
    }

    /// The event cannot be read: all waits fail.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.begun.drain(..).for_each(|waiter| waiter.wait.complete(Err(error.clone())));
    }
}

/// Releases waits in the order in which they were requested, so that a thread that began two is not
/// told of the second one first.
pub(crate) fn release(mut released: Vec<Waiter>) {
    released.sort_unstable_by_key(|waiter| waiter.order);
    released.iter().for_each(|waiter| waiter.wait.complete(Ok(true)));
}

#[cfg(test)]
impl Waiters {
    /// With a wait that has begun at this revision.
    pub(crate) fn with(wait: Completer, revision: i64, now: Instant) -> Waiters {
        let mut waiters = Waiters::new(now);
        let (order, pulse, existed, is_in_doubt, joined) = (1, None, revision, false, 1);
        waiters.begun.push(Waiter { wait, order, revision, pulse, existed, is_in_doubt, joined });
        waiters
    }
}

#[cfg(test)]
mod tests;

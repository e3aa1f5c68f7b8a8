//! An event that is waited for, and the rules by which waits begin and end. No input or output: what was read, or told
//! by the watch, comes in, and whose wait it ends comes out.
//!
//! A wait is released by a set that its first read did not show: the level is set, or the last set is another one.
//!
//! Every fact (the event exists, does not exist, was set) is true at a revision, and reaches us late and in any order:
//! a read that began earlier may be answered later, and a message of the watch may come after a read that shows more.
//!
//! 1. An older fact never overrules a newer one. A wait fails as removed only if the event is known to have existed at
//!    a revision of the wait, and not to have existed at a later one.
//! 2. A read that began after a fact was learnt, and is answered at a lower revision, shows that the history was
//!    replaced. Then what was known of revisions is void.
//! 3. A watch tells of a set that came before a removal; a read does not. So where a read shows the removal, the watch
//!    has a moment to tell of both in their order, and its message decides.
//! 4. A watch begins after the last read, unless an event may have been set and removed since it was read before that.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::keys::{Part, Pulse, State};
use crate::pause::Pause;
use crate::ticket::Served;

/// How long a watch that has begun has to tell what came before a removal that a read shows.
pub(crate) const DOUBT: Duration = Duration::from_secs(1);

/// How long a removal that a read shows can wait for a watch to begin.
const LONGEST_DOUBT: Duration = Duration::from_secs(30);

/// How long an undisturbed watch has to tell what came before a read.
const UNDISTURBED: Duration = Duration::from_secs(10);

/// A wait that has not been read for yet.
pub(crate) struct Joining {
    pub(crate) ticket: Served,
    /// In which order the waits have come.
    pub(crate) order: u64,
    /// Until when it is to be read for.
    pub(crate) until: Instant,
}

/// A wait that was read for.
pub(crate) struct Sleeper {
    pub(crate) ticket: Served,
    pub(crate) order: u64,
    /// At which revision it was read for.
    revision: i64,
    /// The last set that it does not count.
    pulse: Option<Arc<Pulse>>,
    /// The last revision of the wait at which the event is known to have existed; 0 if there is none.
    existed: i64,
    /// Whether a read has shown that the event was removed after that.
    is_in_doubt: bool,
    /// How many reads had begun when it was read for.
    joined: u64,
}

impl Sleeper {
    fn is(&self, ticket: &Served) -> bool {
        Arc::ptr_eq(&self.ticket.0, &ticket.0)
    }
}

/// What a read shows of an event, and which read it was.
pub(crate) struct View<'s> {
    /// The read was the so manieth to begin.
    pub(crate) number: u64,
    /// How many reads have begun by now.
    pub(crate) reads: u64,
    pub(crate) revision: i64,
    pub(crate) state: &'s State,
    pub(crate) pulse: &'s Option<Arc<Pulse>>,
}

/// Up to where the changes of an event are known one by one, and what it was there.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    /// The revision at which a watch has to begin; 0 before the first read.
    next: i64,
    has_level: bool,
    has_pulse: bool,
    /// A read that showed no event and so did not move the position; the watch that was open then, and when.
    absent: Option<(i64, i64, Instant)>,
}

/// Whether the watch has told everything that came before the last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum History {
    Known,
    /// The watch is interrupted, or has been requested and has not begun.
    Awaited,
    /// The watch began at this moment, with a revision before the last read.
    Told(Instant),
}

/// An event that is waited for, or was a moment ago.
pub(crate) struct Topic {
    pub(crate) joining: Vec<Joining>,
    pub(crate) sleepers: Vec<Sleeper>,
    /// Waits whose time has passed while they were in doubt, and when each ends.
    deciding: Vec<(Served, Instant)>,
    /// How many have left since the last time that they were counted.
    pub(crate) left: usize,
    /// Whether it has to be read, whoever joins.
    pub(crate) is_stale: bool,
    /// The watch's number, on the stream that is open.
    pub(crate) watch: Option<i64>,
    position: Position,
    history: History,
    /// The pause before a watch that the server has refused is requested again, and when it ends.
    watch_pause: Pause,
    watch_at: Option<Instant>,
    /// Whether the last read left open what came between it and the position.
    is_open: bool,
    /// The highest revision of any fact, and how many reads had begun when that was learnt.
    newest: (i64, u64),
    /// When a wait was last found to be in doubt.
    doubt: Option<Instant>,
    /// Since when somebody waits, or nobody does.
    pub(crate) since: Instant,
    pub(crate) is_settled: bool,
    /// Whether the event is being created, or may not be.
    pub(crate) is_making: bool,
}

impl Topic {
    pub(crate) fn new() -> Topic {
        Topic {
            joining: Vec::new(),
            sleepers: Vec::new(),
            deciding: Vec::new(),
            left: 0,
            is_stale: false,
            watch: None,
            position: Position::default(),
            history: History::Known,
            watch_pause: Pause::new(),
            watch_at: None,
            is_open: false,
            newest: (0, 0),
            doubt: None,
            since: Instant::now(),
            is_settled: false,
            is_making: false,
        }
    }

    pub(crate) fn purge(&mut self) {
        self.left = 0;
        self.sleepers.retain(|sleeper| !sleeper.ticket.is_abandoned());
        self.joining.retain(|joining| !joining.ticket.is_abandoned());
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.sleepers.is_empty() && self.joining.is_empty()
    }

    /// Whether somebody waits who does not know that the event exists.
    pub(crate) fn may_not_exist(&self) -> bool {
        self.sleepers.iter().any(|sleeper| sleeper.existed == 0)
    }

    /// The revision at which a watch has to begin.
    pub(crate) fn watch_from(&self) -> i64 {
        self.position.next
    }

    /// Notes the revision of a fact. Whether it is older than what is known.
    fn learn(&mut self, revision: i64, reads: u64) -> bool {
        if revision > self.newest.0 {
            self.newest = (revision, reads);
        }
        revision < self.newest.0
    }

    /// Applies a read. Whose wait it ends.
    pub(crate) fn apply(&mut self, view: &View<'_>, now: Instant) -> Vec<Sleeper> {
        let &View { number, revision, state, pulse, .. } = view;
        let (is_set, exists) = (state.is_set(), state.exists());
        let is_replaced = number > self.newest.1 && revision < self.newest.0;
        if is_replaced {
            self.newest = (0, 0);
            self.position.next = 0;
        }
        self.learn(revision, view.reads);
        // A read that began before the wait's own had come back is newer all the same if its revision is higher.
        let concerns = |sleeper: &Sleeper| sleeper.joined < number || sleeper.revision < revision;
        let is_released =
            |sleeper: &mut Sleeper| concerns(sleeper) && (is_set || (pulse.is_some() && *pulse != sleeper.pulse));
        let released = self.sleepers.extract_if(.., is_released).collect();
        for sleeper in self.sleepers.iter_mut().filter(|sleeper| concerns(sleeper)) {
            if is_replaced || revision < sleeper.revision {
                // In the new history nothing has been set yet: the wait counts from here.
                sleeper.revision = revision;
                sleeper.pulse.clone_from(pulse);
                (sleeper.existed, sleeper.is_in_doubt) = (if exists { revision } else { 0 }, false);
            } else if exists {
                sleeper.existed = sleeper.existed.max(revision);
            } else if sleeper.existed > 0 && sleeper.existed < revision && !sleeper.is_in_doubt {
                sleeper.is_in_doubt = true;
                self.doubt = Some(now);
            }
        }
        self.move_to(revision, state, now);
        released
    }

    /// Moves the position behind a read, unless the event may have been set and removed on the way there.
    fn move_to(&mut self, revision: i64, state: &State, now: Instant) {
        let position = &mut self.position;
        if revision < position.next {
            return;
        }
        self.is_open = false;
        // Keys that have been there all the time were not removed. A last set that is another one has released already.
        let is_continuous = state.pulse.is_some() || (1..position.next).contains(&state.made);
        if is_continuous || position.next == 0 || self.sleepers.is_empty() {
            let (has_level, has_pulse) = (state.level.is_some(), state.pulse.is_some());
            *position = Position { next: revision + 1, has_level, has_pulse, absent: None };
            return;
        }
        self.is_open = true;
        // Otherwise a watch would have to begin ever further back. One that was not disturbed has told by now whatever
        // came before the read that showed no event.
        let Some(watch) = self.watch.filter(|_| !state.exists()) else { return };
        match position.absent {
            Some((_, same, since)) if same == watch && now < since + UNDISTURBED => {}
            Some((at, same, _)) if same == watch => {
                let absent = Some((revision, watch, now));
                *position = Position { next: position.next.max(at + 1), absent, ..Position::default() };
            }
            _ => position.absent = Some((revision, watch, now)),
        }
    }

    /// Those who wait for this read begin their waits.
    pub(crate) fn begin(&mut self, joining: Vec<Joining>, view: &View<'_>) -> Vec<Sleeper> {
        let joining = joining.into_iter().filter(|joining| !joining.ticket.is_abandoned());
        let existed = if view.state.exists() { view.revision } else { 0 };
        let begun = joining.map(|Joining { ticket, order, .. }| Sleeper {
            ticket,
            order,
            revision: view.revision,
            pulse: view.pulse.clone(),
            existed,
            is_in_doubt: false,
            joined: view.reads,
        });
        if view.state.is_set() {
            return begun.collect();
        }
        let before = self.sleepers.len();
        self.sleepers.extend(begun);
        self.sleepers[before..].iter().for_each(|sleeper| sleeper.ticket.0.begun.set());
        // Something newer is known already, and not to those who begin with this.
        self.is_stale |= view.revision < self.newest.0 && self.sleepers.len() > before;
        Vec::new()
    }

    /// The event was made to exist, or existed, at a revision.
    pub(crate) fn hear_made(&mut self, revision: i64, reads: u64) {
        // What is newer may be that it was removed, which ends waits only now that it is known to have existed.
        self.is_stale |= self.learn(revision, reads);
        for sleeper in self.sleepers.iter_mut().filter(|sleeper| sleeper.revision <= revision) {
            sleeper.existed = sleeper.existed.max(revision);
        }
    }

    /// The watch tells that a key was put, or deleted. Whose wait that releases.
    pub(crate) fn hear_change(
        &mut self,
        part: Part,
        is_delete: bool,
        revision: i64,
        reads: u64,
        name: &str,
    ) -> Vec<Sleeper> {
        self.learn(revision, reads);
        let position = &mut self.position;
        let is_new = revision + 1 >= position.next;
        if is_new {
            (position.next, position.absent) = (revision + 1, None);
            match part {
                Part::Level => position.has_level = !is_delete,
                Part::Pulse => position.has_pulse = !is_delete,
                Part::Hold | Part::Waiter => {}
            }
        }
        let is_removed = is_new && is_delete && !position.has_level && !position.has_pulse;
        let began_before = |sleeper: &mut Sleeper| sleeper.revision < revision;
        if is_removed {
            let removed = self.sleepers.extract_if(.., began_before);
            removed.for_each(|sleeper| sleeper.ticket.0.end(Err(Error::removed(name))));
        } else if is_delete {
            // The other key may follow. If it does not, a read tells what is left.
            self.is_stale = true;
            self.sleepers.iter_mut().filter(|sleeper| sleeper.revision < revision).for_each(|sleeper| {
                sleeper.existed = sleeper.existed.max(revision - 1);
            });
        } else if part == Part::Pulse {
            return self.sleepers.extract_if(.., began_before).collect();
        } else {
            self.sleepers.iter_mut().filter(|sleeper| sleeper.revision <= revision).for_each(|sleeper| {
                sleeper.existed = sleeper.existed.max(revision);
            });
        }
        Vec::new()
    }

    /// A watch of this number begins at the position. The last read was at `revision`.
    pub(crate) fn begin_watch(&mut self, watch: i64, revision: i64) {
        self.watch_at = None;
        self.watch = Some(watch);
        self.history = if self.position.next <= revision { History::Awaited } else { History::Known };
    }

    /// The server has begun the watch, and tells what there is to be told.
    pub(crate) fn hear_begun(&mut self, now: Instant) {
        if self.history == History::Awaited {
            self.history = History::Told(now);
        }
        self.watch_pause = Pause::new();
    }

    /// Whether the event needs a watch, and may be watched again by now.
    pub(crate) fn wants_watch(&self, now: Instant) -> bool {
        self.watch.is_none() && !self.sleepers.is_empty() && self.watch_at.is_none_or(|at| at <= now)
    }

    /// The stream of the watch has broken off.
    pub(crate) fn interrupt(&mut self) {
        self.watch = None;
        self.history = History::Awaited;
        self.is_stale = !self.is_idle();
    }

    /// The server has ended the watch, because the history that it wanted is gone, or has refused it. The event is
    /// read, and watched again, after a pause. When that ends.
    pub(crate) fn lose_watch(&mut self, now: Instant) -> Instant {
        self.watch = None;
        self.history = History::Known;
        self.position = Position::default();
        // Nothing will tell more than the read has told.
        self.doubt = self.doubt.map(|since| since.min(now.checked_sub(DOUBT).unwrap_or(since)));
        *self.watch_at.insert(now + self.watch_pause.next())
    }

    /// Does what is due by now: ends the waits that have been in doubt for long enough, and marks an event that is to
    /// be watched again as stale. When to call this again.
    pub(crate) fn advance(&mut self, now: Instant, name: &str) -> Option<Instant> {
        let watch_at = self.watch_at.filter(|at| now < *at);
        if self.watch_at.is_some() && watch_at.is_none() {
            self.is_stale |= self.wants_watch(now);
        }
        let due = [watch_at, self.end_decided(now, name), self.end_removed(now, name)];
        due.into_iter().flatten().min()
    }

    /// Ends the waits whose time passed a while ago, while they were in doubt. When the next one ends.
    fn end_decided(&mut self, now: Instant, name: &str) -> Option<Instant> {
        self.deciding.retain(|(ticket, _)| !ticket.0.over.is_set());
        if self.deciding.is_empty() {
            return None;
        }
        for (ticket, _) in self.deciding.extract_if(.., |(_, due)| *due <= now) {
            let is_removed = self.sleepers.iter().any(|sleeper| sleeper.is(&ticket) && sleeper.is_in_doubt);
            ticket.0.end(if is_removed { Err(Error::removed(name)) } else { Ok(false) });
        }
        self.sleepers.retain(|sleeper| !sleeper.ticket.0.over.is_set());
        self.deciding.iter().map(|(_, due)| *due).min()
    }

    /// Ends the waits that are in doubt, once the watch has had its time to tell more. When that will be.
    fn end_removed(&mut self, now: Instant, name: &str) -> Option<Instant> {
        let doubt = self.doubt?;
        let due = match self.history {
            History::Known => doubt + DOUBT,
            History::Awaited => doubt + LONGEST_DOUBT,
            History::Told(since) => doubt.max(since) + DOUBT,
        };
        let is_in_doubt = |sleeper: &mut Sleeper| sleeper.is_in_doubt;
        if now < due && self.sleepers.iter_mut().any(is_in_doubt) {
            return Some(due);
        }
        self.doubt = None;
        let removed = self.sleepers.extract_if(.., is_in_doubt);
        removed.for_each(|sleeper| sleeper.ticket.0.end(Err(Error::removed(name))));
        None
    }

    /// The time of a wait has passed, and the last read did not release it. It is not set, unless the watch has still
    /// to tell what came before that read.
    pub(crate) fn decide(&mut self, ticket: Served, now: Instant) {
        let sleeper = self.sleepers.iter().find(|sleeper| sleeper.is(&ticket));
        let is_behind = match self.history {
            History::Known => false,
            History::Awaited => true,
            History::Told(since) => now < since + DOUBT,
        };
        if sleeper.is_some_and(|sleeper| sleeper.is_in_doubt || self.is_open && is_behind) {
            self.deciding.push((ticket, now + DOUBT));
        } else {
            ticket.0.end(Ok(false));
        }
    }

    /// It cannot be read: all who wait for it fail.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.sleepers.drain(..).for_each(|sleeper| sleeper.ticket.0.end(Err(error.clone())));
    }
}

/// Ends waits in the order in which they have come: of several that one party began, the first is answered first.
pub(crate) fn release(mut released: Vec<Sleeper>) {
    released.sort_unstable_by_key(|sleeper| sleeper.order);
    released.iter().for_each(|sleeper| sleeper.ticket.0.end(Ok(true)));
}

#[cfg(test)]
mod tests;

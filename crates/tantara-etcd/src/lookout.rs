//! The lookout: it knows who waits for which event, reads, watches, and releases.
//!
//! **State decides, watches only hurry.** A wait begins with a linearizable read. It is released when a later read, or
//! a message of the watch, shows a set that the first read did not show: the level is set, or the last set is another
//! one. So nothing is lost with a connection, a leader, a compacted history or a message that a server forgets to
//! send; the next read finds it. Reads are repeated whenever the watch was interrupted, and every now and then anyhow.
//! What a read or a message means for a wait is decided in `topic.rs`, by revisions.
//!
//! 1. A read is applied to a wait only if it was begun after the wait's first read had come back. Then it is not older.
//! 2. Reads that begin waits follow one another, and take everyone who has come by then: of two waits that one party
//!    began, the second is never answered before the first.
//! 3. A watch begins with the revision after a read. What lies between the two is nothing.
//! 4. A message of the watch is applied to a wait only if its revision is later than the wait's first read.
//! 5. A read of many events fails for each of them alone (`read.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::engine::Parts;
use crate::error::Error;
use crate::link::Failure;
use crate::pause::Pause;
use crate::read::{self, Seen, look};
use crate::records::Records;
use crate::ticket::Served;
use crate::topic::{DOUBT, Joining, Topic, View, release};
use crate::watching::{Heard, Watching};
use crate::wire::WatchAnswer;

/// After so long a wait is worth a write: that the event exists, and who waits.
const SETTLED: Duration = Duration::from_millis(100);

/// Who has left is counted together with others who leave then.
const SOON: Duration = Duration::from_millis(20);

/// An event that nobody waits for any more is watched a little longer: somebody who waits in a loop comes back.
const LINGERING: Duration = Duration::from_secs(5);

/// When a wait's time has passed, the cluster is asked for the last time. A connection that does not serve is not
/// waited for any longer than this.
const LAST_QUESTION: Duration = Duration::from_secs(1);

/// What is told to the lookout.
#[derive(Debug)]
pub(crate) enum Ask {
    /// A wait begins. It fails if the cluster has not been read by then.
    Join(Served, Instant),
    /// Its time has passed: was it released?
    Decide(Served),
    /// Somebody has left.
    Leave(Arc<str>),
}

/// What comes back to the lookout.
enum Done {
    /// A read that begins waits. With whom, in the order of the names.
    Read { number: u64, names: Vec<Arc<str>>, joining: Vec<Vec<Joining>>, seen: Result<Seen, Failure> },
    /// A read that ends waits.
    Decided { number: u64, tickets: Vec<Served>, names: Vec<Arc<str>>, seen: Result<Seen, Failure> },
    /// An event was created, or existed, at a revision; or could not be created.
    Made { name: Arc<str>, made: Result<i64, Error> },
}

struct Lookout {
    parts: Arc<Parts>,
    topics: HashMap<Arc<str>, Topic>,
    /// Which event a watch is of.
    watches: HashMap<i64, Arc<str>>,
    /// How many waits have come.
    joins: u64,
    /// How many reads have begun.
    reads: u64,
    /// Whether some event may have to be read.
    has_to_read: bool,
    /// Whether a read is on its way that begins waits.
    is_reading: bool,
    /// When the next read may begin, after one that failed.
    not_before: Instant,
    pause: Pause,
    /// The pause before the next stream. It grows until a watch begins, although reads may succeed meanwhile.
    stream_pause: Pause,
    recheck: Instant,
    settling: Instant,
    /// When events are looked at again: those with waits in doubt, and those that are to be watched again.
    next_look: Instant,
    work: JoinSet<Done>,
    watching: Watching,
    records: Records,
}

pub(crate) async fn run(parts: Arc<Parts>, mut inbox: mpsc::UnboundedReceiver<Ask>, stop: impl Future<Output = ()>) {
    tokio::pin!(stop);
    let now = Instant::now();
    let mut lookout = Lookout {
        topics: HashMap::new(),
        watches: HashMap::new(),
        joins: 0,
        reads: 0,
        has_to_read: false,
        is_reading: false,
        not_before: now,
        pause: Pause::new(),
        stream_pause: Pause::new(),
        recheck: now,
        settling: now,
        next_look: now,
        work: JoinSet::new(),
        watching: Watching::new(Arc::clone(&parts)),
        records: Records::new(Arc::clone(&parts)),
        parts,
    };
    let mut asks = Vec::new();
    loop {
        let due = lookout.advance();
        tokio::select! {
            count = inbox.recv_many(&mut asks, 4_096) => {
                if count == 0 { break }
                lookout.answer(&mut asks);
            }
            Some(done) = lookout.work.join_next() => {
                if let Ok(done) = done { lookout.take(done) }
            }
            heard = lookout.watching.hear() => lookout.hear(heard),
            () = lookout.records.hear() => {}
            () = sleep_until(due) => {}
            () = &mut stop => break,
        }
    }
    lookout.records.end().await;
}

impl Lookout {
    fn answer(&mut self, asks: &mut Vec<Ask>) {
        let mut to_decide = Vec::new();
        let now = Instant::now();
        for ask in asks.drain(..) {
            match ask {
                Ask::Join(ticket, until) => {
                    let topic = self.topics.entry(Arc::clone(&ticket.0.name)).or_insert_with(Topic::new);
                    if topic.is_idle() {
                        topic.since = now;
                        (topic.is_settled, topic.is_making) = (false, false);
                    }
                    self.joins += 1;
                    topic.joining.push(Joining { ticket, order: self.joins, until });
                    self.has_to_read = true;
                    self.settling = self.settling.min(now + SETTLED);
                }
                Ask::Decide(ticket) => to_decide.push(ticket),
                Ask::Leave(name) => {
                    if let Some(topic) = self.topics.get_mut(&name) {
                        topic.left += 1;
                        self.settling = self.settling.min(now + SOON);
                        // Not for each of thousands who leave together.
                        if topic.left * 2 > topic.sleepers.len() {
                            topic.purge();
                        }
                    }
                }
            }
        }
        if !to_decide.is_empty() {
            self.decide(to_decide);
        }
    }

    /// Their time has passed. Only the cluster can say that they were not released.
    fn decide(&mut self, mut tickets: Vec<Served>) {
        tickets.retain(|ticket| !ticket.0.over.is_set());
        let mut names: Vec<_> = tickets.iter().map(|ticket| Arc::clone(&ticket.0.name)).collect();
        names.sort_unstable();
        names.dedup();
        self.reads += 1;
        let (number, parts) = (self.reads, Arc::clone(&self.parts));
        self.work.spawn(async move {
            let doing = "wait for an event";
            // A slow answer is waited for as long as the connection serves.
            let until = parts.link.request_deadline().max(Instant::now() + LAST_QUESTION);
            let seen = tokio::select! {
                biased;
                seen = look(&parts, doing, &names, until) => seen,
                () = parts.link.is_lost_after(LAST_QUESTION) => {
                    Err(Failure { error: parts.link.unreachable(doing), may_be_done: false, status: None })
                }
            };
            Done::Decided { number, tickets, names, seen }
        });
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Read { number, names, joining, seen } => {
                self.is_reading = false;
                match seen {
                    Ok(seen) => self.begin(number, names, joining, &seen),
                    Err(failure) => self.fail(names, joining, &failure),
                }
            }
            Done::Decided { number, tickets, names, seen } => match seen {
                Ok(seen) => self.end(number, tickets, &names, &seen),
                Err(failure) => {
                    tickets.iter().for_each(|ticket| ticket.0.end(Err(failure.error.clone())));
                    self.forget_ended(&names);
                }
            },
            Done::Made { name, made } => {
                let Some(topic) = self.topics.get_mut(&name) else { return };
                match made {
                    Ok(revision) => {
                        topic.hear_made(revision, self.reads);
                        self.has_to_read |= topic.is_stale;
                    }
                    // Tried again with the next look at all events. What is refused stays so.
                    Err(error) => topic.is_making = !error.is_unreachable(),
                }
            }
        }
    }

    /// Ends the waits whose time has passed, by the read that began after that.
    fn end(&mut self, number: u64, tickets: Vec<Served>, names: &[Arc<str>], seen: &Seen) {
        let nobody = names.iter().map(|_| Vec::new()).collect();
        self.apply(number, names, nobody, seen);
        let now = Instant::now();
        let states: HashMap<&Arc<str>, _> = names.iter().zip(&seen.states).collect();
        for ticket in tickets {
            match (states.get(&ticket.0.name), self.topics.get_mut(&ticket.0.name)) {
                // Waits that have not been read for before are decided by this read alone.
                (Some(Ok(state)), _) if state.is_set() => ticket.0.end(Ok(true)),
                (Some(Err(error)), _) => ticket.0.end(Err(error.clone())),
                (_, Some(topic)) => topic.decide(ticket, now),
                (_, None) => ticket.0.end(Ok(false)),
            }
        }
        self.forget_ended(names);
    }

    fn forget_ended(&mut self, names: &[Arc<str>]) {
        for name in names {
            if let Some(topic) = self.topics.get_mut(name) {
                topic.sleepers.retain(|sleeper| !sleeper.ticket.0.over.is_set());
                topic.joining.retain(|joining| !joining.ticket.0.over.is_set());
            }
        }
    }

    /// Applies a read to the waits that had begun, and begins those that have waited for it.
    fn apply(&mut self, number: u64, names: &[Arc<str>], joining: Vec<Vec<Joining>>, seen: &Seen) {
        let now = Instant::now();
        let mut released = Vec::new();
        for ((name, state), joining) in names.iter().zip(&seen.states).zip(joining) {
            let Some(topic) = self.topics.get_mut(name) else { continue };
            match state {
                Ok(state) => {
                    let pulse = &state.pulse.clone().map(Arc::new);
                    let view = View { number, reads: self.reads, revision: seen.revision, state, pulse };
                    released.extend(topic.apply(&view, now));
                    released.extend(topic.begin(joining, &view));
                }
                // It may not be read, or not any more; that is not for anybody to sleep over.
                Err(error) => {
                    joining.iter().for_each(|joining| joining.ticket.0.end(Err(error.clone())));
                    topic.fail(error);
                }
            }
            self.has_to_read |= topic.is_stale;
        }
        release(released);
    }

    fn begin(&mut self, number: u64, names: Vec<Arc<str>>, joining: Vec<Vec<Joining>>, seen: &Seen) {
        self.pause = Pause::new();
        self.apply(number, &names, joining, seen);
        let now = Instant::now();
        for name in names {
            let Some(topic) = self.topics.get_mut(&name) else { continue };
            if topic.wants_watch(now) {
                let watch = self.watching.begin(&name, topic.watch_from());
                topic.begin_watch(watch, seen.revision);
                self.watches.insert(watch, name);
            }
        }
    }

    /// A read has failed: those whose time has come are told, the others are read for again.
    fn fail(&mut self, names: Vec<Arc<str>>, joining: Vec<Vec<Joining>>, failure: &Failure) {
        let error: &Error = &failure.error;
        let is_final = !error.is_unreachable() && !read::is_about_history(failure);
        let now = Instant::now();
        self.not_before = now + self.pause.next();
        self.has_to_read = true;
        for (name, joining) in names.into_iter().zip(joining) {
            let Some(topic) = self.topics.get_mut(&name) else { continue };
            for joining in joining {
                if is_final || joining.until <= now {
                    joining.ticket.0.end(Err(error.clone()));
                } else {
                    topic.joining.push(joining);
                }
            }
            if is_final {
                topic.fail(error);
            }
            topic.is_stale = !topic.sleepers.is_empty();
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Answer(answer) => self.hear_answer(answer),
            Heard::Interrupted => self.interrupt(),
            Heard::Nothing => {}
        }
    }

    /// All watches are gone with their stream: every event is read, and watched over the next stream.
    fn interrupt(&mut self) {
        self.topics.values_mut().for_each(Topic::interrupt);
        self.watches.clear();
        self.has_to_read = true;
        self.not_before = Instant::now() + self.stream_pause.next();
    }

    fn hear_answer(&mut self, answer: WatchAnswer) {
        let Some(name) = self.watches.get(&answer.watch_id) else { return };
        let Some(topic) = self.topics.get_mut(name) else { return };
        if answer.canceled {
            self.watches.remove(&answer.watch_id);
            self.next_look = self.next_look.min(topic.lose_watch(Instant::now()));
            self.watching.forget();
            return;
        }
        if answer.created {
            topic.hear_begun(Instant::now());
            self.stream_pause = Pause::new();
        }
        if answer.created && answer.header.is_some_and(|header| header.revision >= topic.watch_from()) {
            // What came between the read and the watch is told in a moment, and known at once.
            topic.is_stale = true;
            self.has_to_read = true;
        }
        if !self.parts.options.hears_watches {
            return;
        }
        for event in &answer.events {
            let Some(kv) = &event.kv else { continue };
            // Foreign keys lie in the range too.
            let part = match self.parts.keys.parse(&kv.key) {
                Some((of, part)) if *of == **name => part,
                _ => continue,
            };
            release(topic.hear_change(part, event.is_delete(), kv.mod_revision, self.reads, name));
        }
        self.has_to_read |= topic.is_stale;
    }

    /// Begins what is to be done, and says when to look again.
    fn advance(&mut self) -> Instant {
        let now = Instant::now();
        let mut due = now + Duration::from_secs(1);
        let recheck = self.parts.options.recheck;
        if now >= self.recheck {
            self.recheck = now + recheck.mul_f64(0.75 + fastrand::f64() / 2.0);
            self.topics.values_mut().for_each(|topic| topic.is_stale |= !topic.sleepers.is_empty());
            self.has_to_read = true;
        }
        due = due.min(self.recheck);
        if now >= self.settling {
            self.settling = now + Duration::from_secs(1);
            self.settle(now);
        }
        if now >= self.next_look {
            let mut next = now + DOUBT;
            for (name, topic) in &mut self.topics {
                next = topic.advance(now, name).map_or(next, |due| due.min(next));
                self.has_to_read |= topic.is_stale;
            }
            self.next_look = next;
        }
        due = due.min(self.next_look).min(self.settling).min(self.records.advance());
        if !self.is_reading && self.has_to_read {
            if now >= self.not_before {
                self.read();
            } else {
                due = due.min(self.not_before);
            }
        }
        due
    }

    /// Events that have been waited for long enough are made to exist, and recorded; those that nobody waits for are
    /// left.
    fn settle(&mut self, now: Instant) {
        let mut gone = Vec::new();
        for (name, topic) in &mut self.topics {
            if topic.left > 0 {
                topic.purge();
            }
            if topic.is_idle() {
                if topic.is_settled {
                    (topic.is_settled, topic.is_making) = (false, false);
                    topic.since = now;
                }
                if now >= topic.since + LINGERING && !self.is_reading {
                    gone.push(Arc::clone(name));
                }
            } else if now < topic.since + SETTLED {
                self.settling = self.settling.min(topic.since + SETTLED);
            } else if !topic.sleepers.is_empty() {
                topic.is_settled = true;
                if topic.may_not_exist() && !topic.is_making {
                    topic.is_making = true;
                    let (parts, name) = (Arc::clone(&self.parts), Arc::clone(name));
                    self.work.spawn(async move {
                        let made = crate::event::make(&parts, &name).await;
                        Done::Made { name, made }
                    });
                }
            }
            self.records.count(name, if topic.is_settled { topic.sleepers.len() } else { 0 });
        }
        for name in gone {
            if let Some(watch) = self.topics.remove(&name).and_then(|topic| topic.watch) {
                self.watches.remove(&watch);
                self.watching.end(watch);
            }
        }
    }

    fn read(&mut self) {
        let mut names: Vec<Arc<str>> = Vec::new();
        let mut joining = Vec::new();
        self.has_to_read = false;
        for (name, topic) in &mut self.topics {
            if topic.is_stale || !topic.joining.is_empty() {
                topic.is_stale = false;
                names.push(Arc::clone(name));
                joining.push(std::mem::take(&mut topic.joining));
            }
        }
        if names.is_empty() {
            return;
        }
        self.is_reading = true;
        self.reads += 1;
        let (number, parts) = (self.reads, Arc::clone(&self.parts));
        self.work.spawn(async move {
            let seen = look(&parts, "wait for an event", &names, parts.link.request_deadline()).await;
            Done::Read { number, names, joining, seen }
        });
    }
}

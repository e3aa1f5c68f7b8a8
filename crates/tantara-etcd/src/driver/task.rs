//! The driver: the task that reads and watches the events that are waited for, and completes waits.
//!
//! **State decides; watches only make it fast.** A wait begins with a linearizable read. It is
//! released when a later read, or a message of the watch, shows a `set` that the first read did not
//! show. So no `set` is lost with a connection, a leader, a compacted history or a message that a
//! server fails to send: the next read shows it. Events are read again whenever the watch was
//! interrupted, and periodically. `waiters.rs` decides, by revisions, what a read or a message
//! means for a wait.
//!
//! 1. A read is applied to a wait only if it began after the wait's first read was answered. Then
//!    it is not older.
//! 2. Reads that begin waits follow one another, and each takes all waits that have joined by then:
//!    of two waits that one thread began, the second is never answered first.
//! 3. A watch begins with the revision after a read, so there is no gap between the two.
//! 4. A message of the watch is applied to a wait only if its revision is later than the wait's
//!    first read.
//! 5. A read of many events fails for each of them separately (`store/read.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::client::call::Failure;
use crate::client::pause::Pause;
use crate::client::proto::WatchAnswer;
use crate::driver::beginning::{Beginning, Joining};
use crate::driver::late::{Limits, decides};
use crate::driver::mailbox::Completer;
use crate::driver::past::PastReads;
use crate::driver::records::Records;
use crate::driver::waiters::{DOUBT, View, Waiters, release};
use crate::driver::watch::{Message, WatchStream};
use crate::error::Error;
use crate::random;
use crate::store::Store;
use crate::store::create;
use crate::store::keys::Part;
use crate::store::read::{self, Snapshot};

const DOING: &str = "wait for an event";

/// After this time a wait is recorded, and its event is created.
const LASTING: Duration = Duration::from_millis(100);

/// Waits are counted at the latest this long after a change.
const COUNTED: Duration = Duration::from_secs(1);

/// Waits that were dropped are counted in batches.
const BATCH: Duration = Duration::from_millis(20);

/// An event without waits is watched for this long, for waits that follow in a loop.
const LINGERING: Duration = Duration::from_secs(5);

/// How long the last read of a wait whose time has passed waits for a connection.
const LAST_READ: Duration = Duration::from_secs(1);

/// A request to the driver.
#[derive(Debug)]
pub(crate) enum Request {
    /// Begins a wait. It fails if the cluster could not be read by the deadline.
    Join(Completer, Instant, Beginning),
    /// A write of the event of this name comes after the waits that have joined. It is sent when the
    /// sender is dropped.
    Write(Arc<str>, oneshot::Sender<()>),
    /// Ends a wait whose time has passed: released or not.
    Decide(Completer),
    /// A wait for the event of this name was dropped.
    Leave(Arc<str>),
}

/// The result of a job that the driver has spawned.
enum Done {
    /// A read that begins waits: those that have joined, for each name.
    Read { number: u64, names: Vec<Arc<str>>, joining: Vec<Vec<Joining>>, snapshot: Result<Snapshot, Failure> },
    /// A read that ends waits.
    Decided { number: u64, waits: Vec<Completer>, names: Vec<Arc<str>>, snapshot: Result<Snapshot, Failure> },
    /// Events were created, or existed, each at a revision.
    Created { names: Vec<Arc<str>>, revisions: Vec<Result<i64, Error>> },
}

struct Driver {
    store: Arc<Store>,
    events: HashMap<Arc<str>, Waiters>,
    /// The event of each watch.
    watches: HashMap<i64, Arc<str>>,
    /// The number of waits that were requested.
    joins: u64,
    /// The number of reads that have begun.
    reads: u64,
    /// Whether some event may have to be read.
    has_to_read: bool,
    /// Whether a read that begins waits goes on.
    is_reading: bool,
    /// Whether some wait has joined since the last read began.
    has_joined: bool,
    /// When the next read may begin, after one that failed.
    not_before: Instant,
    read_pause: Pause,
    /// When watches may be requested again, after the stream has ended. Waits that join meanwhile
    /// are read for at once.
    stream_at: Instant,
    /// The pause before that. It grows until a stream shows more than that a watch has begun, even
    /// if reads succeed meanwhile.
    stream_pause: Pause,
    /// When all events are read again.
    recheck: Instant,
    /// When waits are counted again.
    next_count: Instant,
    /// When [`Waiters::advance`] is called again.
    next_advance: Instant,
    jobs: JoinSet<Done>,
    past: PastReads,
    stream: WatchStream,
    records: Records,
}

pub(crate) async fn run(
    store: Arc<Store>,
    mut inbox: mpsc::UnboundedReceiver<Request>,
    stop: impl Future<Output = ()>,
) {
    tokio::pin!(stop);
    let now = Instant::now();
    let mut driver = Driver {
        events: HashMap::new(),
        watches: HashMap::new(),
        joins: 0,
        reads: 0,
        has_to_read: false,
        is_reading: false,
        has_joined: false,
        not_before: now,
        read_pause: Pause::new(),
        stream_at: now,
        stream_pause: Pause::new(),
        recheck: now,
        next_count: now,
        next_advance: now,
        jobs: JoinSet::new(),
        past: PastReads::new(Arc::clone(&store), DOING),
        stream: WatchStream::new(Arc::clone(&store)),
        records: Records::new(Arc::clone(&store)),
        store,
    };
    let mut requests = Vec::new();
    loop {
        let due = driver.advance();
        tokio::select! {
            count = inbox.recv_many(&mut requests, 4_096) => {
                if count == 0 { break }
                driver.accept(&mut requests);
                driver.note_change();
            }
            Some(done) = driver.jobs.join_next() => {
                if !done.is_ok_and(|done| driver.on_done(done)) { driver.note_change() }
            }
            Some(past) = driver.past.next() => {
                driver.leave_outdated_stream();
                driver.has_to_read |= driver.past.apply(past, &mut driver.events);
                driver.note_change();
            }
            message = driver.stream.next(), if !driver.past.is_full() => {
                driver.note_change();
                driver.on_message(message);
            }
            () = driver.records.changed() => driver.note_change(),
            () = sleep_until(due) => {}
            () = &mut stop => break,
        }
    }
    driver.records.end().await;
}

impl Driver {
    /// After something has happened, waits may have to be counted or doubts be decided. While
    /// nothing happens, or a read has shown nothing new, the driver sleeps.
    fn note_change(&mut self) {
        let now = Instant::now();
        self.next_count = self.next_count.min(now + COUNTED);
        self.next_advance = self.next_advance.min(now + DOUBT);
    }

    fn accept(&mut self, requests: &mut Vec<Request>) {
        let mut to_decide = Vec::new();
        let now = Instant::now();
        for request in requests.drain(..) {
            match request {
                Request::Join(wait, until, beginning) => {
                    let waiters = self.events.entry(Arc::clone(&wait.name)).or_insert_with(|| Waiters::new(now));
                    if waiters.is_idle() {
                        waiters.restart(now);
                    }
                    self.joins += 1;
                    waiters.joining.add(Joining { wait, order: self.joins, until, _beginning: beginning });
                    (self.has_to_read, self.has_joined) = (true, true);
                    self.next_count = self.next_count.min(now + LASTING);
                }
                Request::Write(name, write) => {
                    if let Some(waiters) = self.events.get_mut(&name) {
                        waiters.joining.add_write(self.joins, write);
                    }
                }
                Request::Decide(wait) => to_decide.push(wait),
                Request::Leave(name) => {
                    if let Some(waiters) = self.events.get_mut(&name) {
                        waiters.left += 1;
                        self.next_count = self.next_count.min(now + BATCH);
                        // Purging for each of thousands of waits would take quadratic time.
                        if waiters.left * 2 > waiters.count() {
                            waiters.purge();
                        }
                    }
                }
            }
        }
        if !to_decide.is_empty() {
            self.decide(to_decide);
        }
    }

    /// Reads the events of waits whose time has passed: only the cluster can tell that they were
    /// not released.
    fn decide(&mut self, mut waits: Vec<Completer>) {
        waits.retain(|wait| !wait.is_over());
        let mut names: Vec<_> = waits.iter().map(|wait| Arc::clone(&wait.name)).collect();
        names.sort_unstable();
        names.dedup();
        self.reads += 1;
        let (number, store) = (self.reads, Arc::clone(&self.store));
        self.jobs.spawn(async move {
            // A slow answer is waited for as long as the connection serves.
            let until = store.connection.request_deadline().max(Instant::now() + LAST_READ);
            let snapshot = tokio::select! {
                biased;
                snapshot = read::events(&store, DOING, &names, until) => snapshot,
                () = store.connection.is_lost_after(LAST_READ) => {
                    Err(Failure { error: store.connection.unreachable(DOING), may_be_done: false, status: None })
                }
            };
            Done::Decided { number, waits, names, snapshot }
        });
    }

    /// A read may have been answered by another member, because the one of the stream does not serve.
    /// What the stream has not shown is then still to come.
    fn leave_outdated_stream(&mut self) {
        if self.stream.is_outdated() {
            self.stream.close();
            self.on_message(Message::Interrupted);
        }
    }

    /// Returns whether this has changed nothing.
    fn on_done(&mut self, done: Done) -> bool {
        self.leave_outdated_stream();
        match done {
            Done::Read { number, names, joining, snapshot } => {
                self.is_reading = false;
                match snapshot {
                    Ok(snapshot) => return self.begin(number, names, joining, &snapshot),
                    Err(failure) => self.fail(names, joining, &failure),
                }
            }
            Done::Decided { number, waits, names, snapshot } => match snapshot {
                Ok(snapshot) => self.end(number, waits, &names, &snapshot),
                Err(failure) => {
                    waits.iter().for_each(|wait| wait.complete(Err(failure.error.clone())));
                    self.forget_ended(&names);
                }
            },
            Done::Created { names, revisions } => {
                for (name, revision) in names.iter().zip(revisions) {
                    let Some(waiters) = self.events.get_mut(name) else { continue };
                    match revision {
                        Ok(revision) => {
                            waiters.on_created(revision, self.reads);
                            self.has_to_read |= waiters.is_stale;
                        }
                        // Tried again by `count`. A refusal is final.
                        Err(error) => waiters.is_creating = !error.is_unreachable(),
                    }
                }
            }
        }
        false
    }

    /// Ends the waits whose time has passed, by a read that began after that.
    fn end(&mut self, number: u64, waits: Vec<Completer>, names: &[Arc<str>], snapshot: &Snapshot) {
        let joining = names.iter().map(|_| Vec::new()).collect();
        self.apply(number, names, joining, snapshot);
        let now = Instant::now();
        let limits = Limits { watch: now + DOUBT, reads: self.store.connection.request_deadline() };
        let states: HashMap<&Arc<str>, _> = names.iter().zip(&snapshot.states).collect();
        for wait in waits {
            match (states.get(&wait.name), self.events.get_mut(&wait.name)) {
                // This read alone decides a wait that has not begun.
                (Some(Ok(state)), _) if decides(&wait, snapshot.revision, state) => wait.complete(Ok(true)),
                (Some(Err(error)), _) => wait.complete(Err(error.clone())),
                (Some(Ok(state)), Some(waiters)) => waiters.decide(wait, snapshot.revision, state, now, limits),
                _ => wait.complete(Ok(false)),
            }
        }
        self.forget_ended(names);
    }

    fn forget_ended(&mut self, names: &[Arc<str>]) {
        for name in names {
            if let Some(waiters) = self.events.get_mut(name) {
                waiters.forget_ended();
            }
        }
    }

    /// Applies a read to the waits that have begun, and begins those that have joined for it. Returns
    /// whether this has changed nothing.
    fn apply(&mut self, number: u64, names: &[Arc<str>], joining: Vec<Vec<Joining>>, snapshot: &Snapshot) -> bool {
        let now = Instant::now();
        let (mut released, mut is_quiet) = (Vec::new(), true);
        for ((name, state), joining) in names.iter().zip(&snapshot.states).zip(joining) {
            let Some(waiters) = self.events.get_mut(name) else { continue };
            is_quiet &= joining.is_empty() && state.is_ok();
            match state {
                Ok(state) => {
                    let pulse = &state.pulse.clone().map(Arc::new);
                    let view = View { number, reads: self.reads, revision: snapshot.revision, state, pulse };
                    released.extend(waiters.apply(&view, now));
                    released.extend(waiters.begin(joining, &view));
                    if waiters.is_newest(snapshot.revision) {
                        self.store.recorded.note(name, state);
                    }
                }
                // Without permission to read, a `set` would not be seen, so the waits fail.
                Err(error) => {
                    joining.iter().for_each(|joining| joining.wait.complete(Err(error.clone())));
                    waiters.fail(error);
                }
            }
            self.has_to_read |= waiters.is_stale;
            is_quiet &= waiters.is_quiet();
        }
        is_quiet &= released.is_empty();
        release(released);
        is_quiet
    }

    fn begin(&mut self, number: u64, names: Vec<Arc<str>>, joining: Vec<Vec<Joining>>, snapshot: &Snapshot) -> bool {
        self.read_pause = Pause::new();
        let is_quiet = self.apply(number, &names, joining, snapshot);
        let now = Instant::now();
        for name in names {
            let Some(waiters) = self.events.get_mut(&name) else { continue };
            waiters.joining.read_ended();
            let unfit = if now < self.stream_at { None } else { waiters.take_unfit_watch() };
            if now < self.stream_at {
                waiters.is_stale |= waiters.needs_watch(now);
                self.has_to_read |= waiters.is_stale;
            } else if waiters.needs_watch(now) {
                let keys = &self.store.keys;
                let key = if waiters.needs_holds() { keys.holds(&name) } else { keys.level(&name) };
                let watch = self.stream.begin(key, keys.after_pulse(&name), waiters.watch_from());
                waiters.begin_watch(watch, snapshot.revision);
                self.watches.insert(watch, name);
            }
            if let Some(unfit) = unfit {
                self.watches.remove(&unfit);
                self.stream.end(unfit);
            }
        }
        is_quiet
    }

    /// A read has failed. Waits whose deadline has passed fail; the others are tried again.
    fn fail(&mut self, names: Vec<Arc<str>>, joining: Vec<Vec<Joining>>, failure: &Failure) {
        let error: &Error = &failure.error;
        let is_final = !error.is_unreachable() && !read::is_about_history(failure);
        let now = Instant::now();
        self.not_before = now + self.read_pause.next();
        (self.has_to_read, self.has_joined) = (true, true);
        for (name, joining) in names.into_iter().zip(joining) {
            let Some(waiters) = self.events.get_mut(&name) else { continue };
            for joining in joining {
                if is_final || joining.until <= now {
                    joining.wait.complete(Err(error.clone()));
                } else {
                    waiters.joining.add(joining);
                }
            }
            waiters.joining.read_ended();
            if is_final {
                waiters.fail(error);
            }
            waiters.is_stale = waiters.count() > 0;
        }
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Answer(answer) => self.on_answer(answer),
            Message::Interrupted | Message::TooLarge => {
                self.events.values_mut().for_each(Waiters::on_interrupted);
                self.watches.clear();
                self.has_to_read = true;
                self.stream_at = Instant::now() + self.stream_pause.next();
            }
        }
    }

    fn on_answer(&mut self, answer: WatchAnswer) {
        if !answer.created && !answer.canceled {
            self.stream_pause = Pause::new();
        }
        let Some(name) = self.watches.get(&answer.watch_id) else { return };
        let Some(waiters) = self.events.get_mut(name) else { return };
        let now = Instant::now();
        if answer.canceled {
            self.watches.remove(&answer.watch_id);
            self.next_advance = self.next_advance.min(waiters.on_watch_lost(now));
            self.stream.forget();
            return;
        }
        if answer.created {
            waiters.on_watch_begun(now);
            // The watch will show what came after the read, and another read shows it at once.
            waiters.is_stale |= answer.header.is_some_and(|header| header.revision >= waiters.watch_from());
        }
        for event in &answer.events {
            let Some(kv) = &event.kv else { continue };
            // The range may have external keys.
            let part = match self.store.keys.parse(&kv.key) {
                Some((of, part)) if *of == **name => part,
                _ => continue,
            };
            let (is_delete, revision) = (event.is_delete(), kv.mod_revision);
            release(waiters.on_change(part, is_delete, revision, self.reads, name));
            let may_unset = match part {
                Part::Level => !is_delete && kv.value != b"1",
                Part::Hold => is_delete,
                Part::Pulse | Part::Waiter => false,
            };
            if may_unset && waiters.waits_until_unset(revision) {
                self.past.request(name, revision, waiters);
            }
        }
        waiters.end_late(now, name);
        self.has_to_read |= waiters.is_stale;
        self.past.begin(&mut self.events);
    }

    /// Begins everything that is due. Returns when to call this again.
    fn advance(&mut self) -> Instant {
        let now = Instant::now();
        if now >= self.recheck {
            let period = self.store.options.recheck.mul_f64(0.75 + random::share() / 2.0);
            self.recheck = self.store.connection.in_about(period);
            self.events.values_mut().for_each(|waiters| waiters.is_stale |= waiters.count() > 0);
            self.has_to_read = true;
        }
        if now >= self.next_count {
            self.next_count = self.recheck;
            self.count(now);
        }
        if now >= self.next_advance {
            let mut next = self.recheck;
            for (name, waiters) in &mut self.events {
                next = waiters.advance(now, name).map_or(next, |due| due.min(next));
                self.has_to_read |= waiters.is_stale;
            }
            self.next_advance = next;
        }
        let written = self.records.advance().unwrap_or(self.recheck);
        let mut due = self.recheck.min(self.next_advance).min(self.next_count).min(written);
        if !self.is_reading && self.has_to_read {
            let at = if self.has_joined { self.not_before } else { self.not_before.max(self.stream_at) };
            if now >= at {
                self.read();
            } else {
                due = due.min(at);
            }
        }
        due
    }

    /// Creates and records the events whose waits have lasted for long enough, and forgets those
    /// without waits.
    fn count(&mut self, now: Instant) {
        let (mut unused, mut missing) = (Vec::new(), Vec::new());
        for (name, waiters) in &mut self.events {
            if waiters.left > 0 {
                waiters.purge();
            }
            if waiters.is_idle() {
                if waiters.is_recorded {
                    waiters.restart(now);
                }
                if now >= waiters.since + LINGERING && !self.is_reading {
                    unused.push(Arc::clone(name));
                } else {
                    self.next_count = self.next_count.min((waiters.since + LINGERING).max(now + BATCH));
                }
            } else if now < waiters.since + LASTING {
                self.next_count = self.next_count.min(waiters.since + LASTING);
            } else if waiters.count() > 0 {
                waiters.is_recorded = true;
                if waiters.may_not_exist() && !waiters.is_creating {
                    waiters.is_creating = true;
                    missing.push(Arc::clone(name));
                }
            }
            self.records.set_count(name, if waiters.is_recorded { waiters.count() } else { 0 });
        }
        for names in missing.chunks(create::AT_ONCE) {
            let (store, names) = (Arc::clone(&self.store), names.to_vec());
            self.jobs.spawn(async move {
                let revisions = create::events(&store, DOING, &names).await;
                Done::Created { names, revisions }
            });
        }
        for name in unused {
            if let Some(watch) = self.events.remove(&name).and_then(|waiters| waiters.watch) {
                self.watches.remove(&watch);
                self.stream.end(watch);
            }
        }
    }

    /// Begins a read of all events that are stale or that waits have joined.
    fn read(&mut self) {
        let mut names: Vec<Arc<str>> = Vec::new();
        let mut joining = Vec::new();
        (self.has_to_read, self.has_joined) = (false, false);
        for (name, waiters) in &mut self.events {
            if waiters.is_stale || !waiters.joining.is_empty() {
                waiters.is_stale = false;
                names.push(Arc::clone(name));
                joining.push(waiters.joining.take());
            }
        }
        if names.is_empty() {
            return;
        }
        self.is_reading = true;
        self.reads += 1;
        let (number, store) = (self.reads, Arc::clone(&self.store));
        // A wait that fails does not wait for longer than it may; the others are read for again.
        let deadlines = joining.iter().flatten().map(|joining| joining.until);
        let until = deadlines.min().unwrap_or_else(|| store.connection.request_deadline());
        self.jobs.spawn(async move {
            let snapshot = read::events(&store, DOING, &names, until).await;
            Done::Read { number, names, joining, snapshot }
        });
    }
}

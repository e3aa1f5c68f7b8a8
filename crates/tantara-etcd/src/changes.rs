//! [`Changes`]: every change of every event of a namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::iter::FusedIterator;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tantara::{Event, waits};
use tokio::time::{self, sleep, sleep_until};

use crate::client::pause::Pause;
use crate::client::proto::{Range, WatchAnswer};
use crate::driver::mailbox::Mailbox;
use crate::driver::runtime::Runtime;
use crate::driver::watch::{Message, WatchStream};
use crate::error::Error;
use crate::list::Origin;
use crate::random;
use crate::store::Store;
use crate::store::keys;
use crate::store::read;
use crate::store::state::State;

const DOING: &str = "watch events";

/// The number of changes that are kept for a caller who does not take them. Beyond it, changes of
/// the same event are merged.
const MOST: usize = 4_096;

/// How long a watch may take to show what a list has shown.
const LAG: Duration = Duration::from_secs(2);

/// A change of an event. From [`Changes`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Change {
    /// The name of the event.
    pub name: String,
    /// The number of times that it was set in this change. More than one if changes were merged:
    /// several were made while the cluster could not be reached and their history is gone, or the
    /// caller was thousands of changes behind. Merging loses no `set`.
    pub sets: u64,
    /// Whether it is set now.
    pub is_set: bool,
    /// Whether it was removed, and does not exist now.
    pub is_removed: bool,
    /// The last `set` of this change, if there was one: by which process, when, and with which
    /// [note](crate::ClusterEvent::set_with_note).
    pub last_set: Option<Origin>,
}

/// The step from one state of an event to another, if there is one to report.
fn change(name: &str, before: &State, now: &State) -> Option<Change> {
    let sets = now.sets_since(before);
    let is_removed = before.exists() && !now.exists();
    let is_change = sets > 0 || is_removed || now.is_set() != before.is_set();
    is_change.then(|| {
        let last_set = now.last_set().filter(|_| sets > 0).map(Origin::from);
        Change { name: name.to_owned(), sets, is_set: now.is_set(), is_removed, last_set }
    })
}

/// Every change of every event of a namespace, in the order in which they were made, from
/// [`Cluster::changes`](crate::Cluster::changes) on. It survives outages of the cluster: changes
/// that were made meanwhile are reported afterwards, one by one if the cluster still has its
/// history, or else merged.
///
/// A caller who does not keep up misses no change, and memory is bounded: some 4,000 changes are
/// kept, and beyond that one change for each event, into which later changes of the same event are
/// merged.
///
/// # Examples
///
/// ```no_run
/// # let cluster = tantara_etcd::Cluster::connect("127.0.0.1:2379")?;
/// for change in cluster.changes()? {
///     let change = change?;
///     println!("{} was set {} times", change.name, change.sets);
/// }
/// # Ok::<(), tantara_etcd::Error>(())
/// ```
#[must_use]
pub struct Changes {
    runtime: Runtime,
    inbox: Arc<Inbox>,
}

/// Changes on their way from the runtime thread to the caller.
#[derive(Debug, Default)]
struct Inbox {
    /// Ready when there is a change, or an error.
    queue: Mailbox<Queue>,
    /// Set when the caller has dropped the `Changes`.
    is_closed: Event,
}

#[derive(Debug, Default)]
struct Queue {
    changes: VecDeque<Change>,
    /// The number of changes that were taken.
    taken: u64,
    /// The position of the last change of each event in the queue, counted from the first change
    /// ever.
    last: HashMap<String, u64>,
    /// Why no change will follow.
    error: Option<Error>,
}

impl Queue {
    fn push(&mut self, change: Change) {
        if self.changes.len() >= MOST {
            let index = self.last.get(&change.name).map(|last| last - self.taken);
            let last = index.and_then(|index| self.changes.get_mut(usize::try_from(index).ok()?));
            if let Some(last) = last {
                last.sets = last.sets.saturating_add(change.sets);
                (last.is_set, last.is_removed) = (change.is_set, change.is_removed);
                last.last_set = change.last_set.or_else(|| last.last_set.take());
                return;
            }
        }
        self.last.insert(change.name.clone(), self.taken + self.changes.len() as u64);
        self.changes.push_back(change);
    }

    fn pop(&mut self) -> Option<Change> {
        let change = self.changes.pop_front()?;
        if self.last.get(&change.name) == Some(&self.taken) {
            self.last.remove(&change.name);
        }
        self.taken += 1;
        Some(change)
    }
}

impl Changes {
    pub(crate) fn new(runtime: Runtime) -> Result<Changes, Error> {
        // If the namespace may not be read, this is where it fails.
        let (states, revision) = runtime.run(|store| async move { list(&store).await })?.wait()?;
        let inbox = Arc::new(Inbox::default());
        let follower = Follower {
            store: Arc::clone(runtime.store()),
            inbox: Arc::clone(&inbox),
            states,
            step: Vec::new(),
            step_at: 0,
            touched: None,
            adopted: HashMap::new(),
            pause: Pause::new(),
        };
        let following = runtime.run(|_| async move {
            let inbox = Arc::clone(&follower.inbox);
            tokio::select! {
                error = follower.run(revision) => {
                    inbox.queue.update(|queue| queue.error = Some(error));
                }
                () = waits::unrecorded(&inbox.is_closed) => {}
            }
            Ok(())
        })?;
        drop(following.begin());
        Ok(Changes { runtime, inbox })
    }

    /// Blocks until there is a change, for at most `timeout`. `None` if the time passed first.
    ///
    /// # Errors
    ///
    /// If the namespace may no longer be read, or in the child of a fork. An outage is no error.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Change>, Error> {
        // In the child of a fork the queue may be locked for ever.
        self.runtime.check_process()?;
        let deadline = Instant::now().checked_add(timeout);
        loop {
            self.inbox.queue.is_ready.clear();
            {
                let mut queue = self.inbox.queue.lock();
                if let Some(change) = queue.pop() {
                    return Ok(Some(change));
                }
                if let Some(error) = &queue.error {
                    return Err(error.clone());
                }
            }
            self.runtime.check_may_block()?;
            let is_ready = match deadline {
                Some(deadline) => self.inbox.queue.is_ready.wait_deadline(deadline),
                None => self.inbox.queue.is_ready.wait_timeout(Duration::MAX),
            };
            if !is_ready {
                return Ok(None);
            }
        }
    }
}

impl Iterator for Changes {
    type Item = Result<Change, Error>;

    /// Blocks until there is a change. Never returns `None`.
    fn next(&mut self) -> Option<Result<Change, Error>> {
        self.next_timeout(Duration::MAX).transpose()
    }
}

impl FusedIterator for Changes {}

impl Drop for Changes {
    fn drop(&mut self) {
        // In the child of a fork this would wake up a task of the parent.
        if self.runtime.check_process().is_ok() {
            self.inbox.is_closed.set();
        }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

/// The states of all events of a namespace.
type States = BTreeMap<String, State>;

async fn list(store: &Store) -> Result<(States, i64), Error> {
    let listed = read::list(store, DOING, store.keys.events(), 0).await;
    let (kvs, revision) = listed.map_err(|failure| failure.error)?;
    let mut states = States::new();
    for kv in &kvs {
        if let Some((name, part)) = store.keys.parse(&kv.key) {
            states.entry(name.to_owned()).or_default().put(part, kv);
        }
    }
    Ok((states, revision))
}

/// Follows the changes of a namespace, on the runtime thread.
struct Follower {
    store: Arc<Store>,
    inbox: Arc<Inbox>,
    states: States,
    /// The events that were changed at the last revision, as far as the watch has shown it, and
    /// their states before.
    step: Vec<(String, State)>,
    step_at: i64,
    /// The events of which the watch has shown anything since a look has begun, if one has.
    touched: Option<HashSet<String>>,
    /// The events whose states were taken from the last look, which the watch has not shown: the
    /// revision of that look.
    adopted: HashMap<String, i64>,
    /// The pause before the next watch. It grows until one shows something.
    pause: Pause,
}

/// A look at all events, from time to time: a server may fail to send a change.
enum Look {
    /// Begins at this moment.
    At(time::Instant),
    Listing(Listing),
    /// What was listed, at which revision, and when the watch should have shown it.
    Listed(States, i64, time::Instant),
}

type Listing = Pin<Box<dyn Future<Output = Result<(States, i64), Error>> + Send>>;

impl Look {
    fn next(store: &Store) -> Look {
        Look::At(time::Instant::now() + store.options.recheck.mul_f64(0.75 + random::share() / 2.0))
    }

    /// Goes on to the next stage. Returns what was listed once it is time to compare. Cancel safe.
    async fn go_on(&mut self, store: &Arc<Store>) -> Result<Option<(States, i64)>, Error> {
        match self {
            Look::At(time) => {
                sleep_until(*time).await;
                let store = Arc::clone(store);
                *self = Look::Listing(Box::pin(async move { list(&store).await }));
            }
            Look::Listing(listing) => {
                let (states, at) = listing.await?;
                *self = Look::Listed(states, at, time::Instant::now() + LAG);
            }
            Look::Listed(states, at, time) => {
                sleep_until(*time).await;
                return Ok(Some((std::mem::take(states), *at)));
            }
        }
        Ok(None)
    }
}

/// Why a watch has ended.
enum End {
    /// It was interrupted, and can go on after this revision.
    Interrupted(i64),
    /// The history that it needs is gone, or cannot be received.
    Lost,
}

impl Follower {
    /// Returns only if the namespace cannot be read any more.
    async fn run(mut self, mut revision: i64) -> Error {
        loop {
            match self.follow(revision).await {
                End::Interrupted(after) => revision = after,
                End::Lost => match list(&self.store).await {
                    Ok((states, at)) => {
                        self.report_step();
                        self.report_differences(&states);
                        (self.states, revision) = (states, at);
                        self.adopted.clear();
                    }
                    Err(error) if error.is_unreachable() => {}
                    Err(error) => return error,
                },
            }
            sleep(self.pause.next()).await;
        }
    }

    /// Follows the changes after a revision, until the watch ends.
    async fn follow(&mut self, mut revision: i64) -> End {
        let (key, until) = (self.store.keys.events(), self.store.connection.request_deadline());
        let read = Range { key: key.clone(), ..Range::default() };
        match self.store.connection.call(DOING, &read, until).await {
            // The history was replaced by a shorter one, in which the watch would show nothing for
            // long.
            Ok(answer) if answer.header.as_ref().is_some_and(|header| header.revision < revision) => return End::Lost,
            Ok(_) => {}
            Err(failure) if failure.error.is_unreachable() => return End::Interrupted(revision),
            // The list that follows returns the reason.
            Err(_) => return End::Lost,
        }
        let mut stream = WatchStream::new(Arc::clone(&self.store));
        let range_end = keys::end_of(&key);
        stream.begin(key, range_end, revision.saturating_add(1));
        let mut look = Look::next(&self.store);
        self.touched = None;
        loop {
            let message = tokio::select! {
                message = stream.next() => message,
                listed = look.go_on(&self.store) => {
                    match listed {
                        Ok(None) if matches!(look, Look::Listing(_)) => self.touched = Some(HashSet::new()),
                        Ok(None) => {}
                        Ok(Some((states, at))) => {
                            self.compare(states, at);
                            look = Look::next(&self.store);
                        }
                        Err(error) if error.is_unreachable() => look = Look::next(&self.store),
                        // The list that follows returns the reason.
                        Err(_) => return End::Lost,
                    }
                    continue;
                }
            };
            match message {
                Message::Answer(answer) if answer.canceled => return End::Lost,
                Message::Answer(answer) => {
                    if !answer.created {
                        self.pause = Pause::new();
                    }
                    revision = self.apply(&answer).unwrap_or(revision);
                }
                Message::Interrupted => return End::Interrupted(revision),
                // A value larger than servers should accept. The list skips it.
                Message::TooLarge => return End::Lost,
            }
        }
    }

    /// Applies a message of the watch. All changes of an event at one revision are reported as one.
    /// Returns the last complete revision: that of the last change may continue in the next
    /// fragment.
    fn apply(&mut self, answer: &WatchAnswer) -> Option<i64> {
        let mut last = None;
        for event in &answer.events {
            let Some(kv) = &event.kv else { continue };
            if self.step_at != kv.mod_revision {
                self.report_step();
            }
            self.step_at = kv.mod_revision;
            last = Some(kv.mod_revision);
            let Some((name, part)) = self.store.keys.parse(&kv.key) else { continue };
            // A part of a difference that was reported.
            if self.adopted.get(name).is_some_and(|at| kv.mod_revision <= *at) {
                continue;
            }
            if let Some(touched) = &mut self.touched {
                touched.insert(name.to_owned());
            }
            let state = self.states.entry(name.to_owned()).or_default();
            if !self.step.iter().any(|(of, _)| of == name) {
                self.step.push((name.to_owned(), state.clone()));
            }
            if event.is_delete() { state.delete(part, &kv.key) } else { state.put(part, kv) }
        }
        if answer.fragment {
            return last.map(|last| last.saturating_sub(1));
        }
        self.report_step();
        last
    }

    /// Reports the changes at the last revision.
    fn report_step(&mut self) {
        for (name, before) in std::mem::take(&mut self.step) {
            let Some(state) = self.states.get(&name) else { continue };
            self.report(change(&name, &before, state));
            if !state.exists() {
                self.states.remove(&name);
            }
        }
    }

    /// Reports what a look has shown and the watch has not. Of events that the watch has shown since
    /// the look began nothing is known: the list may be older or newer.
    fn compare(&mut self, mut listed: States, at: i64) {
        let touched = self.touched.take().unwrap_or_default();
        self.adopted.clear();
        let names: BTreeSet<String> = self.states.keys().chain(listed.keys()).cloned().collect();
        let is_changing = |name: &String| touched.contains(name) || self.step.iter().any(|(of, _)| of == name);
        let names: Vec<String> = names.into_iter().filter(|name| !is_changing(name)).collect();
        for name in names {
            let (before, now) = (self.states.get(&name), listed.remove(&name));
            if before == now.as_ref() {
                continue;
            }
            let absent = State::default();
            self.report_difference(&name, before.unwrap_or(&absent), now.as_ref().unwrap_or(&absent));
            self.adopted.insert(name.clone(), at);
            match now {
                Some(now) => drop(self.states.insert(name, now)),
                None => drop(self.states.remove(&name)),
            }
        }
    }

    /// Reports the differences to the states that a list has shown.
    fn report_differences(&self, now: &States) {
        let absent = State::default();
        let names: BTreeSet<&String> = self.states.keys().chain(now.keys()).collect();
        for name in names {
            let [before, now] = [&self.states, now].map(|states| states.get(name).unwrap_or(&absent));
            self.report_difference(name, before, now);
        }
    }

    fn report_difference(&self, name: &str, before: &State, now: &State) {
        if now.was_created_again_since(before) {
            self.report(change(name, before, &State::default()));
            self.report(change(name, &State::default(), now));
        } else {
            self.report(change(name, before, now));
        }
    }

    fn report(&self, change: Option<Change>) {
        if let Some(change) = change {
            self.inbox.queue.update(|queue| queue.push(change));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, sets: u64, is_set: bool) -> Change {
        Change { name: name.to_owned(), sets, is_set, is_removed: false, last_set: None }
    }

    #[test]
    fn the_child_of_a_fork_has_inherited_no_changes() {
        let mut changes = Changes { runtime: Runtime::inherited(), inbox: Arc::default() };
        let error = changes.next_timeout(Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("connect again"), "{error}");
        let inbox = Arc::clone(&changes.inbox);
        drop(changes);
        assert!(!inbox.is_closed.is_set(), "no task of the parent is woken up");
    }

    #[test]
    fn a_queue_that_nobody_reads_is_bounded_and_loses_no_set() {
        let mut queue = Queue::default();
        for _ in 0..MOST {
            queue.push(change("a", 1, true));
        }
        for round in 0..100_000_u64 {
            queue.push(change(["a", "b", "c"][round as usize % 3], 1, round % 2 == 0));
        }
        assert_eq!(queue.changes.len(), MOST + 2, "one for each event that was not in it");
        let mut sets = BTreeMap::new();
        let mut taken = 0;
        let mut last = BTreeMap::new();
        while let Some(next) = queue.pop() {
            taken += 1;
            *sets.entry(next.name.clone()).or_insert(0) += next.sets;
            last.insert(next.name.clone(), next.is_set);
            if taken == MOST {
                // There is room again.
                queue.push(change("d", 1, true));
            }
        }
        let (a, b, c) = (sets["a"], sets["b"], sets["c"]);
        assert_eq!((a + b + c, b, c, sets["d"]), (MOST as u64 + 100_000, 33_333, 33_333, 1));
        assert_eq!((last["a"], last["b"], last["c"]), (false, false, true), "the last change has the current state");
        assert!(queue.last.is_empty());
    }

    /// The names and their form are part of the public API.
    #[cfg(feature = "serde")]
    #[test]
    fn the_form_is_that_of_the_fields() {
        use serde_json::{from_value, json, to_value};

        let time = json!({"secs_since_epoch": 7, "nanos_since_epoch": 1});
        let origin = json!({"host": "m1", "pid": 1, "at": time, "note": "disk full"});
        let form = json!({"name": "door", "sets": 2, "is_set": true, "is_removed": false, "last_set": origin});
        let change: Change = from_value(form.clone()).unwrap();
        assert_eq!((change.sets, change.is_set, change.is_removed), (2, true, false));
        assert_eq!(to_value(&change).unwrap(), form);
    }

    #[test]
    fn changes_are_not_merged_while_there_is_room() {
        let mut queue = Queue::default();
        for round in 0..MOST as u64 {
            queue.push(change("a", round, true));
            queue.push(change("b", round, false));
            assert_eq!(queue.pop(), Some(change("a", round, true)));
            assert_eq!(queue.pop(), Some(change("b", round, false)));
        }
        assert!(queue.pop().is_none() && queue.last.is_empty());
    }
}

//! [`Changes`]: every change of every event of a namespace.

mod queue;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
use crate::random;
use crate::store::Store;
use crate::store::keys;
use crate::store::read;
use crate::store::state::State;
pub use queue::Change;
use queue::{Queue, change};

const DOING: &str = "watch events";

/// How long a watch may take to show what a list has shown.
const LAG: Duration = Duration::from_secs(2);

/// Every change of every event of a namespace, in the order in which they were made, from
/// [`Cluster::changes`](crate::Cluster::changes) on. It survives outages of the cluster: changes
/// that were made meanwhile are reported afterwards, one by one if the cluster still has its
/// history, or else merged.
///
/// A caller who does not keep up misses no change, and memory is bounded: some 4,000 changes are
/// kept, and beyond that one change for each event, into which later changes of the same event are
/// merged. After a million changes of different events that were not taken, and in a namespace with more
/// keys, it ends with an error.
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

impl Changes {
    pub(crate) fn new(runtime: Runtime) -> Result<Changes, Error> {
        // If the namespace may not be read, this is where it fails.
        let (states, revision) = runtime.run(|store| async move { list(&store).await })?.wait()?;
        let inbox = Arc::new(Inbox::default());
        let follower = Follower {
            store: Arc::clone(runtime.store()),
            inbox: Arc::clone(&inbox),
            holds: holds_of(&states),
            states,
            step: HashMap::new(),
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

fn holds_of(states: &States) -> usize {
    states.values().map(|state| state.holds.len()).sum()
}

/// Follows the changes of a namespace, on the runtime thread.
struct Follower {
    store: Arc<Store>,
    inbox: Arc<Inbox>,
    states: States,
    /// The number of holds in them.
    holds: usize,
    /// The events that the watch has shown as changed at the last revision, in order, with their
    /// states before.
    step: HashMap<String, (usize, State)>,
    step_at: i64,
    /// The events of which the watch has shown a change since the current look began, if there is
    /// one.
    touched: Option<HashSet<String>>,
    /// The events whose states come from the last look and not from the watch, with the revision of
    /// that look.
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
        Look::At(store.connection.in_about(store.options.recheck.mul_f64(0.75 + random::share() / 2.0)))
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
    /// There is more than is kept.
    TooMuch(Error),
}

impl Follower {
    /// Returns only if the namespace cannot be read any more.
    async fn run(mut self, mut revision: i64) -> Error {
        loop {
            match self.follow(revision).await {
                End::Interrupted(after) => revision = after,
                End::TooMuch(error) => return error,
                End::Lost => match list(&self.store).await {
                    Ok((states, at)) => {
                        self.report_step();
                        self.report_differences(&states);
                        (self.holds, self.states, revision) = (holds_of(&states), states, at);
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
            if let Some(error) = self.too_much() {
                return End::TooMuch(error);
            }
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
            if !self.step.contains_key(name) {
                self.step.insert(name.to_owned(), (self.step.len(), state.clone()));
            }
            self.holds -= state.holds.len();
            if event.is_delete() {
                state.delete(part, &kv.key)
            } else {
                state.put(part, kv)
            }
            self.holds += state.holds.len();
        }
        if answer.fragment {
            return last.map(|last| last.saturating_sub(1));
        }
        self.report_step();
        last
    }

    /// Reports the changes at the last revision.
    fn report_step(&mut self) {
        let mut step: Vec<(String, (usize, State))> = std::mem::take(&mut self.step).into_iter().collect();
        step.sort_unstable_by_key(|(_, (order, _))| *order);
        for (name, (_, before)) in step {
            let Some(state) = self.states.get(&name) else { continue };
            self.report(change(&name, &before, state));
            if !state.exists() {
                self.states.remove(&name);
            }
        }
    }

    /// Reports what a look has shown and the watch has not. Skips events that the watch has shown
    /// since the look began, because the list may be older or newer.
    fn compare(&mut self, mut listed: States, at: i64) {
        let touched = self.touched.take().unwrap_or_default();
        self.adopted.clear();
        let names: BTreeSet<String> = self.states.keys().chain(listed.keys()).cloned().collect();
        let is_changing = |name: &String| touched.contains(name) || self.step.contains_key(name);
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
        self.holds = holds_of(&self.states);
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

    /// Why changes are no longer followed: a hostile server could show new events for ever, and a
    /// caller may take no changes.
    fn too_much(&self) -> Option<Error> {
        let touched = self.touched.as_ref().map_or(0, HashSet::len);
        if self.states.len() + self.holds > read::MOST_KEYS || touched > read::MOST_KEYS {
            return Some(read::too_much(DOING, &self.store.keys.events()));
        }
        let is_behind = self.inbox.queue.lock().len() > read::MOST_KEYS;
        is_behind.then(|| Error::ended("more than a million changes were not taken; take them sooner, and watch again"))
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

    #[test]
    fn the_child_of_a_fork_has_inherited_no_changes() {
        let mut changes = Changes { runtime: Runtime::inherited(), inbox: Arc::default() };
        let error = changes.next_timeout(Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("connect again"), "{error}");
        let inbox = Arc::clone(&changes.inbox);
        drop(changes);
        assert!(!inbox.is_closed.is_set(), "no task of the parent is woken up");
    }
}

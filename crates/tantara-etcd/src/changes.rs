//! [`Changes`]: every change of every event of a namespace, as it happens.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tantara::Event;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use crate::engine::{Engine, Parts};
use crate::error::{Error, Why};
use crate::keys::{self, Part};
use crate::pause::Pause;
use crate::read;
use crate::wire::{Empty, KeyValue, WATCH, Watch, WatchAnswer, WatchCreate};

/// As with waits: a stream that has been silent for so long is asked for a sign of life, and given up after so long
/// again.
const SILENCE: Duration = Duration::from_secs(2);

const DOING: &str = "watch events";

/// How many changes are kept for a caller who does not take them. After that, changes of the same event are merged.
const MOST: usize = 4_096;

/// A change of an event, from [`Changes`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Of which event.
    pub name: String,
    /// How often it was set in this change. More than once where changes were merged, which loses no set: several came
    /// while the cluster could not be reached and their history is gone, or the caller was thousands of changes behind.
    pub sets: u64,
    /// Whether it is set now.
    pub is_set: bool,
    /// Whether it was removed, and does not exist now.
    pub is_removed: bool,
}

/// What is known of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    level: Option<bool>,
    /// How often it was set, and when last.
    sets: Option<(i64, i64)>,
    holds: Vec<Vec<u8>>,
}

impl Known {
    fn is_set(&self) -> bool {
        self.level == Some(true) || !self.holds.is_empty()
    }

    fn exists(&self) -> bool {
        *self != Known::default()
    }

    fn put(&mut self, part: Part, kv: &KeyValue) {
        match part {
            Part::Level => self.level = Some(kv.value == b"1"),
            Part::Pulse => self.sets = Some((kv.version, kv.mod_revision)),
            Part::Hold if !keys::is_hold(kv) => {}
            Part::Hold => {
                if !self.holds.contains(&kv.key) {
                    self.holds.push(kv.key.clone());
                }
            }
            Part::Waiter => {}
        }
    }

    fn delete(&mut self, part: Part, key: &[u8]) {
        match part {
            Part::Level => self.level = None,
            Part::Pulse => self.sets = None,
            Part::Hold => self.holds.retain(|hold| hold != key),
            Part::Waiter => {}
        }
    }

    /// The step from an earlier state to this one, if it is one.
    fn since(&self, earlier: &Known, name: &str) -> Option<Change> {
        let sets = match (earlier.sets, self.sets) {
            (Some((before, at)), Some((now, _))) if now >= before && at > 0 => (now - before).unsigned_abs(),
            // A new event, or a removed one that was made again.
            (_, Some((now, _))) => now.unsigned_abs(),
            (_, None) => 0,
        };
        let is_removed = earlier.exists() && !self.exists();
        let is_change = sets > 0 || is_removed || self.is_set() != earlier.is_set();
        is_change.then(|| Change { name: name.to_owned(), sets, is_set: self.is_set(), is_removed })
    }
}

/// Every change of every event of a namespace, from its making on, in the order in which they were made; from
/// [`Cluster::changes`](crate::Cluster::changes). It outlasts outages of the cluster: what happened meanwhile is told
/// then, one by one if the cluster still has its history, else merged.
///
/// A caller who does not keep up with the changes misses none, and memory stays bounded: some 4,000 changes are kept,
/// and beyond that one change for each event, into which later changes of the same event are merged.
#[must_use]
pub struct Changes {
    engine: Engine,
    desk: Arc<Desk>,
}

/// Changes that were not taken yet.
#[derive(Debug, Default)]
struct Queue {
    changes: VecDeque<Change>,
    /// How many changes were taken.
    taken: u64,
    /// The last change of each event in the queue, counted from the first change of all.
    last: HashMap<String, u64>,
}

impl Queue {
    fn push(&mut self, change: Change) {
        if self.changes.len() >= MOST {
            let index = self.last.get(&change.name).map(|last| last - self.taken);
            let waiting = index.and_then(|index| self.changes.get_mut(usize::try_from(index).ok()?));
            if let Some(waiting) = waiting {
                waiting.sets = waiting.sets.saturating_add(change.sets);
                (waiting.is_set, waiting.is_removed) = (change.is_set, change.is_removed);
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

#[derive(Debug)]
struct Desk {
    told: std::sync::Mutex<(Queue, Option<Error>)>,
    is_more: Event,
    /// Set when nobody listens any more.
    is_over: Event,
}

impl Desk {
    fn lock(&self) -> std::sync::MutexGuard<'_, (Queue, Option<Error>)> {
        self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn tell(&self, change: Change) {
        self.lock().0.push(change);
        self.is_more.set();
    }
}

impl Changes {
    pub(crate) fn new(engine: Engine) -> Result<Changes, Error> {
        let desk = Arc::new(Desk { told: std::sync::Mutex::default(), is_more: Event::new(), is_over: Event::new() });
        // The first look, so that what cannot be read is told here.
        let first = engine.run(|parts| async move { look(&parts).await })?.wait()?;
        let follower = Follower {
            parts: Arc::clone(engine.parts()),
            desk: Arc::clone(&desk),
            known: first.0,
            step: Vec::new(),
            step_at: 0,
        };
        let following = engine.run(|_| async move {
            let desk = Arc::clone(&follower.desk);
            tokio::select! {
                error = follower.run(first.1) => {
                    desk.lock().1 = Some(error);
                    desk.is_more.set();
                }
                () = desk.is_over.wait_async() => {}
            }
            Ok(())
        })?;
        drop(following);
        Ok(Changes { engine, desk })
    }

    /// Blocks until there is a change, for at most `timeout`; `None` if the time passed first.
    ///
    /// # Errors
    ///
    /// If the namespace may not be read any more. An outage is none.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Change>, Error> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            self.desk.is_more.clear();
            let mut told = self.desk.lock();
            if let Some(change) = told.0.pop() {
                return Ok(Some(change));
            }
            if let Some(error) = &told.1 {
                return Err(error.clone());
            }
            drop(told);
            let is_more = match deadline {
                Some(deadline) => self.desk.is_more.wait_deadline(deadline),
                None => self.desk.is_more.wait_timeout(Duration::MAX),
            };
            if !is_more {
                return Ok(None);
            }
        }
    }
}

impl Iterator for Changes {
    type Item = Result<Change, Error>;

    /// Blocks until there is a change. `None` never comes.
    fn next(&mut self) -> Option<Result<Change, Error>> {
        self.next_timeout(Duration::MAX).transpose()
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.desk.is_over.set();
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("engine", &self.engine).finish_non_exhaustive()
    }
}

type World = BTreeMap<String, Known>;

async fn look(parts: &Parts) -> Result<(World, i64), Error> {
    let listed = read::list(parts, DOING, parts.keys.events(), 0).await;
    let (kvs, revision) = listed.map_err(|failure| failure.error)?;
    let mut world = World::new();
    for kv in &kvs {
        if let Some((name, part)) = parts.keys.parse(&kv.key) {
            world.entry(name.to_owned()).or_default().put(part, kv);
        }
    }
    Ok((world, revision))
}

struct Follower {
    parts: Arc<Parts>,
    desk: Arc<Desk>,
    known: World,
    /// What the cluster changed at the last revision, as far as that was told, with what was known before.
    step: Vec<(String, Known)>,
    step_at: i64,
}

/// Why a watch has ended.
enum End {
    /// It broke off, and goes on after this revision.
    BrokeOff(i64),
    /// The history that it needs is gone.
    Compacted,
}

impl Follower {
    /// Never ends but by an error.
    async fn run(mut self, mut revision: i64) -> Error {
        let mut pause = Pause::new();
        loop {
            let before = revision;
            match self.follow(revision).await {
                End::BrokeOff(after) => revision = after,
                End::Compacted => match look(&self.parts).await {
                    Ok((world, at)) => {
                        self.tell();
                        self.compare(&world);
                        (self.known, revision) = (world, at);
                    }
                    Err(error) if error.is_unreachable() => {}
                    Err(error) => return error,
                },
            }
            if revision != before {
                pause = Pause::new();
            }
            sleep(pause.next()).await;
        }
    }

    fn compare(&self, world: &World) {
        let unknown = Known::default();
        let names: std::collections::BTreeSet<&String> = self.known.keys().chain(world.keys()).collect();
        for name in names {
            let [before, now] = [&self.known, world].map(|world| world.get(name).unwrap_or(&unknown));
            if let Some(change) = now.since(before, name) {
                self.desk.tell(change);
            }
        }
    }

    /// Follows the changes after a revision, until the stream breaks off.
    async fn follow(&mut self, mut revision: i64) -> End {
        let parts = Arc::clone(&self.parts);
        let Ok(connection) = parts.link.connection(DOING, parts.link.request_deadline()).await else {
            return End::BrokeOff(revision);
        };
        // A cluster whose history was replaced by a shorter one would have nothing to tell for long.
        match parts
            .link
            .call(
                DOING,
                &crate::wire::Range { key: parts.keys.events(), ..Default::default() },
                parts.link.request_deadline(),
            )
            .await
        {
            Ok(answer) if answer.header.as_ref().is_some_and(|header| header.revision < revision) => {
                return End::Compacted;
            }
            Ok(_) => {}
            // Refused for good: the next look says why.
            Err(failure) if !failure.error.is_unreachable() => return End::Compacted,
            Err(_) => return End::BrokeOff(revision),
        }
        let (requests, outbox) = mpsc::unbounded_channel();
        let key = parts.keys.events();
        // In pieces: foreign keys in the range may be of any size, and one message too large ends the stream.
        let create = WatchCreate {
            range_end: keys::end_of(&key),
            key,
            start_revision: revision + 1,
            watch_id: 1,
            fragment: true,
        };
        let _ = requests.send(Watch { create: Some(create), ..Watch::default() });
        let opening = connection.stream::<Watch, WatchAnswer>(WATCH, UnboundedReceiverStream::new(outbox));
        let why = match connection.while_it_serves(opening).await {
            Err(why) => why,
            Ok(Err(status)) => Why::of(&status),
            Ok(Ok(mut answers)) => loop {
                let answer = match tokio::time::timeout(SILENCE, answers.message()).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        let _ = requests.send(Watch { progress: Some(Empty {}), ..Watch::default() });
                        match tokio::time::timeout(SILENCE, answers.message()).await {
                            Ok(answer) => answer,
                            Err(_) => break Why::from("does not answer".to_owned()),
                        }
                    }
                };
                match answer {
                    Ok(Some(answer)) if answer.canceled => return End::Compacted,
                    Ok(Some(answer)) => revision = self.hear(&answer).unwrap_or(revision),
                    Ok(None) => break Why::from("has closed the watch".to_owned()),
                    // A single value that is too large, which the server should not have taken. It is passed over.
                    Err(status) if status.code() == Code::OutOfRange => return End::Compacted,
                    Err(status) => break Why::of(&status),
                }
            },
        };
        parts.link.distrust(&connection, why);
        End::BrokeOff(revision)
    }

    /// Tells what a message says. All that one step of the cluster did to an event is one change. Returns the last
    /// revision that is complete: the last step of a message that comes in pieces may not be.
    fn hear(&mut self, answer: &WatchAnswer) -> Option<i64> {
        let mut last = None;
        for event in &answer.events {
            let Some(kv) = &event.kv else { continue };
            if self.step_at != kv.mod_revision {
                self.tell();
            }
            self.step_at = kv.mod_revision;
            last = Some(kv.mod_revision);
            let Some((name, part)) = self.parts.keys.parse(&kv.key) else { continue };
            let known = self.known.entry(name.to_owned()).or_default();
            if !self.step.iter().any(|(of, _)| of == name) {
                self.step.push((name.to_owned(), known.clone()));
            }
            if event.is_delete() { known.delete(part, &kv.key) } else { known.put(part, kv) }
        }
        if answer.fragment {
            return last.map(|last| last - 1);
        }
        self.tell();
        last
    }

    fn tell(&mut self) {
        for (name, before) in self.step.drain(..) {
            let Some(known) = self.known.get(&name) else { continue };
            if let Some(change) = known.since(&before, &name) {
                self.desk.tell(change);
            }
            if !known.exists() {
                self.known.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, sets: u64, is_set: bool) -> Change {
        Change { name: name.to_owned(), sets, is_set, is_removed: false }
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
                // There is a place again.
                queue.push(change("d", 1, true));
            }
        }
        let (a, b, c) = (sets["a"], sets["b"], sets["c"]);
        assert_eq!((a + b + c, b, c, sets["d"]), (MOST as u64 + 100_000, 33_333, 33_333, 1));
        assert_eq!((last["a"], last["b"], last["c"]), (false, false, true), "what is told last is true now");
        assert!(queue.last.is_empty());
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

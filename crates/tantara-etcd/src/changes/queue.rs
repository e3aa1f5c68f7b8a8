//! A change of an event, and the queue of changes that the caller has not taken yet.

use std::collections::{HashMap, VecDeque};

use crate::error::Error;
use crate::list::Origin;
use crate::store::state::State;

/// The number of changes that are kept for a caller who does not take them. Beyond it, changes of
/// the same event are merged.
const MOST: usize = 4_096;

/// A change of an event. From [`Changes`](crate::Changes).
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
pub(crate) fn change(name: &str, before: &State, now: &State) -> Option<Change> {
    let sets = now.sets_since(before);
    let is_removed = before.exists() && !now.exists();
    let is_change = sets > 0 || is_removed || now.is_set() != before.is_set();
    is_change.then(|| {
        let last_set = now.last_set().filter(|_| sets > 0).map(Origin::from);
        Change { name: name.to_owned(), sets, is_set: now.is_set(), is_removed, last_set }
    })
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    changes: VecDeque<Change>,
    /// The number of changes that were taken.
    taken: u64,
    /// The position of the last change of each event in the queue, counted from the first change
    /// ever.
    last: HashMap<String, u64>,
    /// Why no change will follow.
    pub(crate) error: Option<Error>,
}

impl Queue {
    pub(crate) fn push(&mut self, change: Change) {
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

    /// The number of changes that were not taken.
    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn pop(&mut self) -> Option<Change> {
        let change = self.changes.pop_front()?;
        if self.last.get(&change.name) == Some(&self.taken) {
            self.last.remove(&change.name);
        }
        self.taken += 1;
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn change(name: &str, sets: u64, is_set: bool) -> Change {
        Change { name: name.to_owned(), sets, is_set, is_removed: false, last_set: None }
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
                // The queue is no longer full.
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

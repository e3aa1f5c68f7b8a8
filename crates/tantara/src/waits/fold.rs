//! Folds waits that differ only in their thread, task and time into groups, so that a report of a
//! hundred thousand waits is short.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::waits::known::Act;
use crate::waits::store::{Record, What};
use crate::waits::view::{self, Snapshot, Waiting};

/// How many members of a group are listed.
const LISTED: usize = 8;

/// Waits at the same place for events of the same names, about which the same is known, by acts at
/// the same places.
pub(crate) struct Group {
    /// How many waits there are.
    pub(crate) count: usize,
    /// Those that have waited longest; never empty.
    pub(crate) oldest: Vec<Waiting>,
    /// Whether all of them wait for the same events. If not, the acts that are shown are those of
    /// the oldest wait's events.
    pub(crate) is_of_same_events: bool,
    /// The identities of the events of the oldest wait.
    events: u64,
}

/// All recorded waits, the groups with the oldest waits first.
pub(crate) fn groups() -> Vec<Group> {
    let snapshot = Snapshot::new();
    let mut cycles = snapshot.cycles();
    let mut numbers = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (at, record) in snapshot.records.iter().enumerate() {
        let cycle = cycles.remove(&at);
        let shown = record.what.targets().iter().map(|target| snapshot.known.shown(*target));
        let events = hash(shown.map(|event| (event.kind as u8, event.address)));
        let number = *numbers.entry((key(&snapshot, record), cycle.clone())).or_insert_with(|| {
            groups.push(Group { count: 0, oldest: Vec::new(), is_of_same_events: true, events });
            groups.len() - 1
        });
        let group = &mut groups[number];
        group.count += 1;
        group.is_of_same_events &= group.events == events;
        if group.oldest.len() < LISTED {
            group.oldest.push(Waiting { cycle, ..snapshot.waiting(record) });
        }
    }
    groups
}

fn hash(items: impl Iterator<Item = impl Hash>) -> u64 {
    let mut hasher = DefaultHasher::new();
    items.for_each(|item| item.hash(&mut hasher));
    hasher.finish()
}

/// What the waits of a group have in common.
fn key(snapshot: &Snapshot, record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    record.place.address().hash(&mut hasher);
    record.task.is_some().hash(&mut hasher);
    match record.what {
        What::One(_) => 0,
        What::Any(_) => 1,
        What::All(_) => 2,
    }
    .hash(&mut hasher);
    for target in record.what.targets() {
        let shown = snapshot.known.shown(*target);
        (shown.kind as u8, shown.until_unset, snapshot.known.has_released(*target)).hash(&mut hasher);
        if let Some(known) = snapshot.known.get(*target) {
            (known.label.as_deref(), known.path.as_deref(), known.last_hold.as_deref()).hash(&mut hasher);
            // The key contains neither thread nor time: for many events that are to be set at one
            // place, one line is enough.
            let place = |act: &Act| (act.place.address(), act.thread.has_ended());
            for act in [&known.last_set, &known.abandoned, &known.taken] {
                act.as_ref().map(place).hash(&mut hasher);
            }
            for acts in [&known.setters, &known.holders] {
                acts.len().hash(&mut hasher);
                acts.iter().for_each(|(_, act)| place(act).hash(&mut hasher));
            }
        }
    }
    hasher.finish()
}

/// The waits, in groups like those of [`groups`].
pub(crate) fn by_place(waits: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let mut groups: Vec<Vec<Waiting>> = Vec::new();
    let mut numbers = HashMap::new();
    for wait in waits {
        let number = *numbers.entry((wait.cycle.clone(), key_of_waiting(&wait))).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[number].push(wait);
    }
    groups
}

/// The same as [`key`].
fn key_of_waiting(wait: &Waiting) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&wait.place, wait.task.is_some(), wait.mode).hash(&mut hasher);
    for event in &wait.events {
        (event.kind, event.until_unset, event.has_released, &event.label, &event.path).hash(&mut hasher);
        event.last_hold.hash(&mut hasher);
        let place = |act: &view::Act| (act.place.clone(), act.by.has_ended);
        for act in [&event.last_set, &event.abandoned, &event.taken] {
            act.as_deref().map(place).hash(&mut hasher);
        }
        for acts in [&event.setters, &event.holders] {
            acts.len().hash(&mut hasher);
            acts.iter().for_each(|act| place(act).hash(&mut hasher));
        }
    }
    hasher.finish()
}

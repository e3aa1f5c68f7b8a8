//! Waits that differ in nothing but their thread, task and time, folded into groups. So a report of a
//! hundred thousand waits is short.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::waits::store::{Record, What};
use crate::waits::view::{Snapshot, Waiting};

/// How many members of a group are listed.
const LISTED: usize = 8;

/// Waits at the same place for events of the same names.
pub(crate) struct Group {
    /// How many waits there are.
    pub(crate) count: usize,
    /// Those that have waited longest; never empty.
    pub(crate) oldest: Vec<Waiting>,
}

/// All recorded waits, the groups with the oldest waits first.
pub(crate) fn groups() -> Vec<Group> {
    let snapshot = Snapshot::new();
    let mut cycles = snapshot.cycles();
    let mut numbers = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (at, record) in snapshot.records.iter().enumerate() {
        let cycle = cycles.remove(&at);
        let number = *numbers.entry((key(&snapshot, record), cycle.is_some())).or_insert_with(|| {
            groups.push(Group { count: 0, oldest: Vec::new() });
            groups.len() - 1
        });
        let group = &mut groups[number];
        group.count += 1;
        if group.oldest.len() < LISTED {
            group.oldest.push(Waiting { cycle, ..snapshot.waiting(record) });
        }
    }
    groups
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
        let known = snapshot.known.get(*target);
        (target.kind as u8, target.until_unset).hash(&mut hasher);
        known.and_then(|known| known.label.as_deref()).hash(&mut hasher);
        known.is_some_and(|known| known.abandoned.is_some()).hash(&mut hasher);
        snapshot.known.has_released(*target).hash(&mut hasher);
    }
    hasher.finish()
}

/// The waits, in groups of those that began at the same place.
pub(crate) fn by_place(waits: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let mut groups: Vec<Vec<Waiting>> = Vec::new();
    let mut numbers = HashMap::new();
    for wait in waits {
        let number = *numbers.entry((wait.place.clone(), wait.task.is_some())).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[number].push(wait);
    }
    groups
}

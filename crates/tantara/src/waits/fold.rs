//! Waits that differ in nothing but their thread, task and time, folded into groups. So a report of a
//! hundred thousand waits is short.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::waits::store::{Record, What};
use crate::waits::view::{Snapshot, Waiting};

/// How many members of a group are listed.
pub(crate) const LISTED: usize = 8;

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
    let mut numbers = HashMap::new();
    let mut groups: Vec<(usize, Vec<&Record>)> = Vec::new();
    for record in &snapshot.records {
        let number = *numbers.entry(key(&snapshot, record)).or_insert_with(|| {
            groups.push((0, Vec::new()));
            groups.len() - 1
        });
        let (count, oldest) = &mut groups[number];
        *count += 1;
        if oldest.len() < LISTED {
            oldest.push(record);
        }
    }
    let waiting = |records: Vec<&Record>| records.into_iter().map(|record| snapshot.waiting(record)).collect();
    groups.into_iter().map(|(count, records)| Group { count, oldest: waiting(records) }).collect()
}

/// What the waits of a group have in common.
fn key(snapshot: &Snapshot, record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    std::ptr::from_ref(record.place).addr().hash(&mut hasher);
    record.task.is_some().hash(&mut hasher);
    match record.what {
        What::One(_) => 0,
        What::Any(_) => 1,
        What::All(_) => 2,
    }
    .hash(&mut hasher);
    for target in record.what.targets() {
        let known = snapshot.known(*target);
        (target.kind as u8).hash(&mut hasher);
        known.and_then(|known| known.label.as_deref()).hash(&mut hasher);
        known.is_some_and(|known| known.abandoned.is_some()).hash(&mut hasher);
        snapshot.has_released(*target).hash(&mut hasher);
    }
    hasher.finish()
}

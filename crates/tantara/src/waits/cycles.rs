//! Finds deadlocks: threads that wait for events that only such waiting threads have declared to
//! set.
//!
//! A cycle is reported only if it is certain, as far as is declared. A declaration says who is to set the
//! event only if its value borrows the event, and was made by a thread that polls no tasks: else it may
//! have been moved to another thread. Events between processes or machines are left out, because others
//! may set them.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use crate::waits::known::OfEvents;
use crate::waits::store::{Kind, Record, Target, What};
use crate::waits::threads::Thread;

/// What the search looks at.
pub(crate) struct Waits<'a> {
    pub(crate) records: &'a [Record],
    pub(crate) known: &'a OfEvents,
    pub(crate) threads: &'a BTreeMap<u32, Arc<Thread>>,
}

/// For each wait that can never end, by the place of its record, why.
pub(crate) fn cycles(waits: &Waits<'_>) -> HashMap<usize, String> {
    let numbers: HashMap<_, _> = waits.threads.iter().map(|(number, thread)| (Arc::as_ptr(thread), *number)).collect();
    let blocked =
        waits.records.iter().enumerate().filter(|(_, record)| record.task.is_none() && record.deadline.is_none());
    let search = Search { waits, numbers };
    // Remove the threads that may continue, until only threads are left that wait for one another.
    let mut stuck: BTreeMap<u32, usize> = blocked.map(|(at, record)| (record.thread, at)).collect();
    loop {
        let free: Vec<_> = stuck.iter().filter(|(_, at)| search.may_end(**at, &stuck)).map(|(own, _)| *own).collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|number| _ = stuck.remove(number));
    }
    stuck.values().map(|at| (*at, search.explain(*at, &stuck))).collect()
}

struct Search<'a> {
    waits: &'a Waits<'a>,
    numbers: HashMap<*const Thread, u32>,
}

impl Search<'_> {
    /// The threads that have declared to set an event: `None` for one that may have passed the
    /// declaration on.
    fn setters(&self, target: Target) -> impl Iterator<Item = Option<u32>> {
        let setters = self.waits.known.get(target).map_or(&[][..], |known| &known.setters);
        setters.iter().map(|(_, act)| {
            let is_its_own = !act.may_move && !act.thread.polls_tasks.load(Acquire);
            self.numbers.get(&Arc::as_ptr(&act.thread)).copied().filter(|_| is_its_own)
        })
    }

    /// Whether a thread may still set the event, as far as is known.
    fn may_be_set(&self, target: Target, stuck: &BTreeMap<u32, usize>) -> bool {
        let is_free = |setter: Option<u32>| setter.is_none_or(|setter| !stuck.contains_key(&setter));
        !matches!(target.kind, Kind::Event | Kind::AutoReset)
            || self.waits.known.has_released(target)
            || self.setters(target).next().is_none()
            || self.setters(target).any(is_free)
    }

    fn may_end(&self, at: usize, stuck: &BTreeMap<u32, usize>) -> bool {
        let may_be_set = |target: &Target| self.may_be_set(*target, stuck);
        match &self.waits.records[at].what {
            What::One(target) => may_be_set(target),
            What::Any(targets) => targets.is_empty() || targets.iter().any(may_be_set),
            What::All(targets) => targets.iter().all(may_be_set),
        }
    }

    /// `a waits for x, which b is to set; b waits for y, which a is to set`
    fn explain(&self, at: usize, stuck: &BTreeMap<u32, usize>) -> String {
        let (mut at, mut seen, mut steps) = (at, BTreeSet::new(), Vec::new());
        while seen.insert(at) {
            let record = &self.waits.records[at];
            let needed = record.what.targets().iter().find(|target| !self.may_be_set(**target, stuck));
            let next = needed.and_then(|target| Some((target, self.setters(*target).flatten().next()?)));
            let Some((target, setter)) = next else { break };
            let (own, other) = (self.thread(record.thread), self.thread(setter));
            let name = self.event(*target);
            steps.push(format!("{own} waits for {name}, which {other} is to set"));
            let Some(next) = stuck.get(&setter) else { break };
            at = *next;
        }
        steps.join("; ")
    }

    fn thread(&self, number: u32) -> String {
        match self.waits.threads.get(&number) {
            Some(thread) => thread.name.as_deref().map_or_else(|| format!("thread {}", thread.id), str::to_owned),
            None => "a thread".to_owned(),
        }
    }

    fn event(&self, target: Target) -> String {
        let label = self.waits.known.get(target).and_then(|known| known.label.as_deref());
        label.map_or_else(|| format!("the event at {:#x}", target.address), str::to_owned)
    }
}

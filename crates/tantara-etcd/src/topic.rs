//! An event that is waited for, and the rules by which waits begin and end. No input or output: what was read, or told
//! by the watch, comes in, and whose wait it ends comes out.
//!
//! A wait is released by a set that its first read did not show: the level is set, or the last set is another one.

use std::sync::Arc;

use tokio::time::Instant;

use crate::error::Error;
use crate::keys::{Part, Pulse, State};
use crate::ticket::Served;
use crate::wire::KeyEvent;

/// A wait that has not been read for yet.
pub(crate) struct Joining {
    pub(crate) ticket: Served,
    /// In which order the waits have come.
    pub(crate) order: u64,
    /// Until when it is to be read for.
    pub(crate) until: Instant,
}

/// A wait that was read for.
pub(crate) struct Sleeper {
    pub(crate) ticket: Served,
    pub(crate) order: u64,
    /// At which revision it was read for.
    pub(crate) revision: i64,
    /// The last set that it does not count.
    pub(crate) pulse: Option<Arc<Pulse>>,
    pub(crate) existed: bool,
    /// How many reads had begun when it was read for.
    pub(crate) joined: u64,
}

/// An event that is waited for, or was a moment ago.
pub(crate) struct Topic {
    pub(crate) joining: Vec<Joining>,
    pub(crate) sleepers: Vec<Sleeper>,
    /// How many have left since the last time that they were counted.
    pub(crate) left: usize,
    /// Whether it has to be read, whoever joins.
    pub(crate) is_stale: bool,
    /// The watch's number, on the stream that is open.
    pub(crate) watch: Option<i64>,
    /// Where an interrupted watch had come to; 0 if that is not known.
    pub(crate) resume: i64,
    /// Whether a message has told that it was removed, since the last read.
    pub(crate) saw_removal: bool,
    /// Since when somebody waits, or nobody does.
    pub(crate) since: Instant,
    pub(crate) is_settled: bool,
}

impl Topic {
    pub(crate) fn new() -> Topic {
        Topic {
            joining: Vec::new(),
            sleepers: Vec::new(),
            left: 0,
            is_stale: false,
            watch: None,
            resume: 0,
            saw_removal: false,
            since: Instant::now(),
            is_settled: false,
        }
    }

    pub(crate) fn purge(&mut self) {
        self.left = 0;
        self.sleepers.retain(|sleeper| !sleeper.ticket.is_abandoned());
        self.joining.retain(|joining| !joining.ticket.is_abandoned());
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.sleepers.is_empty() && self.joining.is_empty()
    }

    /// Applies a read that was the `number`th to begin. Whose wait it ends.
    pub(crate) fn apply(
        &mut self,
        number: u64,
        revision: i64,
        state: &State,
        pulse: &Option<Arc<Pulse>>,
        name: &str,
    ) -> Vec<Sleeper> {
        let is_set = state.is_set();
        let is_released =
            |sleeper: &mut Sleeper| sleeper.joined < number && (is_set || (pulse.is_some() && *pulse != sleeper.pulse));
        let released = self.sleepers.extract_if(.., is_released).collect();
        let (saw_removal, exists) = (self.saw_removal, state.exists());
        self.sleepers.retain_mut(|sleeper| {
            if sleeper.joined >= number {
                return true;
            }
            if revision < sleeper.revision {
                // The history was replaced by a shorter one, in which nothing has been set yet: it counts from here.
                sleeper.revision = revision;
                sleeper.pulse.clone_from(pulse);
                sleeper.existed = exists;
            } else if !exists && (sleeper.existed || saw_removal) {
                sleeper.ticket.0.end(Err(Error::removed(name)));
                return false;
            }
            sleeper.existed |= exists;
            true
        });
        // In a shorter history a watch would wait for long where the last one had come to.
        if revision + 1 < self.resume {
            self.resume = 0;
        }
        self.saw_removal = false;
        released
    }

    /// Those who wait for this read begin their waits.
    pub(crate) fn begin(
        &mut self,
        joining: Vec<Joining>,
        joined: u64,
        revision: i64,
        state: &State,
        pulse: &Option<Arc<Pulse>>,
    ) -> Vec<Sleeper> {
        let joining = joining.into_iter().filter(|joining| !joining.ticket.is_abandoned());
        let existed = state.exists();
        let begun = joining.map(|Joining { ticket, order, .. }| Sleeper {
            ticket,
            order,
            revision,
            pulse: pulse.clone(),
            existed,
            joined,
        });
        if state.is_set() {
            return begun.collect();
        }
        let before = self.sleepers.len();
        self.sleepers.extend(begun);
        self.sleepers[before..].iter().for_each(|sleeper| sleeper.ticket.0.begun.set());
        Vec::new()
    }

    pub(crate) fn hear_event(&mut self, event: &KeyEvent, part: Part, revision: i64) {
        // Were the watch to break off now, it would go on after this.
        self.resume = revision + 1;
        match (part, event.is_delete()) {
            (Part::Pulse, false) => {
                let released = self.sleepers.extract_if(.., |sleeper| sleeper.revision < revision).collect();
                release(released);
            }
            (_, true) => {
                self.saw_removal = true;
                self.is_stale = true;
            }
            _ => {}
        }
    }
}

/// Ends waits in the order in which they have come: of several that one party began, the first is answered first.
pub(crate) fn release(mut released: Vec<Sleeper>) {
    released.sort_unstable_by_key(|sleeper| sleeper.order);
    released.iter().for_each(|sleeper| sleeper.ticket.0.end(Ok(true)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::Ticket;
    use crate::wire::{KeyValue, RangeAnswer};

    /// An event as a read shows it: its last set, if it was ever set, and whether it is set now.
    fn state(last_set: Option<i64>, level: Option<&str>) -> (State, Option<Arc<Pulse>>) {
        let kv = |key: &str, value: &str, mod_revision| KeyValue {
            key: key.into(),
            value: value.into(),
            mod_revision,
            ..KeyValue::default()
        };
        let level = level.map(|level| kv("x/l", level, 1));
        let pulse = last_set.map(|revision| kv("x/p", &format!("set {revision}"), revision));
        let both = RangeAnswer { kvs: level.into_iter().chain(pulse).collect(), ..RangeAnswer::default() };
        let state = State::new(&both, &RangeAnswer::default());
        let pulse = state.pulse.clone().map(Arc::new);
        (state, pulse)
    }

    /// A wait that was read for at revision 10, by the first read.
    fn asleep(last_set: Option<i64>) -> (Topic, Arc<Ticket>) {
        let (mut topic, ticket) = (Topic::new(), Ticket::new("x"));
        let joining = Joining { ticket: Served(Arc::clone(&ticket)), order: 1, until: Instant::now() };
        let (state, pulse) = state(last_set, Some("0"));
        assert!(topic.begin(vec![joining], 1, 10, &state, &pulse).is_empty() && ticket.begun.is_set());
        (topic, ticket)
    }

    /// What comes of a read.
    fn read(
        topic: &mut Topic,
        number: u64,
        revision: i64,
        seen: (State, Option<Arc<Pulse>>),
        ticket: &Ticket,
    ) -> String {
        release(topic.apply(number, revision, &seen.0, &seen.1, "x"));
        format!("{:?}", ticket.outcome())
    }

    #[test]
    fn a_wait_ends_by_a_set_that_its_first_read_did_not_show() {
        for (seen, ends) in
            [(state(Some(5), Some("0")), false), (state(Some(12), Some("0")), true), (state(Some(12), Some("1")), true)]
        {
            let (mut topic, ticket) = asleep(Some(5));
            assert_eq!(read(&mut topic, 2, 20, seen, &ticket).contains("Ok(true)"), ends);
        }
        let (mut topic, ticket) = asleep(None);
        assert!(read(&mut topic, 2, 20, state(Some(12), Some("0")), &ticket).contains("Ok(true)"));
    }

    #[test]
    fn a_read_that_had_begun_before_decides_nothing() {
        let (mut topic, ticket) = asleep(Some(5));
        for older in [state(Some(3), Some("1")), state(None, None)] {
            assert_eq!(read(&mut topic, 1, 9, older, &ticket), "None");
        }
    }

    #[test]
    fn messages_count_from_the_revision_of_the_first_read() {
        let put = KeyEvent { kind: 0, kv: None };
        let (mut topic, ticket) = asleep(Some(5));
        topic.hear_event(&put, Part::Pulse, 10);
        topic.hear_event(&put, Part::Level, 11);
        assert!(ticket.outcome().is_none());
        assert_eq!(topic.resume, 12);
        // Although a later read has shown nothing new.
        assert_eq!(read(&mut topic, 2, 20, state(Some(5), Some("0")), &ticket), "None");
        topic.hear_event(&put, Part::Pulse, 15);
        assert!(ticket.outcome().is_some());
    }

    #[test]
    fn a_removal_is_told_but_not_where_the_history_was_replaced() {
        let (mut topic, ticket) = asleep(Some(5));
        assert!(read(&mut topic, 2, 20, state(None, None), &ticket).contains("Removed"));
        let (mut topic, ticket) = asleep(Some(5));
        topic.resume = 11;
        assert_eq!(read(&mut topic, 2, 3, state(None, None), &ticket), "None");
        assert_eq!(topic.resume, 0, "a watch would wait for long");
        assert!(read(&mut topic, 3, 4, state(Some(4), Some("0")), &ticket).contains("Ok(true)"));
        // One that had not existed is not removed, unless a message says so.
        let (mut topic, ticket) = asleep(None);
        topic.sleepers[0].existed = false;
        assert_eq!(read(&mut topic, 2, 20, state(None, None), &ticket), "None");
        topic.hear_event(&KeyEvent { kind: 1, kv: None }, Part::Level, 21);
        assert!(topic.is_stale);
        assert!(read(&mut topic, 3, 22, state(None, None), &ticket).contains("Removed"));
    }

    #[test]
    fn whoever_waits_for_an_event_that_is_set_is_released_by_the_first_read() {
        let (mut topic, ticket) = (Topic::new(), Ticket::new("x"));
        let joining = Joining { ticket: Served(Arc::clone(&ticket)), order: 1, until: Instant::now() };
        let (state, pulse) = state(Some(5), Some("1"));
        release(topic.begin(vec![joining], 1, 10, &state, &pulse));
        assert!(matches!(ticket.outcome(), Some(Ok(true))));
        assert!(topic.is_idle());
    }
}

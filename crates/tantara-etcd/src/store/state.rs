//! The state of an event, as its keys show it.

use std::collections::BTreeSet;

use crate::client::proto::{KeyValue, RangeAnswer};
use crate::store::keys::{LONGEST, Part, Stamp, lease_of_hold, lease_of_key};

/// The last `set` of an event. Every `set` writes a unique value, which tells two of them apart
/// even if the history was replaced, and its revisions with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pulse {
    pub(crate) revision: i64,
    /// The revision at which the key was created.
    created: i64,
    /// The number of sets since then.
    pub(crate) count: i64,
    pub(crate) value: Vec<u8>,
}

impl Pulse {
    fn new(kv: &KeyValue) -> Pulse {
        // Values of this crate differ long before this length. An external value may be of any
        // length.
        let value = kv.value.iter().copied().take(LONGEST).collect();
        Pulse { revision: kv.mod_revision, created: kv.create_revision, count: kv.version, value }
    }
}

/// The state of an event at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) level: Option<bool>,
    /// The revision at which the level key was created; 0 if there is none.
    pub(crate) created: i64,
    /// The revision at which it was put last; 0 if there is none.
    pub(crate) level_at: i64,
    pub(crate) pulse: Option<Pulse>,
    /// The leases of the holds that are known: all of them, or at most one after
    /// [`Keys::look`](super::keys::Keys::look).
    pub(crate) holds: BTreeSet<i64>,
}

impl State {
    /// From the answers to the reads of [`Keys::look`](super::keys::Keys::look).
    pub(crate) fn new(level: &RangeAnswer, pulse: &RangeAnswer, hold: &RangeAnswer) -> State {
        let mut state = State::default();
        for (part, answer) in [(Part::Level, level), (Part::Pulse, pulse), (Part::Hold, hold)] {
            answer.kvs.iter().for_each(|kv| state.put(part, kv));
        }
        state
    }

    /// Applies a key that was read, or put.
    pub(crate) fn put(&mut self, part: Part, kv: &KeyValue) {
        match part {
            Part::Level => {
                (self.level, self.created) = (Some(kv.value == b"1"), kv.create_revision);
                self.level_at = kv.mod_revision;
            }
            Part::Pulse => self.pulse = Some(Pulse::new(kv)),
            Part::Hold => {
                self.holds.extend(lease_of_hold(kv));
            }
            Part::Waiter => {}
        }
    }

    /// Applies a key that was deleted.
    pub(crate) fn delete(&mut self, part: Part, key: &[u8]) {
        match part {
            Part::Level => (self.level, self.created, self.level_at) = (None, 0, 0),
            Part::Pulse => self.pulse = None,
            Part::Hold => {
                let lease = lease_of_key(key);
                self.holds.retain(|hold| Some(*hold) != lease);
            }
            Part::Waiter => {}
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.level == Some(true) || self.is_held()
    }

    pub(crate) fn is_held(&self) -> bool {
        !self.holds.is_empty()
    }

    /// Whether the event was ever set or cleared, and not removed since.
    pub(crate) fn exists(&self) -> bool {
        self.level.is_some() || self.pulse.is_some() || self.is_held()
    }

    /// The last `set`, as the process that made it describes itself. `None` for an external value.
    pub(crate) fn last_set(&self) -> Option<Stamp> {
        Stamp::parse(&self.pulse.as_ref()?.value)
    }

    /// The hold that began last, if it has ended and the event was neither set nor cleared since it
    /// began: only a hold puts the pulse and not the level. It may have ended in any way.
    pub(crate) fn ended_hold(&self) -> Option<Stamp> {
        let is_of_a_hold = self.pulse.as_ref().is_some_and(|pulse| self.level_at < pulse.revision);
        if is_of_a_hold && !self.is_set() { self.last_set() } else { None }
    }

    /// The number of sets since an earlier state.
    pub(crate) fn sets_since(&self, earlier: &State) -> u64 {
        let Some(now) = &self.pulse else { return 0 };
        let earlier = earlier.pulse.as_ref().filter(|earlier| earlier.created == now.created);
        // A lower count is that of a history that was replaced.
        let more = earlier.and_then(|earlier| now.count.checked_sub(earlier.count)).filter(|more| *more >= 0);
        more.unwrap_or(now.count.max(0)).unsigned_abs()
    }

    /// Whether the event was removed since an earlier state, and created again: only a removal
    /// deletes its level and its pulse.
    pub(crate) fn was_created_again_since(&self, earlier: &State) -> bool {
        let is_another = |before: Option<i64>, now: Option<i64>| before.is_some() && before != now;
        let level = |state: &State| state.level.map(|_| state.created);
        let pulse = |state: &State| state.pulse.as_ref().map(|pulse| pulse.created);
        self.exists() && (is_another(level(earlier), level(self)) || is_another(pulse(earlier), pulse(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_counted_across_a_removal() {
        let state = |created: i64, sets: i64| {
            let key = |key: &str, version| KeyValue {
                key: key.into(),
                create_revision: created,
                mod_revision: created,
                version,
                ..KeyValue::default()
            };
            let mut state = State::default();
            state.put(Part::Level, &key("x/l", 1));
            state.put(Part::Pulse, &key("x/p", sets));
            state
        };
        let absent = State::default();
        assert_eq!((state(1, 5).sets_since(&state(1, 2)), state(1, 5).sets_since(&absent)), (3, 5));
        assert!(!state(1, 5).was_created_again_since(&state(1, 2)));
        assert!(!state(1, 5).was_created_again_since(&absent) && !absent.was_created_again_since(&state(1, 5)));
        // It was removed, and then set as often, more often or less often than before.
        for sets in [1, 2, 5] {
            assert_eq!(state(20, sets).sets_since(&state(1, 2)), sets.unsigned_abs());
            assert!(state(20, sets).was_created_again_since(&state(1, 2)));
        }
        let mut held = State::default();
        held.put(Part::Hold, &KeyValue { key: "x/h/000000000000001f".into(), lease: 0x1f, ..KeyValue::default() });
        assert!(held.was_created_again_since(&state(1, 2)));
        assert!(!state(1, 2).was_created_again_since(&held));
        assert_eq!(state(1, i64::MAX).sets_since(&state(1, i64::MIN)), i64::MAX.unsigned_abs());
    }

    #[test]
    fn a_hold_that_has_ended_is_known_until_the_event_is_set_or_cleared() {
        let stamp = Stamp::now();
        let kv = |key: &str, value: &[u8], mod_revision, lease| KeyValue {
            key: key.into(),
            value: value.into(),
            mod_revision,
            lease,
            ..KeyValue::default()
        };
        let hold = |state: &mut State, revision, lease: i64| {
            state.put(Part::Hold, &kv(&format!("x/h/{lease:016x}"), b"", revision, lease));
            state.put(Part::Pulse, &kv("x/p", &stamp.to_value(), revision, 0));
        };
        let put = |state: &mut State, value: &[u8], revision| state.put(Part::Level, &kv("x/l", value, revision, 0));
        let end = |state: &mut State, lease: i64| state.delete(Part::Hold, format!("x/h/{lease:016x}").as_bytes());
        let pid = |state: &State| state.ended_hold().map(|stamp| stamp.pid);
        let known = Some(stamp.pid);
        for before in [None, Some(b"0"), Some(b"1")] {
            let mut state = State::default();
            if let Some(level) = before {
                put(&mut state, level, 1);
            }
            hold(&mut state, 2, 7);
            hold(&mut state, 3, 8);
            end(&mut state, 8);
            assert_eq!(pid(&state), None, "another one holds it");
            end(&mut state, 7);
            assert_eq!(pid(&state), known.filter(|_| before != Some(b"1")), "it may be set besides");
            for level in [&b"0"[..], b"1", b"0"] {
                put(&mut state, level, 4);
                assert_eq!(pid(&state), None);
            }
            hold(&mut state, 5, 9);
            end(&mut state, 9);
            assert_eq!(pid(&state), known);
        }
        let mut state = State::default();
        put(&mut state, b"0", 1);
        state.put(Part::Pulse, &kv("x/p", &stamp.to_value(), 1, 0));
        assert_eq!(pid(&state), None, "a pulse is no hold");
        state.put(Part::Pulse, &kv("x/p", b"hello", 2, 0));
        assert_eq!(pid(&state), None, "an external value");
    }

    #[test]
    fn an_event_is_set_by_its_level_or_by_a_hold() {
        let kv = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into(), ..KeyValue::default() };
        let range = |kvs| RangeAnswer { kvs, ..RangeAnswer::default() };
        let state = |level, pulse, hold| State::new(&range(level), &range(pulse), &range(hold));
        assert!(!state(vec![], vec![], vec![]).exists());
        assert!(!state(vec![kv("x/l", "0")], vec![], vec![]).is_set());
        assert!(state(vec![kv("x/l", "0")], vec![], vec![]).exists());
        assert!(state(vec![kv("x/l", "1")], vec![], vec![]).is_set());
        let hold = |lease| KeyValue { lease, ..kv("x/h/000000000000001f", "") };
        assert!(state(vec![kv("x/l", "0")], vec![], vec![hold(0x1f)]).is_set());
        for external in [hold(0), hold(7), KeyValue { lease: 7, ..kv("x/h/7", "") }] {
            assert!(!state(vec![], vec![], vec![external]).exists(), "a hold is attached to the lease in its key");
        }
        assert!(!state(vec![kv("x/l", "hello")], vec![], vec![]).is_set(), "an external value sets nothing");
        assert!(state(vec![], vec![kv("x/p", "")], vec![]).pulse.is_some());
        let long = state(vec![], vec![kv("x/p", &"x".repeat(1_000_000))], vec![]);
        assert!(long.pulse.unwrap().value.len() <= LONGEST, "an external value is truncated");
    }
}

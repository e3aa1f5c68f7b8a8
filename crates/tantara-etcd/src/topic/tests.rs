//! The rules of waiting, fact by fact.

use super::*;
use crate::ticket::Ticket;
use crate::wire::{KeyValue, RangeAnswer};

/// An event as a read shows it: its last set, if it was ever set, and its level, made at revision 1.
fn state(last_set: Option<i64>, level: Option<&str>) -> State {
    let kv = |key: &str, value: &str, mod_revision| KeyValue {
        key: key.into(),
        value: value.into(),
        mod_revision,
        create_revision: 1,
        ..KeyValue::default()
    };
    let answer = |kv: Option<KeyValue>| RangeAnswer { kvs: kv.into_iter().collect(), ..RangeAnswer::default() };
    let level = level.map(|level| kv("x/l", level, 1));
    let pulse = last_set.map(|revision| kv("x/p", &format!("set {revision}"), revision));
    State::new(&answer(level), &answer(pulse), &answer(None))
}

fn absent() -> State {
    state(None, None)
}

/// A topic with a wait that the first read has begun, at revision 10.
struct One {
    topic: Topic,
    ticket: Arc<Ticket>,
    now: Instant,
    reads: u64,
}

impl One {
    fn asleep(state: State) -> One {
        let mut one = One { topic: Topic::new(), ticket: Ticket::new("x"), now: Instant::now(), reads: 1 };
        let ticket = Arc::clone(&one.ticket);
        assert_eq!(one.read_and_begin(1, 10, &state, Some(&ticket)), "None");
        assert!(one.ticket.begun.is_set());
        one
    }

    fn read(&mut self, number: u64, revision: i64, state: State) -> String {
        self.read_and_begin(number, revision, &state, None)
    }

    /// Applies a read that was the `number`th to begin, and says how the wait has ended.
    fn read_and_begin(&mut self, number: u64, revision: i64, state: &State, joining: Option<&Arc<Ticket>>) -> String {
        self.reads = self.reads.max(number);
        let pulse = &state.pulse.clone().map(Arc::new);
        let view = View { number, reads: self.reads, revision, state, pulse };
        release(self.topic.apply(&view, self.now));
        let joining = joining.map(|ticket| Joining { ticket: Served(Arc::clone(ticket)), order: 1, until: self.now });
        release(self.topic.begin(joining.into_iter().collect(), &view));
        self.outcome()
    }

    fn hear(&mut self, part: Part, is_delete: bool, revision: i64) -> String {
        release(self.topic.hear_change(part, is_delete, revision, self.reads, "x"));
        self.outcome()
    }

    /// Lets a doubt grow old.
    fn wait_for_the_watch(&mut self) -> String {
        self.topic.advance(self.now + DOUBT, "x");
        self.outcome()
    }

    fn outcome(&self) -> String {
        match self.ticket.outcome() {
            None => "None".to_owned(),
            Some(Ok(is_released)) => is_released.to_string(),
            Some(Err(error)) => error.to_string(),
        }
    }
}

const REMOVED: &str = "x was removed";

#[test]
fn a_wait_ends_by_a_set_that_its_first_read_did_not_show() {
    for (seen, ends) in [
        (state(Some(5), Some("0")), "None"),
        (state(Some(12), Some("0")), "true"),
        (state(Some(12), Some("1")), "true"),
    ] {
        assert_eq!(One::asleep(state(Some(5), Some("0"))).read(2, 20, seen), ends);
    }
    assert_eq!(One::asleep(state(None, Some("0"))).read(2, 20, state(Some(12), Some("0"))), "true");
}

#[test]
fn a_read_that_had_begun_before_decides_nothing() {
    let mut one = One::asleep(state(Some(5), Some("0")));
    for older in [state(Some(3), Some("1")), absent()] {
        assert_eq!(one.read(1, 9, older), "None");
    }
}

#[test]
fn a_read_from_before_the_event_was_made_removes_nothing() {
    let mut one = One::asleep(absent());
    // This read begins, the event is made at revision 20, and the read is answered with what was before.
    one.reads = 2;
    one.topic.hear_made(20, 2);
    assert_eq!(one.read(2, 15, absent()), "None");
    assert_eq!(one.wait_for_the_watch(), "None");
    // The same if a message or a later read has told first that it exists.
    let mut one = One::asleep(absent());
    one.hear(Part::Level, false, 20);
    assert_eq!((one.read(2, 15, absent()), one.wait_for_the_watch()), ("None".into(), "None".into()));
    let mut one = One::asleep(absent());
    one.reads = 3;
    assert_eq!(one.read(3, 20, state(None, Some("0"))), "None");
    assert_eq!((one.read(2, 15, absent()), one.wait_for_the_watch()), ("None".into(), "None".into()));
    // A removal that is newer is one, in whatever order it is learnt.
    assert_eq!((one.read(4, 25, absent()), one.wait_for_the_watch()), ("None".into(), REMOVED.into()));
    let mut one = One::asleep(absent());
    assert_eq!(one.read(2, 25, absent()), "None");
    one.topic.hear_made(20, 2);
    assert!(one.topic.is_stale, "to be read again, now that it is known to have existed");
    assert_eq!((one.read(3, 26, absent()), one.wait_for_the_watch()), ("None".into(), REMOVED.into()));
}

#[test]
fn messages_count_from_the_revision_of_the_first_read() {
    let mut one = One::asleep(state(Some(5), Some("0")));
    assert_eq!(one.hear(Part::Pulse, false, 10), "None");
    assert_eq!(one.hear(Part::Level, false, 11), "None");
    assert_eq!(one.topic.watch_from(), 12);
    // Although a later read has shown nothing new.
    assert_eq!(one.read(2, 20, state(Some(5), Some("0"))), "None");
    assert_eq!(one.hear(Part::Pulse, false, 15), "true");
}

#[test]
fn a_removal_is_told_by_a_message_when_both_keys_are_gone() {
    let mut one = One::asleep(state(Some(5), Some("0")));
    assert_eq!(one.hear(Part::Level, true, 11), "None");
    assert_eq!(one.hear(Part::Pulse, true, 11), REMOVED);
    // Half of it was deleted: it exists.
    let mut one = One::asleep(state(Some(5), Some("0")));
    assert_eq!(one.hear(Part::Level, true, 11), "None");
    assert_eq!(one.read(2, 12, state(Some(5), None)), "None");
    assert_eq!(one.wait_for_the_watch(), "None");
    // A removal from before the wait is none of it.
    let mut one = One::asleep(absent());
    assert_eq!(one.hear(Part::Level, true, 10), "None");
    assert_eq!(one.hear(Part::Level, false, 11), "None");
    assert_eq!(one.hear(Part::Level, true, 12), REMOVED);
}

#[test]
fn a_set_before_a_removal_releases_although_a_read_shows_the_removal_first() {
    let mut one = One::asleep(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 20, absent()), "None");
    assert_eq!(one.topic.watch_from(), 11, "what came before is asked for");
    assert_eq!(one.hear(Part::Pulse, false, 12), "true");
    // If there was none, the message tells that.
    let mut one = One::asleep(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 20, absent()), "None");
    one.hear(Part::Level, true, 15);
    assert_eq!(one.hear(Part::Pulse, true, 15), REMOVED);
    // If nothing tells, the removal counts.
    let mut one = One::asleep(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 20, absent()), "None");
    one.topic.lose_watch(one.now);
    one.topic.advance(one.now, "x");
    assert_eq!(one.outcome(), REMOVED);
    // Also if it was made again in the meantime.
    let mut one = One::asleep(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 20, absent()), "None");
    assert_eq!(one.read(3, 21, state(None, Some("0"))), "None");
    assert_eq!(one.wait_for_the_watch(), REMOVED);
}

#[test]
fn a_removal_in_doubt_waits_until_the_watch_has_begun_and_had_its_time() {
    for (is_set_first, outcome) in [(true, "true"), (false, REMOVED)] {
        let mut one = One::asleep(state(Some(5), Some("0")));
        one.topic.begin_watch(1, 10);
        one.topic.hear_begun(one.now);
        one.topic.interrupt();
        assert_eq!(one.read(2, 20, absent()), "None");
        // The next stream takes its time to open, and then the server to begin the watch.
        one.now += 3 * DOUBT;
        assert_eq!(one.wait_for_the_watch(), "None");
        one.topic.begin_watch(2, 20);
        one.now += 3 * DOUBT;
        assert_eq!(one.wait_for_the_watch(), "None");
        one.now += 3 * DOUBT;
        one.topic.hear_begun(one.now);
        one.topic.advance(one.now, "x");
        assert_eq!(one.outcome(), "None");
        if is_set_first {
            assert_eq!(one.hear(Part::Pulse, false, 12), "true");
        }
        assert_eq!(one.wait_for_the_watch(), outcome);
    }
    // A wait whose time has passed does not wait for that.
    let mut one = One::asleep(state(Some(5), Some("0")));
    one.topic.interrupt();
    assert_eq!(one.read(2, 20, absent()), "None");
    one.topic.decide(Served(Arc::clone(&one.ticket)), one.now);
    one.topic.advance(one.now, "x");
    assert_eq!(one.outcome(), "None");
    assert_eq!(one.wait_for_the_watch(), REMOVED);
    // Nor is a watch waited for that never begins.
    let mut one = One::asleep(state(Some(5), Some("0")));
    one.topic.interrupt();
    one.read(2, 20, absent());
    one.now += LONGEST_DOUBT;
    assert_eq!(one.wait_for_the_watch(), REMOVED);
}

#[test]
fn a_deadline_that_comes_to_be_in_doubt_waits_no_longer_for_a_later_doubt() {
    let mut one = One::asleep(state(Some(5), Some("0")));
    one.read(2, 20, absent());
    one.topic.decide(Served(Arc::clone(&one.ticket)), one.now);
    one.topic.doubt = Some(one.now + DOUBT / 2);
    assert_eq!(one.wait_for_the_watch(), REMOVED);
}

#[test]
fn a_watch_that_is_lost_again_and_again_is_begun_after_ever_longer_pauses() {
    let mut one = One::asleep(state(Some(5), Some("0")));
    let mut pauses = Vec::new();
    for revision in 11..30 {
        assert!(one.topic.wants_watch(one.now));
        one.topic.begin_watch(revision, revision);
        let due = one.topic.lose_watch(one.now);
        assert!(!one.topic.wants_watch(one.now) && !one.topic.is_stale);
        pauses.push(due - one.now);
        one.now = due;
        one.topic.advance(one.now, "x");
        assert!(one.topic.is_stale, "it is read before it is watched");
        one.topic.is_stale = false;
        assert_eq!(one.read(revision as u64, revision, state(Some(5), Some("0"))), "None");
    }
    assert!(*pauses.last().unwrap() > 5 * pauses[0], "{pauses:?}");
    // One that the server has begun.
    one.topic.begin_watch(30, 30);
    one.topic.hear_begun(one.now);
    assert!(one.topic.lose_watch(one.now) - one.now < *pauses.last().unwrap() / 5);
}

#[test]
fn a_deadline_in_doubt_waits_for_the_watch() {
    for (is_set_first, outcome) in [(true, "true"), (false, REMOVED)] {
        let mut one = One::asleep(state(Some(5), Some("0")));
        assert_eq!(one.read(2, 20, absent()), "None");
        one.topic.decide(Served(Arc::clone(&one.ticket)), one.now);
        assert_eq!(one.outcome(), "None");
        if is_set_first {
            one.hear(Part::Pulse, false, 12);
        }
        assert_eq!(one.wait_for_the_watch(), outcome);
    }
    let mut one = One::asleep(state(Some(5), Some("0")));
    one.topic.decide(Served(Arc::clone(&one.ticket)), one.now);
    assert_eq!(one.outcome(), "false");
    one.read(2, 20, absent());
    // An event that did not exist before the outage, nor after it, may have been set and removed.
    for (is_interrupted, is_set, outcome) in [(false, false, "false"), (true, false, "None"), (true, true, "true")] {
        let mut one = One::asleep(absent());
        one.topic.begin_watch(1, 10);
        if is_interrupted {
            one.topic.interrupt();
        }
        one.read(2, 20, absent());
        one.topic.decide(Served(Arc::clone(&one.ticket)), one.now);
        if is_interrupted {
            one.topic.begin_watch(2, 20);
            one.topic.hear_begun(one.now);
            one.topic.advance(one.now, "x");
            assert_eq!(one.outcome(), "None");
        }
        if is_set {
            one.hear(Part::Pulse, false, 12);
        }
        assert_eq!(one.outcome(), outcome);
        assert_ne!(one.wait_for_the_watch(), "None");
        assert_eq!(one.topic.is_idle(), is_interrupted);
    }
}

#[test]
fn a_watch_begins_after_the_last_read_that_leaves_no_question() {
    for (seen, from) in [
        (state(Some(5), Some("0")), 21),
        (state(Some(5), None), 21),
        (state(None, Some("0")), 21),
        // It may have been set, and was removed.
        (absent(), 11),
        // It was made again after the first read.
        (State { made: 15, ..state(None, Some("0")) }, 11),
    ] {
        let mut one = One::asleep(state(Some(5), Some("0")));
        one.read(2, 20, seen);
        assert_eq!(one.topic.watch_from(), from);
        one.topic.lose_watch(one.now);
        one.read(3, 30, absent());
        assert_eq!(one.topic.watch_from(), 31, "the history is gone");
    }
    // An undisturbed watch has told what came before the read before.
    let mut one = One::asleep(absent());
    one.topic.watch = Some(1);
    for (at, watch, from) in [(20, 1, 11), (30, 1, 11), (40, 1, 21), (50, 2, 21), (60, 2, 21), (70, 2, 51)] {
        one.topic.watch = Some(watch);
        if at != 30 && at != 60 {
            one.now += UNDISTURBED;
        }
        one.read(at as u64, at, absent());
        assert_eq!(one.topic.watch_from(), from);
    }
}

#[test]
fn a_history_that_was_replaced_removes_nothing() {
    let mut one = One::asleep(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 3, absent()), "None");
    assert_eq!(one.topic.watch_from(), 4, "a watch would wait for long");
    assert_eq!(one.wait_for_the_watch(), "None");
    assert_eq!(one.read(3, 4, state(Some(4), Some("0"))), "true");
    // By one that is longer than the wait is old.
    let mut one = One::asleep(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 100, state(Some(5), Some("0"))), "None");
    assert_eq!(one.read(3, 50, absent()), "None");
    assert_eq!((one.wait_for_the_watch(), one.topic.watch_from()), ("None".into(), 51));
    one.topic.hear_made(52, 3);
    assert_eq!((one.read(4, 60, absent()), one.wait_for_the_watch()), ("None".into(), REMOVED.into()));
}

#[test]
fn whoever_waits_for_an_event_that_is_set_is_released_by_the_first_read() {
    let mut one = One { topic: Topic::new(), ticket: Ticket::new("x"), now: Instant::now(), reads: 1 };
    let ticket = Arc::clone(&one.ticket);
    assert_eq!(one.read_and_begin(1, 10, &state(Some(5), Some("1")), Some(&ticket)), "true");
    assert!(one.topic.is_idle());
}

#[test]
fn a_wait_that_begins_with_an_older_read_is_read_for_again() {
    let mut one = One { topic: Topic::new(), ticket: Ticket::new("x"), now: Instant::now(), reads: 2 };
    assert_eq!(one.read(2, 20, state(Some(5), Some("0"))), "None");
    let ticket = Arc::clone(&one.ticket);
    assert_eq!(one.read_and_begin(1, 15, &state(Some(5), Some("0")), Some(&ticket)), "None");
    assert!(one.topic.is_stale);
}

#[test]
fn a_newer_read_that_began_before_the_waits_own_came_back_releases() {
    // The deadline's read begins while the wait's own is on its way; a pulse lies between the two.
    let mut one = One { topic: Topic::new(), ticket: Ticket::new("x"), now: Instant::now(), reads: 2 };
    let ticket = Arc::clone(&one.ticket);
    assert_eq!(one.read_and_begin(1, 10, &state(Some(5), Some("0")), Some(&ticket)), "None");
    assert_eq!(one.read(2, 12, state(Some(12), Some("0"))), "true");
}

#[test]
fn a_wait_that_is_over_before_it_is_read_for_does_not_begin() {
    let mut one = One { topic: Topic::new(), ticket: Ticket::new("x"), now: Instant::now(), reads: 1 };
    let ticket = Arc::clone(&one.ticket);
    ticket.end(Ok(false));
    one.read_and_begin(1, 10, &absent(), Some(&ticket));
    assert!(one.topic.is_idle());
}

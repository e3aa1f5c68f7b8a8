//! Tests of the rules, one fact at a time.

mod late;

use super::*;
use crate::client::proto::{KeyValue, RangeAnswer};
use crate::driver::beginning::Beginnings;
use crate::driver::mailbox::{Aim, WaitState};

/// The state of an event: the revision of its last `set`, and its level, created at revision 1.
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

/// An event with a wait whose first read was at revision 10.
struct One {
    waiters: Waiters,
    wait: Arc<WaitState>,
    now: Instant,
    reads: u64,
}

impl One {
    fn new(reads: u64) -> One {
        One::with(reads, Aim::Set)
    }

    fn with(reads: u64, aim: Aim) -> One {
        let now = Instant::now();
        One { waiters: Waiters::new(now), wait: WaitState::new(&"x".into(), &Arc::default(), aim, None), now, reads }
    }

    fn begun(state: State) -> One {
        One::begun_with(Aim::Set, state)
    }

    fn begun_with(aim: Aim, state: State) -> One {
        let mut one = One::with(1, aim);
        let wait = Arc::clone(&one.wait);
        assert_eq!(one.read_and_begin(1, 10, &state, Some(&wait)), "None");
        assert!(one.wait.begun.is_set());
        one
    }

    fn read(&mut self, number: u64, revision: i64, state: State) -> String {
        self.read_and_begin(number, revision, &state, None)
    }

    /// Applies the read of that number. Returns how the wait has ended.
    fn read_and_begin(
        &mut self,
        number: u64,
        revision: i64,
        state: &State,
        joining: Option<&Arc<WaitState>>,
    ) -> String {
        self.reads = self.reads.max(number);
        let pulse = &state.pulse.clone().map(Arc::new);
        let view = View { number, reads: self.reads, revision, state, pulse };
        release(self.waiters.apply(&view, self.now));
        let joining = joining.map(|wait| Joining {
            wait: Completer(Arc::clone(wait)),
            order: 1,
            until: self.now,
            _beginning: Beginnings::default().add(),
        });
        release(self.waiters.begin(joining.into_iter().collect(), &view));
        self.outcome()
    }

    /// The time of the wait has passed, and a read since then shows this.
    fn decide(&mut self, revision: i64, state: &State) -> String {
        let limits = Limits { watch: self.now + DOUBT, reads: self.now + 5 * DOUBT };
        self.waiters.decide(Completer(Arc::clone(&self.wait)), revision, state, self.now, limits);
        self.outcome()
    }

    fn change(&mut self, part: Part, is_delete: bool, revision: i64) -> String {
        release(self.waiters.on_change(part, is_delete, revision, self.reads, "x"));
        self.outcome()
    }

    /// Lets the time pass in which the watch could have shown more.
    fn after_doubt(&mut self) -> String {
        self.waiters.advance(self.now + DOUBT, "x");
        self.outcome()
    }

    fn outcome(&self) -> String {
        match self.wait.result() {
            None => "None".to_owned(),
            Some(Ok(is_released)) => is_released.to_string(),
            Some(Err(error)) => error.to_string(),
        }
    }
}

const REMOVED: &str = "x was removed";

#[test]
fn waits_are_quiet_until_there_is_something_to_count_or_to_decide() {
    let mut one = One::begun(state(None, Some("0")));
    assert!(one.waiters.is_quiet());
    one.read(2, 11, state(None, Some("0")));
    assert!(one.waiters.is_quiet());
    one.read(3, 12, absent());
    assert!(!one.waiters.is_quiet(), "it is in doubt");
    one.after_doubt();
    assert!(!one.waiters.is_quiet(), "nothing waits");

    let mut one = One::begun(absent());
    assert!(!one.waiters.is_quiet(), "the event is to be created");
    one.waiters.is_creating = true;
    assert!(one.waiters.is_quiet());
    one.waiters.on_watch_lost(one.now);
    assert!(!one.waiters.is_quiet(), "it is to be watched again");
}

#[test]
fn a_wait_for_the_next_set_ends_by_another_set_only() {
    let begun = || One::begun_with(Aim::Next, state(Some(5), Some("1")));
    for (seen, ends) in
        [(state(Some(5), Some("1")), "None"), (state(Some(5), Some("0")), "None"), (state(Some(12), Some("1")), "true")]
    {
        assert_eq!(begun().read(2, 20, seen), ends);
    }
    let mut one = begun();
    assert_eq!(one.change(Part::Level, false, 9), "None", "a change before its first read");
    assert_eq!(one.change(Part::Pulse, false, 10), "None");
    assert_eq!(one.change(Part::Level, false, 11), "None");
    assert_eq!(one.change(Part::Pulse, false, 12), "true");
    assert_eq!(begun().change(Part::Hold, true, 12), "None");
}

#[test]
fn a_wait_until_unset_ends_by_a_state_that_is_not_set() {
    let begun = || One::begun_with(Aim::Unset, state(Some(5), Some("1")));
    assert_eq!(begun().read(2, 20, state(Some(12), Some("1"))), "None", "it was set again");
    assert_eq!(begun().read(2, 20, state(Some(5), Some("0"))), "true");
    let mut one = begun();
    assert_eq!(one.change(Part::Pulse, false, 12), "None");
    assert_eq!(one.change(Part::Level, false, 12), "None", "it may be held");
    assert!(one.waiters.waits_until_unset(13) && !one.waiters.waits_until_unset(10));
    release(one.waiters.on_past(13, &state(Some(12), Some("1"))));
    release(one.waiters.on_past(10, &state(Some(5), Some("0"))));
    assert_eq!(one.outcome(), "None");
    release(one.waiters.on_past(13, &state(Some(12), Some("0"))));
    assert_eq!(one.outcome(), "true");
    let mut absent_first = One::with(1, Aim::Unset);
    let wait = Arc::clone(&absent_first.wait);
    assert_eq!(absent_first.read_and_begin(1, 10, &absent(), Some(&wait)), "true");
}

/// A watch that begins again after an interruption shows what happened meanwhile.
#[test]
fn a_wait_until_unset_keeps_the_position_of_its_watch() {
    let mut one = One::begun_with(Aim::Unset, state(Some(5), Some("1")));
    assert_eq!(one.waiters.watch_from(), 11);
    one.waiters.begin_watch(1, 10);
    one.waiters.on_interrupted();
    assert_eq!(one.read(2, 30, state(Some(25), Some("1"))), "None");
    assert_eq!(one.waiters.watch_from(), 11);
}

#[test]
fn a_wait_ends_by_a_set_that_its_first_read_did_not_show() {
    for (seen, ends) in [
        (state(Some(5), Some("0")), "None"),
        (state(Some(12), Some("0")), "true"),
        (state(Some(12), Some("1")), "true"),
    ] {
        assert_eq!(One::begun(state(Some(5), Some("0"))).read(2, 20, seen), ends);
    }
    assert_eq!(One::begun(state(None, Some("0"))).read(2, 20, state(Some(12), Some("0"))), "true");
}

#[test]
fn a_read_that_began_before_the_wait_decides_nothing() {
    let mut one = One::begun(state(Some(5), Some("0")));
    for older in [state(Some(3), Some("1")), absent()] {
        assert_eq!(one.read(1, 9, older), "None");
    }
}

#[test]
fn a_read_from_before_the_event_was_made_removes_nothing() {
    let mut one = One::begun(absent());
    // A read begins, the event is created at revision 20, and the read is answered with the state
    // before.
    one.reads = 2;
    one.waiters.on_created(20, 2);
    assert_eq!(one.read(2, 15, absent()), "None");
    assert_eq!(one.after_doubt(), "None");
    // The same if a message or a later read has shown first that it exists.
    let mut one = One::begun(absent());
    one.change(Part::Level, false, 20);
    assert_eq!((one.read(2, 15, absent()), one.after_doubt()), ("None".into(), "None".into()));
    let mut one = One::begun(absent());
    one.reads = 3;
    assert_eq!(one.read(3, 20, state(None, Some("0"))), "None");
    assert_eq!((one.read(2, 15, absent()), one.after_doubt()), ("None".into(), "None".into()));
    // A newer removal counts, in whatever order the facts are learnt.
    assert_eq!((one.read(4, 25, absent()), one.after_doubt()), ("None".into(), REMOVED.into()));
    let mut one = One::begun(absent());
    assert_eq!(one.read(2, 25, absent()), "None");
    one.waiters.on_created(20, 2);
    assert!(one.waiters.is_stale, "to be read again, now that it is known to have existed");
    assert_eq!((one.read(3, 26, absent()), one.after_doubt()), ("None".into(), REMOVED.into()));
}

#[test]
fn messages_count_from_the_revision_of_the_first_read() {
    let mut one = One::begun(state(Some(5), Some("0")));
    assert_eq!(one.change(Part::Pulse, false, 10), "None");
    assert_eq!(one.change(Part::Level, false, 11), "None");
    assert_eq!(one.waiters.watch_from(), 12);
    // Also after a later read that showed nothing new.
    assert_eq!(one.read(2, 20, state(Some(5), Some("0"))), "None");
    assert_eq!(one.change(Part::Pulse, false, 15), "true");
}

#[test]
fn a_message_ends_waits_as_removed_when_both_keys_are_gone() {
    let mut one = One::begun(state(Some(5), Some("0")));
    assert_eq!(one.change(Part::Level, true, 11), "None");
    assert_eq!(one.change(Part::Pulse, true, 11), REMOVED);
    // If one key is left, the event exists.
    let mut one = One::begun(state(Some(5), Some("0")));
    assert_eq!(one.change(Part::Level, true, 11), "None");
    assert_eq!(one.read(2, 12, state(Some(5), None)), "None");
    assert_eq!(one.after_doubt(), "None");
    // A removal before the wait does not count.
    let mut one = One::begun(absent());
    assert_eq!(one.change(Part::Level, true, 10), "None");
    assert_eq!(one.change(Part::Level, false, 11), "None");
    assert_eq!(one.change(Part::Level, true, 12), REMOVED);
}

#[test]
fn a_set_before_a_removal_releases_although_a_read_shows_the_removal_first() {
    let mut one = One::begun(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 20, absent()), "None");
    assert_eq!(one.waiters.watch_from(), 11, "the watch begins with what came before");
    assert_eq!(one.change(Part::Pulse, false, 12), "true");
    // The watch shows that there was no `set`.
    let mut one = One::begun(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 20, absent()), "None");
    one.change(Part::Level, true, 15);
    assert_eq!(one.change(Part::Pulse, true, 15), REMOVED);
    // The watch cannot show more.
    let mut one = One::begun(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 20, absent()), "None");
    one.waiters.on_watch_lost(one.now);
    one.waiters.advance(one.now, "x");
    assert_eq!(one.outcome(), REMOVED);
    // The same if the event was created again meanwhile.
    let mut one = One::begun(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 20, absent()), "None");
    assert_eq!(one.read(3, 21, state(None, Some("0"))), "None");
    assert_eq!(one.after_doubt(), REMOVED);
}

#[test]
fn a_removal_in_doubt_waits_until_the_watch_has_begun_and_had_its_time() {
    for (is_set_first, outcome) in [(true, "true"), (false, REMOVED)] {
        let mut one = One::begun(state(Some(5), Some("0")));
        one.waiters.begin_watch(1, 10);
        one.waiters.on_watch_begun(one.now);
        one.waiters.on_interrupted();
        assert_eq!(one.read(2, 20, absent()), "None");
        // The next stream opens slowly, and then the server begins the watch slowly.
        one.now += 3 * DOUBT;
        assert_eq!(one.after_doubt(), "None");
        one.waiters.begin_watch(2, 20);
        one.now += 3 * DOUBT;
        assert_eq!(one.after_doubt(), "None");
        one.now += 3 * DOUBT;
        one.waiters.on_watch_begun(one.now);
        one.waiters.advance(one.now, "x");
        assert_eq!(one.outcome(), "None");
        if is_set_first {
            assert_eq!(one.change(Part::Pulse, false, 12), "true");
        }
        assert_eq!(one.after_doubt(), outcome);
    }
    // A wait whose time has passed does not wait for the watch to begin.
    let mut one = One::begun(state(Some(5), Some("0")));
    one.waiters.on_interrupted();
    assert_eq!(one.read(2, 20, absent()), "None");
    one.decide(20, &absent());
    one.waiters.advance(one.now, "x");
    assert_eq!(one.outcome(), "None");
    assert_eq!(one.after_doubt(), REMOVED);
    // A watch that never begins is not waited for.
    let mut one = One::begun(state(Some(5), Some("0")));
    one.waiters.on_interrupted();
    one.read(2, 20, absent());
    one.now += LONGEST_DOUBT;
    assert_eq!(one.after_doubt(), REMOVED);
}

#[test]
fn a_deadline_that_comes_to_be_in_doubt_waits_no_longer_for_a_later_doubt() {
    let mut one = One::begun(state(Some(5), Some("0")));
    one.read(2, 20, absent());
    one.decide(20, &absent());
    one.waiters.doubt = Some(one.now + DOUBT / 2);
    assert_eq!(one.after_doubt(), REMOVED);
}

#[test]
fn a_watch_that_is_lost_again_and_again_is_begun_after_ever_longer_pauses() {
    let mut one = One::begun(state(Some(5), Some("0")));
    let mut pauses = Vec::new();
    for revision in 11..30 {
        assert!(one.waiters.needs_watch(one.now));
        one.waiters.begin_watch(revision, revision);
        let due = one.waiters.on_watch_lost(one.now);
        assert!(!one.waiters.needs_watch(one.now) && !one.waiters.is_stale);
        pauses.push(due - one.now);
        one.now = due;
        one.waiters.advance(one.now, "x");
        assert!(one.waiters.is_stale, "it is read before it is watched");
        one.waiters.is_stale = false;
        assert_eq!(one.read(revision as u64, revision, state(Some(5), Some("0"))), "None");
    }
    assert!(*pauses.last().unwrap() > 5 * pauses[0], "{pauses:?}");
    // A watch that has begun resets the pause.
    one.waiters.begin_watch(30, 30);
    one.waiters.on_watch_begun(one.now);
    assert!(one.waiters.on_watch_lost(one.now) - one.now < *pauses.last().unwrap() / 5);
}

#[test]
fn a_deadline_in_doubt_waits_for_the_watch() {
    for (is_set_first, outcome) in [(true, "true"), (false, REMOVED)] {
        let mut one = One::begun(state(Some(5), Some("0")));
        assert_eq!(one.read(2, 20, absent()), "None");
        one.decide(20, &absent());
        assert_eq!(one.outcome(), "None");
        if is_set_first {
            one.change(Part::Pulse, false, 12);
        }
        assert_eq!(one.after_doubt(), outcome);
    }
    let mut one = One::begun(state(Some(5), Some("0")));
    one.decide(20, &absent());
    assert_eq!(one.outcome(), "false");
    one.read(2, 20, absent());
    // An event that did not exist before the outage, nor after it, may have been set and removed.
    for (is_interrupted, is_set, outcome) in [(false, false, "false"), (true, false, "None"), (true, true, "true")] {
        let mut one = One::begun(absent());
        one.waiters.begin_watch(1, 10);
        if is_interrupted {
            one.waiters.on_interrupted();
        }
        one.read(2, 20, absent());
        one.decide(20, &absent());
        if is_interrupted {
            one.waiters.begin_watch(2, 20);
            one.waiters.on_watch_begun(one.now);
            one.waiters.advance(one.now, "x");
            assert_eq!(one.outcome(), "None");
        }
        if is_set {
            one.change(Part::Pulse, false, 12);
        }
        assert_eq!(one.outcome(), outcome);
        assert_ne!(one.after_doubt(), "None");
        assert_eq!(one.waiters.is_idle(), is_interrupted);
    }
}

#[test]
fn a_watch_begins_after_the_last_read_that_leaves_no_question() {
    for (seen, from) in [
        (state(Some(5), Some("0")), 21),
        (state(Some(5), None), 21),
        (state(None, Some("0")), 21),
        // It was removed, and may have been set before.
        (absent(), 11),
        // It was created again after the first read.
        (State { created: 15, ..state(None, Some("0")) }, 11),
    ] {
        let mut one = One::begun(state(Some(5), Some("0")));
        one.read(2, 20, seen);
        assert_eq!(one.waiters.watch_from(), from);
        one.waiters.on_watch_lost(one.now);
        one.read(3, 30, absent());
        assert_eq!(one.waiters.watch_from(), 31, "the history is gone");
    }
    // An uninterrupted watch has shown what came before the read before.
    let mut one = One::begun(absent());
    one.waiters.watch = Some(1);
    for (at, watch, from) in [(20, 1, 11), (30, 1, 11), (40, 1, 21), (50, 2, 21), (60, 2, 21), (70, 2, 51)] {
        one.waiters.watch = Some(watch);
        if at != 30 && at != 60 {
            one.now += UNINTERRUPTED;
        }
        one.read(at as u64, at, absent());
        assert_eq!(one.waiters.watch_from(), from);
    }
}

#[test]
fn a_history_that_was_replaced_removes_nothing() {
    let mut one = One::begun(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 3, absent()), "None");
    assert_eq!(one.waiters.watch_from(), 4, "a later revision would take long to come");
    assert_eq!(one.after_doubt(), "None");
    assert_eq!(one.read(3, 4, state(Some(4), Some("0"))), "true");
    // The new history is longer than the revision of the wait.
    let mut one = One::begun(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 100, state(Some(5), Some("0"))), "None");
    assert_eq!(one.read(3, 50, absent()), "None");
    assert_eq!((one.after_doubt(), one.waiters.watch_from()), ("None".into(), 51));
    one.waiters.on_created(52, 3);
    assert_eq!((one.read(4, 60, absent()), one.after_doubt()), ("None".into(), REMOVED.into()));
}

#[test]
fn a_wait_for_an_event_that_is_set_is_released_by_the_first_read() {
    let mut one = One::new(1);
    let wait = Arc::clone(&one.wait);
    assert_eq!(one.read_and_begin(1, 10, &state(Some(5), Some("1")), Some(&wait)), "true");
    assert!(one.waiters.is_idle());
}

#[test]
fn a_wait_that_begins_with_an_older_read_is_read_for_again() {
    let mut one = One::new(2);
    assert_eq!(one.read(2, 20, state(Some(5), Some("0"))), "None");
    let wait = Arc::clone(&one.wait);
    assert_eq!(one.read_and_begin(1, 15, &state(Some(5), Some("0")), Some(&wait)), "None");
    assert!(one.waiters.is_stale);
}

#[test]
fn a_newer_read_that_began_before_the_waits_own_came_back_releases() {
    // The last read begins before the first one is answered, and a pulse is made between the two.
    let mut one = One::new(2);
    let wait = Arc::clone(&one.wait);
    assert_eq!(one.read_and_begin(1, 10, &state(Some(5), Some("0")), Some(&wait)), "None");
    assert_eq!(one.read(2, 12, state(Some(12), Some("0"))), "true");
}

#[test]
fn a_wait_that_is_over_before_it_is_read_for_does_not_begin() {
    let mut one = One::new(1);
    let wait = Arc::clone(&one.wait);
    wait.complete(Ok(false));
    one.read_and_begin(1, 10, &absent(), Some(&wait));
    assert!(one.waiters.is_idle());
}

#[test]
fn a_watch_that_begins_before_another_read_has_shown_what_it_owes() {
    let mut one = One::begun(state(Some(5), Some("0")));
    one.waiters.on_interrupted();
    // The read of a deadline is newer than the one after which the watch is requested.
    assert_eq!(one.read(3, 20, absent()), "None");
    assert_eq!(one.read(2, 12, state(Some(5), Some("0"))), "None");
    one.waiters.begin_watch(2, 12);
    assert_eq!(one.after_doubt(), "None", "the watch has not begun");
    one.waiters.on_watch_begun(one.now + DOUBT);
    assert_eq!(one.change(Part::Pulse, false, 15), "true");
}

#[test]
fn watches_that_begin_again_and_again_do_not_prolong_a_doubt_without_end() {
    let mut one = One::begun(state(Some(5), Some("0")));
    assert_eq!(one.read(2, 20, absent()), "None");
    let began = one.now;
    while one.outcome() == "None" {
        one.waiters.on_interrupted();
        one.waiters.begin_watch(2, 20);
        one.waiters.on_watch_begun(one.now);
        one.now += DOUBT / 2;
        assert!(one.now <= began + LONGEST_DOUBT + DOUBT);
        one.waiters.advance(one.now, "x");
    }
    assert_eq!(one.outcome(), REMOVED);
}

#[test]
fn an_event_that_is_gone_with_the_history_is_created_again() {
    let mut one = One::begun(absent());
    one.waiters.is_creating = true;
    one.waiters.on_created(12, 1);
    assert_eq!(one.read(2, 3, absent()), "None");
    assert!(one.waiters.may_not_exist() && !one.waiters.is_creating);
}

#[test]
fn a_watch_that_is_faster_than_the_first_read_of_a_wait_releases_it() {
    for aim in [Aim::Set, Aim::Next] {
        for (read_at, shown, outcome) in [(11, 5, "true"), (12, 12, "None"), (13, 12, "None")] {
            let mut one = One::with(2, aim);
            let other = WaitState::new(&"x".into(), &Arc::default(), Aim::Set, None);
            one.read_and_begin(1, 10, &state(Some(5), Some("0")), Some(&other));
            // The event is set, and removed after that: no later read shows that it was set.
            one.change(Part::Pulse, false, 12);
            assert!(other.is_over());
            let wait = Arc::clone(&one.wait);
            assert_eq!(one.read_and_begin(2, read_at, &state(Some(shown), Some("0")), Some(&wait)), outcome);
        }
    }
}

#[test]
fn a_watch_that_is_faster_than_the_first_read_of_a_wait_until_unset_begins_again() {
    let mut one = One::with(2, Aim::Unset);
    let (wait, other) = (Arc::clone(&one.wait), WaitState::new(&"x".into(), &Arc::default(), Aim::Unset, None));
    let set = state(Some(5), Some("1"));
    one.read_and_begin(1, 10, &set, Some(&other));
    one.waiters.begin_watch(1, 10);
    // It is cleared, and set again.
    one.change(Part::Level, false, 12);
    one.change(Part::Level, false, 13);
    assert_eq!((one.waiters.watch_from(), one.waiters.take_unfit_watch()), (14, None));
    assert_eq!(one.read_and_begin(2, 11, &set, Some(&wait)), "None");
    assert_eq!((one.waiters.watch_from(), one.waiters.take_unfit_watch()), (12, Some(1)));
    one.waiters.begin_watch(2, 13);
    one.change(Part::Level, false, 12);
    assert!(one.waiters.waits_until_unset(12) && one.waiters.take_unfit_watch().is_none());
    release(one.waiters.on_past(12, &state(Some(5), Some("0"))));
    assert_eq!(one.outcome(), "true");
}

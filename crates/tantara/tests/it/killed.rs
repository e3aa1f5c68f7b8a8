//! A process is killed at every single instruction of an operation, without an effect on any other.
//!
//! Sleepers wake up by themselves after a while to check the event's file, so a wait that ends proves nothing. The
//! test asks the kernel whether a thread *sleeps* on an event that is set.

#![cfg(target_arch = "x86_64")]

use std::fs;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use tantara::{Error, SharedEvent, State};
use tempfile::TempDir;

use crate::LONG;
use crate::children::is_asleep;
use crate::stepper::Stepper;

/// A thread that waits for an event on request, through an opening of its own.
struct Sleeper {
    thread: u32,
    orders: Sender<()>,
    outcomes: Receiver<Result<(), Error>>,
}

impl Sleeper {
    fn new(directory: &TempDir, name: &str) -> Sleeper {
        let event = SharedEvent::open_in(directory, name).unwrap();
        let ((orders, ordered), (done, outcomes), (tell, told)) = (channel(), channel(), channel());
        thread::spawn(move || {
            tell.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            while let Ok(()) = ordered.recv() {
                done.send(event.wait()).unwrap();
            }
        });
        let thread = told.recv().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
        Sleeper { thread, orders, outcomes }
    }

    fn pair(directory: &TempDir, name: &str) -> [Sleeper; 2] {
        [Sleeper::new(directory, name), Sleeper::new(directory, name)]
    }

    fn begin(&self) {
        self.orders.send(()).unwrap();
    }

    fn fall_asleep(&self) {
        self.begin();
        while !self.is_asleep() {
            thread::yield_now();
        }
    }

    fn is_asleep(&self) -> bool {
        is_asleep(std::process::id(), self.thread)
    }

    fn outcome(&self) -> Result<(), Error> {
        self.outcomes.recv_timeout(LONG).expect("a waiter was not released")
    }
}

/// The waiters beside the process that is killed.
#[derive(Clone, Copy, PartialEq)]
enum Others {
    /// Two threads sleep on the event.
    Sleep,
    /// None; two begin to wait after the kill.
    Come,
}

/// A process is killed at each instruction of `action`. The event is set before that if `is_set`, else unset.
fn at_every_instruction(action: &str, warm: bool, is_set: bool, others: Others) {
    let directory = tempfile::tempdir().unwrap();
    let event = SharedEvent::open_in(&directory, "event").unwrap();
    let Some(mut stepper) = Stepper::start(directory.path(), action, warm) else { return };
    let sleepers = Sleeper::pair(&directory, "event");
    let prepare = || if is_set { event.set() } else { event.clear() };
    prepare().unwrap();
    let points = stepper.points("event");
    let (length, after, mut was_set) = (*points.last().unwrap(), event.is_set().unwrap(), [0, 0]);
    for &instructions in &points {
        until_reached(|| {
            prepare().unwrap();
            if others == Others::Sleep {
                sleepers.iter().for_each(Sleeper::fall_asleep);
            }
            let (has_reached, killed) = stepper.kill("event", instructions);
            if others == Others::Come {
                sleepers.iter().for_each(Sleeper::begin);
            }
            if has_reached {
                was_set[usize::from(event.is_set().unwrap())] += 1;
            }
            if instructions == length || !has_reached {
                assert_eq!(event.is_set().unwrap(), after, "it was not over at its end");
            }
            all_is_well(&event, &sleepers, killed, &format!("{action} was killed after {instructions} instructions"));
            has_reached
        });
    }
    let [unset, set] = was_set;
    conclude(action, &points, &format!("{unset} times the event was unset then, {set} times it was set"));
    assert_eq!((unset > 0, set > 0), (!is_set || !after, is_set || after), "before and behind the one that counts");
}

fn conclude(story: &str, points: &[usize], outcome: &str) {
    let (kills, length) = (points.len(), points.last().unwrap());
    println!("{story}: at {kills} points of {length} instructions; {outcome}");
    assert!(kills > 20 && (cfg!(debug_assertions) || kills == length + 1), "not at every instruction");
}

/// Tries again until the child has reached the instruction.
fn until_reached(attempt: impl FnMut() -> bool) {
    assert!(std::iter::repeat_with(attempt).take(20).any(|reached| reached), "a child is not where it should be");
}

/// No thread sleeps on a set event, a `set` of another process releases all, all methods work, and the killed process
/// does not wait any more.
fn all_is_well(event: &SharedEvent, sleepers: &[Sleeper], killed: u32, story: &str) {
    if !event.is_set().unwrap() {
        for sleeper in sleepers {
            assert!(sleeper.outcomes.try_recv().is_err(), "{story}: a waiter was released without a set");
        }
        event.set().unwrap();
    }
    for sleeper in sleepers {
        assert!(!sleeper.is_asleep(), "{story}: a thread sleeps on a set event");
    }
    for sleeper in sleepers {
        sleeper.outcome().unwrap();
    }
    assert!(event.is_set().unwrap() && event.wait_timeout(Duration::ZERO).unwrap(), "{story}");
    event.clear().unwrap();
    assert!(!event.is_set().unwrap() && !event.wait_timeout(Duration::ZERO).unwrap(), "{story}");
    let waiters = event.waiters().unwrap();
    assert!(waiters.iter().all(|waiter| waiter.pid != Some(killed)), "{story}: it still waits, {waiters:?}");
}

#[test]
fn set_while_others_sleep() {
    at_every_instruction("set", true, false, Others::Sleep);
}

#[test]
fn the_first_set_of_a_process() {
    at_every_instruction("set", false, false, Others::Sleep);
}

#[test]
fn set_without_sleepers() {
    at_every_instruction("set", true, false, Others::Come);
}

#[test]
fn set_of_what_is_set() {
    at_every_instruction("set", true, true, Others::Come);
}

#[test]
fn set_with_a_note_while_others_sleep() {
    at_every_instruction("set-with-note", true, false, Others::Sleep);
}

/// The record is of the killed process as soon as the event is set; before that it is of the one that set it last. A
/// note that is added to a set event counts before or after its process is killed.
fn the_note_at_every_instruction(is_set: bool) {
    let directory = tempfile::tempdir().unwrap();
    let event = SharedEvent::open_in(&directory, "event").unwrap();
    let Some(mut stepper) = Stepper::start(directory.path(), "set-with-note", true) else { return };
    let prepare = || {
        event.clear().unwrap();
        event.set_with_note("before").unwrap();
        if !is_set {
            event.clear().unwrap();
        }
    };
    prepare();
    let points = stepper.points("event");
    let mut of_child = 0;
    for &instructions in &points {
        until_reached(|| {
            prepare();
            let (has_reached, killed) = stepper.kill("event", instructions);
            let story = format!("killed after {instructions} instructions");
            let last = event.last_set().unwrap().unwrap_or_else(|| panic!("{story}: there is no record"));
            let is_of = |process, note: &str| last.pid == Some(process) && last.note.as_deref() == Some(note);
            let is_of_child = is_of(killed, "why");
            assert!(is_of_child || is_of(std::process::id(), "before"), "{story}: {last:?}");
            assert!(is_set || is_of_child == event.is_set().unwrap(), "{story}: {last:?}");
            of_child += usize::from(is_of_child);
            has_reached
        });
    }
    conclude("set with a note", &points, &format!("{of_child} times its record was the last one"));
    assert!(of_child > 0 && of_child < points.len());
}

#[test]
fn set_with_a_note() {
    the_note_at_every_instruction(false);
}

#[test]
fn set_with_a_note_of_what_is_set() {
    the_note_at_every_instruction(true);
}

#[test]
fn clear() {
    at_every_instruction("clear", true, true, Others::Come);
}

#[test]
fn clear_of_what_is_unset() {
    at_every_instruction("clear", true, false, Others::Sleep);
}

/// The kernel ends the hold with its process, wherever that was killed.
#[test]
fn hold() {
    at_every_instruction("hold", true, false, Others::Come);
}

#[test]
fn the_first_hold_of_a_process() {
    at_every_instruction("hold", false, false, Others::Come);
}

#[test]
fn hold_of_what_is_set() {
    at_every_instruction("hold", true, true, Others::Come);
}

#[test]
fn end_of_a_hold() {
    at_every_instruction("end-hold", true, false, Others::Come);
}

#[test]
fn end_of_a_hold_of_what_is_set() {
    at_every_instruction("end-hold", true, true, Others::Come);
}

/// A wait that spins before it sleeps, because there are no other sleepers; through two sleeps, a short one and one
/// from which a `set` wakes it.
#[test]
fn wait_without_sleepers() {
    at_every_instruction("wait", true, false, Others::Come);
}

#[test]
fn the_first_wait_of_a_process() {
    at_every_instruction("wait", false, false, Others::Sleep);
}

#[test]
fn wait_for_what_is_set() {
    at_every_instruction("wait", true, true, Others::Come);
}

#[test]
fn asleep() {
    let directory = tempfile::tempdir().unwrap();
    let event = SharedEvent::open_in(&directory, "event").unwrap();
    let Some(mut stepper) = Stepper::start(directory.path(), "wait", true) else { return };
    let sleepers = Sleeper::pair(&directory, "event");
    stepper.points("event");
    event.clear().unwrap();
    for (others, sleep) in [(Others::Sleep, 1), (Others::Come, 1), (Others::Sleep, 2), (Others::Come, 2)] {
        for _ in 0..10 {
            if others == Others::Sleep {
                sleepers.iter().for_each(Sleeper::fall_asleep);
            }
            let mut killed = 0;
            stepper.kill_asleep("event", sleep, |process| {
                killed = process;
                let waits = event.waiters().unwrap().iter().any(|waiter| waiter.pid == Some(process));
                assert_eq!(waits, sleep == 2, "it shows up after a short sleep");
            });
            if others == Others::Come {
                sleepers.iter().for_each(Sleeper::fall_asleep);
            }
            all_is_well(&event, &sleepers, killed, &format!("killed in its sleep {sleep}"));
        }
    }
}

/// A thread that waits until the event is unset is released after a kill in the middle of a hold, or of its end: at the
/// latest when it looks for the holder itself. Each instruction has an event of its own, so that all can wait for that
/// at the same time.
fn unset_at_every_instruction(action: &str) {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut stepper) = Stepper::start(directory.path(), action, true) else { return };
    let points = stepper.points("event");
    let waits: Vec<_> = points
        .iter()
        .map(|instructions| {
            let name = format!("event-{instructions}");
            let event = SharedEvent::open_in(&directory, &name).unwrap();
            let hold = event.hold().unwrap();
            let waiting = event.clone();
            let wait = thread::spawn(move || waiting.wait_unset_timeout(LONG).unwrap());
            until_watched(&event);
            until_reached(|| stepper.kill(&name, *instructions).0);
            assert!(event.is_set().unwrap(), "another process still holds it");
            drop(hold);
            assert!(!event.is_set().unwrap(), "{action} was killed after {instructions} instructions");
            wait
        })
        .collect();
    assert!(waits.into_iter().all(|wait| wait.join().unwrap()), "a wait was not released");
    conclude(action, &points, "the hold of another process lasts");
}

#[test]
fn hold_while_another_process_holds() {
    unset_at_every_instruction("hold");
}

#[test]
fn end_of_a_hold_while_another_process_holds() {
    unset_at_every_instruction("end-hold");
}

/// A watcher learns of a `clear` whose process was killed in the middle, at the latest when it looks at the word
/// itself. Each instruction has an event of its own, so that all can wait for that at the same time.
#[test]
fn clear_while_others_watch() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut stepper) = Stepper::start(directory.path(), "clear", true) else { return };
    let set = |name: &str| {
        let event = SharedEvent::open_in(&directory, name).unwrap();
        event.set().unwrap();
        let (tell, told) = channel();
        let (watched, before) = (event.clone(), event.state());
        thread::spawn(move || tell.send(pollster::block_on(watched.changed(before)).unwrap()).unwrap());
        until_watched(&event);
        (event, told)
    };
    let (_, told) = set("event");
    let points = stepper.points("event");
    let mut all_told: Vec<Receiver<State>> = vec![told];
    let mut cleared = 0;
    for instructions in &points {
        until_reached(|| {
            let name = format!("event-{instructions}");
            let (event, told) = set(&name);
            let (has_reached, _) = stepper.kill(&name, *instructions);
            cleared += usize::from(!event.is_set().unwrap());
            event.clear().unwrap();
            all_told.push(told);
            has_reached
        });
    }
    for told in all_told {
        assert_eq!(told.recv_timeout(LONG).map(State::is_set), Ok(false), "the watcher was not told of the clear");
    }
    conclude("clear while others watch", &points, &format!("{cleared} times it was clear then"));
    assert!(cleared > 1 && cleared < points.len());
}

/// Returns once the word shows a watcher.
fn until_watched(event: &SharedEvent) {
    const WORD_AT: usize = 128;
    const WATCHED: u8 = 2;
    while fs::read(event.path().unwrap()).unwrap()[WORD_AT] & WATCHED == 0 {
        thread::yield_now();
    }
}

#[test]
fn remove() {
    let directory = tempfile::tempdir().unwrap();
    let open = || SharedEvent::open_in(&directory, "event").unwrap();
    let Some(mut stepper) = Stepper::start(directory.path(), "remove", true) else { return };
    let points = stepper.points("event");
    let mut removed = 0;
    for &instructions in &points {
        let story = format!("remove was killed after {instructions} instructions");
        until_reached(|| {
            let (event, sleepers) = (open(), Sleeper::pair(&directory, "event"));
            sleepers.iter().for_each(Sleeper::fall_asleep);
            let (has_reached, _) = stepper.kill("event", instructions);
            let is_over = instructions == *points.last().unwrap() || !has_reached;
            assert!(event.is_removed() || !is_over, "it was not over at its end");
            removed += usize::from(event.is_removed());
            let again = open();
            assert!(!again.is_removed(), "{story}: the name was not free");
            again.set().unwrap();
            assert_eq!(event.is_set().ok(), (!event.is_removed()).then_some(true), "{story}");
            assert!(sleepers.iter().all(|sleeper| !sleeper.is_asleep()), "{story}: a thread still sleeps");
            for sleeper in &sleepers {
                let outcome = sleeper.outcome();
                assert_eq!(outcome.is_err_and(|error| error.is_removed()), event.is_removed(), "{story}");
            }
            again.clear().unwrap();
            has_reached
        });
    }
    conclude("remove", &points, &format!("{removed} times it was gone then"));
    assert!(removed > 1 && removed < points.len());
}

/// Without a kill: an event is set, pulsed or removed at each instruction of a wait, and the wait ends from there
/// without sleeping (again). A pulse has this effect only after the wait has begun.
fn signalled_at_every_instruction(signal: &str) {
    let directory = tempfile::tempdir().unwrap();
    let open = || SharedEvent::open_in(&directory, "event").unwrap();
    let Some(mut stepper) = Stepper::start(directory.path(), "wait", true) else { return };
    open().clear().unwrap();
    let points = stepper.points("event");
    let mut is_newcomer = signal == "pulse";
    for &instructions in &points {
        until_reached(|| {
            open().clear().unwrap();
            let Some(through) = stepper.comes_through("event", instructions, signal) else { return false };
            assert!(through || is_newcomer, "a {signal} after {instructions} instructions, and it sleeps");
            is_newcomer &= !through;
            true
        });
    }
    conclude(&format!("{signal} in the middle of a wait"), &points, "it comes to its end");
    assert!(!is_newcomer);
}

#[test]
fn set_in_the_middle_of_a_wait() {
    signalled_at_every_instruction("set");
}

#[test]
fn pulse_in_the_middle_of_a_wait() {
    signalled_at_every_instruction("pulse");
}

#[test]
fn remove_in_the_middle_of_a_wait() {
    signalled_at_every_instruction("remove");
}

//! Models of what processes do with the shared word at the same time, in every interleaving. They
//! need `--cfg loom`.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use crate::protocol::record::{Note, Numbers, Records, Setter};
use crate::protocol::signal::as_processes_do::{clear, set};
use crate::protocol::signal::{Recorder, announce_sleep, begin_hold, end_hold, pulse, remove, sleep, sleep_until_next};
use crate::protocol::target::{Aim, Target};
use crate::protocol::word::{Sleeper, Word};
use crate::sync::AtomicU32;

/// A process that records nothing.
impl Recorder for () {
    fn raising(&self, _: Word) {}
    fn raced(&self, _: Word) {}
    fn repeating(&self, _: Word) {}
    fn repeated(&self, _: Word) {}
}

/// What the processes share.
struct Event {
    word: AtomicU32,
    repeats: AtomicU32,
    /// How many processes have the lock of a holder.
    locks: AtomicU32,
    /// Whether a process has the lock of who ends a hold.
    ending: AtomicU32,
}

impl Event {
    fn new(bits: u32, locks: u32) -> Event {
        let [word, repeats, locks, ending] = [bits, 0, locks, 0].map(AtomicU32::new);
        Event { word, repeats, locks, ending }
    }

    fn look(&self) -> Word {
        Word::from_bits(self.word.load(Acquire))
    }

    /// The word as it counts, and as a process sees it that may end the hold of a killed one.
    fn seen(&self, word: Word) -> Word {
        if !word.depends_on_a_holder() || self.locks.load(Acquire) > 0 {
            return word;
        }
        self.end();
        let after = self.look();
        let is_held = !after.depends_on_a_holder() || self.locks.load(Acquire) > 0;
        if is_held { after } else { after.released_by_holder() }
    }

    /// Waits as a thread does. Whether it was released, and the event not gone.
    fn wait_for(&self, aim: Aim, is_writable: bool) -> bool {
        let repeats = || self.repeats.load(Acquire);
        let target = Target::new(aim, self.seen(self.look()), repeats());
        loop {
            let now = self.look();
            let seen = self.seen(now);
            if target.is_reached(seen, repeats()) {
                return true;
            }
            if seen.is_gone() {
                return false;
            }
            let sleeper = is_writable.then(|| target.sleeper(seen));
            let _ = match target.repeats() {
                Some(before) => sleep_until_next(&self.word, &self.repeats, (now, before), sleeper, Duration::ZERO),
                None => sleep(&self.word, now, sleeper, None),
            };
        }
    }

    /// Waits until a moment at which the counter is at least this. (It starts at zero.)
    fn watch_until(&self, counter: u32) {
        loop {
            let now = self.look();
            let seen = self.seen(now);
            if seen.counter() >= counter {
                return;
            }
            let _ = sleep(&self.word, now, Some(Sleeper::of(seen, false)), None);
        }
    }

    /// As it is asked before a change.
    fn is_held(&self) -> bool {
        let is_held = self.locks.load(Acquire) > 0;
        if !is_held {
            self.end();
        }
        is_held
    }

    fn set(&self) {
        set(&self.word, &self.repeats, &(), || self.is_held()).unwrap();
    }

    fn pulse(&self) {
        pulse(&self.word, &self.repeats, &(), || self.is_held()).unwrap();
    }

    fn clear(&self) {
        clear(&self.word, || self.is_held()).unwrap();
    }

    fn hold(&self) {
        self.locks.fetch_add(1, AcqRel);
        begin_hold(&self.word, &self.repeats, &(), || self.locks.load(Acquire) > 1).unwrap();
    }

    /// A process that finds no lock of a holder, or gives up its own.
    fn end(&self) {
        if self.ending.compare_exchange(0, 1, AcqRel, Acquire).is_ok() {
            end_hold(&self.word, || self.locks.load(Acquire) > 0);
            self.ending.store(0, Release);
        }
    }
}

fn model(bits: u32, participants: &'static [fn(&Event)]) {
    bounded(3, bits, participants);
}

/// With at most this many preemptions if there are three participants.
fn bounded(preemptions: usize, bits: u32, participants: &'static [fn(&Event)]) {
    let mut builder = loom::model::Builder::new();
    if participants.len() > 2 {
        builder.preemption_bound = Some(preemptions);
    }
    builder.check(move || {
        let event = Arc::new(Event::new(bits, 0));
        let (last, others) = participants.split_last().unwrap();
        let others: Vec<_> = others
            .iter()
            .map(|&participant| {
                let event = Arc::clone(&event);
                thread::spawn(move || participant(&event))
            })
            .collect();
        last(&event);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

const NEW: u32 = 0;
/// A word that some processes may only read.
const READ: u32 = 0b0100;
/// A word that a process holds, or that a killed holder has left.
const HELD: u32 = 0b1_0000;
const SET: u32 = 0b10_0000;

fn waits(event: &Event) {
    assert!(event.wait_for(Aim::Set, true));
}

fn reads(event: &Event) {
    assert!(event.wait_for(Aim::Set, false));
}

fn waits_until_unset(event: &Event) {
    assert!(event.wait_for(Aim::Unset, true));
}

/// Watches until the first pulse is over.
fn watches(event: &Event) {
    event.watch_until(2);
}

fn sets(event: &Event) {
    event.set();
}

fn clears(event: &Event) {
    event.clear();
}

fn pulses(event: &Event) {
    event.set();
    event.clear();
}

fn pulses_then_sets(event: &Event) {
    pulses(event);
    event.set();
}

fn pulses_at_once(event: &Event) {
    event.pulse();
}

fn pulses_at_once_then_sets(event: &Event) {
    event.pulse();
    event.set();
}

#[test]
fn loom_no_waiter_sleeps_on_a_set_event() {
    model(NEW, &[waits, sets]);
    model(NEW, &[waits, waits, sets]);
    model(NEW, &[waits, sets, sets]);
}

#[test]
fn loom_no_waiter_sleeps_through_a_pulse_that_is_followed_by_a_set() {
    model(NEW, &[waits, pulses_then_sets]);
    model(NEW, &[waits, waits, pulses_then_sets]);
}

/// A pulse or set releases a wait of its own thread that began before.
fn is_released_by(event: &Event, signal: fn(&Event)) {
    let generation = event.look().generation();
    signal(event);
    assert!(event.look().releases(generation));
}

#[test]
fn loom_a_pulse_at_once_is_a_set_and_a_clear() {
    model(NEW, &[waits, pulses_at_once_then_sets]);
    model(NEW, &[waits, waits, pulses_at_once_then_sets]);
    model(NEW, &[watches, pulses_at_once]);
    model(READ, &[reads, pulses_at_once_then_sets]);
}

#[test]
fn loom_a_pulse_at_once_and_a_set_do_not_undo_each_other() {
    const SLEEPERS: u32 = 0b0001;
    for bits in [NEW, SLEEPERS, READ] {
        model(bits, &[|event| is_released_by(event, pulses_at_once), |event| is_released_by(event, sets)]);
        model(bits, &[|event| is_released_by(event, pulses_at_once), pulses_at_once, sets]);
    }
}

#[test]
fn loom_sleepers_that_may_only_read_are_woken_too() {
    model(READ, &[reads, pulses_then_sets]);
    model(READ, &[reads, waits, sets]);
}

#[test]
fn loom_a_clear_wakes_watchers() {
    model(NEW, &[watches, pulses]);
    model(NEW, &[watches, waits, pulses_then_sets]);
}

#[test]
fn loom_a_clear_releases_waits_until_unset_even_if_a_set_follows() {
    fn clears_then_sets(event: &Event) {
        event.clear();
        event.set();
        event.clear();
    }
    model(SET, &[waits_until_unset, clears]);
    model(SET, &[waits_until_unset, waits_until_unset, clears_then_sets]);
    model(SET, &[waits_until_unset, clears, pulses]);
}

/// A wait for the next `set` that began before a `set` of its own thread is released by it.
fn next_is_reached_by(event: &Event, signal: fn(&Event)) {
    let repeats = || event.repeats.load(Acquire);
    let target = Target::new(Aim::Next, event.look(), repeats());
    signal(event);
    assert!(target.is_reached(event.look(), repeats()));
}

#[test]
fn loom_every_set_counts_for_waits_for_the_next() {
    for bits in [NEW, SET, SET | 0b1] {
        model(bits, &[|event| next_is_reached_by(event, sets), |event| next_is_reached_by(event, sets)]);
        model(bits, &[|event| next_is_reached_by(event, sets), pulses_at_once]);
        model(bits, &[|event| next_is_reached_by(event, sets), clears, sets]);
    }
}

/// The wait begins in the thread that starts the setters, so that all their sets come later.
fn waits_for_the_next_of(bits: u32, setters: &'static [fn(&Event)]) {
    let mut builder = loom::model::Builder::new();
    if setters.len() > 1 {
        builder.preemption_bound = Some(3);
    }
    builder.check(move || {
        // If it is held, by a process that lives.
        let event = Arc::new(Event::new(bits, u32::from(bits & HELD != 0)));
        let repeats = || event.repeats.load(Acquire);
        let before = repeats();
        let target = Target::new(Aim::Next, event.look(), before);
        let setters: Vec<_> = setters
            .iter()
            .map(|&setter| {
                let event = Arc::clone(&event);
                thread::spawn(move || setter(&event))
            })
            .collect();
        loop {
            let now = event.look();
            if target.is_reached(now, repeats()) {
                break;
            }
            let (word, repeats) = (&event.word, &event.repeats);
            let _ = sleep_until_next(word, repeats, (now, before), Some(target.sleeper(now)), Duration::ZERO);
        }
        setters.into_iter().for_each(|setter| setter.join().unwrap());
    });
}

#[test]
fn loom_a_set_of_a_set_event_wakes_those_who_wait_for_the_next() {
    waits_for_the_next_of(SET, &[sets]);
    waits_for_the_next_of(SET, &[pulses_at_once]);
    waits_for_the_next_of(SET, &[clears, sets]);
    waits_for_the_next_of(NEW, &[sets]);
    waits_for_the_next_of(HELD, &[sets]);
    waits_for_the_next_of(SET, &[holds]);
}

/// Others that wait for the next `set` do not take the wake-up.
#[test]
fn loom_two_wait_for_the_next_set() {
    waits_for_the_next_of(SET, &[announces_a_sleeper, sets]);
}

fn holds(event: &Event) {
    event.hold();
    assert!(event.look().is_set(), "it is held");
    thread::yield_now();
    assert!(event.look().is_set(), "another process has ended the hold");
    event.locks.fetch_sub(1, AcqRel);
    asks(event);
}

/// Holds, and is killed.
fn holds_and_is_killed(event: &Event) {
    event.hold();
    event.locks.fetch_sub(1, AcqRel);
}

/// Looks at it as a process does that asks whether it is set.
fn asks(event: &Event) {
    event.seen(event.look());
}

#[test]
fn loom_nobody_ends_the_hold_of_another() {
    for bits in [NEW, HELD] {
        model(bits, &[holds, asks]);
        model(bits, &[holds, holds]);
    }
    bounded(2, NEW, &[holds, asks, asks]);
    bounded(2, HELD, &[holds, holds_and_is_killed, asks]);
    bounded(2, HELD, &[holds, asks, announces_a_sleeper]);
    bounded(2, HELD, &[holds, pulses, asks]);
}

/// Announces a sleeper for everything, but does not sleep.
fn announces_a_sleeper(event: &Event) {
    let now = event.look();
    let _ = announce_sleep(&event.word, now, Some(Sleeper::of(now, true)));
}

#[test]
fn loom_a_hold_releases_waits_and_its_end_wakes_watchers() {
    fn holds_once(event: &Event) {
        event.hold();
        event.locks.fetch_sub(1, AcqRel);
        asks(event);
    }
    model(NEW, &[watches, holds_once]);
    model(HELD, &[watches, asks]);
    model(HELD, &[waits_until_unset, asks]);
    model(HELD, &[waits_until_unset, sets_then_clears, asks]);
    model(NEW, &[waits, |event| event.hold()]);
    model(NEW, &[waits, |event| event.hold(), waits]);
}

/// Does not change anything while it is held; ends the hold itself if that has ended meanwhile.
fn sets_then_clears(event: &Event) {
    event.set();
    event.clear();
    asks(event);
}

/// A change releases a wait of its own thread that began before, whatever has become of the hold of
/// a killed process.
fn is_released_after_a_hold_by(event: &Event, change: fn(&Event)) {
    let target = Target::new(Aim::Set, event.seen(event.look()), 0);
    change(event);
    assert!(target.is_reached(event.seen(event.look()), 0));
}

/// It is stopped while it ends a hold.
const STOPPED: fn(&Event) = |event| _ = event.ending.compare_exchange(0, 1, AcqRel, Acquire);

#[test]
fn loom_a_change_after_a_killed_holder_releases_waits() {
    model(HELD, &[asks, |event| is_released_after_a_hold_by(event, pulses)]);
    model(HELD, &[asks, |event| is_released_after_a_hold_by(event, pulses_at_once)]);
    model(HELD, &[asks, |event| is_released_after_a_hold_by(event, holds_and_is_killed)]);
    model(HELD, &[STOPPED, |event| is_released_after_a_hold_by(event, pulses)]);
    model(HELD, &[STOPPED, |event| is_released_after_a_hold_by(event, pulses_at_once)]);
    model(HELD, &[STOPPED, |event| is_released_after_a_hold_by(event, holds_and_is_killed)]);
}

#[test]
fn loom_no_change_after_a_killed_holder_ends_the_hold_of_another() {
    fn holds_for_ever(event: &Event) {
        event.hold();
        let target = Target::new(Aim::Unset, event.seen(event.look()), 0);
        thread::yield_now();
        assert!(!target.is_reached(event.seen(event.look()), 0), "it is held");
    }
    for bits in [HELD, HELD | 0b10] {
        bounded(2, bits, &[holds_for_ever, STOPPED, pulses_at_once]);
        bounded(2, bits, &[holds_for_ever, STOPPED, pulses]);
    }
}

/// Ends in any case.
fn waits_for_anything(event: &Event) {
    event.wait_for(Aim::Set, true);
}

fn sets_if_it_can(event: &Event) {
    let _ = set(&event.word, &event.repeats, &(), || false);
}

fn removes(event: &Event) {
    remove(&event.word);
}

#[test]
fn loom_a_removal_wakes_all_sleepers() {
    model(NEW, &[waits_for_anything, removes]);
    model(NEW, &[waits_for_anything, sets_if_it_can, removes]);
    model(READ, &[|event| _ = event.wait_for(Aim::Set, false), removes]);
    model(SET, &[|event| _ = event.wait_for(Aim::Unset, true), removes]);
    model(SET, &[|event| _ = event.wait_for(Aim::Next, true), removes]);
    model(SET, &[|event| _ = event.wait_for(Aim::Next, true), sets_if_it_can, removes]);
}

/// What processes share that record their sets.
struct Recorded {
    word: AtomicU32,
    repeats: AtomicU32,
    records: Records,
}

/// A process of this number changes the event, at a time and with a note that belong to it.
fn changes_as(event: &Recorded, process: u32, has_note: bool, change: Change) {
    let note = Note::new(&process.to_string()).unwrap();
    let origin = || -> (Numbers, Numbers) { ((process, 7), (process, 0)) };
    let note = note.as_ref().filter(|_| has_note);
    let setter = Setter { word: &event.word, records: &event.records, note, origin };
    match change {
        Change::Set => set(&event.word, &event.repeats, &setter, || false),
        Change::Pulse => pulse(&event.word, &event.repeats, &setter, || false),
        Change::Hold => begin_hold(&event.word, &event.repeats, &setter, || false),
    }
    .unwrap();
}

enum Change {
    Set,
    Pulse,
    Hold,
}

fn sets_as(event: &Recorded, process: u32, has_note: bool) {
    changes_as(event, process, has_note, Change::Set);
}

fn pulses_as(event: &Recorded, process: u32) {
    changes_as(event, process, false, Change::Pulse);
}

fn holds_as(event: &Recorded, process: u32) {
    changes_as(event, process, false, Change::Hold);
}

/// A record is of one process.
fn is_whole(event: &Recorded) -> Option<u32> {
    let last = event.records.last_of(&event.word, 7)?;
    let process = last.pid.unwrap();
    let at = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(process.into());
    assert_eq!(last.at, at, "the time is that of another process");
    assert!(last.note.is_none_or(|note| note == process.to_string()), "the note is that of another process");
    Some(process)
}

fn recorded(bits: u32, participants: &'static [fn(&Recorded)], after: fn(&Recorded)) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        let (word, repeats) = (AtomicU32::new(bits), AtomicU32::new(0));
        let event = Arc::new(Recorded { word, repeats, records: Records::read(|_| (0, 0)) });
        let spawn = |participant: fn(&Recorded)| {
            let event = Arc::clone(&event);
            thread::spawn(move || participant(&event))
        };
        let all: Vec<_> = participants.iter().map(|participant| spawn(*participant)).collect();
        all.into_iter().for_each(|one| one.join().unwrap());
        after(&event);
    });
}

fn one_is_recorded(event: &Recorded) {
    assert!(is_whole(event).is_some(), "the record is mixed or missing, and stays so");
}

/// Two processes set the event at the same moment: afterwards one of them is recorded, as a whole.
#[test]
fn loom_setters_that_race_leave_the_record_of_one() {
    for bits in [NEW, READ] {
        recorded(bits, &[|event| sets_as(event, 1, false), |event| sets_as(event, 2, false)], one_is_recorded);
        recorded(bits, &[|event| sets_as(event, 1, true), |event| sets_as(event, 2, false)], one_is_recorded);
    }
}

/// A pulse that adds to the counter does so whatever the counter is by then.
#[test]
fn loom_pulses_that_race_leave_the_record_of_one() {
    for bits in [NEW, READ] {
        recorded(bits, &[|event| pulses_as(event, 1), |event| pulses_as(event, 2)], one_is_recorded);
        recorded(bits, &[|event| pulses_as(event, 1), |event| sets_as(event, 2, false)], one_is_recorded);
        recorded(bits, &[|event| pulses_as(event, 1), |event| holds_as(event, 2)], one_is_recorded);
    }
}

/// One process is so slow that it writes to the slot of a later set.
#[test]
fn loom_a_slow_setter_leaves_a_record() {
    fn sets_three_times(event: &Recorded) {
        for process in 2..5 {
            sets_as(event, process, false);
            if process < 4 {
                clear(&event.word, || false).unwrap();
            }
        }
    }
    recorded(NEW, &[|event| sets_as(event, 1, false), sets_three_times], one_is_recorded);
}

#[test]
fn loom_no_reader_sees_a_record_of_two_sets() {
    fn reads(event: &Recorded) {
        is_whole(event);
    }
    fn sets_again_and_again(event: &Recorded) {
        for process in 2..5 {
            sets_as(event, process, process == 2);
            clear(&event.word, || false).unwrap();
        }
    }
    recorded(NEW, &[reads, sets_again_and_again], |event| assert_eq!(is_whole(event), Some(4)));
}

//! Storms: hundreds of processes do everything at once, and are killed at any moment. When it is over nobody is left
//! asleep on an event that is set, or that is gone.
//!
//! The environment makes them longer: `TANTARA_STRESS_ROUNDS` says how many are killed.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tantara::{SharedEvent, any};

use crate::LONG;
use crate::children::Child;
use crate::hostile::Random;
use crate::party::{Party, YES};
use crate::refused::forbid_nameless_files;

/// The events of a storm.
const NAMES: [&str; 3] = ["wind", "rain", "thunder"];
/// Set when the storm is over.
const OVER: &str = "over";

/// One of those who are in the storm.
struct Sailor {
    directory: String,
    random: Random,
    events: HashMap<&'static str, SharedEvent>,
}

impl Sailor {
    fn below(&mut self, limit: u64) -> u64 {
        self.random.next() % limit
    }

    fn moment(&mut self) -> Duration {
        Duration::from_micros(self.below(20_000))
    }

    /// One of the events, opened when it is first needed.
    fn event(&mut self) -> SharedEvent {
        let name = NAMES[self.below(NAMES.len() as u64) as usize];
        let directory = &self.directory;
        self.events.entry(name).or_insert_with(|| SharedEvent::open_in(directory, name).unwrap()).clone()
    }

    /// Signals and waits.
    fn sail(&mut self) {
        let event = self.event();
        match self.below(10) {
            0 | 1 => event.wait().unwrap(),
            2 => pollster::block_on(event.wait_async()).unwrap(),
            3 => drop(event.wait_timeout(self.moment()).unwrap()),
            4 => {
                let other = self.event();
                let _ = any([&event, &other]).wait_timeout(self.moment());
            }
            5 => event.set().unwrap(),
            6 => event.clear().unwrap(),
            7 => event.pulse().unwrap(),
            8 => event.set().and_then(|()| event.clear()).unwrap(),
            _ => assert!(event.waiters().is_ok()),
        }
    }

    /// Opens anew each time, and removes as well.
    fn sink(&mut self) {
        self.events.clear();
        let event = self.event();
        match self.below(8) {
            0 | 1 => drop(event.remove().unwrap()),
            2 => drop(event.wait()),
            3 => drop(pollster::block_on(event.wait_async())),
            4 => drop(event.wait_timeout(self.moment())),
            5 | 6 => drop(event.set().and_then(|()| event.clear())),
            _ => drop(event.waiters()),
        }
    }

    /// Nobody holds on to an event that others do not find.
    fn check_places(&self) {
        for (name, event) in &self.events {
            let own = fs::File::from(event.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap();
            let there = fs::metadata(Path::new(&self.directory).join(name));
            let is_in_place = there.is_ok_and(|there| there.ino() == own.ino());
            assert!(is_in_place || event.is_removed(), "{name}: this one is cut off from all others");
        }
    }
}

pub(crate) fn party(directory: &Path, words: &[&str]) {
    match *words {
        ["sail", crowd, seed, kills] => storm(directory, crowd, seed, kills, Sailor::sail),
        ["sink", crowd, seed, kills] => storm(directory, crowd, seed, kills, Sailor::sink),
        ["meet"] => meet(directory),
        ["meet", "drafts"] => {
            forbid_nameless_files();
            meet(directory);
        }
        _ => panic!("a storm knows no {words:?}"),
    }
}

fn storm(directory: &Path, crowd: &str, seed: &str, kills: &str, verb: fn(&mut Sailor)) {
    let number = |word: &str| word.parse::<u64>().unwrap();
    let mut random = Random(number(seed));
    let over = SharedEvent::open_in(directory, OVER).unwrap();
    let (home, mut way_home) = pipe().unwrap();
    let directory = directory.to_str().unwrap();
    let sailor = |random: &mut Random| {
        let sailor = Sailor { directory: directory.to_owned(), random: Random(random.next()), events: HashMap::new() };
        Child::fork(|| be_out(sailor, verb, &home))
    };
    let mut sailors: Vec<Child> = (0..number(crowd)).map(|_| sailor(&mut random)).collect();
    for _ in 0..number(kills) {
        thread::sleep(Duration::from_micros(random.next() % 1_000));
        let index = (random.next() % number(crowd)) as usize;
        sailors.swap_remove(index).kill();
        sailors.push(sailor(&mut random));
    }
    over.set().unwrap();
    // Each waits once more, or still.
    until_all(&sailors, |sailor| is_home(sailor) || sailor.is_asleep() || is_parked(sailor));
    let [asleep, parked] = [Child::is_asleep, is_parked].map(|is| sailors.iter().filter(|sailor| is(sailor)).count());
    println!("{asleep} were asleep in the end, and {parked} awaited");
    let events = NAMES.map(|name| SharedEvent::open_in(directory, name).unwrap());
    events.iter().for_each(|event| event.set().unwrap());
    for sailor in &sailors {
        assert!(!sailor.is_asleep(), "process {} is asleep on a set event, or one that is gone", sailor.pid);
    }
    until_all(&sailors, is_home);
    for event in events {
        assert!(event.is_set().unwrap() && !event.is_removed() && event.waiters().unwrap().is_empty(), "{event:?}");
    }
    way_home.write_all(&vec![0; sailors.len()]).unwrap();
    for mut sailor in sailors {
        assert_eq!(sailor.status(), 0, "a party of the storm has failed");
    }
}

/// What a child does until the storm is over; then it waits to be called home.
fn be_out(mut sailor: Sailor, verb: fn(&mut Sailor), mut home: &PipeReader) {
    let over = SharedEvent::open_in(&sailor.directory, OVER).unwrap();
    while !over.is_set().unwrap() {
        verb(&mut sailor);
        thread::sleep(2 * sailor.moment());
    }
    // From here on nobody clears or removes anything.
    while sailor.event().wait().is_err() {
        sailor.events.clear();
    }
    let _ = home.read(&mut [0]);
    sailor.check_places();
}

fn is_home(sailor: &Child) -> bool {
    sailor.call() == Some(libc::SYS_read)
}

/// Whether it sleeps on a word of its own, as one who awaits.
fn is_parked(sailor: &Child) -> bool {
    sailor.call() == Some(libc::SYS_futex) && !sailor.is_asleep()
}

fn until_all(sailors: &[Child], is: impl Fn(&Child) -> bool) {
    let deadline = Instant::now() + LONG;
    for sailor in sailors {
        while !is(sailor) {
            assert!(Instant::now() < deadline, "process {} is lost, in call {:?}", sailor.pid, sailor.call());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Two processes make the same events at the same time: each comes to be once, and each sees what the other does.
fn meet(directory: &Path) {
    for _ in 0..200 {
        let start = SharedEvent::anonymous().unwrap();
        let open = |name| SharedEvent::open_in(directory, name).unwrap();
        let child = |own: usize| {
            Child::fork(|| {
                while !start.is_set().unwrap() {}
                let events = ["rain", "wind"].map(open);
                events[own].set().unwrap();
                assert!(events[1 - own].wait_timeout(LONG).unwrap());
            })
        };
        let children = [0, 1].map(child);
        start.set().unwrap();
        for mut child in children {
            assert_eq!(child.status(), 0, "they did not meet");
        }
        assert_eq!(fs::read_dir(directory).unwrap().count(), 2);
        ["rain", "wind"].iter().for_each(|name| assert!(open(name).remove().unwrap()));
    }
}

fn rounds(default: u64) -> String {
    env::var("TANTARA_STRESS_ROUNDS").unwrap_or(default.to_string())
}

fn ends_well<const N: usize>(words: [&str; N]) {
    println!("{words:?}");
    let directory = tempfile::tempdir().unwrap();
    let task = ["storm", directory.path().to_str().unwrap()].into_iter().chain(words);
    let mut party = Party::command(task).stdout(std::process::Stdio::inherit()).spawn().map(Party).unwrap();
    assert_eq!(party.answer(), YES);
}

#[test]
fn a_storm_of_signals_leaves_nobody_asleep() {
    ends_well(["sail", "200", "1", &rounds(3_000)]);
}

#[test]
fn a_storm_of_removals_leaves_nobody_asleep_or_cut_off() {
    ends_well(["sink", "50", "2", &rounds(3_000)]);
}

#[test]
fn two_who_make_the_same_event_at_once_share_it() {
    ends_well(["meet"]);
    ends_well(["meet", "drafts"]);
}

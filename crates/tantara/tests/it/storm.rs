//! Storms: hundreds of processes do everything at once, and are killed or stopped at any moment. At the end no process
//! sleeps on an event that is set or gone, and none was told that an event is gone that was not removed.
//!
//! The environment makes them longer: `TANTARA_STRESS_ROUNDS` says how many are killed. `cargo xtask storm` runs the
//! one with stops for two minutes, by `TANTARA_STORM_SECONDS` and `TANTARA_STORM_PROCESSES`.

use std::collections::{HashMap, HashSet};
use std::env;
use std::fs::{self, OpenOptions};
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tantara::{SharedEvent, all, any};

use crate::LONG;
use crate::child_process::{ChildProcess, YES};
use crate::children::Child;
use crate::hostile::Random;
use crate::refused::forbid_nameless_files;

/// The events of a storm.
const NAMES: [&str; 4] = ["wind", "rain", "thunder", CALM];
/// The one that is never removed.
const CALM: &str = "calm";
/// Set when the storm is over.
const OVER: &str = "over";

/// One process of the storm.
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

    /// Opens the events anew each time, and removes them too.
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

    /// Every method, on events that it opened before or opens now.
    fn do_everything(&mut self) {
        if self.below(4) == 0 {
            self.events.clear();
        }
        let (event, other, moment) = (self.event(), self.event(), self.moment());
        let outcome = match self.below(17) {
            0 => event.wait(),
            1 => event.wait_timeout(moment).map(drop),
            2 => pollster::block_on(event.wait_async()),
            3 => any([&event, &other]).try_wait_timeout(moment).map(drop),
            4 => all([&event, &other]).try_wait_timeout(moment).map(drop),
            5 | 6 => event.set(),
            7 => event.clear(),
            8 | 9 => event.pulse(),
            10 => event.is_set().and_then(|_| event.last_set()).map(drop),
            11 => event.waiters().map(drop),
            13 => event.hold().map(|hold| {
                assert!(event.is_set().is_ok_and(|is_set| is_set) || event.is_removed(), "it is held");
                thread::sleep(moment);
                assert!(event.is_set().is_ok_and(|is_set| is_set) || event.is_removed(), "it was held all the time");
                drop(hold);
            }),
            14 => event.wait_unset_timeout(moment).map(drop),
            15 => event.wait_next_timeout(moment).map(drop),
            12 => {
                let listed = SharedEvent::list_in(&self.directory).unwrap();
                listed.into_iter().try_for_each(|entry| entry.map(drop)).unwrap();
                Ok(())
            }
            _ if event.path().unwrap().ends_with(CALM) => event.set(),
            _ => {
                self.note(REMOVED, &event);
                event.remove().map(drop)
            }
        };
        if let Err(error) = outcome {
            assert!(error.is_removed(), "{error}");
            for gone in [event, other].iter().filter(|event| event.is_removed()) {
                self.note(GONE, gone);
            }
            self.events.clear();
        }
    }

    /// Records the event for the end of the storm, in one step, in a file outside of the events' directory.
    fn note(&self, list: &str, event: &SharedEvent) {
        let list = Path::new(&self.directory).with_file_name(list);
        let mut list = OpenOptions::new().append(true).create(true).open(list).unwrap();
        list.write_all(&number_of(event).to_ne_bytes()).unwrap();
    }

    /// No process keeps an event that others do not find.
    fn check_places(&self) {
        for (name, event) in &self.events {
            let there = fs::metadata(Path::new(&self.directory).join(name));
            let is_in_place = there.is_ok_and(|there| there.ino() == number_of(event));
            assert!(is_in_place || event.is_removed(), "{name}: this one is cut off from all others");
        }
    }
}

/// The number of its file, which a file system in memory never uses again.
fn number_of(event: &SharedEvent) -> u64 {
    fs::File::from(event.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap().ino()
}

/// Lists of events: those that a process was about to remove, and those that a process found gone.
const REMOVED: &str = "removed";
const GONE: &str = "gone";

fn numbers(list: &Path) -> HashSet<u64> {
    let bytes = fs::read(list).unwrap_or_default();
    bytes.chunks_exact(8).map(|number| u64::from_ne_bytes(number.try_into().unwrap())).collect()
}

pub(crate) fn participant(directory: &Path, words: &[&str]) {
    let number = |word: &str| word.parse::<u64>().unwrap();
    match *words {
        [kind @ ("sail" | "sink"), processes, seed, kills] => {
            let method = if kind == "sail" { Sailor::sail } else { Sailor::sink };
            let length = Length::Rounds(number(kills));
            storm(directory, Storm { processes: number(processes), seed: number(seed), length, stops: false, method });
        }
        ["stops", processes, seed, length] => {
            let length = match length.strip_suffix('s') {
                Some(seconds) => Length::Time(Duration::from_secs(number(seconds))),
                None => Length::Rounds(number(length)),
            };
            let (processes, seed) = (number(processes), number(seed));
            let method = Sailor::do_everything;
            storm(&directory.join("events"), Storm { processes, seed, length, stops: true, method });
            let [removed, gone] = [REMOVED, GONE].map(|list| numbers(&directory.join(list)));
            let innocent: Vec<_> = gone.difference(&removed).collect();
            println!("{} events were to be removed, {} were found gone", removed.len(), gone.len());
            assert!(innocent.is_empty(), "these were not removed: {innocent:?}");
        }
        ["meet"] => meet(directory),
        ["meet", "drafts"] => {
            forbid_nameless_files();
            meet(directory);
        }
        _ => panic!("a storm knows no {words:?}"),
    }
}

struct Storm {
    processes: u64,
    seed: u64,
    length: Length,
    /// Whether processes are also stopped and continued.
    stops: bool,
    method: fn(&mut Sailor),
}

enum Length {
    Rounds(u64),
    Time(Duration),
}

fn storm(directory: &Path, storm: Storm) {
    let mut random = Random(storm.seed);
    let over = SharedEvent::open_in(directory, OVER).unwrap();
    let (home, mut way_home) = pipe().unwrap();
    let directory = directory.to_str().unwrap();
    let sailor = |random: &mut Random| {
        let sailor = Sailor { directory: directory.to_owned(), random: Random(random.next()), events: HashMap::new() };
        Child::fork(|| be_out(sailor, storm.method, &home))
    };
    let mut sailors: Vec<Child> = (0..storm.processes).map(|_| sailor(&mut random)).collect();
    // The stopped processes, and until when.
    let mut stopped: HashMap<libc::pid_t, Instant> = HashMap::new();
    let (mut kills, mut stops) = (0, 0);
    let began = Instant::now();
    while match storm.length {
        Length::Rounds(rounds) => kills + stops < rounds,
        Length::Time(time) => began.elapsed() < time,
    } {
        thread::sleep(Duration::from_micros(random.next() % 1_000));
        let now = Instant::now();
        stopped.retain(|&pid, until| {
            let goes_on = *until <= now;
            if goes_on {
                send(pid, libc::SIGCONT);
            }
            !goes_on
        });
        let index = (random.next() % storm.processes) as usize;
        if storm.stops && random.next().is_multiple_of(2) {
            // Some for longer than a sleeper takes to check its file twice.
            let longest = if random.next().is_multiple_of(16) { 6_000_000 } else { 50_000 };
            send(sailors[index].pid, libc::SIGSTOP);
            stopped.insert(sailors[index].pid, now + Duration::from_micros(random.next() % longest));
            stops += 1;
        } else {
            stopped.remove(&sailors[index].pid);
            sailors.swap_remove(index).kill();
            sailors.push(sailor(&mut random));
            kills += 1;
        }
    }
    stopped.keys().for_each(|&pid| send(pid, libc::SIGCONT));
    println!("{kills} were killed and {stops} stopped in {:.1?}", began.elapsed());
    over.set().unwrap();
    // Each waits once more, or is still waiting.
    until_all(&sailors, |sailor| is_home(sailor) || sailor.is_asleep() || sailor.is_parked());
    let [asleep, parked] =
        [Child::is_asleep, Child::is_parked].map(|is| sailors.iter().filter(|sailor| is(sailor)).count());
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
        assert_eq!(sailor.status(), 0, "a participant of the storm has failed");
    }
}

/// What a child does until the storm is over. Then it waits until it is asked to end.
fn be_out(mut sailor: Sailor, action: fn(&mut Sailor), mut home: &PipeReader) {
    let over = SharedEvent::open_in(&sailor.directory, OVER).unwrap();
    while !over.is_set().unwrap() {
        action(&mut sailor);
        thread::sleep(2 * sailor.moment());
    }
    // From here on nothing is cleared or removed.
    while sailor.event().wait().is_err() {
        sailor.events.clear();
    }
    let _ = home.read(&mut [0]);
    sailor.check_places();
}

fn send(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: takes numbers. The child was not waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

fn is_home(sailor: &Child) -> bool {
    sailor.call() == Some(libc::SYS_read)
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

/// Two processes make the same events at the same time. Each event is made once, and each process sees the changes of
/// the other.
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
    // In memory if possible, where numbers of files are not used again.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let task = ["storm", directory.path().to_str().unwrap()].into_iter().chain(words);
    let mut participant =
        ChildProcess::command(task).stdout(std::process::Stdio::inherit()).spawn().map(ChildProcess).unwrap();
    assert_eq!(participant.answer(), YES);
}

#[test]
fn a_storm_of_signals_leaves_no_waiter_asleep() {
    ends_well(["sail", "200", "1", &rounds(3_000)]);
}

#[test]
fn a_storm_of_removals_leaves_no_waiter_asleep_or_on_another_event() {
    ends_well(["sink", "50", "2", &rounds(3_000)]);
}

#[test]
fn a_storm_of_stops_and_kills_leaves_no_waiter_asleep_and_removes_no_event() {
    let variable = |name| env::var(name).ok();
    let processes = variable("TANTARA_STORM_PROCESSES").unwrap_or("40".into());
    let length = variable("TANTARA_STORM_SECONDS").map_or(rounds(2_000), |seconds| format!("{seconds}s"));
    ends_well(["stops", &processes, "3", &length]);
}

#[test]
fn two_who_make_the_same_event_at_once_share_it() {
    ends_well(["meet"]);
    ends_well(["meet", "drafts"]);
}

//! A history checker: many clients use events while faults are injected into the cluster.
//! Everything is recorded with its time, and afterwards the record has to be explainable.
//!
//! * **No lost wait**: a wait that timed out saw no `set` between its begin and its end. Every wait
//!   that saw one is released once the faults are over, without another `set`.
//! * **No false release**: a wait that was released could have seen the event set at some moment.
//! * **No false removal**: a wait that failed as removed could have seen a removal, and every wait
//!   that saw one ends.
//! * **Linearizable**: `set`, `clear` and `is_set` could have happened one after the other, each
//!   between its begin and its end. (By keeping all possible states, as in "Testing for
//!   Linearizability", G. Lowe 2017.)
//! * **At most once**: the cluster counts as many sets as have succeeded.
//!
//! `$TANTARA_FAULTS` is the number of faults. `$TANTARA_SEED` repeats the choices of a run, though
//! not its timing.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use etcd_for_tests::{Proxy, Servers};
use fastrand::Rng;
use tantara_etcd::{Cluster, ClusterEvent, Options};

use crate::until;

/// The last one is sometimes removed.
const EVENTS: [&str; 4] = ["red", "green", "blue", "grey"];
const REMOVED: usize = 3;
const WRITERS: usize = 4;
const WAITERS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Set,
    Clear,
    Pulse,
    /// The event existed.
    Remove,
    /// `is_set`, and its result.
    Look(bool),
}

impl Kind {
    fn sets(self) -> bool {
        matches!(self, Kind::Set | Kind::Pulse)
    }
}

/// An operation that was certainly made.
#[derive(Clone, Copy, Debug)]
struct Done {
    event: usize,
    kind: Kind,
    began: Instant,
    ended: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Released,
    TimedOut,
    Removed,
    Unreachable,
}

#[derive(Clone, Copy, Debug)]
struct Waited {
    event: usize,
    /// When it was requested, and when it had begun.
    began: Instant,
    counted: Instant,
    /// Its deadline; of a wait without one, when it ended.
    limit: Instant,
    ended: Instant,
    outcome: Outcome,
}

#[derive(Default)]
struct Record {
    done: Vec<Done>,
    waited: Vec<Waited>,
    /// The waits without a deadline that have begun: of which event, and when.
    asleep: HashMap<u64, (usize, Instant)>,
    unknown: usize,
    refused: usize,
}

struct Fixture {
    servers: Servers,
    proxies: Vec<Proxy>,
    record: Mutex<Record>,
    is_over: AtomicBool,
}

impl Fixture {
    fn client(&self) -> Vec<ClusterEvent> {
        let endpoints: Vec<String> = self.proxies.iter().map(Proxy::endpoint).collect();
        let options = Options::new().timeout(Duration::from_secs(4)).recheck(Duration::from_secs(2));
        let options = options.learn_members(false);
        let connected = (0..).find_map(|_| Cluster::connect_with(&endpoints, options.clone()).ok()).unwrap();
        EVENTS.iter().map(|name| connected.event(name)).collect()
    }

    fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }

    /// Sets, clears, removes and reads events.
    fn write(&self, mut random: Rng) {
        let events = self.client();
        while !self.is_over() {
            let event = random.usize(..EVENTS.len());
            let kind = match random.usize(..4) {
                0 => Kind::Set,
                1 => Kind::Pulse,
                2 if event == REMOVED => Kind::Remove,
                2 => Kind::Clear,
                _ => Kind::Look(false),
            };
            let may_be_gone = matches!(kind, Kind::Look(_)) && event == REMOVED;
            let began = Instant::now();
            let outcome = match kind {
                Kind::Set => events[event].set().map(|()| Some(kind)),
                Kind::Clear => events[event].clear().map(|()| Some(kind)),
                Kind::Pulse => events[event].pulse().map(|()| Some(kind)),
                Kind::Remove => events[event].remove().map(|was_there| was_there.then_some(kind)),
                Kind::Look(_) => events[event].is_set().map(|is_set| Some(Kind::Look(is_set))),
            };
            let mut done = None;
            match outcome {
                Ok(kind) => done = kind,
                // It is not set.
                Err(error) if error.is_removed() && may_be_gone => done = Some(kind),
                Err(error) => {
                    assert!(error.is_unknown() || error.is_unreachable(), "{error}");
                    let mut record = self.record.lock().unwrap();
                    record.unknown += usize::from(error.is_unknown());
                    record.refused += usize::from(error.is_unreachable());
                    drop(record);
                    if let Some(pending) = error.pending() {
                        // The outcome is found out once the cluster can be reached.
                        let made = (0..).find_map(|_| match pending.resolve() {
                            Ok(made) => Some(made),
                            Err(error) if error.is_unreachable() => None,
                            Err(error) => panic!("{error}"),
                        });
                        done = made.unwrap().then_some(kind);
                    }
                }
            }
            if let Some(kind) = done {
                self.record.lock().unwrap().done.push(Done { event, kind, began, ended: Instant::now() });
            }
            thread::sleep(Duration::from_millis(random.u64(..20)));
        }
    }

    fn wait(&self, mut random: Rng) {
        let events = self.client();
        while !self.is_over() {
            let event = random.usize(..EVENTS.len());
            let began = Instant::now();
            let mut wait = events[event].wait_async();
            let begun = wait.begun();
            let counted = Instant::now();
            match begun {
                Err(error) if error.is_removed() && event == REMOVED => {
                    let (limit, ended, outcome) = (counted, counted, Outcome::Removed);
                    let waited = Waited { event, began, counted, limit, ended, outcome };
                    self.record.lock().unwrap().waited.push(waited);
                    continue;
                }
                Err(error) => {
                    assert!(error.is_unreachable(), "{error}");
                    self.record.lock().unwrap().refused += 1;
                    continue;
                }
                Ok(()) => {}
            }
            let id = random.u64(..);
            let limited = random.bool();
            let (limit, outcome) = if limited {
                let timeout = Duration::from_millis(random.u64(1..400));
                let limit = Instant::now() + timeout;
                (Some(limit), wait.wait_deadline(limit))
            } else {
                self.record.lock().unwrap().asleep.insert(id, (event, counted));
                (None, wait.wait().map(|()| true))
            };
            let ended = Instant::now();
            let outcome = match outcome {
                Ok(true) => Outcome::Released,
                Ok(false) => Outcome::TimedOut,
                Err(error) if error.is_removed() && event == REMOVED => Outcome::Removed,
                Err(error) => {
                    assert!(error.is_unreachable() && limited, "{error}");
                    Outcome::Unreachable
                }
            };
            let mut record = self.record.lock().unwrap();
            record.asleep.remove(&id);
            record.waited.push(Waited { event, began, counted, limit: limit.unwrap_or(ended), ended, outcome });
        }
    }

    fn inject(&self, random: &mut Rng, compacts: bool) -> &'static str {
        let members = self.servers.members().len();
        let (member, other) = (random.usize(..members), random.usize(..members));
        let while_it_lasts = |shortest, longest| Duration::from_millis(fastrand::u64(shortest..longest));
        let (proxy, server) = (&self.proxies[member], &self.servers[member]);
        let heal = |proxy: &Proxy, pause: Duration| {
            thread::sleep(pause);
            proxy.pass();
        };
        match random.u32(..10) {
            0 => {
                server.kill();
                thread::sleep(while_it_lasts(10, 500));
                server.start();
                "a member killed"
            }
            1 => {
                let leader = self.servers.leader();
                self.servers[leader].kill();
                thread::sleep(while_it_lasts(10, 1_500));
                self.servers[leader].start();
                "the leader killed"
            }
            2 => {
                let leader = self.servers.leader();
                self.servers[leader].pause();
                thread::sleep(while_it_lasts(500, 2_500));
                self.servers[leader].resume();
                "the leader stopped"
            }
            3 => {
                server.pause();
                self.servers[other].pause();
                thread::sleep(while_it_lasts(100, 1_500));
                server.resume();
                self.servers[other].resume();
                "two members stopped"
            }
            4 => {
                proxy.drop_everything();
                heal(proxy, while_it_lasts(10, 1_000));
                "a network that swallows"
            }
            5 => {
                proxy.swallow_answers();
                heal(proxy, while_it_lasts(10, 1_000));
                "a network that swallows answers"
            }
            6 => {
                proxy.delay(while_it_lasts(10, 300));
                heal(proxy, while_it_lasts(100, 1_000));
                "a slow network"
            }
            8 => {
                self.proxies.iter().for_each(Proxy::drop_everything);
                thread::sleep(while_it_lasts(10, 1_000));
                self.proxies.iter().for_each(Proxy::pass);
                "no network"
            }
            9 if compacts => {
                self.servers.compact_now();
                "the history compacted"
            }
            _ => {
                self.proxies.iter().for_each(Proxy::close_all);
                "all connections cut"
            }
        }
    }
}

#[test]
fn the_record_of_a_tormented_cluster_makes_sense() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let faults = number("TANTARA_FAULTS").unwrap_or(12);
    let seed = number("TANTARA_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("TANTARA_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    // If an event is set and removed while a client is cut off, and the history is compacted, the
    // client cannot learn of the `set`. So half of the runs do not compact, and only these look for
    // such a loss.
    let compacts = random.bool();
    let servers = Servers::three();
    let proxies = servers.endpoints().iter().map(|endpoint| Proxy::to(endpoint)).collect();
    let fixture = Arc::new(Fixture { servers, proxies, record: Mutex::default(), is_over: AtomicBool::new(false) });
    let begin = |count: usize, client: fn(&Fixture, Rng), random: &mut Rng| -> Vec<_> {
        let clients = (0..count).map(|_| (Arc::clone(&fixture), random.fork()));
        clients.map(|(fixture, random)| thread::spawn(move || client(&fixture, random))).collect()
    };
    let writers = begin(WRITERS, Fixture::write, &mut random);
    let waiters = begin(WAITERS, Fixture::wait, &mut random);
    let mut injected: HashMap<&str, usize> = HashMap::new();
    for _ in 0..faults {
        thread::sleep(Duration::from_millis(random.u64(50..400)));
        *injected.entry(fixture.inject(&mut random, compacts)).or_default() += 1;
        assert!(!writers.iter().chain(&waiters).any(thread::JoinHandle::is_finished), "somebody has given up");
    }
    fixture.servers.wait_healthy();
    fixture.is_over.store(true, SeqCst);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    // The faults are over, and no event is set or removed any more.
    until("whoever saw a set or a removal knows", || {
        let record = fixture.record.lock().unwrap();
        let ends = |done: &Done| done.kind.sets() || done.kind == Kind::Remove;
        let saw_one = |(event, counted): &(usize, Instant)| {
            let can_be_told = *event != REMOVED || !compacts;
            can_be_told && record.done.iter().any(|done| done.event == *event && ends(done) && done.began > *counted)
        };
        !record.asleep.values().any(saw_one)
    });
    let last = fixture.client();
    let finally = Instant::now();
    last.iter().for_each(|event| event.set().unwrap());
    drop(last);
    let last = (0..EVENTS.len()).map(|event| Done { event, kind: Kind::Set, began: finally, ended: Instant::now() });
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    let mut record = std::mem::take(&mut *fixture.record.lock().unwrap());
    record.done.extend(last);
    println!(
        "{faults} faults ({injected:?}), {} operations, {} of unknown outcome and found out, {} not made, {} waits",
        record.done.len(),
        record.unknown,
        record.refused,
        record.waited.len()
    );
    for (event, name) in EVENTS.iter().enumerate() {
        let done: Vec<Done> = record.done.iter().filter(|done| done.event == event).copied().collect();
        let waited: Vec<Waited> = record.waited.iter().filter(|waited| waited.event == event).copied().collect();
        let lost = waited.iter().filter(|waited| is_lost(waited, &done)).count();
        let falsely = waited.iter().filter(|waited| is_false(waited, &done)).count();
        let sets = done.iter().filter(|done| done.kind.sets()).count();
        let puts = fixture.servers.puts(&format!("/tantara/e/{name}/p"));
        let removals = done.iter().filter(|done| done.kind == Kind::Remove).count();
        let told = waited.iter().filter(|waited| waited.outcome == Outcome::Removed).count();
        println!(
            "{name}: {} waits, {lost} lost, {falsely} false; {sets} sets, {puts} made; {removals} removed, {told} told",
            waited.len()
        );
        for waited in waited.iter().filter(|waited| is_lost(waited, &done) || is_false(waited, &done)) {
            let around = |done: &&Done| {
                done.ended + Duration::from_secs(1) > waited.began
                    && done.began < waited.ended + Duration::from_millis(100)
            };
            println!("{waited:?} among {:#?}", done.iter().filter(around).collect::<Vec<_>>());
        }
        assert_eq!((if event == REMOVED && compacts { 0 } else { lost }, falsely), (0, 0));
        // A removal resets the count.
        assert!(puts == sets as i64 || event == REMOVED && puts <= sets as i64);
        check_linearizable(done);
    }
    // Clients that have ended leave nothing behind.
    until("all leases are given back", || fixture.servers.leases() == 0);
}

/// Whether the wait timed out although there was a `set` between its begin and its end.
fn is_lost(waited: &Waited, done: &[Done]) -> bool {
    let within = |done: &&Done| done.kind.sets() && done.began > waited.counted && done.ended < waited.limit;
    waited.outcome == Outcome::TimedOut && done.iter().any(|done| within(&done))
}

/// Whether the wait was released, and no set can have been the reason; or failed as removed although
/// nobody had removed the event, or it had been created again before.
fn is_false(waited: &Waited, done: &[Done]) -> bool {
    if waited.outcome == Outcome::Removed {
        let creates = |done: &Done| matches!(done.kind, Kind::Set | Kind::Clear | Kind::Pulse);
        let is_reason = |removal: &Done| {
            let is_over = |done: &Done| creates(done) && done.began > removal.ended && done.ended < waited.began;
            removal.kind == Kind::Remove && removal.began < waited.ended && !done.iter().any(is_over)
        };
        return !done.iter().any(is_reason);
    }
    let can_be_seen = |set: &&Done| {
        let is_over = |clear: &Done| {
            let clears = matches!(clear.kind, Kind::Clear | Kind::Pulse | Kind::Remove);
            clears && clear.began > set.ended && clear.ended < waited.began
        };
        // A later wait does not see a pulse.
        let lasts = set.kind == Kind::Set || set.ended > waited.began;
        set.kind.sets() && set.began < waited.ended && lasts && !done.iter().any(is_over)
    };
    waited.outcome == Outcome::Released && !done.iter().any(|set| can_be_seen(&set))
}

/// Walks through the record, keeping every state that is possible: whether the event is set, and
/// which of the operations that go on have taken effect already.
fn check_linearizable(mut done: Vec<Done>) {
    done.sort_by_key(|done| done.began);
    let mut moments: Vec<(Instant, bool, usize)> = Vec::new();
    for (index, done) in done.iter().enumerate() {
        moments.extend([(done.began, false, index), (done.ended, true, index)]);
    }
    // An operation that began when another one ended counts as concurrent with it.
    moments.sort_by_key(|(at, ends, _)| (*at, *ends));
    let mut going_on: Vec<usize> = Vec::new();
    let mut states: HashSet<(bool, Vec<usize>)> = HashSet::from([(false, Vec::new())]);
    for (_, ends, index) in moments {
        if !ends {
            going_on.push(index);
            continue;
        }
        let mut reached = HashSet::new();
        let mut to_visit: Vec<_> = states.drain().collect();
        while let Some(state) = to_visit.pop() {
            let (is_set, effective) = &state;
            for next in going_on.iter().filter(|next| !effective.contains(next)) {
                let after = match done[*next].kind {
                    Kind::Set => true,
                    Kind::Clear | Kind::Pulse | Kind::Remove => false,
                    Kind::Look(seen) if seen == *is_set => *is_set,
                    Kind::Look(_) => continue,
                };
                let mut effective = effective.clone();
                effective.push(*next);
                effective.sort_unstable();
                if !reached.contains(&(after, effective.clone())) {
                    to_visit.push((after, effective));
                }
            }
            reached.insert(state);
        }
        for (is_set, mut effective) in reached {
            // An operation that has ended has taken effect.
            if let Some(place) = effective.iter().position(|known| *known == index) {
                effective.remove(place);
                states.insert((is_set, effective));
            }
        }
        going_on.retain(|known| *known != index);
        assert!(!states.is_empty(), "no order explains {:?}", done[index]);
    }
}

/// The checker rejects impossible records.
#[test]
fn the_checker_sees_through_bad_records() {
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let done = |kind, from, to| Done { event: 0, kind, began: at(from), ended: at(to) };
    let waited = |from, to, outcome| Waited {
        event: 0,
        began: at(from),
        counted: at(from),
        limit: at(to),
        ended: at(to),
        outcome,
    };
    let pulse = [done(Kind::Pulse, 10, 20)];
    assert!(is_lost(&waited(5, 30, Outcome::TimedOut), &pulse));
    assert!(!is_lost(&waited(15, 30, Outcome::TimedOut), &pulse), "it may have come too late");
    assert!(!is_lost(&waited(5, 30, Outcome::Released), &pulse));
    assert!(is_false(&waited(25, 30, Outcome::Released), &pulse));
    assert!(!is_false(&waited(15, 30, Outcome::Released), &pulse));
    let removal = done(Kind::Remove, 1, 2);
    assert!(is_false(&waited(5, 30, Outcome::Removed), &pulse));
    assert!(!is_false(&waited(5, 30, Outcome::Removed), &[removal]), "the handle has seen the event before");
    assert!(is_false(&waited(5, 30, Outcome::Removed), &[removal, done(Kind::Clear, 3, 4)]));
    assert!(!is_false(&waited(5, 30, Outcome::Removed), &[removal, done(Kind::Clear, 3, 6)]));
    let over = [done(Kind::Set, 1, 2), done(Kind::Clear, 3, 4)];
    assert!(is_false(&waited(5, 30, Outcome::Released), &over));
    assert!(!is_false(&waited(5, 30, Outcome::Released), &over[..1]));
    check_linearizable(vec![done(Kind::Set, 1, 5), done(Kind::Look(false), 2, 3), done(Kind::Look(true), 4, 6)]);
    let impossible = [
        vec![done(Kind::Look(true), 1, 2)],
        vec![done(Kind::Set, 1, 2), done(Kind::Look(false), 3, 4)],
        vec![done(Kind::Set, 1, 9), done(Kind::Look(true), 2, 3), done(Kind::Look(false), 4, 5)],
        vec![done(Kind::Set, 1, 2), done(Kind::Clear, 3, 4), done(Kind::Look(true), 5, 6)],
    ];
    for record in impossible {
        let shown = format!("{record:?}");
        assert!(std::panic::catch_unwind(|| check_linearizable(record)).is_err(), "{shown}");
    }
}

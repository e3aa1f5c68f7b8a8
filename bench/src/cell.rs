//! The cells: the workloads, the contenders of each, and how one cell runs.

use crate::contention;
use crate::crowd::release;
use crate::machines;
use crate::names::recorded::{OFF, ON};
use crate::names::{BASELINE_TASKS, BASELINE_THREADS, Figures, OURS, millis, number};
use crate::owned::{Owned, OwnedToken};
use crate::pin;
use crate::processes;
use crate::recorded;
use crate::tasks::{self, AsyncEvent, Embedded, TaskEvent, TokioWatch, WakerVec, lifetime};
use crate::threads::{self, BareFutex, EventListener, ParkingLot, StdCondvar, ThreadEvent};
use crate::visit;
use crate::wakeups;

const THREADS: [&str; 10] = [
    BASELINE_THREADS,
    OURS,
    "std Mutex + Condvar",
    "parking_lot",
    "event-listener + AtomicBool",
    "rsevents",
    "futures-intrusive, block_on",
    "synchronoise",
    "asyncband, block_on",
    "events, block_on",
];

const TASKS: [&str; 11] = [
    BASELINE_TASKS,
    OURS,
    "tokio Notify",
    "tokio watch",
    "CancellationToken",
    "event-listener + AtomicBool",
    "futures-intrusive",
    "async-event",
    "maitake WaitQueue",
    "asyncband",
    "events, embedded",
];

/// Those whose futures can own the event.
const OWNED: [&str; 9] = [
    BASELINE_TASKS,
    OURS,
    "tokio Notify",
    "tokio watch",
    "CancellationToken",
    "event-listener + AtomicBool",
    "maitake WaitQueue",
    "asyncband",
    "events",
];

/// Every workload with its contenders.
pub fn all() -> Vec<(&'static str, &'static [&'static str])> {
    let mut cells: Vec<(_, &[_])> = Vec::new();
    for workload in ["uncontended", "round-trip-1-core", "round-trip-2-cores"] {
        cells.push((workload, &THREADS));
    }
    for workload in ["crowd-64-1-core", "crowd-64-2-cores", "crowd-256-1-core", "crowd-256-2-cores"] {
        cells.push((workload, &THREADS));
    }
    for workload in ["crowd-1000-1-core", "crowd-1000-2-cores"] {
        cells.push((workload, &THREADS));
    }
    for workload in ["latency-threads-1-core", "latency-threads-2-cores"] {
        cells.push((workload, &THREADS));
    }
    for workload in ["contention-2", "contention-4", "contention-8", "contention-side-by-side-4"] {
        cells.push((workload, &THREADS));
    }
    for workload in ["tasks-1000", "tasks-100000", "latency-tasks-1-core", "latency-tasks-2-cores"] {
        cells.push((workload, &TASKS));
    }
    for workload in ["tasks-owned-1000", "tasks-owned-100000"] {
        cells.push((workload, &OWNED));
    }
    for workload in ["bank-1000", "bank-10000", "bank-100000", "bank-1000000"] {
        cells.push((workload, &[OURS]));
    }
    for workload in ["recorded-tasks-1000", "recorded-sleeps-1-core"] {
        cells.push((workload, &[OFF, ON]));
    }
    cells.push(("recorded-waits-100000", &[ON]));
    cells.extend(processes::all());
    cells.extend(machines::all());
    cells
}

/// Runs one cell in this process.
pub fn run(workload: &str, contender: &str, smoke: bool) -> Result<Figures, String> {
    let parts: Vec<&str> = workload.split('-').collect();
    match *parts {
        ["processes", ref workload @ ..] => processes::run(workload, contender, smoke),
        ["machines", ref workload @ ..] => machines::run(workload, contender, smoke),
        ["recorded", ref workload @ ..] => of_record(workload, contender, smoke),
        ["bank", count] => {
            let count = if smoke { 100 } else { number(count)? };
            let visit = visit::by_tasks(count);
            Ok(vec![("seconds", visit.seconds), ("bytes-per-customer", visit.bytes_per_customer)])
        }
        ["tasks", _] | ["latency", "tasks", ..] => match contender {
            BASELINE_TASKS => with_tasks::<WakerVec>(&parts, smoke),
            OURS => with_tasks::<tantara::Event>(&parts, smoke),
            "tokio Notify" => with_tasks::<tokio::sync::Notify>(&parts, smoke),
            "tokio watch" => with_tasks::<TokioWatch>(&parts, smoke),
            "CancellationToken" => with_tasks::<tokio_util::sync::CancellationToken>(&parts, smoke),
            "event-listener + AtomicBool" => with_tasks::<EventListener>(&parts, smoke),
            "futures-intrusive" => with_tasks::<futures_intrusive::sync::ManualResetEvent>(&parts, smoke),
            "async-event" => with_tasks::<AsyncEvent>(&parts, smoke),
            "maitake WaitQueue" => with_tasks::<maitake_sync::WaitQueue>(&parts, smoke),
            "asyncband" => with_tasks::<asyncband::event::ManualResetEvent>(&parts, smoke),
            "events, embedded" => with_tasks::<Embedded>(&parts, smoke),
            _ => Err(format!("{contender} does not contend in {workload}")),
        },
        ["tasks", "owned", waiters] => {
            let waiters = if smoke { 50 } else { number(waiters)? };
            pin::to(&pin::processors()[..1]);
            match contender {
                BASELINE_TASKS => Ok(of_tasks::<Owned<WakerVec>>(waiters, smoke)),
                OURS => Ok(of_tasks::<Owned<tantara::Event>>(waiters, smoke)),
                "tokio Notify" => Ok(of_tasks::<Owned<tokio::sync::Notify>>(waiters, smoke)),
                "tokio watch" => Ok(of_tasks::<TokioWatch>(waiters, smoke)),
                "CancellationToken" => Ok(of_tasks::<OwnedToken>(waiters, smoke)),
                "event-listener + AtomicBool" => Ok(of_tasks::<Owned<EventListener>>(waiters, smoke)),
                "maitake WaitQueue" => Ok(of_tasks::<Owned<maitake_sync::WaitQueue>>(waiters, smoke)),
                "asyncband" => Ok(of_tasks::<Owned<asyncband::event::ManualResetEvent>>(waiters, smoke)),
                "events" => Ok(of_tasks::<events::ManualResetEvent>(waiters, smoke)),
                _ => Err(format!("{contender} does not contend in {workload}")),
            }
        }
        _ => match contender {
            BASELINE_THREADS => of_threads::<BareFutex>(&parts, smoke),
            OURS => of_threads::<tantara::Event>(&parts, smoke),
            "std Mutex + Condvar" => of_threads::<StdCondvar>(&parts, smoke),
            "parking_lot" => of_threads::<ParkingLot>(&parts, smoke),
            "event-listener + AtomicBool" => of_threads::<EventListener>(&parts, smoke),
            "rsevents" => of_threads::<rsevents::ManualResetEvent>(&parts, smoke),
            "futures-intrusive, block_on" => of_threads::<futures_intrusive::sync::ManualResetEvent>(&parts, smoke),
            "synchronoise" => of_threads::<synchronoise::SignalEvent>(&parts, smoke),
            "asyncband, block_on" => of_threads::<asyncband::event::ManualResetEvent>(&parts, smoke),
            "events, block_on" => of_threads::<events::ManualResetEvent>(&parts, smoke),
            _ => Err(format!("{contender} does not contend in {workload}")),
        },
    }
}

fn of_threads<E: ThreadEvent>(workload: &[&str], smoke: bool) -> Result<Figures, String> {
    let cpus = pin::processors();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    match *workload {
        ["uncontended"] => {
            pin::to(&[first]);
            Ok(vec![
                ("is_set", threads::is_set::<E>(smoke)),
                ("set+clear", threads::set_clear::<E>(smoke)),
                ("wait when set", threads::wait_when_set::<E>(smoke)),
            ])
        }
        ["round", "trip", "1", "core"] => Ok(vec![("round trip", threads::round_trip::<E>([first; 2], smoke))]),
        ["round", "trip", "2", "cores"] => Ok(vec![("round trip", threads::round_trip::<E>([first, last], smoke))]),
        ["crowd", threads, cores, _] => {
            let threads = if smoke { 8 } else { number(threads)? };
            let release = release::<E>(threads, if cores == "1" { &cpus[..1] } else { &cpus }, smoke);
            Ok(vec![("set, per thread", release.set), ("all out, per thread", release.all_out)])
        }
        ["latency", _, cores, _] => Ok(wakeups::of_a_thread::<E>(two_of(&cpus, cores), smoke)),
        ["contention", threads] => Ok(contention::one_event::<E>(number(threads)?, &cpus, smoke)),
        ["contention", "side", "by", "side", threads] => {
            Ok(contention::side_by_side::<E>(number(threads)?, &cpus, smoke))
        }
        _ => Err(format!("there is no workload {}", workload.join("-"))),
    }
}

fn of_record(workload: &[&str], contender: &str, smoke: bool) -> Result<Figures, String> {
    let _pages = recorded::turn(contender)?;
    match *workload {
        ["tasks", _] => with_tasks::<tantara::Event>(workload, smoke),
        ["waits", count] => {
            let count = if smoke { 100 } else { number(count)? };
            Ok(vec![("waits(), ms", millis(recorded::all_waits(count, smoke)))])
        }
        ["sleeps", "1", "core"] => {
            pin::to_idle_class();
            of_threads::<tantara::Event>(&["round", "trip", "1", "core"], smoke)
        }
        _ => Err(format!("there is no workload {}", workload.join("-"))),
    }
}

fn with_tasks<E: TaskEvent + Sync>(workload: &[&str], smoke: bool) -> Result<Figures, String> {
    let cpus = pin::processors();
    match *workload {
        ["tasks", waiters] => {
            pin::to(&cpus[..1]);
            Ok(of_tasks::<E>(if smoke { 50 } else { number(waiters)? }, smoke))
        }
        ["latency", _, cores, _] => Ok(wakeups::of_a_task::<E>(two_of(&cpus, cores), smoke)),
        _ => Err(format!("there is no workload {}", workload.join("-"))),
    }
}

/// The processors of a setter and a waiter.
fn two_of(cpus: &[usize], cores: &str) -> [usize; 2] {
    [cpus[0], if cores == "1" { cpus[0] } else { cpus[cpus.len() - 1] }]
}

fn of_tasks<E: TaskEvent>(waiters: usize, smoke: bool) -> Figures {
    let tasks: tasks::Lifetime = lifetime::<E>(waiters, smoke);
    vec![
        ("register", tasks.register),
        ("set", tasks.set),
        ("finish", tasks.finish),
        ("register+set+finish", tasks.whole()),
        ("register, drop", tasks.register_and_drop),
        ("event-bytes", tasks.event_bytes),
        ("future-bytes", tasks.future_bytes),
    ]
}

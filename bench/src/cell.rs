//! The cells: the workloads, the contenders of each, and how one cell runs.

use crate::crowd::release;
use crate::machines;
use crate::names::{BASELINE_TASKS, BASELINE_THREADS, Figures, OURS, number};
use crate::owned::{Owned, OwnedToken};
use crate::pin;
use crate::processes;
use crate::tasks::{self, AsyncEvent, Embedded, TaskEvent, TokioWatch, WakerVec, lifetime};
use crate::threads::{self, BareFutex, EventListener, ParkingLot, StdCondvar, ThreadEvent};
use crate::visit;

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
    for workload in ["tasks-1000", "tasks-100000"] {
        cells.push((workload, &TASKS));
    }
    for workload in ["tasks-owned-1000", "tasks-owned-100000"] {
        cells.push((workload, &OWNED));
    }
    for workload in ["bank-1000", "bank-10000", "bank-100000", "bank-1000000"] {
        cells.push((workload, &[OURS]));
    }
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
        ["bank", count] => {
            let count = if smoke { 100 } else { number(count)? };
            let visit = visit::by_tasks(count);
            Ok(vec![("seconds", visit.seconds), ("bytes-per-customer", visit.bytes_per_customer)])
        }
        ["tasks", waiters] => {
            let waiters = if smoke { 50 } else { number(waiters)? };
            pin::to(&pin::processors()[..1]);
            match contender {
                BASELINE_TASKS => Ok(of_tasks::<WakerVec>(waiters, smoke)),
                OURS => Ok(of_tasks::<tantara::Event>(waiters, smoke)),
                "tokio Notify" => Ok(of_tasks::<tokio::sync::Notify>(waiters, smoke)),
                "tokio watch" => Ok(of_tasks::<TokioWatch>(waiters, smoke)),
                "CancellationToken" => Ok(of_tasks::<tokio_util::sync::CancellationToken>(waiters, smoke)),
                "event-listener + AtomicBool" => Ok(of_tasks::<EventListener>(waiters, smoke)),
                "futures-intrusive" => Ok(of_tasks::<futures_intrusive::sync::ManualResetEvent>(waiters, smoke)),
                "async-event" => Ok(of_tasks::<AsyncEvent>(waiters, smoke)),
                "maitake WaitQueue" => Ok(of_tasks::<maitake_sync::WaitQueue>(waiters, smoke)),
                "asyncband" => Ok(of_tasks::<asyncband::event::ManualResetEvent>(waiters, smoke)),
                "events, embedded" => Ok(of_tasks::<Embedded>(waiters, smoke)),
                _ => Err(format!("{contender} does not contend in {workload}")),
            }
        }
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
        _ => Err(format!("there is no workload {}", workload.join("-"))),
    }
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

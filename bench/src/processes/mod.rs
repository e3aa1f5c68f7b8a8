//! Events between processes: the workloads, the contenders of each, and how one cell runs.

pub mod children;
pub mod command;
mod crowd;
mod files;
mod iceoryx;
pub mod killed;
mod many;
mod peers;
pub mod python;
pub mod workloads;

use tantara::SharedEvent;

use crate::names::processes::{
    BASELINE, BASELINE_COMMAND, BASELINE_LIST, BASELINE_OPEN, CHECKED_OPEN, CONDVAR, EVENTFD, FIFO, ICEORYX, PYTHON,
    ROBUST, SEMAPHORE,
};
use crate::names::{Figures, OURS, number};
use crate::pin;
use iceoryx::Iceoryx;
use peers::{Condvar, EventFd, Fifo, Semaphore, SharedFutex};

const LEVELS: [&str; 8] = [BASELINE, OURS, EVENTFD, FIFO, SEMAPHORE, CONDVAR, ROBUST, PYTHON];
const SIGNALS: [&str; 9] = [BASELINE, OURS, EVENTFD, FIFO, SEMAPHORE, CONDVAR, ROBUST, ICEORYX, PYTHON];

/// Every workload with its contenders.
pub fn all() -> Vec<(&'static str, &'static [&'static str])> {
    let mut cells: Vec<(_, &[_])> = vec![("processes-uncontended", &LEVELS)];
    for workload in ["processes-round-trip-1-core", "processes-round-trip-2-cores", "processes-wake-2-cores"] {
        cells.push((workload, &SIGNALS));
    }
    for workload in ["processes-latency-1-core", "processes-latency-2-cores"] {
        cells.push((workload, &SIGNALS));
    }
    for workload in ["processes-crowd-64-1-core", "processes-crowd-64-2-cores"] {
        cells.push((workload, &SIGNALS));
    }
    for workload in ["processes-crowd-1000-1-core", "processes-crowd-1000-2-cores"] {
        cells.push((workload, &SIGNALS));
    }
    for workload in ["processes-any-127", "processes-any-128", "processes-any-1000"] {
        cells.push((workload, &[OURS, EVENTFD, FIFO]));
    }
    cells.push(("processes-open", &[BASELINE_OPEN, CHECKED_OPEN, OURS, FIFO, SEMAPHORE, ICEORYX]));
    cells.push(("processes-list-10000", &[BASELINE_LIST, OURS]));
    cells.push(("processes-memory", &[BASELINE, OURS, SEMAPHORE, CONDVAR, ICEORYX, PYTHON]));
    cells.push(("processes-killed", &SIGNALS));
    cells.push(("processes-command", &[BASELINE_COMMAND, OURS]));
    cells
}

/// Runs `$run` with `$event` as the type of a contender that has a level; `None` for other contenders.
macro_rules! of_level {
    ($contender:expr, $event:ident => $run:expr) => {
        of_level!($contender, $event => $run, BASELINE SharedFutex, OURS SharedEvent, EVENTFD EventFd, FIFO Fifo,
            SEMAPHORE Semaphore, CONDVAR Condvar<false>, ROBUST Condvar<true>)
    };
    ($contender:expr, $event:ident => $run:expr, $($name:ident $type:ty),+) => {
        match $contender {
            $($name => {
                type $event = $type;
                Some($run)
            })+
            _ => None,
        }
    };
}

/// The same for all contenders.
macro_rules! of_signal {
    ($contender:expr, $event:ident => $run:expr) => {
        of_level!($contender, $event => $run, ICEORYX Iceoryx).or_else(|| of_level!($contender, $event => $run))
    };
}

/// Runs one cell in this process and its children.
pub fn run(workload: &[&str], contender: &str, smoke: bool) -> Result<Figures, String> {
    children::raise_limits();
    let cpus = pin::processors();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    let on = |cores: &str| if cores == "1" { [first; 2] } else { [first, last] };
    let count = |text: &str, few: usize| if smoke { Ok(few) } else { number(text) };
    if contender == PYTHON {
        let (workload, cpus) = match *workload {
            ["round", "trip", cores, _] => ("round_trip".to_owned(), on(cores)),
            ["latency", cores, _] => ("latency".to_owned(), on(cores)),
            ["crowd", processes, cores, _] => (format!("crowd-{}", count(processes, 8)?), on(cores)),
            [workload, ..] => (workload.to_owned(), on("2")),
            [] => return Err("a workload has a name".into()),
        };
        return python::run(&workload, &cpus, smoke).map(|()| Figures::new());
    }
    let figures = match *workload {
        ["uncontended"] => {
            pin::to(&[first]);
            of_level!(contender, E => workloads::uncontended::<E>(smoke))
        }
        ["round", "trip", cores, _] => {
            of_signal!(contender, E => vec![("round trip", workloads::round_trip::<E>(on(cores), smoke))])
        }
        ["wake", cores, _] => of_signal!(contender, E => workloads::wake::<E>(on(cores), smoke)),
        ["latency", cores, _] => of_signal!(contender, E => workloads::latency::<E>(on(cores), smoke)),
        ["crowd", processes, cores, _] => {
            let processes = count(processes, 8)?;
            of_signal!(contender, E => crowd::release::<E>(processes, &on(cores), smoke))
        }
        ["any", events] => {
            let events = count(events, 130)?;
            of_level!(contender, E => many::any::<E>(events, smoke), OURS SharedEvent, EVENTFD EventFd, FIFO Fifo)
        }
        ["open"] => files::open(contender, smoke),
        ["list", events] => files::list(contender, count(events, 100)?, smoke),
        ["memory"] => of_signal!(contender, E => files::memory::<E>(smoke)),
        ["killed"] => of_signal!(contender, E => killed::survive::<E>(smoke)),
        ["command"] => command::spawn(contender, smoke)?,
        _ => None,
    };
    figures.ok_or_else(|| format!("{contender} does not contend in processes-{}", workload.join("-")))
}

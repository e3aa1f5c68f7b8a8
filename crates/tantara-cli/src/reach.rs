//! The subcommands for events, and the scopes of the bank with the worker processes that they need.

use clap::{Subcommand, ValueEnum};
use tantara_bank::{Audience, MOST_WORKERS, Plan, Run};
use tantara_etcd::Cluster;

use crate::events::{self, ClusterArgs};
use crate::failure::Failure;
use crate::local;

pub(crate) use crate::events::PlaceArgs;

#[derive(Subcommand, Debug)]
pub(crate) enum Action {
    #[command(flatten)]
    Events(events::Action),

    /// A worker process of `bank --reach processes`
    #[command(hide = true)]
    WorkerOfBank { arguments: Vec<String> },

    /// A worker process of `bank --reach machines`
    #[command(hide = true)]
    FarWorkerOfBank { arguments: Vec<String> },
}

/// The subcommands by which the command starts itself as a worker. They are not similar to `bank`, so they are never
/// suggested for a misspelt `bank`.
const WORKER: &str = "worker-of-bank";
const FAR_WORKER: &str = "far-worker-of-bank";

impl Action {
    pub(crate) fn run(self, place: PlaceArgs) -> Result<(), Failure> {
        match self {
            Action::Events(action) => events::run(action, place),
            Action::WorkerOfBank { arguments } => local::work_for_bank(&arguments),
            Action::FarWorkerOfBank { arguments } => {
                let Some(target) = place.cluster(None)? else {
                    return Err(Failure::usage("only tantara bank can start a worker"));
                };
                tantara_bank::machines::work(connect(target)?, &arguments).map_err(Failure::internal)
            }
        }
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReachArg {
    /// A pool of threads
    Threads,
    /// Async tasks on a multi-threaded runtime
    Tasks,
    /// A pool of processes (Linux); if one is killed, only its current customer is lost
    Processes,
    /// A pool of processes that share nothing but the cluster of --etcd
    Machines,
}

impl ReachArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ReachArg::Threads => "threads",
            ReachArg::Tasks => "tasks",
            ReachArg::Processes => "processes",
            ReachArg::Machines => "machines",
        }
    }
}

/// Where the bank's workers run.
pub(crate) enum Reach {
    WithinProcess(tantara_bank::Reach),
    Processes,
    /// The cluster, and the arguments by which a worker connects to it.
    Machines(Cluster, Vec<std::ffi::OsString>),
}

/// The largest number of customers with which a bank records its waits: each recorded wait takes memory.
const MOST_RECORDED: usize = 100_000;

impl Reach {
    /// Connects to the cluster if the scope needs one.
    pub(crate) fn new(reach: ReachArg, workers: usize, place: &PlaceArgs) -> Result<Reach, Failure> {
        if matches!(reach, ReachArg::Processes | ReachArg::Machines) && workers > MOST_WORKERS {
            return Err(Failure::usage(format_args!(
                "--reach {} takes at most {MOST_WORKERS} workers, not {workers}; see tantara bank --help",
                reach.name()
            )));
        }
        match reach {
            ReachArg::Threads => Ok(Reach::WithinProcess(tantara_bank::Reach::Threads)),
            ReachArg::Tasks => Ok(Reach::WithinProcess(tantara_bank::Reach::Tasks)),
            ReachArg::Processes => local::check_bank().map(|()| Reach::Processes),
            ReachArg::Machines => {
                let Some(target) = place.cluster(None)? else {
                    return Err(Failure::usage(
                        "--reach machines needs an etcd cluster; name it with --etcd HOST:PORT,... or $TANTARA_ETCD",
                    ));
                };
                target.warn()?;
                Ok(Reach::Machines(connect(target)?, place.as_arguments()))
            }
        }
    }

    pub(crate) fn run(self, plan: Plan, audience: Audience) -> std::io::Result<Run> {
        if plan.customers.len() <= MOST_RECORDED {
            tantara::waits::record(true);
        }
        let program = std::env::current_exe();
        match self {
            Reach::WithinProcess(reach) => tantara_bank::run(reach, plan, audience),
            Reach::Processes => {
                let program = program?;
                let worker = move || {
                    let mut worker = std::process::Command::new(&program);
                    worker.arg(WORKER);
                    worker
                };
                local::run_bank(plan, audience, worker)
            }
            Reach::Machines(cluster, place) => {
                let program = program?;
                let worker = move || {
                    let mut worker = std::process::Command::new(&program);
                    worker.args(&place).arg(FAR_WORKER);
                    worker
                };
                tantara_bank::machines::run(plan, audience, cluster, worker)
            }
        }
    }
}

fn connect(target: ClusterArgs) -> Result<Cluster, Failure> {
    let options = target.options.record_waits(false).hold_ttl(tantara_bank::machines::HOLDS_LAST);
    ClusterArgs { options, ..target }.connect()
}

//! What there is beyond one process: the subcommands for events, and the workers of the bank that are processes.
//!
//! `reach_within_process.rs` takes the place of this file on platforms without events between processes.

use bank::processes::MOST_WORKERS;
use bank::{Audience, Plan, Run};
use clap::{Subcommand, ValueEnum};
use tantara_etcd::Cluster;

use crate::events::{self, ClusterArgs};
use crate::failure::Failure;

pub(crate) use crate::events::PlaceArgs;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    #[command(flatten)]
    Events(events::Verb),

    /// A worker of `bank --reach processes`, which starts it by itself
    #[command(hide = true)]
    WorkerOfBank { arguments: Vec<String> },

    /// A worker of `bank --reach machines`, which starts it by itself
    #[command(hide = true)]
    FarWorkerOfBank { arguments: Vec<String> },
}

/// The subcommands by which the command starts itself as a worker. No typing error in `bank` suggests them.
const WORKER: &str = "worker-of-bank";
const FAR_WORKER: &str = "far-worker-of-bank";

impl Verb {
    pub(crate) fn run(self, place: PlaceArgs) -> Result<(), Failure> {
        match self {
            Verb::Events(verb) => events::run(verb, place),
            Verb::WorkerOfBank { arguments } => bank::processes::work(&arguments).map_err(Failure::internal),
            Verb::FarWorkerOfBank { arguments } => {
                let Some(target) = place.cluster(None)? else {
                    return Err(Failure::usage("only the bank itself can start a worker"));
                };
                bank::machines::work(connect(target)?, &arguments).map_err(Failure::internal)
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
    /// A pool of processes; one that is killed loses only the customer that it carries
    Processes,
    /// A pool of processes that share nothing but the etcd cluster of --etcd
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
    WithinProcess(bank::Reach),
    Processes,
    /// The cluster, and the arguments that lead a worker to it.
    Machines(Cluster, Vec<std::ffi::OsString>),
}

impl Reach {
    /// Connects to the cluster if there has to be one.
    pub(crate) fn new(reach: ReachArg, workers: usize, place: &PlaceArgs) -> Result<Reach, Failure> {
        if matches!(reach, ReachArg::Processes | ReachArg::Machines) && workers > MOST_WORKERS {
            return Err(Failure::usage(format_args!(
                "--reach {} takes at most {MOST_WORKERS} workers, not {workers}; see tantara bank --help",
                reach.name()
            )));
        }
        match reach {
            ReachArg::Threads => Ok(Reach::WithinProcess(bank::Reach::Threads)),
            ReachArg::Tasks => Ok(Reach::WithinProcess(bank::Reach::Tasks)),
            ReachArg::Processes => Ok(Reach::Processes),
            ReachArg::Machines => {
                let Some(target) = place.cluster(None)? else {
                    return Err(Failure::usage(
                        "--reach machines needs an etcd cluster; name it by --etcd HOST:PORT,... or $TANTARA_ETCD",
                    ));
                };
                target.warn()?;
                Ok(Reach::Machines(connect(target)?, place.as_arguments()))
            }
        }
    }

    pub(crate) fn run(self, plan: Plan, audience: Audience) -> std::io::Result<Run> {
        let program = std::env::current_exe();
        match self {
            Reach::WithinProcess(reach) => bank::run(reach, plan, audience),
            Reach::Processes => {
                let program = program?;
                let worker = move || {
                    let mut worker = std::process::Command::new(&program);
                    worker.arg(WORKER);
                    worker
                };
                bank::processes::run(plan, audience, worker)
            }
            Reach::Machines(cluster, place) => {
                let program = program?;
                let worker = move || {
                    let mut worker = std::process::Command::new(&program);
                    worker.args(&place).arg(FAR_WORKER);
                    worker
                };
                bank::machines::run(plan, audience, cluster, worker)
            }
        }
    }
}

fn connect(target: ClusterArgs) -> Result<Cluster, Failure> {
    let options = target.options.record_waits(false).hold_ttl(bank::machines::HOLDS_LAST);
    ClusterArgs { options, ..target }.connect()
}

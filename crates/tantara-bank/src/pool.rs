//! The manager's side of a pool of worker processes, on this machine or on others.
//!
//! Manager and workers share the events. Apart from them, the manager sends a worker the type of a
//! customer, and the worker reports each step of the [`script`]. The manager prints, counts and
//! records, so a run looks the same at every scope, and nothing is lost with a worker.

use std::future::Future;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use tokio::task::JoinSet;

use crate::script::{self, CustomerStep, Gate, ManagerStep, SERVICE};
use crate::stage::{Audience, OpenVisit, Phase, Run, Stage};
use crate::{Kind, Pace, Plan};

/// The maximum number of workers that are processes. Each takes one of the 1,024 descriptors that a
/// process usually may open.
pub const MOST_WORKERS: usize = 1_000;

/// The run fails after this many workers in a row have died before they accepted a customer.
pub(crate) const MOST_FAILURES: usize = 5;

/// A worker's message about the customer that it has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Says,
    Begins,
    Ends,
}

/// The other side has closed the connection.
pub(crate) struct HungUp;

/// How to start workers, and the events that they wait for.
pub(crate) trait Workers: Send + Sync + 'static {
    type Worker: Worker;

    /// Sets the event.
    fn open(&self, gate: Gate) -> impl Future<Output = io::Result<()>> + Send;

    fn start(&self) -> impl Future<Output = io::Result<Self::Worker>> + Send;
}

/// The manager's side of a worker. Dropping it ends the worker.
pub(crate) trait Worker: Send + 'static {
    /// Sends it a customer of this type. Ready when the worker has accepted the customer.
    fn take(&mut self, kind: Kind) -> impl Future<Output = Result<(), HungUp>> + Send;

    /// Ready when the worker has reached the next step of the script, which is this.
    fn hear(&mut self, word: Word) -> impl Future<Output = Result<(), HungUp>> + Send;

    /// How the worker has ended, after it closed the connection.
    fn how_it_ended(self) -> String;

    /// Tells it that there are no more customers.
    fn dismiss(self) -> impl Future<Output = ()> + Send;
}

/// Runs the scenario. If it fails, no worker is left behind.
pub(crate) fn run(plan: Plan, audience: Audience, workers: impl Workers) -> io::Result<Run> {
    plan.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| failed("cannot start a runtime for the workers", error))?;
    let stage = Stage::new(plan, audience);
    let pool = Arc::new(Pool { stage, workers, next: AtomicUsize::new(0) });
    let outcome = runtime.block_on(manage(&pool));
    // If a part of the run has failed, this drops the other parts and their workers.
    drop(runtime);
    outcome?;
    match Arc::try_unwrap(pool) {
        Ok(pool) => Ok(pool.stage.close()),
        Err(_) => unreachable!("all parts of the run have ended"),
    }
}

/// Shared by the manager and the tasks that attend to a worker each.
struct Pool<W> {
    stage: Stage,
    workers: W,
    /// The index of the next customer.
    next: AtomicUsize,
}

/// Runs the manager's script, and a task for each place in the pool. The first failure ends all of
/// them.
async fn manage<W: Workers>(pool: &Arc<Pool<W>>) -> io::Result<()> {
    let mut parts = JoinSet::new();
    parts.spawn(tell(Arc::clone(pool)));
    for _ in 0..pool.stage.workers().min(pool.stage.customers().len()) {
        parts.spawn(look_after_place(Arc::clone(pool)));
    }
    while let Some(part) = parts.join_next().await {
        part.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    Ok(())
}

async fn tell<W: Workers>(pool: Arc<Pool<W>>) -> io::Result<()> {
    for step in script::MANAGER {
        match *step {
            ManagerStep::Say(line) => pool.stage.announce(line),
            ManagerStep::Pause(pause) => tokio::time::sleep(pool.stage.pace().of(pause)).await,
            ManagerStep::Open(gate) => {
                pool.stage.opens(gate);
                pool.workers.open(gate).await?;
            }
        }
    }
    Ok(())
}

/// Serves customers by one worker at a time, and replaces it if it dies.
async fn look_after_place<W: Workers>(pool: Arc<Pool<W>>) -> io::Result<()> {
    let mut idle = None;
    while let Some(customer) = pool.next_customer() {
        let kind = pool.stage.customers()[customer].kind;
        let mut worker = pool.who_takes(kind, idle.take()).await?;
        let mut visit = pool.stage.enter(customer);
        match follow(&mut worker, kind, &mut visit).await {
            Ok(()) => {
                visit.leave();
                idle = Some(worker);
            }
            Err(HungUp) => visit.lose(&worker.how_it_ended()),
        }
    }
    if let Some(worker) = idle {
        worker.dismiss().await;
    }
    Ok(())
}

/// Follows a customer whom the worker has accepted, from the first step to the last.
async fn follow(worker: &mut impl Worker, kind: Kind, visit: &mut OpenVisit<'_>) -> Result<(), HungUp> {
    for step in script::customer(kind) {
        let phase = match *step {
            CustomerStep::Say(line) => {
                worker.hear(Word::Says).await?;
                visit.say(line);
                continue;
            }
            CustomerStep::Wait(gate) => Phase::Waiting(gate),
            CustomerStep::BeServed => Phase::Served,
        };
        worker.hear(Word::Begins).await?;
        visit.begin(phase);
        worker.hear(Word::Ends).await?;
        visit.end();
    }
    Ok(())
}

impl<W: Workers> Pool<W> {
    fn next_customer(&self) -> Option<usize> {
        let next = self.next.fetch_add(1, Relaxed);
        (next < self.stage.customers().len()).then_some(next)
    }

    /// Finds a worker for a customer: the idle one, or a new one. If a worker dies before it
    /// accepts the customer, the customer is not lost.
    async fn who_takes(&self, kind: Kind, mut idle: Option<W::Worker>) -> io::Result<W::Worker> {
        let mut last = String::new();
        for _ in 0..MOST_FAILURES {
            let mut worker = match idle.take() {
                Some(worker) => worker,
                None => {
                    let started = self.workers.start().await;
                    started.map_err(|error| failed("cannot start a worker (try fewer)", error))?
                }
            };
            if worker.take(kind).await.is_ok() {
                return Ok(worker);
            }
            last = worker.how_it_ended();
        }
        Err(io::Error::other(format!("{MOST_FAILURES} workers in a row died before they accepted a customer: {last}")))
    }
}

fn failed(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The worker's side: executes the script for a customer.
pub(crate) fn act(
    kind: Kind,
    pace: Pace,
    mut report: impl FnMut(Word) -> io::Result<()>,
    wait: impl Fn(Gate) -> io::Result<()>,
) -> io::Result<()> {
    for step in script::customer(kind) {
        match *step {
            CustomerStep::Say(_) => report(Word::Says)?,
            CustomerStep::Wait(gate) => {
                report(Word::Begins)?;
                wait(gate)?;
                report(Word::Ends)?;
            }
            CustomerStep::BeServed => {
                report(Word::Begins)?;
                thread::sleep(pace.of(SERVICE));
                report(Word::Ends)?;
            }
        }
    }
    Ok(())
}

/// Ctrl-C at the terminal shall end the manager, and not a worker before it.
pub(crate) fn in_own_group(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(windows)]
    std::os::windows::process::CommandExt::creation_flags(command, CREATE_NEW_PROCESS_GROUP);
}

/// From winbase.h. Ctrl-C does not reach such a process.
#[cfg(windows)]
const CREATE_NEW_PROCESS_GROUP: u32 = 0x0000_0200;

/// The process of a worker. Dropping it kills the process.
pub(crate) struct WorkerProcess(pub(crate) Child);

impl WorkerProcess {
    /// Of one that has hung up.
    pub(crate) fn how_it_ended(mut self) -> String {
        let number = self.0.id();
        match self.end() {
            Ok(status) => {
                let verb = if status.code().is_none() { "was killed by" } else { "ended with" };
                // The standard library prints "signal: 9 (SIGKILL)".
                format!("worker {number} {verb} {}", status.to_string().replacen(": ", " ", 1))
            }
            Err(error) => format!("cannot find out how worker {number} ended: {error}"),
        }
    }

    /// SIGKILL ends even a stopped process, and no customer can be lost any more. It does not
    /// change the status of a process that is dying already.
    fn end(&mut self) -> io::Result<ExitStatus> {
        self.0.kill()?;
        self.0.wait()
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // An error means that the process has been waited for already.
        let _ = self.end();
    }
}

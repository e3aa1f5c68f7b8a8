//! A pool of workers that are not in this process: what the manager does, however far away they are.
//!
//! The events are what manager and workers share; beside them, the manager tells a worker what a customer comes for,
//! and the worker tells the manager how far it has come in the [`script`], which both know. So it is the manager who
//! speaks, counts and notes, a run looks the same at every reach, and nothing of it is lost with a worker.

use std::future::Future;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use tokio::task::JoinSet;

use crate::script::{self, CustomerStep, Gate, ManagerStep, SERVICE};
use crate::stage::{Audience, OpenVisit, Phase, Run, Stage};
use crate::{Kind, Pace, Plan};

/// After so many workers in a row that have died before they took a customer, the next would do so too.
pub(crate) const PATIENCE: usize = 5;

/// What a worker says of a customer whom it has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Says,
    Begins,
    Ends,
}

impl Word {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Word::Says => "says",
            Word::Begins => "begins",
            Word::Ends => "ends",
        }
    }
}

/// The other side is not there any more.
pub(crate) struct HungUp;

/// Where workers come from, and the events that all of them wait for.
pub(crate) trait Workers: Send + Sync + 'static {
    type Worker: Worker;

    /// Sets the event.
    fn open(&self, gate: Gate) -> impl Future<Output = io::Result<()>> + Send;

    fn start(&self) -> impl Future<Output = io::Result<Self::Worker>> + Send;
}

/// A worker, as the manager sees it. It does not outlive this.
pub(crate) trait Worker: Send + 'static {
    /// Hands it a customer who comes for this. Ready when the worker has taken them.
    fn take(&mut self, kind: Kind) -> impl Future<Output = Result<(), HungUp>> + Send;

    /// Ready when the worker has come to the next step of the script, which is this.
    fn hear(&mut self, word: Word) -> impl Future<Output = Result<(), HungUp>> + Send;

    /// Of one that has hung up.
    fn how_it_ended(self) -> String;

    /// There are no customers any more.
    fn dismiss(self) -> impl Future<Output = ()> + Send;
}

/// Runs the plan. If one part of it fails, no worker is left behind.
pub(crate) fn run(plan: Plan, audience: Audience, workers: impl Workers) -> io::Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| failed("workers cannot be listened to", error))?;
    let stage = Stage::new(plan, audience);
    let pool = Arc::new(Pool { stage, workers, next: AtomicUsize::new(0) });
    let outcome = runtime.block_on(manage(&pool));
    // If one part of the run has failed, this drops the others, and with them their workers.
    drop(runtime);
    outcome?;
    match Arc::try_unwrap(pool) {
        Ok(pool) => Ok(pool.stage.close()),
        Err(_) => unreachable!("whoever had a part in the run is gone"),
    }
}

/// Shared by the manager and those who look after a worker.
struct Pool<W> {
    stage: Stage,
    workers: W,
    /// The customer who is next in the queue.
    next: AtomicUsize,
}

/// The story, and beside it a task for each place in the pool. The first failure ends it all.
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

/// Keeps one place in the pool manned while there are customers.
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

/// Follows a customer whom the worker has taken, from the door to the door.
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

    /// Finds a worker for a customer: the one who is idle, or a new one. Nobody is lost with a worker who had not taken
    /// them yet.
    async fn who_takes(&self, kind: Kind, mut idle: Option<W::Worker>) -> io::Result<W::Worker> {
        let mut last = String::new();
        for _ in 0..PATIENCE {
            let mut worker = match idle.take() {
                Some(worker) => worker,
                None => {
                    let started = self.workers.start().await;
                    started.map_err(|error| failed("a worker cannot be started (fewer may do)", error))?
                }
            };
            if worker.take(kind).await.is_ok() {
                return Ok(worker);
            }
            last = worker.how_it_ended();
        }
        Err(io::Error::other(format!("{PATIENCE} workers in a row died before they took a customer: {last}")))
    }
}

fn failed(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// What a worker does with a customer whom it has taken.
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

/// The process of a worker. It does not outlive this.
pub(crate) struct WorkerProcess(pub(crate) Child);

impl WorkerProcess {
    /// Of one that has hung up.
    pub(crate) fn how_it_ended(mut self) -> String {
        let number = self.0.id();
        match self.end() {
            Ok(status) => {
                let verb = if status.signal().is_some() { "was killed by" } else { "ended with" };
                // The standard library says "signal: 9 (SIGKILL)".
                format!("worker {number} {verb} {}", status.to_string().replacen(": ", " ", 1))
            }
            Err(error) => format!("worker {number} has vanished: {error}"),
        }
    }

    /// Nobody can be lost with it any more, so this may be the way that is certain even for a process that is stopped.
    /// It changes nothing about how one has ended that is dying already.
    fn end(&mut self) -> io::Result<ExitStatus> {
        self.0.kill()?;
        self.0.wait()
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // It has been waited for already, if that fails.
        let _ = self.end();
    }
}

//! The bank on machines: manager and workers share an etcd cluster, and nothing else.
//!
//! The manager starts the workers as processes of its own machine. But they share no pipe, socket
//! or file: all communication is by events, and would work between distant machines too. In the run
//! RUN, the Nth worker has:
//!
//! | event | by | meaning |
//! |---|---|---|
//! | `bank-RUN.bank_open`, `bank-RUN.transactions_open` | set by the manager | the two events of the bank |
//! | `bank-RUN.manager` | held by the manager | the manager lives. Without it workers end |
//! | `bank-RUN.wN.alive` | held by the worker | the worker lives. When the hold ends, its customer is lost |
//! | `bank-RUN.wN.KIND` | set by the manager, cleared by the worker | a customer of that type; accepted when cleared |
//! | `bank-RUN.wN.home` | set by the manager | there are no more customers |
//! | `bank-RUN.wN.step` | pulsed by the worker | the worker has reached the next step of the script |
//!
//! The manager reads all of it from one list of [changes](tantara_etcd::Changes), in the order in
//! which the cluster made them. At the end it removes the events of the run. If it is killed or
//! interrupted, the worker that ends last does.

use std::collections::HashMap;
use std::io;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tantara::any;
use tantara_etcd::{Change, Cluster, ClusterEntry, ClusterEvent, Hold};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::pool::{self, HungUp, Word, Worker, WorkerProcess, Workers};
use crate::script::Gate;
use crate::stage::{Audience, Run};
use crate::{Kind, Pace, Plan};

/// The time to live of holds in a run. A shorter one reports a dead worker sooner, but also a
/// worker that a busy machine does not schedule for that time.
pub const HOLDS_LAST: Duration = Duration::from_secs(5);

/// How often the manager checks its workers.
const LOOKS: Duration = Duration::from_millis(250);

/// How often a waiting worker checks whether the manager still lives.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// The number of workers that start at once. More of them would delay each other's connections too
/// much.
const STARTING: usize = 32;

/// How many events are removed at once, and how often the cluster is searched for events that
/// arrived late.
const REMOVING: usize = 64;
const ROUNDS: usize = 5;

/// How long a worker may take to end, and how often that is checked.
const SHUTDOWN: Duration = Duration::from_secs(2);
const NAP: Duration = Duration::from_millis(5);

/// The time limit for a worker to start.
const MOST_FAILURES: Duration = Duration::from_secs(30);

/// The events of a run.
#[derive(Clone)]
struct Names {
    cluster: Cluster,
    prefix: String,
}

impl Names {
    fn of_run(cluster: Cluster, run: &str) -> Names {
        Names { cluster, prefix: format!("bank-{run}.") }
    }

    fn event(&self, name: &str) -> ClusterEvent {
        self.cluster.event(format!("{}{name}", self.prefix))
    }

    fn gate(&self, gate: Gate) -> ClusterEvent {
        self.event(gate.event_name())
    }

    fn manager(&self) -> ClusterEvent {
        self.event("manager")
    }

    fn of_worker(&self, worker: usize, what: &str) -> ClusterEvent {
        self.event(&format!("w{worker}.{what}"))
    }

    /// The events of the run that exist.
    fn list(&self) -> Vec<ClusterEntry> {
        let mut known = self.cluster.list().unwrap_or_default();
        known.retain(|entry| entry.name.starts_with(&self.prefix));
        known
    }

    /// Removes the events of the run, if the cluster can be reached.
    fn tidy(&self) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
        for _ in 0..ROUNDS {
            let known = self.list();
            if known.is_empty() {
                break;
            }
            runtime.block_on(async {
                let mut removals = JoinSet::new();
                for entry in known {
                    if removals.len() == REMOVING {
                        removals.join_next().await;
                    }
                    let event = self.cluster.event(entry.name);
                    removals.spawn(async move { event.remove_async().await });
                }
                removals.join_all().await;
            });
        }
    }
}

/// Runs the scenario on a cluster. `program` is the command of a worker, which connects to the same
/// namespace of the same cluster, and calls [`work`] with the arguments that are added here.
///
/// If a worker dies, its customer is lost, and another worker replaces it.
///
/// # Errors
///
/// If the cluster cannot be reached, if a worker cannot be started, or if several workers in a row
/// die before they accept a customer. No worker is left behind, and no event of the run if the
/// cluster can be reached.
pub fn run(
    plan: Plan,
    audience: Audience,
    cluster: Cluster,
    program: impl Fn() -> Command + Send + Sync + 'static,
) -> io::Result<Run> {
    let run = format!("{}-{:08x}", std::process::id(), fastrand::u32(..));
    let names = Names::of_run(cluster, &run);
    let tidying = Tidying(names.clone());
    let hold = names.manager().hold()?;
    let news = News::new(&names)?;
    let pace = plan.pace;
    let branch = Branch {
        names,
        run,
        pace,
        program: Box::new(program),
        workers: AtomicUsize::new(0),
        starting: Arc::new(Semaphore::new(STARTING)),
        news,
        _manager: hold,
    };
    let outcome = pool::run(plan, audience, branch);
    drop(tidying);
    outcome
}

/// Removes the remaining events of the run.
struct Tidying(Names);

impl Drop for Tidying {
    fn drop(&mut self) {
        self.0.tidy();
    }
}

/// The state shared by all workers.
struct Branch {
    names: Names,
    run: String,
    pace: Pace,
    program: Box<dyn Fn() -> Command + Send + Sync>,
    /// The number of workers that were started.
    workers: AtomicUsize,
    starting: Arc<Semaphore>,
    news: News,
    _manager: Hold,
}

/// The meaning of a change of a worker's event.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Lives,
    Died,
    Took,
    /// The number of steps.
    Came(u64),
}

/// The queues of the workers' changes, by the number of the worker.
#[derive(Clone, Default)]
struct Inboxes(Arc<Mutex<HashMap<usize, mpsc::UnboundedSender<Told>>>>);

impl Inboxes {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, mpsc::UnboundedSender<Told>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the changes of the run's events, and passes them to the tasks that attend to the workers.
struct News {
    inboxes: Inboxes,
    is_over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl News {
    fn new(names: &Names) -> io::Result<News> {
        let (mut changes, prefix) = (names.cluster.changes()?, format!("{}w", names.prefix));
        let (inboxes, is_over) = (Inboxes::default(), Arc::new(AtomicBool::new(false)));
        let (open, over) = (inboxes.clone(), Arc::clone(&is_over));
        let read = move || {
            while !over.load(Relaxed) {
                let change = match changes.next_timeout(LOOKS) {
                    Ok(Some(change)) => change,
                    Ok(None) => continue,
                    Err(_) => {
                        // Without changes from the cluster, all workers count as dead.
                        open.lock().clear();
                        thread::sleep(LOOKS);
                        continue;
                    }
                };
                let Change { name, sets, is_set, is_removed, .. } = &change;
                let told = name.strip_prefix(&prefix).and_then(|name| tell(name, *sets, *is_set, *is_removed));
                let Some((worker, told)) = told else { continue };
                if let Some(executor) = open.lock().get(&worker) {
                    // The worker has died.
                    let _ = executor.send(told);
                }
            }
        };
        let reader = thread::Builder::new().name("news".into()).spawn(read)?;
        Ok(News { inboxes, is_over, reader: Some(reader) })
    }

    fn listen_to(&self, worker: usize) -> mpsc::UnboundedReceiver<Told> {
        let (executor, told) = mpsc::unbounded_channel();
        self.inboxes.lock().insert(worker, executor);
        told
    }
}

/// Interprets a change of the event `N.WHAT`.
fn tell(name: &str, sets: u64, is_set: bool, is_removed: bool) -> Option<(usize, Told)> {
    let (worker, what) = name.split_once('.')?;
    let worker = worker.parse().ok()?;
    let told = match what {
        "alive" if is_set => Told::Lives,
        "alive" => Told::Died,
        "step" if sets > 0 => Told::Came(sets),
        _ if Kind::named(what).is_some() && !is_set && !is_removed => Told::Took,
        _ => return None,
    };
    Some((worker, told))
}

impl Drop for News {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

impl Workers for Branch {
    type Worker = Far;

    async fn open(&self, gate: Gate) -> io::Result<()> {
        Ok(self.names.gate(gate).set_async().await?)
    }

    async fn start(&self) -> io::Result<Far> {
        let starting = Arc::clone(&self.starting).acquire_owned().await.map_err(io::Error::other)?;
        let number = self.workers.fetch_add(1, Relaxed);
        let told = self.news.listen_to(number);
        let mut command = (self.program)();
        command.args([&self.run, &number.to_string(), &self.pace.factor().to_string()]);
        pool::in_own_group(command.stdin(Stdio::null()).stdout(Stdio::null()));
        let process = WorkerProcess(command.spawn()?);
        let boxes = Kind::ALL.map(|kind| self.names.of_worker(number, kind.name()));
        let home = self.names.of_worker(number, "home");
        Ok(Far { process, told, boxes, home, starting: Some(starting), steps: 0, taken: 0 })
    }
}

/// The manager's side of a worker.
struct Far {
    process: WorkerProcess,
    told: mpsc::UnboundedReceiver<Told>,
    /// One for each type of customer.
    boxes: [ClusterEvent; 2],
    home: ClusterEvent,
    /// Until the worker has started.
    starting: Option<OwnedSemaphorePermit>,
    /// Steps that were reported, but not awaited yet.
    steps: u64,
    taken: u64,
}

impl Worker for Far {
    async fn take(&mut self, kind: Kind) -> Result<(), HungUp> {
        let index = Kind::ALL.iter().position(|known| *known == kind).unwrap_or_default();
        self.boxes[index].set_async().await.map_err(|_| HungUp)?;
        while self.taken == 0 {
            self.listen().await?;
        }
        self.taken -= 1;
        Ok(())
    }

    async fn hear(&mut self, _: Word) -> Result<(), HungUp> {
        while self.steps == 0 {
            self.listen().await?;
        }
        self.steps -= 1;
        Ok(())
    }

    fn how_it_ended(self) -> String {
        self.process.how_it_ended()
    }

    /// Lets the worker end by itself, so that it releases its holds in the cluster.
    async fn dismiss(mut self) {
        if self.home.set_async().await.is_ok() {
            for _ in 0..SHUTDOWN.as_millis() / NAP.as_millis() {
                if !matches!(self.process.0.try_wait(), Ok(None)) {
                    return;
                }
                tokio::time::sleep(NAP).await;
            }
        }
    }
}

impl Far {
    async fn listen(&mut self) -> Result<(), HungUp> {
        let told = if self.starting.is_none() { self.told.recv().await } else { self.first_word().await };
        match told.ok_or(HungUp)? {
            Told::Lives => self.starting = None,
            Told::Died => return Err(HungUp),
            Told::Took => self.taken += 1,
            Told::Came(steps) => self.steps += steps,
        }
        Ok(())
    }

    /// Before the worker holds its event, only its process shows that it has died.
    async fn first_word(&mut self) -> Option<Told> {
        let looks = MOST_FAILURES.as_millis() / LOOKS.as_millis();
        for _ in 0..looks {
            if let Ok(told) = tokio::time::timeout(LOOKS, self.told.recv()).await {
                return told;
            }
            if !matches!(self.process.0.try_wait(), Ok(None)) {
                return None;
            }
        }
        None
    }
}

/// Runs a worker: it serves customers until the manager ends, or until the worker's own hold is
/// lost. Neither is an error. `arguments` are those that [`run`] has added.
///
/// # Errors
///
/// If the process was not started by [`run`], or if the cluster fails.
pub fn work(cluster: Cluster, arguments: &[String]) -> io::Result<()> {
    let not_a_worker = || io::Error::new(io::ErrorKind::InvalidInput, "only the manager can start a worker");
    let [run, number, pace] = arguments else { return Err(not_a_worker()) };
    let number: usize = number.parse().map_err(|_| not_a_worker())?;
    let pace = pace.parse().ok().and_then(|factor| Pace::new(factor).ok()).ok_or_else(not_a_worker)?;
    let names = Names::of_run(cluster, run);
    let alive = names.of_worker(number, "alive").hold()?;
    let executor = Executor { names, number, pace, alive };
    let Err(error) = executor.serve() else { return Ok(()) };
    match executor.names.manager().is_set() {
        Ok(true) if !executor.alive.is_lost() => Err(error),
        Ok(false) => {
            executor.leave();
            Ok(())
        }
        // The manager sees the end of the hold by itself.
        Ok(true) | Err(_) => Ok(()),
    }
}

/// Returns `meanwhile` if the cluster cannot be reached. A worker survives an outage while its hold
/// is not lost.
fn outlast<T>(outcome: Result<T, impl Into<io::Error>>, meanwhile: T) -> io::Result<T> {
    match outcome.map_err(Into::into) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(meanwhile),
        outcome => outcome,
    }
}

/// Executes the script in a worker.
struct Executor {
    names: Names,
    number: usize,
    pace: Pace,
    alive: Hold,
}

impl Executor {
    /// Serves customers until there are no more.
    fn serve(&self) -> io::Result<()> {
        let [first, second] = Kind::ALL.map(Kind::name);
        let boxes = [first, second, "home"].map(|what| self.names.of_worker(self.number, what));
        let step = self.names.of_worker(self.number, "step");
        loop {
            let Some(index) = outlast(any(&boxes).try_wait_timeout(CHECK_EVERY), None)? else {
                self.check()?;
                continue;
            };
            let Some(kind) = Kind::ALL.get(index).copied() else { return Ok(()) };
            boxes[index].clear()?;
            pool::act(kind, self.pace, |_| Ok(step.pulse()?), |gate| self.wait(gate))?;
        }
    }

    fn wait(&self, gate: Gate) -> io::Result<()> {
        let gate = self.names.gate(gate);
        while !outlast(gate.wait_timeout(CHECK_EVERY), false)? {
            self.check()?;
        }
        Ok(())
    }

    /// Fails if the manager has ended, or if the worker's hold is lost.
    fn check(&self) -> io::Result<()> {
        if self.alive.is_lost() || !outlast(self.names.manager().is_set(), true)? {
            return Err(io::Error::other("the manager has ended, or counts this worker as dead"));
        }
        Ok(())
    }

    /// Removes the events of the run if the manager was killed and this is the last worker. Each
    /// worker releases its own hold before it looks for those of others, so at least the last one
    /// finds no others.
    fn leave(&self) {
        // By then the holds of workers that were killed with the manager have ended.
        thread::sleep(HOLDS_LAST);
        let _ = self.alive.event().remove();
        let lives = |entry: &ClusterEntry| entry.name.ends_with(".alive") && entry.is_set;
        if !self.names.list().iter().any(lives) {
            self.names.tidy();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_outlasted_and_nothing_else() {
        let failed = |kind| Err::<bool, _>(io::Error::from(kind));
        assert!(outlast(failed(io::ErrorKind::NotConnected), true).unwrap());
        assert_eq!(outlast(failed(io::ErrorKind::NotFound), true).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!outlast(Ok::<_, io::Error>(false), true).unwrap());
    }

    #[test]
    fn what_changes_say_is_read_and_the_rest_passed_over() {
        assert_eq!(tell("3.alive", 1, true, false), Some((3, Told::Lives)));
        assert_eq!(tell("3.alive", 0, false, false), Some((3, Told::Died)));
        assert_eq!(tell("17.step", 2, false, false), Some((17, Told::Came(2))), "merged");
        assert_eq!(tell("0.CHECK_BALANCE", 1, true, false), None, "that was us");
        assert_eq!(tell("0.CHECK_BALANCE", 0, false, false), Some((0, Told::Took)));
        for (name, is_removed) in [("0.CHECK_BALANCE", true), ("x.alive", false), ("alive", false), ("0.other", false)]
        {
            assert_eq!(tell(name, 0, false, is_removed), None, "{name}");
        }
    }
}

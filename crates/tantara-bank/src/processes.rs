//! The bank on a pool of processes: each worker is a process, and serves one customer at a time.
//!
//! Manager and workers share only the events. Workers report their steps to the manager, which
//! prints, counts and records, so a run looks the same as at any other scope, and nothing is lost
//! with a worker.
//!
//! They communicate by a socket, which is the worker's standard input and output. The manager sends
//! the type of a customer, as in customer lists. The worker answers one word per line: that it
//! accepts the customer, then each step of the [`script`](crate::script). If either process dies,
//! the other one finds the socket closed: the manager then reports a lost customer, and a worker
//! ends.
//!
//! Workers have process groups of their own, so that Ctrl-C at the terminal signals the manager
//! only. Otherwise it would report its workers as lost before it ends itself.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Socket;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use tantara::{SharedEvent, waits};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::pool::{self, HungUp, Word, Worker, WorkerProcess, Workers};
use crate::script::Gate;
use crate::stage::{Audience, Run};
use crate::{Kind, Pace, Plan};

/// A worker's first message about a customer; the others are [`Word`]s.
const TAKES: &str = "takes";

/// A word as it is written to the socket.
fn written(word: Word) -> &'static str {
    match word {
        Word::Says => "says",
        Word::Begins => "begins",
        Word::Ends => "ends",
    }
}

/// Runs the scenario. `program` is the command of a worker, which calls [`work`] with the arguments
/// that are added here.
///
/// If a worker dies, its customer is lost, and another worker replaces it.
///
/// # Errors
///
/// If the plan has no workers, if the events cannot be created, if a worker cannot be started, or if
/// several workers in a row die before they accept a customer. No worker is left behind.
pub fn run(plan: Plan, audience: Audience, program: impl Fn() -> Command + Send + Sync + 'static) -> io::Result<Run> {
    let events = [SharedEvent::anonymous()?, SharedEvent::anonymous()?];
    let pace = plan.pace;
    pool::run(plan, audience, Branch { events, pace, program: Box::new(program) })
}

/// The events that all workers share.
struct Branch {
    events: [SharedEvent; 2],
    pace: Pace,
    program: Box<dyn Fn() -> Command + Send + Sync>,
}

impl Workers for Branch {
    type Worker = Teller;

    async fn open(&self, gate: Gate) -> io::Result<()> {
        Ok(self.events[gate as usize].set()?)
    }

    /// Blocks for about a millisecond.
    async fn start(&self) -> io::Result<Teller> {
        let (ours, theirs) = Socket::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = (self.program)();
        for event in &self.events {
            let number = event.inherit(&mut command)?;
            command.arg(number.to_string());
        }
        command.arg(self.pace.factor().to_string());
        pool::in_own_group(command.stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs)));
        Ok(Teller { line: BufReader::new(UnixStream::from_std(ours)?), process: WorkerProcess(command.spawn()?) })
    }
}

/// The manager's side of a worker.
struct Teller {
    process: WorkerProcess,
    line: BufReader<UnixStream>,
}

impl Worker for Teller {
    async fn take(&mut self, kind: Kind) -> Result<(), HungUp> {
        let order = format!("{}\n", kind.name());
        self.line.get_mut().write_all(order.as_bytes()).await.map_err(|_| HungUp)?;
        self.read(TAKES).await
    }

    async fn hear(&mut self, word: Word) -> Result<(), HungUp> {
        self.read(written(word)).await
    }

    fn how_it_ended(self) -> String {
        self.process.how_it_ended()
    }

    /// The worker holds nothing that it must release, so it is killed.
    async fn dismiss(self) {}
}

impl Teller {
    /// An unexpected word is treated like a closed socket.
    async fn read(&mut self, expected: &str) -> Result<(), HungUp> {
        let mut word = String::new();
        match self.line.read_line(&mut word).await {
            Ok(_) if word.strip_suffix('\n') == Some(expected) => Ok(()),
            _ => Err(HungUp),
        }
    }
}

/// Runs a worker: it serves customers until the manager ends, by `kill -9` too. Then the process
/// ends at once. `arguments` are those that [`run`] has added.
///
/// # Errors
///
/// If the process was not started by [`run`].
pub fn work(arguments: &[String]) -> io::Result<()> {
    let not_a_worker = || io::Error::new(io::ErrorKind::InvalidInput, "only the manager can start a worker");
    let [bank_open, transactions_open, pace] = arguments else { return Err(not_a_worker()) };
    let event = |number: &String| -> io::Result<SharedEvent> {
        Ok(SharedEvent::inherited(number.parse().map_err(|_| not_a_worker())?)?)
    };
    let executor = Executor {
        events: [event(bank_open)?, event(transactions_open)?],
        pace: pace.parse().ok().and_then(|factor| Pace::new(factor).ok()).ok_or_else(not_a_worker)?,
    };
    for gate in Gate::ALL {
        waits::label(executor.event(gate), gate.event_name());
    }
    let (queue, customers) = mpsc::channel();
    thread::Builder::new().name("line to the manager".into()).spawn(move || {
        for order in io::stdin().lines().map_while(Result::ok) {
            let Some(kind) = Kind::named(&order) else { break };
            // The receiver exists until the process ends.
            let _ = queue.send(kind);
        }
        std::process::exit(0)
    })?;
    for kind in customers {
        if executor.serve(kind).is_err() {
            // The manager has ended.
            break;
        }
    }
    Ok(())
}

/// Executes the script in a worker.
struct Executor {
    events: [SharedEvent; 2],
    pace: Pace,
}

impl Executor {
    fn serve(&self, kind: Kind) -> io::Result<()> {
        report(TAKES)?;
        pool::act(kind, self.pace, |word| report(written(word)), |gate| Ok(self.event(gate).wait()?))
    }

    fn event(&self, gate: Gate) -> &SharedEvent {
        &self.events[gate as usize]
    }
}

/// Writes a word as a whole line, without buffering.
fn report(word: &str) -> io::Result<()> {
    let mut line = io::stdout().lock();
    writeln!(line, "{word}")?;
    line.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::pool::MOST_FAILURES;
    use crate::{Phase, Span, crowd, script};

    const SAYS: &str = "says";
    const BEGINS: &str = "begins";
    const ENDS: &str = "ends";

    /// A worker that reports this many words about a customer who checks a balance, and then does
    /// something else.
    fn up_to(words: usize, then: &str) -> String {
        let visit = [TAKES, SAYS, BEGINS, ENDS, SAYS, BEGINS, ENDS, SAYS];
        let said: String = visit[..words].iter().map(|word| format!("echo {word}; ")).collect();
        format!("read order; {said}{then}")
    }

    const SERVED: usize = 8;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// A run with one worker and customers who check their balances; its lines, and the lost
    /// customers with reasons.
    fn run_with(
        customers: usize,
        program: impl Fn() -> Command + Send + Sync + 'static,
    ) -> (io::Result<Run>, Vec<String>, Vec<String>) {
        let (lines, losses) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let audience = Audience {
            lines: Some(Box::new({
                let lines = Arc::clone(&lines);
                move |line| lines.lock().unwrap().push(line.to_string())
            })),
            lost: Some(Box::new({
                let losses = Arc::clone(&losses);
                move |customer, how| losses.lock().unwrap().push(format!("{}: {how}", customer.name))
            })),
            served: None,
            keeps_notes: true,
        };
        let mut customers = crowd(customers);
        customers.iter_mut().for_each(|customer| customer.kind = Kind::CheckBalance);
        let plan = Plan { customers, workers: 1, pace: Pace::new(0.0).unwrap() };
        let run = run(plan, audience, program);
        let heard = |told: &Mutex<Vec<String>>| told.lock().unwrap().clone();
        (run, heard(&lines), heard(&losses))
    }

    fn phases(spans: &[Span]) -> Vec<Phase> {
        spans.iter().map(|span| span.phase).collect()
    }

    #[test]
    fn who_dies_at_any_moment_of_a_visit_loses_that_customer_alone() {
        let waiting = Phase::Waiting(Gate::Bank);
        let moments: [(usize, usize, &[Phase]); 7] = [
            (1, 0, &[]),
            (2, 0, &[]),
            (3, 0, &[waiting]),
            (4, 1, &[waiting]),
            (5, 1, &[waiting]),
            (6, 1, &[waiting, Phase::Served]),
            (7, 1, &[waiting, Phase::Served]),
        ];
        for (words, released, did) in moments {
            let starts = AtomicUsize::new(0);
            // The second worker dies, with the second customer.
            let (run, lines, losses) = run_with(3, move || match starts.fetch_add(1, Relaxed) {
                1 => shell(&up_to(words, "kill -9 $$")),
                _ => shell(&up_to(SERVED, "exit 0")),
            });
            let run = run.unwrap();
            assert_eq!((run.summary.customers, &*run.summary.lost), (2, &[1][..]), "after {words} words");
            assert_eq!(run.summary.released_by_bank_open, 2 + released, "after {words} words");
            // A lost customer no longer counts as waiting.
            assert_eq!(run.summary.peak_waiting, 1, "after {words} words");
            assert_eq!(phases(&run.visits[1].spans), did, "after {words} words");
            assert!(run.visits[1].lost.is_some() && run.visits[2].lost.is_none());
            assert_eq!(losses.len(), 1, "{losses:?}");
            assert!(losses[0].starts_with("Customer 2: worker "), "{losses:?}");
            assert!(losses[0].ends_with(" was killed by signal 9 (SIGKILL)"), "{losses:?}");
            assert_eq!(lines.last().unwrap(), script::OTHERS_DONE);
            assert!(!lines.contains(&"Customer 2 has exited bank".to_owned()));
        }
    }

    #[test]
    fn whoever_has_said_the_last_line_has_left() {
        let (run, lines, losses) = run_with(3, || shell(&up_to(SERVED, "kill -9 $$")));
        assert_eq!((run.unwrap().summary.customers, losses), (3, vec![]));
        assert_eq!(lines.last().unwrap(), script::ALL_DONE);
    }

    #[test]
    fn a_customer_who_was_not_taken_goes_to_the_next_worker() {
        let starts = AtomicUsize::new(0);
        // The first has died when the second customer comes; all later ones die at once.
        let (run, _, losses) = run_with(2, move || match starts.fetch_add(1, Relaxed) % (MOST_FAILURES - 1) {
            0 => shell(&up_to(SERVED, "exit 0")),
            _ => shell("exit 1"),
        });
        assert_eq!((run.unwrap().summary.customers, losses), (2, vec![]));
    }

    #[test]
    fn workers_that_never_take_anybody_are_given_up() {
        for (script, end) in
            [("exit 3", "ended with exit status 3"), ("echo hello; exec sleep 1000", "was killed by signal 9")]
        {
            let (run, _, losses) = run_with(1, move || shell(script));
            let complaint = run.unwrap_err().to_string();
            assert!(complaint.starts_with("5 workers in a row died before they accepted a customer"), "{complaint}");
            assert!(complaint.contains(end), "{complaint}");
            assert_eq!(losses, [""; 0]);
        }
    }

    #[test]
    fn a_program_that_cannot_be_started_fails_the_run() {
        let complaint = run_with(1, || Command::new("/no/such/program")).0.unwrap_err().to_string();
        assert!(complaint.starts_with("cannot start a worker (try fewer): No such file"), "{complaint}");
    }

    #[test]
    fn a_run_that_fails_leaves_no_worker_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (number, starts) = (dir.path().join("number"), AtomicUsize::new(0));
        let program = {
            let number = number.clone();
            move || match starts.fetch_add(1, Relaxed) {
                0 => shell(&up_to(1, &format!("echo $$ > '{}'; exec sleep 1000", number.display()))),
                // As soon as the first has its customer.
                _ => shell(&format!("until [ -s '{}' ]; do sleep 0.01; done; exit 1", number.display())),
            }
        };
        let plan = Plan { customers: crowd(2), workers: 2, pace: Pace::new(0.0).unwrap() };
        assert!(run(plan, Audience::nobody(), program).is_err());
        let number = std::fs::read_to_string(number).unwrap();
        assert!(!std::path::Path::new("/proc").join(number.trim()).exists(), "{number} is left behind");
    }

    /// It would serve nobody and say that all were served.
    #[test]
    fn a_plan_without_workers_is_an_error() {
        let plan = Plan { customers: crowd(1), workers: 0, pace: Pace::new(0.0).unwrap() };
        let error = run(plan, Audience::nobody(), || shell("exit 1")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn only_the_bank_starts_workers() {
        let strangers: [&[&str]; 4] = [&[], &["0", "1", "2", "3"], &["x", "y", "1"], &["1000000", "1000001", "1"]];
        for arguments in strangers {
            let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
            assert!(work(&arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn losses_are_drawn_and_traced() {
        let (run, ..) = run_with(2, || shell(&up_to(3, "kill -9 $$")));
        let run = run.unwrap();
        let mut picture = Vec::new();
        crate::timeline::write(&run, &mut picture).unwrap();
        let picture = String::from_utf8(picture).unwrap();
        assert!(picture.contains("2 were lost"), "{picture}");
        let crosses = picture.split("<path").skip(1).find(|path| path.contains("lost")).unwrap();
        assert_eq!(crosses.matches('M').count(), 4, "two crosses of two strokes: {crosses}");
        let mut trace = Vec::new();
        crate::trace::write(&run, &mut trace).unwrap();
        assert_eq!(String::from_utf8(trace).unwrap().matches("\"lost\"").count(), 2);
        assert!(run.visits.iter().all(|visit| visit.lost > Some(Duration::ZERO)));
    }
}

//! `tantara bank --reach processes`: the real binary, and killed processes.
#![cfg(target_os = "linux")]

mod signals;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const WITHDRAWAL: [&str; 5] = [
    " is waiting for the bank to open.",
    " entered the bank",
    " is waiting for transactions to open.",
    " is starting their transaction.",
    " completed transaction and exited bank",
];
const CHECK: [&str; 3] = [" is waiting for the bank to open.", " entered the bank", " has exited bank"];

/// The lines of a customer; the types repeat.
fn lines_of(customer: usize) -> &'static [&'static str] {
    if customer % 4 == 2 { &CHECK } else { &WITHDRAWAL }
}

fn bank(args: &[&str]) -> Command {
    signals::end_children();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tantara"));
    command.args(["bank", "--reach", "processes"]).args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    bank(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Checks the lines of a run and their order, for `count` customers of whom some were lost at any step.
fn check_lines(output: &str, count: usize, lost: &[usize]) {
    assert!(output.ends_with('\n'), "the last line is torn: {output}");
    let lines: Vec<&str> = output.lines().collect();
    let place = |line: &str| {
        let places: Vec<_> = (0..lines.len()).filter(|&place| lines[place] == line).collect();
        assert_eq!(places.len(), 1, "{line:?} occurs {} times in {output}", places.len());
        places[0]
    };
    let opened = [place("Bank is now open!"), place("Transactions are now open!")];
    assert!(place("Bank manager is preparing to open the bank.") < opened[0] && opened[0] < opened[1]);
    let last = if lost.is_empty() { "All customers have" } else { "All other customers have" };
    assert_eq!(lines.last().unwrap(), &format!("{last} completed their transactions."));
    let mut said = vec![Vec::new(); count];
    for (place, line) in lines.iter().enumerate() {
        let Some(rest) = line.strip_prefix("Customer ") else { continue };
        let (number, rest) = rest.split_at(rest.find(' ').unwrap());
        let order = [" entered the bank", " is starting their transaction."].iter().position(|&gated| gated == rest);
        assert!(order.is_none_or(|gate| opened[gate] < place), "{line:?} is too early in {output}");
        said[number.parse::<usize>().unwrap() - 1].push(rest);
    }
    for (number, said) in (1..).zip(&said) {
        let script = lines_of(number);
        if lost.contains(&number) {
            assert!(said.len() < script.len() && script.starts_with(said), "Customer {number} was lost: {output}");
        } else {
            assert_eq!(said, script, "Customer {number}");
        }
    }
    assert_eq!(lines.len(), 4 + said.iter().map(Vec::len).sum::<usize>(), "there are other lines: {output}");
}

/// The customers that standard error reports as lost. It must contain nothing else but their number.
fn check_losses(complaints: &str, count: usize, how: &str) -> Vec<usize> {
    let mut lines: Vec<&str> = complaints.lines().collect();
    let sum = lines.pop();
    let lost = lines.iter().map(|line| {
        let rest = line.strip_prefix("tantara: Customer ").unwrap_or_else(|| panic!("{complaints}"));
        let (number, rest) = rest.split_once(" was lost: worker ").unwrap_or_else(|| panic!("{complaints}"));
        let (worker, end) = rest.split_once(' ').unwrap();
        assert!(worker.parse::<u32>().is_ok(), "{complaints}");
        assert_eq!(end, how);
        number.parse().unwrap()
    });
    let lost: Vec<usize> = lost.collect();
    if !lost.is_empty() {
        assert_eq!(
            sum.unwrap(),
            format!(
                "tantara: {} of {count} customers {} not served",
                lost.len(),
                if lost.len() == 1 { "was" } else { "were" }
            )
        );
    }
    lost
}

const KILLED: &str = "was killed by signal 9 (SIGKILL)";

/// A running bank. It is killed at the end of the test.
struct Manager {
    process: Child,
    out: BufReader<ChildStdout>,
    output: String,
}

impl Manager {
    fn start(args: &[&str]) -> Manager {
        // A process group of its own, as a shell would create it.
        let mut process = bank(args).process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        Manager { process, out, output: String::new() }
    }

    /// Reads until there have been this many lines with these words.
    fn until(&mut self, words: &str, times: usize) {
        while self.output.matches(words).count() < times {
            assert_ne!(self.out.read_line(&mut self.output).unwrap(), 0, "it has ended: {}", self.output);
        }
    }

    /// The worker processes.
    fn workers(&self) -> Vec<u32> {
        let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let manager = self.process.id().to_string();
        all.filter(|&id| stat(id).is_some_and(|stat| stat[1] == manager)).collect()
    }

    /// Its standard output, its standard error and its exit code.
    fn end(mut self) -> (String, String, Option<i32>) {
        self.out.read_to_string(&mut self.output).unwrap();
        let mut complaints = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
        (std::mem::take(&mut self.output), complaints, self.process.wait().unwrap().code())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The fields of `/proc/PID/stat`; `None` if the process is dead.
fn stat(id: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let fields: Vec<_> = stat[stat.rfind(')')? + 1..].split_whitespace().map(str::to_owned).collect();
    (fields[0] != "Z").then_some(fields)
}

/// Whether each of its threads has stopped.
fn is_stopped(id: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let mut stats = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default());
    stats.all(|stat| stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T')))
}

fn kill(signal: &str, targets: &[u32]) {
    let targets = targets.iter().map(u32::to_string);
    assert!(Command::new("kill").arg(format!("-{signal}")).args(targets).status().unwrap().success());
}

/// Whether the condition becomes true, within a generous limit.
fn comes_true(is_so: impl Fn() -> bool) -> bool {
    let patience = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        if Instant::now() > patience {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Checks that the workers end by themselves after their manager has ended. Kills those that do not.
fn check_that_they_end(workers: &[u32]) {
    assert!(!workers.is_empty());
    if !comes_true(|| workers.iter().all(|&worker| stat(worker).is_none())) {
        let left: Vec<_> = workers.iter().copied().filter(|&worker| stat(worker).is_some()).collect();
        let states: Vec<_> = left.iter().map(|&worker| stat(worker).map(|stat| stat[0].clone())).collect();
        kill("KILL", &left);
        panic!("these workers are left behind: {left:?}, in states {states:?}");
    }
}

#[test]
fn the_lines_are_exact_with_any_number_of_workers() {
    for workers in ["1", "2", "4", "1000"] {
        for pace in ["0", "0.01"] {
            let output = run(&["--workers", workers, "--pace", pace]);
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            check_lines(&text(&output.stdout), 4, &[]);
        }
    }
}

#[test]
fn a_thousand_customers_are_served_by_eight_workers() {
    let output = run(&["--count", "1000", "--workers", "8", "--pace", "0"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    check_lines(&text(&output.stdout), 1000, &[]);
}

#[test]
fn workers_are_processes_and_no_more_of_them_than_customers() {
    for (customers, workers, expected) in [("4", "3", 3), ("2", "40", 2)] {
        let mut manager = Manager::start(&["--count", customers, "--workers", workers]);
        manager.until("is waiting for the bank", expected);
        assert_eq!(manager.workers().len(), expected);
    }
}

#[test]
fn customers_come_in_order() {
    let output = text(&run(&["--count", "20", "--workers", "1", "--pace", "0"]).stdout);
    let places = (1..=20).map(|n| output.find(&format!("Customer {n} is waiting for the bank")).unwrap());
    assert!(places.collect::<Vec<_>>().is_sorted());
}

/// Runs the bank, kills one of its workers after a line with these words, and returns the result.
fn with_one_killed(args: &[&str], all_in: usize, words: &str) -> (String, String, usize) {
    // A kill between two visits loses no customer, so try again.
    for _ in 0..20 {
        let mut manager = Manager::start(args);
        manager.until(" is waiting for the bank", all_in);
        manager.until(words, 1);
        let victim = manager.workers()[0];
        kill("KILL", &[victim]);
        let (output, complaints, code) = manager.end();
        if code == Some(125) {
            assert!(complaints.contains(&format!("worker {victim} {KILLED}\n")), "{complaints}");
            let lost = check_losses(&complaints, 6, KILLED);
            assert_eq!(lost.len(), 1, "{complaints}");
            return (output, complaints, lost[0]);
        }
        assert_eq!((code, &*complaints), (Some(0), ""));
    }
    panic!("nobody was ever lost")
}

/// In each step of a visit. With a single worker, the other customers show that a new worker replaces it.
#[test]
fn a_killed_worker_loses_only_its_customer() {
    // In parallel, because they mostly sleep.
    thread::scope(|cases| {
        for words in ["is waiting for the bank", "entered the bank", "waiting for transactions", "is starting their"] {
            for workers in [1, 4] {
                cases.spawn(move || {
                    let args = ["--count", "6", "--workers", &workers.to_string(), "--pace", "0.3"];
                    let (output, _, lost) = with_one_killed(&args, workers, words);
                    check_lines(&output, 6, &[lost]);
                });
            }
        }
    });
}

#[test]
fn the_end_of_a_worker_is_reported() {
    for (signal, how) in [("TERM", "was killed by signal 15 (SIGTERM)"), ("SEGV", "was killed by signal 11 (SIGSEGV)")]
    {
        let mut manager = Manager::start(&["--pace", "0.5"]);
        manager.until("is waiting for the bank", 4);
        kill(signal, &manager.workers()[..1]);
        let (output, complaints, _) = manager.end();
        // The status also says whether there was a core dump.
        let complaints = complaints.replace(" (core dumped)", "");
        check_lines(&output, 4, &check_losses(&complaints, 4, how));
    }
}

#[test]
fn the_run_continues_when_all_workers_are_killed_at_once() {
    let mut manager = Manager::start(&["--count", "20", "--workers", "5", "--pace", "0.2"]);
    manager.until("is waiting for the bank", 5);
    kill("KILL", &manager.workers());
    let (output, complaints, code) = manager.end();
    assert_eq!(code, Some(125));
    let lost = check_losses(&complaints, 20, KILLED);
    assert_eq!(lost.len(), 5, "{complaints}");
    check_lines(&output, 20, &lost);
}

#[test]
fn the_run_continues_however_often_workers_are_killed() {
    let mut manager = Manager::start(&["--count", "30", "--workers", "3", "--pace", "0.05"]);
    for customers in 1..=10 {
        manager.until("is waiting for the bank", 2 + customers);
        if let Some(&worker) = manager.workers().first() {
            // It may have ended by itself meanwhile.
            let _ = Command::new("kill").args(["-KILL", &worker.to_string()]).stderr(Stdio::null()).status();
        }
    }
    let (output, complaints, _) = manager.end();
    let lost = check_losses(&complaints, 30, KILLED);
    assert!((1..=10).contains(&lost.len()), "{complaints}");
    check_lines(&output, 30, &lost);
}

#[test]
fn a_stopped_worker_delays_only_its_customer() {
    let mut manager = Manager::start(&["--count", "5", "--workers", "2", "--pace", "0.1"]);
    manager.until("is waiting for the bank", 2);
    let workers = manager.workers();
    kill("STOP", &workers[..1]);
    // All but one.
    manager.until("exited bank", 4);
    kill("CONT", &workers[..1]);
    let (output, complaints, code) = manager.end();
    assert_eq!((code, &*complaints), (Some(0), ""));
    check_lines(&output, 5, &[]);
}

#[test]
fn a_killed_manager_leaves_no_worker_behind() {
    for words in ["is waiting for the bank", "waiting for transactions", "is starting their"] {
        let mut manager = Manager::start(&["--pace", "0.5"]);
        manager.until(words, 1);
        let workers = manager.workers();
        // Even with a command that cannot be run.
        kill("STOP", &workers[..1]);
        // The kernel continues a process of an orphaned group only if it has stopped already, with all its threads.
        assert!(comes_true(|| is_stopped(workers[0])));
        kill("KILL", &[manager.process.id()]);
        check_that_they_end(&workers);
        assert_eq!(manager.end().1, "", "workers print nothing");
    }
}

/// Ctrl-C signals the whole process group of the terminal.
#[test]
fn an_interrupt_ends_the_run_as_that_signal_without_reports_of_lost_customers() {
    let dir = tempfile::tempdir().unwrap();
    let svg = dir.path().join("day.svg");
    for words in ["is waiting for the bank", "is starting their"] {
        for (signal, number) in [("INT", 2), ("TERM", 15)] {
            let mut manager = Manager::start(&["--pace", "0.5", "--timeline", svg.to_str().unwrap()]);
            manager.until(words, 1);
            let workers = manager.workers();
            let group = format!("-{}", manager.process.id());
            assert!(Command::new("kill").args([&format!("-{signal}"), "--", &group]).status().unwrap().success());
            assert_eq!(manager.process.wait().unwrap().signal(), Some(number));
            check_that_they_end(&workers);
            let complaints = manager.end().1;
            assert!(complaints.starts_with("tantara: interrupted; "), "{complaints}");
            assert_eq!(complaints.lines().count(), 1, "{complaints}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "an unfinished file is left behind");
        }
    }
}

#[test]
fn a_closed_standard_output_ends_the_run_quietly() {
    let mut command = bank(&["--count", "5000", "--pace", "0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn figures_timeline_and_trace_contain_the_scope_and_lost_customers() {
    let dir = tempfile::tempdir().unwrap();
    let (svg, json) = (dir.path().join("day.svg"), dir.path().join("day.json"));
    let drawn = ["--timeline", svg.to_str().unwrap(), "--trace", json.to_str().unwrap()];
    let marks = |json: &Path| {
        let trace: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let with = |key: &str, value: &str| events.iter().filter(|event| event[key] == value).count();
        (with("ph", "X"), with("name", "lost"))
    };

    let output = run(&[&["--count", "10", "--pace", "0.01", "--json"], &drawn[..]].concat());
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(figures["reach"], "processes");
    assert_eq!(figures["customers"], 10);
    assert_eq!(figures["released"]["bank_open"], 10);
    assert_eq!(figures["released"]["transactions_open"], 7);
    assert_eq!(figures["lost"], Value::Array(vec![]));
    assert!((1..=4).contains(&figures["peak_waiting"].as_u64().unwrap()), "{figures}");
    assert_eq!(marks(&json), (10 * 2 + 7, 0));
    assert!(!fs::read_to_string(&svg).unwrap().contains("lost (×)"));

    let (output, _, lost) =
        with_one_killed(&[&["--count", "6", "--pace", "0.3"], &drawn[..]].concat(), 4, "is starting");
    check_lines(&output, 6, &[lost]);
    assert_eq!(marks(&json).1, 1);
    let picture = fs::read_to_string(&svg).unwrap();
    assert!(picture.contains("one was lost (×)") && picture.contains(&format!("Customer {lost}")), "{picture}");
}

#[test]
fn figures_contain_lost_customers() {
    // There are no lines to wait for. A kill before the first customer or after the last one loses no customer.
    for _ in 0..20 {
        let manager = Manager::start(&["--count", "6", "--workers", "2", "--pace", "0.2", "--json"]);
        assert!(comes_true(|| !manager.workers().is_empty()));
        thread::sleep(Duration::from_millis(100));
        kill("KILL", &manager.workers()[..1]);
        let (json, complaints, _) = manager.end();
        let lost = check_losses(&complaints, 6, KILLED);
        let figures: Value = serde_json::from_str(&json).unwrap();
        let names: Vec<Value> = lost.iter().map(|number| format!("Customer {number}").into()).collect();
        assert_eq!(figures["lost"], Value::Array(names));
        assert_eq!(figures["customers"], 6 - lost.len());
        if !lost.is_empty() {
            return;
        }
    }
    panic!("nobody was ever lost");
}

#[test]
fn too_many_workers_are_refused_before_anything_runs() {
    let output = run(&["--workers", "1001"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let complaint = "tantara: --reach processes takes at most 1000 workers, not 1001; see tantara bank --help\n";
    assert_eq!(text(&output.stderr), complaint);
}

/// With increasing limits of open files: the run either succeeds or reports the error in one line.
#[test]
fn workers_that_cannot_be_started_fail_the_run() {
    let mut refused = 0;
    for files in (9..60).step_by(3) {
        let program = env!("CARGO_BIN_EXE_tantara");
        let script =
            format!("ulimit -n {files}; exec '{program}' bank --reach processes --count 12 --workers 12 --pace 0");
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let complaint = text(&output.stderr);
        if output.status.success() {
            check_lines(&text(&output.stdout), 12, &[]);
            continue;
        }
        assert_eq!(output.status.code(), Some(125), "{files} files: {complaint}");
        assert!(complaint.starts_with("tantara: ") && complaint.contains("Too many open files"), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        refused += usize::from(complaint.contains("cannot start a worker"));
    }
    assert!(refused > 0);
}

#[test]
fn the_subcommand_of_workers_is_hidden_and_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_tantara")).args(["worker-of-bank", "0", "1", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(text(&output.stderr).lines().count(), 1, "{output:?}");
    let help = Command::new(env!("CARGO_BIN_EXE_tantara")).arg("--help").output().unwrap();
    assert!(!text(&help.stdout).contains("worker-of-bank"));
}

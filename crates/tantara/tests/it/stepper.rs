//! A process that lets its children do one thing with an event, and kills each at a given instruction.
//!
//! It reads requests from its standard input, one per line, and writes answers to its standard output. Single steps to
//! each of thousands of instructions would take too long. So one child is stepped all the way, and its addresses are
//! recorded. Every other child is stopped by a trap at the address, the given number of times. A child that takes
//! another path (for example, a carry in a subtraction of times) is missed; the next one is stepped the last bit.
//!
//! It is asked over its standard input, one line at a time, and answers over its standard output. To get a child to an
//! instruction by single steps would take too long for thousands of them. So one child is stepped all the way, and the
//! places where it was are noted; each other child is stopped by a trap at its place, when it comes by there as often
//! as the first one did. One that takes another way (it had to borrow a second when it subtracted two times) is missed;
//! the next is stepped the last bit.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use tantara::SharedEvent;

use crate::child_process::ChildProcess;
use crate::children::is_asleep;
use crate::ptrace::{self, Traced};

/// The prefix of answers, because the test harness also writes to standard output.
const ANSWER: &str = "> ";

/// The process, as the test sees it.
#[derive(Debug)]
pub(crate) struct Stepper {
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    _participant: ChildProcess,
}

impl Stepper {
    /// A process whose children do `action` to events of `directory`. If `warm`, it has done so itself before it forks,
    /// so that what is made once per process exists. `None`, with a line that says so, where tracing is forbidden.
    pub(crate) fn start(directory: &Path, action: &str, warm: bool) -> Option<Stepper> {
        let task = ["step", directory.to_str().unwrap(), action, if warm { "warm" } else { "cold" }];
        let mut participant =
            ChildProcess::command(task).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map(ChildProcess).unwrap();
        let (questions, answers) = (participant.0.stdin.take().unwrap(), participant.0.stdout.take().unwrap());
        let mut stepper = Stepper { questions, answers: BufReader::new(answers), _participant: participant };
        if stepper.answer() == "ready" {
            return Some(stepper);
        }
        println!("SKIPPED: this process may not trace its children");
        None
    }

    /// Lets a child do it to the end, and returns after how many instructions to kill others: after each; or in code
    /// that is not optimised and has thousands, after a thousand of them. If the child falls asleep for long, the
    /// event is set.
    pub(crate) fn points(&mut self, name: &str) -> Vec<usize> {
        let points = self.ask(&format!("trace {name}"));
        points.split(' ').map(|point| point.parse().unwrap()).collect()
    }

    /// Kills a child after this many instructions, and returns its process. `None` if the child was missed and has
    /// done it to the end; another may be caught.
    pub(crate) fn kill(&mut self, name: &str, instructions: usize) -> (bool, u32) {
        let answer = self.ask(&format!("kill {name} {instructions}"));
        let (outcome, process) = answer.split_once(' ').unwrap();
        (outcome == "killed", process.parse().unwrap())
    }

    /// Kills a child in its sleep, the first one or another, and returns its process. Before that, `while_asleep` is
    /// called with it.
    pub(crate) fn kill_asleep(&mut self, name: &str, sleep: usize, while_asleep: impl FnOnce(u32)) {
        while_asleep(self.ask(&format!("sleep {name} {sleep}")).parse().unwrap());
        assert_eq!(self.ask("kill"), "killed");
    }

    /// Does `signal` to the event after this many instructions of a child. Whether the child ends from there without
    /// falling asleep; `None` if it was missed.
    pub(crate) fn comes_through(&mut self, name: &str, instructions: usize, signal: &str) -> Option<bool> {
        match &*self.ask(&format!("signal {name} {instructions} {signal}")) {
            "missed" => None,
            outcome => Some(outcome == "through"),
        }
    }

    fn ask(&mut self, question: &str) -> String {
        writeln!(self.questions, "{question}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the stepper has failed");
            // The test harness does not always end its line.
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return answer.trim_end().to_owned();
            }
        }
    }
}

/// The process, as it sees itself.
#[derive(Default)]
struct Steps {
    directory: PathBuf,
    action: String,
    /// The addresses of the first child, instruction by instruction, with the number of earlier visits.
    path: Vec<(u64, usize)>,
    /// The system calls in which it may fall asleep.
    sleeps: Vec<u64>,
    /// After how many instructions a trap last reached a child.
    last: usize,
    /// After how many instructions it did not.
    missed: HashSet<usize>,
}

pub(crate) fn step(directory: &Path, words: &[&str]) {
    let [action, warmth] = *words else { panic!("what to step, and how?") };
    let answer = |answer: &str| writeln!(io::stdout().lock(), "{ANSWER}{answer}").unwrap();
    if !ptrace::is_allowed() {
        return answer("forbidden");
    }
    let mut steps = Steps { directory: directory.to_owned(), action: action.to_owned(), ..Steps::default() };
    if warmth == "warm" {
        steps.warm_up();
    }
    answer("ready");
    let mut questions = io::stdin().lines().map(Result::unwrap);
    while let Some(question) = questions.next() {
        match question.split(' ').collect::<Vec<_>>()[..] {
            ["trace", name] => answer(&steps.trace(name)),
            ["kill", name, instructions] => {
                let (child, has_reached) = steps.reach(name, instructions.parse().unwrap(), "set");
                let (process, outcome) = (child.pid(), if has_reached { "killed" } else { "missed" });
                drop(child);
                answer(&format!("{outcome} {process}"));
            }
            ["sleep", name, sleep] => {
                let sleeper = steps.asleep(name, sleep.parse().unwrap());
                answer(&sleeper.pid().to_string());
                questions.next();
                drop(sleeper);
                answer("killed");
            }
            ["signal", name, instructions, signal] => {
                answer(steps.comes_through(name, instructions.parse().unwrap(), signal));
            }
            _ => panic!("a stepper knows no {question:?}"),
        }
    }
}

fn perform(action: &str, event: &SharedEvent) {
    match action {
        "set" => event.set().unwrap(),
        "set-with-note" => event.set_with_note("why").unwrap(),
        "clear" => event.clear().unwrap(),
        "pulse" => event.pulse().unwrap(),
        "wait" => drop(event.wait()),
        "remove" => drop(event.remove().unwrap()),
        // It lasts until the process ends.
        "hold" => mem::forget(event.hold().unwrap()),
        _ => panic!("a stepper cannot {action}"),
    }
}

impl Steps {
    fn open(&self, name: &str) -> SharedEvent {
        SharedEvent::open_in(&self.directory, name).unwrap()
    }

    /// On a thread of its own, whose thread-locals the children do not inherit.
    fn warm_up(&self) {
        let event = self.open("warm-up");
        let work = move || {
            event.wait_timeout(Duration::from_millis(30)).unwrap();
            event.set().unwrap();
            event.wait().unwrap();
            event.clear().unwrap();
            event.set_with_note("warm").unwrap();
            event.clear().unwrap();
            drop(event.hold().unwrap());
            event.remove().unwrap();
        };
        thread::spawn(work).join().unwrap();
    }

    fn child(&self, name: &str) -> Traced {
        Traced::start(|| {
            let event = self.open(name);
            let mut hold = (self.action == "end-hold").then(|| event.hold().unwrap());
            ptrace::mark();
            if hold.is_some() {
                hold = None;
            } else {
                perform(&self.action, &event);
            }
            ptrace::mark();
            drop(hold);
        })
    }

    fn trace(&mut self, name: &str) -> String {
        let (mut child, event, mut count) = (self.child(name), self.open(name), 0);
        let mut passes = HashMap::new();
        while !child.is_at_mark() {
            let place = child.place();
            let before = passes.entry(place).or_insert(0);
            self.path.push((place, *before));
            *before += 1;
            if would_sleep(&child) && !self.sleeps.contains(&place) {
                self.sleeps.push(place);
            }
            one_step(&mut child, &mut count, || event.set().unwrap());
        }
        let stride = if cfg!(debug_assertions) { self.path.len().div_ceil(1_000) } else { 1 };
        let points = (0..self.path.len()).step_by(stride).chain([self.path.len()]);
        points.map(|point| point.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// A child after this many instructions, and whether it got there; otherwise it has ended.
    fn reach(&mut self, name: &str, instructions: usize, signal: &str) -> (Traced, bool) {
        let directory = self.directory.clone();
        let signal = || perform(signal, &SharedEvent::open_in(&directory, name).unwrap());
        let (mut child, mut sleeps) = (self.child(name), 0);
        // An instruction that no trap reaches is some steps from one that a trap reaches.
        let by_trap = if self.missed.contains(&instructions) { self.last } else { instructions };
        let (place, mut to_come) = self.path.get(by_trap).copied().unwrap_or_default();
        if by_trap < self.path.len() {
            child.trap(place);
        }
        self.sleeps.iter().for_each(|&place| child.trap(place));
        loop {
            let at = child.go_on();
            if at == Some(place) && to_come == 0 || at.is_none() && by_trap == self.path.len() {
                break;
            }
            if at.is_none() {
                if !self.missed.insert(instructions) {
                    // Also by a rare path.
                    self.last = self.last.saturating_sub(50);
                }
                return (child, false);
            }
            to_come -= usize::from(at == Some(place));
            child.over_trap(|child| one_step(child, &mut sleeps, signal));
        }
        self.last = by_trap;
        for _ in by_trap..instructions {
            if !child.is_at_mark() {
                child.over_trap(|child| one_step(child, &mut sleeps, signal));
            }
        }
        (child, true)
    }

    fn asleep(&self, name: &str, sleep: usize) -> Traced {
        let (mut child, mut sleeps) = (self.child(name), 0);
        self.sleeps.iter().for_each(|&place| child.trap(place));
        while child.go_on().is_some() {
            if would_sleep(&child) {
                sleeps += 1;
                if sleeps == sleep {
                    break;
                }
                sleep_for(&child, Duration::from_nanos(1));
            }
            child.over_trap(Traced::step);
        }
        child.over_trap(|child| fall_asleep(child));
        child
    }

    fn comes_through(&mut self, name: &str, instructions: usize, signal: &str) -> &'static str {
        let (mut child, has_reached) = self.reach(name, instructions, signal);
        if !has_reached {
            return "missed";
        }
        perform(signal, &self.open(name));
        self.sleeps.iter().for_each(|&place| child.trap(place));
        loop {
            if child.is_at_mark() {
                return "through";
            }
            if would_sleep(&child) {
                return "asleep";
            }
            child.over_trap(Traced::step);
            if child.go_on().is_none() {
                return "through";
            }
        }
    }
}

/// The first sleep is short and ends at once. `signal` wakes the sleeper from the second.
fn one_step(child: &mut Traced, sleeps: &mut usize, signal: impl Fn()) {
    if !would_sleep(child) {
        return child.step();
    }
    *sleeps += 1;
    if *sleeps == 1 {
        sleep_for(child, Duration::from_nanos(1));
        return child.step();
    }
    fall_asleep(child);
    signal();
    child.until_stopped();
}

/// Whether the child is about to sleep, and the word has the expected value.
fn would_sleep(child: &Traced) -> bool {
    child.call().is_some_and(|call| {
        let [word, operation, expected, _] = call.arguments;
        call.number == libc::SYS_futex
            && operation == libc::FUTEX_WAIT as u64
            && u32::from_ne_bytes(child.peek(word)) == expected as u32
    })
}

/// Changes how long it is about to sleep.
fn sleep_for(child: &Traced, time: Duration) {
    let timeout = child.call().unwrap().arguments[3];
    child.poke(timeout, &time.as_secs().to_ne_bytes());
    child.poke(timeout + 8, &u64::from(time.subsec_nanos()).to_ne_bytes());
}

/// Returns once it sleeps until it is woken.
fn fall_asleep(child: &Traced) {
    sleep_for(child, Duration::from_secs(3_600));
    child.begin_step();
    while !is_asleep(child.pid(), child.pid()) {
        thread::sleep(Duration::from_micros(20));
    }
}

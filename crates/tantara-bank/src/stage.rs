//! The record of a run: reports events to the [`Audience`], counts, and keeps the notes that
//! pictures are drawn from.

use std::fmt;
use std::mem;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::customer::Customer;
use crate::plan::Plan;
use crate::script::{self, Gate, Line, Pace};

/// Receives a line.
pub type HearLine = Box<dyn Fn(fmt::Arguments<'_>) + Send + Sync>;

/// Receives a lost customer, and the reason.
pub type HearLoss = Box<dyn Fn(&Customer, &str) + Send + Sync>;

/// The callbacks of a run. They are called by several threads at once.
pub struct Audience {
    /// Called with every line. `None` saves formatting them.
    pub lines: Option<HearLine>,
    /// Called for every customer who was served.
    pub served: Option<Box<dyn Fn() + Send + Sync>>,
    /// Called for every customer who was lost because the worker process died.
    pub lost: Option<HearLoss>,
    /// Whether to record the steps of each customer, for pictures.
    pub keeps_notes: bool,
}

impl Audience {
    /// No callbacks.
    #[must_use]
    pub fn nobody() -> Audience {
        Audience { lines: None, served: None, lost: None, keeps_notes: false }
    }
}

impl fmt::Debug for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audience")
            .field("lines", &self.lines.is_some())
            .field("served", &self.served.is_some())
            .field("lost", &self.lost.is_some())
            .field("keeps_notes", &self.keeps_notes)
            .finish()
    }
}

/// A step of a customer that takes time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Waiting for an event.
    Waiting(Gate),
    /// Being served.
    Served,
}

/// A phase with its beginning and end, since the beginning of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The phase.
    pub phase: Phase,
    /// Its beginning.
    pub from: Duration,
    /// Its end.
    pub to: Duration,
}

/// The phases of one customer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visit {
    /// The index of the customer in the plan.
    pub customer: usize,
    /// The phases, in order.
    pub spans: Vec<Span>,
    /// When the customer was lost, if so; the last span is the phase at that moment.
    pub lost: Option<Duration>,
}

/// The figures of a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Summary {
    /// The number of customers who were served.
    pub customers: usize,
    /// The indices of lost customers in the plan.
    pub lost: Vec<usize>,
    /// The time from the first line to the last.
    pub took: Duration,
    /// The maximum number of customers who waited at the same time.
    pub peak_waiting: usize,
    /// The number of waits that `bank_open` released.
    pub released_by_bank_open: usize,
    /// The number of waits that `transactions_open` released.
    pub released_by_transactions_open: usize,
}

/// The result of a run: the figures, and the record if it was kept.
#[derive(Clone, Debug)]
pub struct Run {
    /// The figures.
    pub summary: Summary,
    /// The customers.
    pub customers: Vec<Customer>,
    /// The visits, in the order of the plan. Empty if no record was kept.
    pub visits: Vec<Visit>,
    /// When each event was set.
    pub opened: Vec<(Gate, Duration)>,
}

/// Records one run. Runners call it for everything that happens.
#[derive(Debug)]
pub struct Stage {
    plan: Plan,
    audience: Audience,
    began: Instant,
    waiting: AtomicUsize,
    peak_waiting: AtomicUsize,
    released: [AtomicUsize; 2],
    served: AtomicUsize,
    lost: Mutex<Vec<usize>>,
    opened: [OnceLock<Duration>; 2],
    visits: Mutex<Vec<Visit>>,
}

impl Stage {
    pub(crate) fn new(plan: Plan, audience: Audience) -> Stage {
        let notes = if audience.keeps_notes { plan.customers.len() } else { 0 };
        Stage {
            plan,
            audience,
            began: Instant::now(),
            waiting: AtomicUsize::new(0),
            peak_waiting: AtomicUsize::new(0),
            released: [AtomicUsize::new(0), AtomicUsize::new(0)],
            served: AtomicUsize::new(0),
            lost: Mutex::new(Vec::new()),
            opened: [OnceLock::new(), OnceLock::new()],
            visits: Mutex::new(Vec::with_capacity(notes)),
        }
    }

    pub(crate) fn customers(&self) -> &[Customer] {
        &self.plan.customers
    }

    pub(crate) fn workers(&self) -> usize {
        self.plan.workers
    }

    pub(crate) fn pace(&self) -> Pace {
        self.plan.pace
    }

    /// Prints a line of the manager.
    pub(crate) fn announce(&self, line: &str) {
        if let Some(lines) = &self.audience.lines {
            lines(format_args!("{line}"));
        }
    }

    /// Records that an event is set. Called just before, so that no customer seems to enter
    /// earlier.
    pub(crate) fn opens(&self, gate: Gate) {
        // Each event is set once.
        let _ = self.opened[gate as usize].set(self.began.elapsed());
    }

    /// Begins the visit of a customer.
    pub(crate) fn enter(&self, customer: usize) -> OpenVisit<'_> {
        OpenVisit { stage: self, visit: Visit { customer, spans: Vec::new(), lost: None }, phase: None }
    }

    /// Prints the last line and ends the run.
    pub(crate) fn close(self) -> Run {
        let mut lost = mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        lost.sort_unstable();
        self.announce(if lost.is_empty() { script::ALL_DONE } else { script::OTHERS_DONE });
        let count = |count: &AtomicUsize| count.load(Relaxed);
        let summary = Summary {
            customers: count(&self.served),
            lost,
            took: self.began.elapsed(),
            peak_waiting: count(&self.peak_waiting),
            released_by_bank_open: count(&self.released[Gate::Bank as usize]),
            released_by_transactions_open: count(&self.released[Gate::Transactions as usize]),
        };
        let mut visits = self.visits.into_inner().unwrap_or_else(PoisonError::into_inner);
        visits.sort_unstable_by_key(|visit| visit.customer);
        let opened = Gate::ALL.into_iter().filter_map(|gate| Some((gate, *self.opened[gate as usize].get()?)));
        Run { summary, opened: opened.collect(), visits, customers: self.plan.customers }
    }
}

/// The visit of a customer who has not left yet.
#[derive(Debug)]
pub(crate) struct OpenVisit<'a> {
    stage: &'a Stage,
    visit: Visit,
    /// The current phase and its beginning.
    phase: Option<(Phase, Duration)>,
}

impl OpenVisit<'_> {
    pub(crate) fn say(&self, line: Line) {
        if let Some(lines) = &self.stage.audience.lines {
            lines(format_args!("{}", line.of(&self.customer().name)));
        }
    }

    /// Begins a phase.
    pub(crate) fn begin(&mut self, phase: Phase) {
        if let Phase::Waiting(_) = phase {
            let waiting = self.stage.waiting.fetch_add(1, Relaxed) + 1;
            // A load first, because it is cheaper than a contended write, and the peak rarely
            // grows.
            if waiting > self.stage.peak_waiting.load(Relaxed) {
                self.stage.peak_waiting.fetch_max(waiting, Relaxed);
            }
        }
        let from = if self.stage.audience.keeps_notes { self.stage.began.elapsed() } else { Duration::ZERO };
        self.phase = Some((phase, from));
    }

    /// Ends the phase.
    pub(crate) fn end(&mut self) {
        if let Some(Phase::Waiting(gate)) = self.stop() {
            self.stage.released[gate as usize].fetch_add(1, Relaxed);
        }
    }

    /// Ends the phase, for whatever reason, and returns it.
    fn stop(&mut self) -> Option<Phase> {
        let (phase, from) = self.phase.take()?;
        if let Phase::Waiting(_) = phase {
            self.stage.waiting.fetch_sub(1, Relaxed);
        }
        if self.stage.audience.keeps_notes {
            self.visit.spans.push(Span { phase, from, to: self.stage.began.elapsed() });
        }
        Some(phase)
    }

    pub(crate) fn leave(self) {
        self.stage.served.fetch_add(1, Relaxed);
        if let Some(served) = &self.stage.audience.served {
            served();
        }
        self.close();
    }

    /// Ends the visit because the worker process died. A customer who was waiting was not released.
    pub(crate) fn lose(mut self, how: &str) {
        self.stop();
        self.visit.lost = Some(self.stage.began.elapsed());
        self.stage.lost.lock().unwrap_or_else(PoisonError::into_inner).push(self.visit.customer);
        if let Some(lost) = &self.stage.audience.lost {
            lost(self.customer(), how);
        }
        self.close();
    }

    fn close(self) {
        if self.stage.audience.keeps_notes {
            self.stage.visits.lock().unwrap_or_else(PoisonError::into_inner).push(self.visit);
        }
    }

    fn customer(&self) -> &Customer {
        &self.stage.plan.customers[self.visit.customer]
    }
}

//! Where a run takes place: it speaks to the audience, counts, and keeps the notes that the pictures are drawn from.

use std::fmt;
use std::mem;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::customer::Customer;
use crate::plan::Plan;
use crate::script::{self, Gate, Line, Pace};

/// Hears a line.
pub type HearLine = Box<dyn Fn(fmt::Arguments<'_>) + Send + Sync>;

/// Hears that a customer was lost, and how.
pub type HearLoss = Box<dyn Fn(&Customer, &str) + Send + Sync>;

/// Who is told what happens, while it happens. Everything is called from many threads at once.
pub struct Audience {
    /// Hears every line. `None` spares the work of making them.
    pub lines: Option<HearLine>,
    /// Is told of every customer who has left.
    pub served: Option<Box<dyn Fn() + Send + Sync>>,
    /// Is told of every customer who was lost, because who carried them has died.
    pub lost: Option<HearLoss>,
    /// Whether to note what each customer did and when, for the pictures.
    pub keeps_notes: bool,
}

impl Audience {
    /// Nobody listens.
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

/// What a customer does for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Waiting for an event.
    Waiting(Gate),
    /// Being served.
    Served,
}

/// A while: a phase with its begin and end, counted from the begin of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// What happened.
    pub phase: Phase,
    /// From when.
    pub from: Duration,
    /// Until when.
    pub to: Duration,
}

/// What one customer did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visit {
    /// Which customer of the plan.
    pub customer: usize,
    /// What they did, in order.
    pub spans: Vec<Span>,
    /// When they were lost, if they were; what they did then is the last of the spans.
    pub lost: Option<Duration>,
}

/// What came of a run, in figures.
#[derive(Clone, PartialEq, Debug)]
pub struct Summary {
    /// How many customers were served.
    pub customers: usize,
    /// Who was lost, by their places in the plan.
    pub lost: Vec<usize>,
    /// From the first line to the last.
    pub took: Duration,
    /// The most who waited for an event at the same moment.
    pub peak_waiting: usize,
    /// How many waits `bank_open` ended.
    pub released_by_bank_open: usize,
    /// How many waits `transactions_open` ended.
    pub released_by_transactions_open: usize,
}

/// A run that is over: the figures, and the notes, if they were kept.
#[derive(Clone, Debug)]
pub struct Run {
    /// The figures.
    pub summary: Summary,
    /// Who came.
    pub customers: Vec<Customer>,
    /// What everyone did, in the order of the plan. Empty if no notes were kept.
    pub visits: Vec<Visit>,
    /// When each event was set.
    pub opened: Vec<(Gate, Duration)>,
}

/// The stage of one run. Runners call it for everything that happens.
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

    #[cfg(target_os = "linux")]
    pub(crate) fn workers(&self) -> usize {
        self.plan.workers
    }

    pub(crate) fn pace(&self) -> Pace {
        self.plan.pace
    }

    /// The manager says something.
    pub(crate) fn announce(&self, line: &str) {
        if let Some(lines) = &self.audience.lines {
            lines(format_args!("{line}"));
        }
    }

    /// The manager has set an event. Called before the event is set, so that nobody seems to enter before it.
    pub(crate) fn opens(&self, gate: Gate) {
        // Each event is set once.
        let _ = self.opened[gate as usize].set(self.began.elapsed());
    }

    /// A customer comes in. The visit is theirs to note in until they leave.
    pub(crate) fn enter(&self, customer: usize) -> OpenVisit<'_> {
        OpenVisit { stage: self, visit: Visit { customer, spans: Vec::new(), lost: None }, phase: None }
    }

    /// Says the last line and ends the run.
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

/// A customer inside the bank.
#[derive(Debug)]
pub(crate) struct OpenVisit<'a> {
    stage: &'a Stage,
    visit: Visit,
    /// What they do for a while, and since when.
    phase: Option<(Phase, Duration)>,
}

impl OpenVisit<'_> {
    pub(crate) fn say(&self, line: Line) {
        if let Some(lines) = &self.stage.audience.lines {
            lines(format_args!("{}", line.of(&self.customer().name)));
        }
    }

    /// A phase begins.
    pub(crate) fn begin(&mut self, phase: Phase) {
        if let Phase::Waiting(_) = phase {
            let waiting = self.stage.waiting.fetch_add(1, Relaxed) + 1;
            // Most often the peak is not ours; a look is cheaper than a write that many want to make.
            if waiting > self.stage.peak_waiting.load(Relaxed) {
                self.stage.peak_waiting.fetch_max(waiting, Relaxed);
            }
        }
        let from = if self.stage.audience.keeps_notes { self.stage.began.elapsed() } else { Duration::ZERO };
        self.phase = Some((phase, from));
    }

    /// The phase has come to its end.
    pub(crate) fn end(&mut self) {
        if let Some(Phase::Waiting(gate)) = self.stop() {
            self.stage.released[gate as usize].fetch_add(1, Relaxed);
        }
    }

    /// Nothing goes on any more, for whatever reason. Which phase it was.
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

    /// Who carried the customer has died, which only a process can do alone. One who was waiting then was not released.
    #[cfg(target_os = "linux")]
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

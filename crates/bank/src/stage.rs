//! Where a run takes place: it speaks to the audience, counts, and keeps the notes that the pictures are drawn from.

use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::Plan;
use crate::customer::Customer;
use crate::script::{Gate, Line, Pace};

/// Hears a line.
pub type HearLine = Box<dyn Fn(fmt::Arguments<'_>) + Send + Sync>;

/// Who is told what happens, while it happens. Everything is called from many threads at once.
pub struct Audience {
    /// Hears every line. `None` spares the work of making them.
    pub lines: Option<HearLine>,
    /// Is told of every customer who has left.
    pub served: Option<Box<dyn Fn() + Send + Sync>>,
    /// Whether to note what each customer did and when, for the pictures.
    pub keeps_notes: bool,
}

impl Audience {
    /// Nobody listens.
    #[must_use]
    pub fn nobody() -> Audience {
        Audience { lines: None, served: None, keeps_notes: false }
    }
}

impl fmt::Debug for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audience")
            .field("lines", &self.lines.is_some())
            .field("served", &self.served.is_some())
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
}

/// What came of a run, in figures.
#[derive(Clone, PartialEq, Debug)]
pub struct Summary {
    /// How many customers were served.
    pub customers: usize,
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
            opened: [OnceLock::new(), OnceLock::new()],
            visits: Mutex::new(Vec::with_capacity(notes)),
        }
    }

    pub(crate) fn customers(&self) -> &[Customer] {
        &self.plan.customers
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
        OpenVisit { stage: self, visit: Visit { customer, spans: Vec::new() } }
    }

    /// Ends the run.
    pub(crate) fn close(self) -> Run {
        let count = |count: &AtomicUsize| count.load(Relaxed);
        let summary = Summary {
            customers: count(&self.served),
            took: self.began.elapsed(),
            peak_waiting: count(&self.peak_waiting),
            released_by_bank_open: count(&self.released[Gate::Bank as usize]),
            released_by_transactions_open: count(&self.released[Gate::Transactions as usize]),
        };
        let mut visits = self.visits.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
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
}

impl OpenVisit<'_> {
    pub(crate) fn say(&self, line: Line) {
        if let Some(lines) = &self.stage.audience.lines {
            lines(format_args!("{}", line.of(&self.stage.plan.customers[self.visit.customer].name)));
        }
    }

    /// A phase begins; hand the answer to [`end`](Self::end).
    pub(crate) fn begin(&self, phase: Phase) -> Begun {
        if let Phase::Waiting(_) = phase {
            let waiting = self.stage.waiting.fetch_add(1, Relaxed) + 1;
            // Most often the peak is not ours; a look is cheaper than a write that many want to make.
            if waiting > self.stage.peak_waiting.load(Relaxed) {
                self.stage.peak_waiting.fetch_max(waiting, Relaxed);
            }
        }
        let from = if self.stage.audience.keeps_notes { self.stage.began.elapsed() } else { Duration::ZERO };
        Begun { phase, from }
    }

    pub(crate) fn end(&mut self, begun: Begun) {
        if let Phase::Waiting(gate) = begun.phase {
            self.stage.waiting.fetch_sub(1, Relaxed);
            self.stage.released[gate as usize].fetch_add(1, Relaxed);
        }
        if self.stage.audience.keeps_notes {
            let Begun { phase, from } = begun;
            self.visit.spans.push(Span { phase, from, to: self.stage.began.elapsed() });
        }
    }

    pub(crate) fn leave(self) {
        self.stage.served.fetch_add(1, Relaxed);
        if self.stage.audience.keeps_notes {
            self.stage.visits.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(self.visit);
        }
        if let Some(served) = &self.stage.audience.served {
            served();
        }
    }
}

/// A phase that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    phase: Phase,
    from: Duration,
}

//! The rules of the bank as data: the steps and lines of the manager and of the customers, in
//! order.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::customer::Kind;

/// One of the bank's two events.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Gate {
    /// `bank_open`
    Bank,
    /// `transactions_open`
    Transactions,
}

impl Gate {
    /// Both, in the order in which they are opened.
    pub const ALL: [Gate; 2] = [Gate::Bank, Gate::Transactions];

    /// The event's name.
    #[must_use]
    pub const fn event_name(self) -> &'static str {
        match self {
            Gate::Bank => "bank_open",
            Gate::Transactions => "transactions_open",
        }
    }
}

/// A line about a customer. [`Line::of`] inserts the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names of the lines")]
pub enum Line {
    WaitsForBank,
    EntersBank,
    WaitsForTransactions,
    StartsTransaction,
    CompletesTransaction,
    LeavesBank,
}

impl Line {
    /// The line as it is printed for the customer of this name.
    #[must_use]
    pub fn of(self, name: &str) -> impl fmt::Display {
        let rest = match self {
            Line::WaitsForBank => " is waiting for the bank to open.",
            Line::EntersBank => " entered the bank",
            Line::WaitsForTransactions => " is waiting for transactions to open.",
            Line::StartsTransaction => " is starting their transaction.",
            Line::CompletesTransaction => " completed transaction and exited bank",
            Line::LeavesBank => " has exited bank",
        };
        Spoken { name, rest }
    }
}

struct Spoken<'a> {
    name: &'a str,
    rest: &'static str,
}

impl fmt::Display for Spoken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        f.write_str(self.rest)
    }
}

/// One step of a customer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CustomerStep {
    /// Print a line.
    Say(Line),
    /// Wait for an event.
    Wait(Gate),
    /// Be served, for [`SERVICE`].
    BeServed,
}

/// One step of the manager.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ManagerStep {
    /// Print a line.
    Say(&'static str),
    /// Pause.
    Pause(Duration),
    /// Set an event.
    Open(Gate),
}

/// The time that serving a customer takes.
pub const SERVICE: Duration = Duration::from_secs(2);

/// The steps of the manager until both events are set.
pub const MANAGER: &[ManagerStep] = &[
    ManagerStep::Say("Bank manager is preparing to open the bank."),
    ManagerStep::Pause(Duration::from_secs(2)),
    ManagerStep::Say("Bank is now open!"),
    ManagerStep::Open(Gate::Bank),
    ManagerStep::Pause(Duration::from_secs(3)),
    ManagerStep::Say("Transactions are now open!"),
    ManagerStep::Open(Gate::Transactions),
];

/// The last line, if all customers were served.
pub const ALL_DONE: &str = "All customers have completed their transactions.";

/// The last line, if customers were lost.
pub const OTHERS_DONE: &str = "All other customers have completed their transactions.";

/// The steps of a customer of this kind.
#[must_use]
pub const fn customer(kind: Kind) -> &'static [CustomerStep] {
    use CustomerStep::{BeServed, Say, Wait};
    match kind {
        Kind::WithdrawMoney => &[
            Say(Line::WaitsForBank),
            Wait(Gate::Bank),
            Say(Line::EntersBank),
            Say(Line::WaitsForTransactions),
            Wait(Gate::Transactions),
            Say(Line::StartsTransaction),
            BeServed,
            Say(Line::CompletesTransaction),
        ],
        Kind::CheckBalance => {
            &[Say(Line::WaitsForBank), Wait(Gate::Bank), Say(Line::EntersBank), BeServed, Say(Line::LeavesBank)]
        }
    }
}

/// The factor by which every pause is multiplied: 1 for the default, 0 for no pauses.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pace(f64);

/// A pace that is not a number from 0 to [`Pace::MOST`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PaceError;

impl fmt::Display for PaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a number from 0 (no pauses) to {}, such as 1 or 0.01", Pace::MOST)
    }
}

impl Error for PaceError {}

impl Pace {
    /// The maximum: a million times the default, which takes some months.
    pub const MOST: f64 = 1e6;

    /// # Errors
    ///
    /// If `factor` is not a number from 0 to [`Pace::MOST`].
    pub fn new(factor: f64) -> Result<Pace, PaceError> {
        if (0.0..=Pace::MOST).contains(&factor) { Ok(Pace(factor)) } else { Err(PaceError) }
    }

    /// The length of a pause at this pace.
    #[must_use]
    pub fn of(self, pause: Duration) -> Duration {
        pause.mul_f64(self.0)
    }

    /// The factor.
    #[must_use]
    pub fn factor(self) -> f64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_has_the_exact_lines_in_order() {
        let said = |kind| -> Vec<String> {
            let say = |step: &CustomerStep| match step {
                CustomerStep::Say(line) => line.of("Ann").to_string(),
                CustomerStep::Wait(gate) => format!("<{}>", gate.event_name()),
                CustomerStep::BeServed => format!("<{} s>", SERVICE.as_secs()),
            };
            customer(kind).iter().map(say).collect()
        };
        assert_eq!(
            said(Kind::WithdrawMoney),
            [
                "Ann is waiting for the bank to open.",
                "<bank_open>",
                "Ann entered the bank",
                "Ann is waiting for transactions to open.",
                "<transactions_open>",
                "Ann is starting their transaction.",
                "<2 s>",
                "Ann completed transaction and exited bank",
            ]
        );
        assert_eq!(
            said(Kind::CheckBalance),
            [
                "Ann is waiting for the bank to open.",
                "<bank_open>",
                "Ann entered the bank",
                "<2 s>",
                "Ann has exited bank"
            ]
        );
    }

    #[test]
    fn a_pace_is_a_number_from_zero_up() {
        assert_eq!(Pace::new(0.0).unwrap().of(SERVICE), Duration::ZERO);
        assert_eq!(Pace::new(0.01).unwrap().of(SERVICE), Duration::from_millis(20));
        assert_eq!(Pace::new(1e6).unwrap().of(SERVICE), Duration::from_secs(2_000_000));
        for impossible in [-1.0, -f64::MIN_POSITIVE, f64::NAN, f64::INFINITY, 1e7] {
            assert_eq!(Pace::new(impossible), Err(PaceError), "{impossible}");
        }
    }
}

//! The command `tantara`.

#![forbid(unsafe_code)]
#![cfg_attr(not(shared_events), allow(dead_code, reason = "events beyond the process need more"))]

mod about;
mod args;
mod bank;
mod complete;
#[cfg(shared_events)]
mod events;
mod exit;
mod failure;
mod interrupt;
mod outfile;
mod output;
mod progress;
#[cfg_attr(not(shared_events), path = "reach_within_process.rs")]
mod reach;

use std::process::ExitCode;

fn main() -> ExitCode {
    exit::report_panics_in_one_line();
    complete::answer_if_requested();
    let outcome = args::parse().and_then(|args| interrupt::end_by_signals_as_process_1().map(|()| args));
    let outcome = outcome.and_then(|args| match args.action {
        args::Action::Reach(action) => action.run(args.place),
        args::Action::Bank(bank) => bank::run(bank, &args.place),
        args::Action::Completions { shell } => about::completions(shell),
        args::Action::Man => about::man(),
    });
    exit::code(outcome)
}

//! The command `tantara`.

#![deny(unsafe_code)]

mod about;
mod args;
mod bank;
mod complete;
mod events;
mod exit;
mod failure;
#[cfg(shared_events)]
mod local;
#[cfg(not(shared_events))]
#[path = "not_local.rs"]
mod local;
mod lock;
mod outfile;
mod output;
mod progress;
mod reach;
#[cfg(unix)]
#[path = "unix/mod.rs"]
mod system;
#[cfg(not(unix))]
#[path = "windows/mod.rs"]
mod system;

use std::process::ExitCode;

fn main() -> ExitCode {
    exit::report_panics_in_one_line();
    complete::answer_if_requested();
    let outcome = args::parse().and_then(|args| system::end_by_signals_as_process_1().map(|()| args));
    let outcome = outcome.and_then(|args| {
        local::publish_waits_in(args.place.dir.as_deref());
        match args.action {
            args::Action::Reach(action) => action.run(args.place),
            args::Action::Bank(bank) => bank::run(bank, &args.place),
            args::Action::Completions { shell } => about::completions(shell),
            args::Action::Man => about::man(),
        }
    });
    exit::code(outcome)
}

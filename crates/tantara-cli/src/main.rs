//! The command `tantara`.

#![forbid(unsafe_code)]

mod about;
mod args;
mod bank;
#[cfg(target_os = "linux")]
mod events;
mod exit;
mod failure;
mod interrupt;
mod outfile;
mod output;

use std::process::ExitCode;

fn main() -> ExitCode {
    exit::say_panics_in_one_line();
    about::complete();
    let outcome = args::parse().and_then(|args| interrupt::end_by_signals_as_process_1().map(|()| args));
    let outcome = outcome.and_then(|args| match args.verb {
        #[cfg(target_os = "linux")]
        args::Verb::Events(verb) => events::run(verb, args.place),
        #[cfg(target_os = "linux")]
        args::Verb::Bank(bank) => bank::run(bank, &args.place),
        #[cfg(not(target_os = "linux"))]
        args::Verb::Bank(bank) => bank::run(bank),
        #[cfg(target_os = "linux")]
        args::Verb::WorkerOfBank { arguments } => bank::work(&arguments),
        #[cfg(target_os = "linux")]
        args::Verb::FarWorkerOfBank { arguments } => bank::work_far_away(&arguments, &args.place),
        args::Verb::Completions { shell } => about::completions(shell),
        args::Verb::Man => about::man(),
    });
    exit::code(outcome)
}

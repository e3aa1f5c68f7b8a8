//! The command `tantara`.

#![forbid(unsafe_code)]

mod about;
mod args;
mod bank;
#[cfg(target_os = "linux")]
mod events;
mod exit;
mod interrupt;
mod outfile;
mod output;

use std::process::ExitCode;

fn main() -> ExitCode {
    exit::say_panics_in_one_line();
    about::complete();
    let outcome = args::parse().and_then(|args| match args.verb {
        #[cfg(target_os = "linux")]
        args::Verb::Events(verb) => events::run(verb, args.place),
        args::Verb::Bank(args) => bank::run(args),
        #[cfg(target_os = "linux")]
        args::Verb::WorkerOfBank { arguments } => bank::work(&arguments),
        args::Verb::Completions { shell } => about::completions(shell),
        args::Verb::Man => about::man(),
    });
    exit::code(outcome)
}

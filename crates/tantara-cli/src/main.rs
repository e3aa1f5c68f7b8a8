//! The command `tantara`.

#![forbid(unsafe_code)]

mod args;
mod bank;
mod exit;
mod interrupt;
mod outfile;
mod output;

use std::process::ExitCode;

fn main() -> ExitCode {
    exit::say_panics_in_one_line();
    let outcome = args::parse().and_then(|args| match args.verb {
        args::Verb::Bank(args) => bank::run(args),
    });
    exit::code(outcome)
}

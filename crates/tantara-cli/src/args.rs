//! What can be said on the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use bank::Pace;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::failure::Failure;
use crate::reach::{self, PlaceArgs, ReachArg};

/// Events that threads, tasks, processes and machines wait for
///
/// An event is a flag: set it, and everyone who waits for it is released. Two programs that know its name can signal
/// each other, without a daemon, and whoever dies takes nobody along. With --etcd they may be on different machines.
#[derive(Parser, Debug)]
#[command(
    name = "tantara",
    version,
    arg_required_else_help = true,
    after_long_help = "\
Examples:
  tantara wait db-ready --timeout 30s -- ./serve    in one shell,
  tantara set db-ready                              in another
  tantara --etcd a:2379,b:2379,c:2379 wait db-ready  the same, between machines

A name is made of letters and digits, of any script, and of . _ - + : @ = , % ~; it begins with none of . - ~ and \
has at most 200 bytes.

Events lie in the directory that --dir or $TANTARA_DIR names; else in $XDG_RUNTIME_DIR/tantara; \
without that variable in /run/user/UID/tantara; where that does not exist in /dev/shm/tantara-UID.

With --etcd or $TANTARA_ETCD they live in an etcd cluster instead, under the keys of --namespace. An endpoint is \
HOST:PORT, with https:// before it for TLS. The password of --user is read from \
--password-file, again at every login, or from $TANTARA_ETCD_PASSWORD, for others \
can see arguments. --dir wins over $TANTARA_ETCD, and that over $TANTARA_DIR."
)]
pub(crate) struct Tantara {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    #[command(flatten)]
    Reach(reach::Verb),

    Bank(Bank),

    /// Print the script that makes a shell complete this command, the names of events included
    #[command(after_long_help = "\
Examples:
  source <(tantara completions bash)                                     in ~/.bashrc
  source <(tantara completions zsh)                                      in ~/.zshrc
  tantara completions fish > ~/.config/fish/completions/tantara.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Print the manual page
    #[command(after_long_help = "\
Examples:
  tantara man | man -l -
  tantara man > /usr/local/share/man/man1/tantara.1")]
    Man,
}

/// Run the bank: customers wait for it to open, then for transactions to open
///
/// A bank is coordinated by two events, bank_open and transactions_open. Workers serve the customers in order;
/// everyone waits for the bank to open, and who withdraws money waits for transactions to open too. With its pauses
/// the story takes about seven seconds.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  tantara bank                                        the story, as it is
  tantara bank --pace 0.1                             ten times faster
  tantara bank --customers customers.csv --workers 2  your own customers, two at a time
  tantara bank --reach tasks --count 10000 --pace 0.1 --timeline day.svg
                                                      a crowd of async tasks, and a picture of its day
  tantara bank --reach processes                      every worker a process; try kill -9 on one of them
  tantara --etcd 127.0.0.1:2379 bank --reach machines     every worker as if on a machine of its own
  tantara bank --pace 0 --json                        the figures alone

A list of customers is CSV, and may come from /dev/stdin. The types are WITHDRAW_MONEY and CHECK_BALANCE:
  name,type
  Ann,WITHDRAW_MONEY
  Bob,CHECK_BALANCE

Limits: 10,000,000 customers, 10,000 workers (1,000 if they are processes or machines), a pace of 1,000,000.

Exit codes: 0 done, or nobody reads the output any more; 2 bad usage or bad input (nothing was run); 125 tantara itself
failed, or a customer was lost with a worker process. A signal ends it as that signal.")]
pub(crate) struct Bank {
    /// Read the customers from a CSV file with the header name,type
    #[arg(long, value_name = "FILE.csv", conflicts_with = "count")]
    pub(crate) customers: Option<PathBuf>,

    /// Serve N customers, in the pattern of the story's four
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub(crate) count: Option<usize>,

    /// How many workers serve them
    ///
    /// With threads, processes and machines, a worker carries one customer at a time. With tasks, all customers are in
    /// the bank at once, and the workers are the threads that run them.
    #[arg(long, value_name = "N", default_value = "4", value_parser = workers, allow_negative_numbers = true)]
    pub(crate) workers: usize,

    /// Multiply every pause by FACTOR: 0 for none, 0.01 for a hundred times faster
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = pace, allow_negative_numbers = true)]
    pub(crate) pace: Pace,

    /// What carries a customer, and so how far the events must reach
    #[arg(long, value_enum, default_value = "threads")]
    pub(crate) reach: ReachArg,

    /// Draw the run: a lane for each customer, and a line where each event was set
    #[arg(long, value_name = "OUT.svg")]
    pub(crate) timeline: Option<PathBuf>,

    /// Write the run in Chrome's trace format, for Perfetto
    #[arg(long, value_name = "OUT.json")]
    pub(crate) trace: Option<PathBuf>,

    /// Say nothing but the figures, if --json asks for them, and show no progress
    #[arg(long)]
    pub(crate) quiet: bool,

    /// Print the figures as JSON, in one line, instead of the story
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "they are called so")]
pub(crate) enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

impl Shell {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Shell::Bash => "bash",
            Shell::Elvish => "elvish",
            Shell::Fish => "fish",
            Shell::Powershell => "powershell",
            Shell::Zsh => "zsh",
        }
    }
}

fn count(text: &str) -> Result<usize, String> {
    number(text, 10_000_000)
}

fn workers(text: &str) -> Result<usize, String> {
    number(text, 10_000)
}

fn number(text: &str, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("expected a whole number from 1 to {most}"))
}

fn pace(text: &str) -> Result<Pace, String> {
    let factor: f64 = text.parse().unwrap_or(f64::NAN);
    Pace::new(factor).map_err(|error| error.to_string())
}

/// Reads the command line. A help text that was asked for is printed here.
pub(crate) fn parse() -> Result<Tantara, Failure> {
    parse_from(std::env::args_os())
}

fn parse_from(args: impl IntoIterator<Item = OsString>) -> Result<Tantara, Failure> {
    Tantara::try_parse_from(args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone does not need the rest.
            match error.print() {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    Failure::internal(format!("standard output cannot be written to: {error}"))
                }
                _ => Failure::said(true),
            }
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Failure::said(false)
        }
        _ => Failure::usage(in_one_line(&error)),
    })
}

/// The parser explains itself over several lines; bad input gets one.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let sentences = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .map(|line| line.trim_start_matches("error: "));
    let said = sentences.collect::<Vec<_>>().join("; ").replace(":; ", ": ");
    // The verb's own help, if there was a verb.
    let words = std::env::args_os().skip(1).filter_map(|word| word.into_string().ok());
    let verb = words.take_while(|word| word != "--").find(|verb| Tantara::command().find_subcommand(verb).is_some());
    let verb = verb.map(|verb| format!("{verb} ")).unwrap_or_default();
    format!("{said}; see tantara {verb}--help")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Tantara::command().debug_assert();
    }
}

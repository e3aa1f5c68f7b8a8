//! The command line: subcommands, options and help texts.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tantara_bank::{MOST_CUSTOMERS, Pace};

use crate::events;
use crate::failure::Failure;
use crate::reach::{self, PlaceArgs, ReachArg};

/// Named events that processes and machines wait for
///
/// An event is a flag: setting it releases every process that waits for it. Programs that know its name can signal each
/// other, without a daemon. A process that is killed blocks no other process. With --etcd the programs may run on
/// different machines, and on Windows and macOS too.
#[derive(Parser, Debug)]
#[command(
    name = "tantara",
    version,
    arg_required_else_help = true,
    args_override_self = true,
    after_long_help = "\
Examples:
  tantara wait db-ready --timeout 30s -- ./serve     in one shell,
  tantara set db-ready                               in another
  tantara --etcd a:2379,b:2379,c:2379 wait db-ready  between machines

A name consists of letters and digits of any script, and of . _ - + : @ = , % ~. It must not begin with . - or ~, \
and has at most 200 bytes.

Events are files in the directory that --dir or $TANTARA_DIR names, which needs Linux. The default is \
$XDG_RUNTIME_DIR/tantara; if that variable is not set, /run/user/UID/tantara; if that does not exist, \
/dev/shm/tantara-UID.

With --etcd or $TANTARA_ETCD, events are keys in an etcd cluster instead, in the namespace --namespace. An endpoint is \
HOST:PORT; put https:// before it for TLS. Other users can see arguments, so the password of --user is read from \
--password-file, again at every login, or from $TANTARA_ETCD_PASSWORD. --dir takes precedence over $TANTARA_ETCD, and \
$TANTARA_ETCD over $TANTARA_DIR."
)]
pub(crate) struct Tantara {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,

    #[command(subcommand)]
    pub(crate) action: Action,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Action {
    #[command(flatten)]
    Reach(reach::Action),

    Bank(Bank),

    /// Print the shell's completion script, which also completes the names of events
    #[command(after_long_help = "\
Examples:
  source <(tantara completions bash)    in ~/.bashrc
  source <(tantara completions zsh)     in ~/.zshrc, behind compinit
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

/// Run the bank scenario: customers wait for a bank to open, then for transactions to open
///
/// Two events, bank_open and transactions_open, coordinate the bank. Workers serve the customers in order. Every
/// customer waits for the bank to open; those who withdraw money also wait for transactions to open. The default run
/// takes about seven seconds.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  tantara bank                      the default run
  tantara bank --pace 0.1           ten times faster
  tantara bank --customers FILE.csv --workers 2
                                    two of your customers at a time
  tantara bank --pace 0 --json      figures instead of lines
  tantara bank --reach tasks --count 10000 --pace 0.1 --timeline day.svg
                                    10,000 tasks, and a picture
  tantara bank --reach processes    try kill -9 on a worker (Linux)
  tantara --etcd 127.0.0.1:2379 bank --reach machines
                                    workers share only the cluster

A list of customers is a CSV file. The types are WITHDRAW_MONEY and CHECK_BALANCE:
  name,type
  Ann,WITHDRAW_MONEY
  Bob,CHECK_BALANCE

Limits: 10,000,000 customers, 10,000 workers (1,000 if they are processes or machines), a pace of 1,000,000.

Exit codes: 0 done, or standard output was closed; 2 bad usage or bad input (nothing was run); 125 tantara itself \
failed, or a worker process died and its customer was lost. A signal ends the process as that signal.")]
pub(crate) struct Bank {
    /// Read the customers from a CSV file with the header name,type; - is standard input
    #[arg(long, value_name = "FILE.csv", conflicts_with = "count")]
    pub(crate) customers: Option<PathBuf>,

    /// Serve N customers, with the types of the default ones repeated
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub(crate) count: Option<usize>,

    /// The number of workers
    ///
    /// A worker thread or process serves one customer at a time. With --reach tasks every customer is a task, and the
    /// workers are the threads that run the tasks.
    #[arg(long, value_name = "N", default_value = "4", value_parser = workers, allow_negative_numbers = true)]
    pub(crate) workers: usize,

    /// Multiply every pause by FACTOR: 0 for none, 0.01 for a hundred times faster
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = pace, allow_negative_numbers = true)]
    pub(crate) pace: Pace,

    /// What serves a customer, and so the scope of the events
    #[arg(long, value_enum, default_value = "threads")]
    pub(crate) reach: ReachArg,

    /// Draw the run as SVG, a lane for each customer; - is standard output, without the lines of the scenario
    #[arg(long, value_name = "OUT.svg")]
    pub(crate) timeline: Option<PathBuf>,

    /// Write the run in Chrome's trace format, which Perfetto shows; - as above
    #[arg(long, value_name = "OUT.json")]
    pub(crate) trace: Option<PathBuf>,

    /// Print no lines and no progress; with --json, only the figures
    #[arg(long)]
    pub(crate) quiet: bool,

    /// Print figures as one line of JSON instead of the lines of the scenario
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names of the shells")]
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
    number(text, MOST_CUSTOMERS)
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

/// Parses the command line. Prints a requested help text.
pub(crate) fn parse() -> Result<Tantara, Failure> {
    parse_from(std::env::args_os())
}

fn parse_from(args: impl IntoIterator<Item = OsString>) -> Result<Tantara, Failure> {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(parsed) = parse_frequent(&args) {
        return Ok(parsed);
    }
    Tantara::try_parse_from(args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is no error: the reader does not need the rest.
            match error.print() {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    Failure::internal(format!("cannot write to standard output: {error}"))
                }
                _ => Failure::already_reported(true),
            }
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Failure::already_reported(false)
        }
        ErrorKind::InvalidUtf8 => Failure::usage(match std::env::args_os().find(|word| word.to_str().is_none()) {
            Some(word) => format!("{word:?} is not text; expected UTF-8"),
            None => in_one_line(&error),
        }),
        _ => Failure::usage(in_one_line(&error)),
    })
}

/// Parses a correct line of a subcommand that scripts run often, without the time that it takes to build the options of
/// all others. The rest, requests for help and errors included, is left to the whole parser.
fn parse_frequent(args: &[OsString]) -> Option<Tantara> {
    // One of these words is the subcommand. The others that look like one are names of events, or values of options.
    let words = args.iter().skip(1).take_while(|word| *word != "--");
    let mut subcommands: Vec<Command> = Vec::new();
    for subcommand in words.filter_map(|word| events::Action::frequent(word.to_str()?)) {
        if subcommands.iter().all(|other| other.get_name() != subcommand.get_name()) {
            subcommands.push(subcommand);
        }
    }
    if subcommands.is_empty() {
        return None;
    }
    let command = Command::new("tantara").args_override_self(true).subcommand_required(true).subcommands(subcommands);
    let matches = PlaceArgs::augment_args(command).try_get_matches_from(args).ok()?;
    Tantara::from_arg_matches(&matches).ok()
}

/// Turns the several lines of the parser's error into one.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let sentences = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        // After `--` stands a command, and no name begins with a dash.
        .filter(|line| !line.is_empty() && !line.starts_with("tip: to pass '-"))
        .map(|line| line.trim_start_matches("error: "));
    let message = sentences.collect::<Vec<_>>().join("; ").replace(":; ", ": ");
    // The help of the subcommand, if there is one.
    let words = std::env::args_os().skip(1).filter_map(|word| word.into_string().ok());
    let words: Vec<String> = words.take_while(|word| word != "--").collect();
    let message = format!("{message}{}", hint_at_long_option(&words));
    let subcommand = words.iter().find(|word| Tantara::command().find_subcommand(word).is_some());
    let subcommand = subcommand.map(|name| format!("{name} ")).unwrap_or_default();
    format!("{message}; see tantara {subcommand}--help")
}

/// For `-timeout`, which is read as several short options.
fn hint_at_long_option(words: &[String]) -> String {
    let mut command = Tantara::command();
    command.build();
    let subcommand = words.iter().find_map(|word| command.find_subcommand(word)).unwrap_or(&command);
    let is_option = |name: &str| name.len() > 1 && subcommand.get_arguments().any(|arg| arg.get_long() == Some(name));
    let name = |word: &str| word.strip_prefix('-')?.split('=').next().map(str::to_owned);
    let meant = words.iter().filter_map(|word| name(word)).find(|name| is_option(name));
    meant.map(|name| format!("; did you mean --{name}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Tantara::command().debug_assert();
    }

    /// Each subcommand that is parsed alone has the same arguments as in the whole parser.
    #[test]
    fn frequent_lines_are_parsed_as_all_others() {
        let lines = [
            "set a",
            "set a --note x b --note y",
            "set a --else b -- make wait -j",
            "clear a b --dir /d",
            "pulse a --note x",
            "wait a --any b --timeout 1.5s -q --pid 1 --file f --tcp h:1 -- ./serve --timeout 3",
            "wait --unset --dir x maintenance --dir y",
            "wait --timeout 1 --timeout 2 --next wait",
            "--dir set wait wait --next",
            "--dir wait set wait",
            "--etcd h:1 --namespace n is-set -q is-set",
            "hold hold -- hold hold",
            "hold a",
            "--connect-timeout 3s --etcd h:1 clear clear --user u",
        ];
        for line in lines {
            let args: Vec<OsString> = ["tantara"].into_iter().chain(line.split(' ')).map(OsString::from).collect();
            let frequent = parse_frequent(&args).map(|parsed| format!("{parsed:?}"));
            let whole = Tantara::try_parse_from(&args).map(|parsed| format!("{parsed:?}"));
            assert_eq!(frequent, whole.ok(), "{line}");
            assert!(frequent.is_some(), "{line}");
        }
        let left_to_the_whole_parser = [
            "",
            "wait",
            "wiat a",
            "ls wait",
            "help wait",
            "wait --help",
            "--version wait",
            "set -x a",
            "--dir wait",
            "ls -- set a",
            "wait a --dir d --etcd e:1",
            "wait a --timeout x",
            "-- wait a",
            "wait --unset --next a",
            "bank --timeline set",
        ];
        for line in left_to_the_whole_parser {
            let args: Vec<OsString> =
                ["tantara"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
            assert!(parse_frequent(&args).is_none(), "{line}");
        }
    }
}

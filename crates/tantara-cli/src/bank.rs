//! `tantara bank`: the scenario at any scope and any size.

use std::fs::File;
use std::io::stdin;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;
use tantara_bank::{Audience, Customer, HearLine, Plan, Run};

use crate::args;
use crate::failure::Failure;
use crate::outfile::OutFile;
use crate::output;
use crate::reach::{PlaceArgs, Reach};
use crate::system;

/// From this number of customers on, a progress bar is shown.
const MANY_CUSTOMERS: usize = 1_000;

/// How an argument names standard input or standard output.
const STREAM: &str = "-";

pub(crate) fn run(args: args::Bank, place: &PlaceArgs) -> Result<(), Failure> {
    let reach = Reach::new(args.reach, args.workers, place)?;
    refuse_to_mix(&args)?;
    let customers = customers(&args)?;
    let total = customers.len();
    let is_watched = !args.quiet && total >= MANY_CUSTOMERS && output::is_watched();
    let served = Arc::new(AtomicUsize::new(0));
    system::ends_with({
        let served = Arc::clone(&served);
        move || output::note(format_args!("interrupted; {} of {total} customers were served", served.load(Relaxed)))
    })?;

    // Before anything runs, so that an unusable file is an error at once; and after the signal handler, which removes
    // drafts.
    let timeline = args.timeline.as_deref().map(Out::open).transpose()?;
    let trace = args.trace.as_deref().map(Out::open).transpose()?;
    refuse_to_overwrite(&args, [&timeline, &trace].map(|out| out.as_ref().and_then(Out::file)))?;

    let is_picture_printed = is_stream(&args.timeline) || is_stream(&args.trace);
    let audience = Audience {
        lines: (!args.quiet && !args.json && !is_picture_printed).then(|| Box::new(output::line) as HearLine),
        served: Some(Box::new({
            move || {
                let served = served.fetch_add(1, Relaxed) + 1;
                if is_watched {
                    output::progress(served);
                }
            }
        })),
        lost: Some(Box::new(|customer, how| {
            output::note_aside(format_args!("{} was lost: {how}", customer.name));
        })),
        keeps_notes: timeline.is_some() || trace.is_some(),
    };
    if is_watched {
        output::begin_progress(total);
    }
    let plan = Plan { customers, workers: args.workers, pace: args.pace };
    let run = reach.run(plan, audience);
    output::end_progress();
    let run = run.map_err(Failure::internal)?;
    if args.json {
        print_figures(&args, &run)?;
    }
    output::flush();
    let written = [(timeline, write_timeline as WriteRun), (trace, write_trace)]
        .map(|(file, write)| file.map_or(Ok(()), |out| out.write(&run, write)));
    // If one of them fails, the other is written nevertheless.
    written.into_iter().collect::<Result<(), Failure>>()?;
    match run.summary.lost.len() {
        0 => Ok(()),
        1 => Err(Failure::internal(format_args!("1 of {total} customers was not served"))),
        lost => Err(Failure::internal(format_args!("{lost} of {total} customers were not served"))),
    }
}

type WriteRun = fn(&Run, &mut dyn std::io::Write) -> std::io::Result<()>;

fn write_timeline(run: &Run, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    tantara_bank::timeline::write(run, out)
}

fn write_trace(run: &Run, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    tantara_bank::trace::write(run, out)
}

fn customers(args: &args::Bank) -> Result<Vec<Customer>, Failure> {
    let Some(path) = &args.customers else {
        return Ok(args.count.map_or_else(tantara_bank::default_customers, tantara_bank::crowd));
    };
    let (customers, shown) = if is_stream(&args.customers) {
        (tantara_bank::read_customers(stdin().lock()), "standard input".into())
    } else {
        let list = File::open(path).map_err(|error| {
            Failure::usage(format!(
                "cannot read {}: {error}; expected a CSV file with the header name,type",
                path.display()
            ))
        })?;
        (tantara_bank::read_customers(list), path.display().to_string())
    };
    customers.map_err(|bad| match bad.line() {
        Some(line) => Failure::usage(format!("{shown}:{line}: {bad}")),
        None => Failure::usage(format!("{shown}: {bad}")),
    })
}

fn is_stream(path: &Option<PathBuf>) -> bool {
    path.as_ref().is_some_and(|path| path.as_os_str() == STREAM)
}

/// Where a picture is written.
enum Out {
    File(OutFile),
    StandardOutput,
}

impl Out {
    fn open(path: &Path) -> Result<Out, Failure> {
        if path.as_os_str() == STREAM { Ok(Out::StandardOutput) } else { OutFile::open(path).map(Out::File) }
    }

    fn file(&self) -> Option<&OutFile> {
        match self {
            Out::File(file) => Some(file),
            Out::StandardOutput => None,
        }
    }

    fn write(self, run: &Run, write: WriteRun) -> Result<(), Failure> {
        match self {
            Out::File(file) => file.write(|out| write(run, out)),
            Out::StandardOutput => {
                let mut picture = Vec::new();
                write(run, &mut picture).map_err(Failure::internal)?;
                output::raw(&picture);
                output::flush();
                Ok(())
            }
        }
    }
}

/// Fails if standard output would contain several things.
fn refuse_to_mix(args: &args::Bank) -> Result<(), Failure> {
    let printed =
        [("--timeline -", is_stream(&args.timeline)), ("--trace -", is_stream(&args.trace)), ("--json", args.json)];
    let printed: Vec<&str> = printed.into_iter().filter_map(|(option, is_given)| is_given.then_some(option)).collect();
    match printed[..] {
        [one, other, ..] => {
            Err(Failure::usage(format!("{one} and {other} both write to standard output; name a file for one of them")))
        }
        _ => Ok(()),
    }
}

/// Fails if an output file is the list of customers, standard output or the other output file.
fn refuse_to_overwrite(args: &args::Bank, out: [Option<&OutFile>; 2]) -> Result<(), Failure> {
    let taken = |file: &OutFile, by: Option<&std::path::PathBuf>| by.is_some_and(|by| file.is(by));
    let clash = match out {
        [Some(timeline), _] if timeline.is_standard_output() => "--timeline and standard output",
        [_, Some(trace)] if trace.is_standard_output() => "--trace and standard output",
        [Some(timeline), _] if taken(timeline, args.customers.as_ref()) => "--timeline and --customers",
        [_, Some(trace)] if taken(trace, args.customers.as_ref()) => "--trace and --customers",
        [Some(timeline), Some(_)] if taken(timeline, args.trace.as_ref()) => "--timeline and --trace",
        _ => return Ok(()),
    };
    Err(Failure::usage(format!("{clash} name the same file; expected different ones")))
}

/// The output of `--json`.
#[derive(Serialize)]
struct Figures<'a> {
    customers: usize,
    reach: &'static str,
    workers: usize,
    pace: f64,
    seconds: f64,
    peak_waiting: usize,
    released: Released,
    lost: Vec<&'a str>,
}

#[derive(Serialize)]
struct Released {
    bank_open: usize,
    transactions_open: usize,
}

fn print_figures(args: &args::Bank, run: &Run) -> Result<(), Failure> {
    let summary = &run.summary;
    let figures = Figures {
        customers: summary.customers,
        reach: args.reach.name(),
        workers: args.workers,
        pace: args.pace.factor(),
        seconds: (summary.took.as_secs_f64() * 1e6).round() / 1e6,
        peak_waiting: summary.peak_waiting,
        released: Released {
            bank_open: summary.released_by_bank_open,
            transactions_open: summary.released_by_transactions_open,
        },
        lost: summary.lost.iter().map(|&customer| &*run.customers[customer].name).collect(),
    };
    let json = serde_json::to_string(&figures).map_err(Failure::internal)?;
    output::line(format_args!("{json}"));
    Ok(())
}

//! A benchmark of tantara, its peers and the baselines in one run.
//!
//! A *cell* is one workload of one contender. Each runs in a process of its own, so that one that hangs can be killed
//! and reported. Each round runs all cells, so that changes of the machine's speed affect all contenders alike. The
//! results are medians, and ratios within one run.

mod cell;
mod contention;
mod crowd;
mod latency;
mod machines;
mod names;
mod owned;
mod pin;
mod plot;
mod processes;
mod record;
mod recorded;
mod report;
mod tasks;
mod threads;
mod visit;
mod wakeups;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Measure tantara and its peers
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo xtask bench                     all of it, into bench/records/, and the tables into COMPARE.md
  cargo xtask bench --only round-trip   the workloads whose name contains round-trip
  cargo xtask bench --only processes    events between processes
  cargo xtask bench --only machines     events between machines; etcd is needed
  cargo xtask bench --smoke             a moment of each, to see that all of it works")]
struct Args {
    /// Run only workloads whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,

    /// Run each cell this many times
    #[arg(long, value_name = "N", default_value_t = 11)]
    rounds: u32,

    /// Run each cell once and briefly; the figures are meaningless
    #[arg(long)]
    smoke: bool,

    /// Write record.csv, tables.md and plot.svg into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Insert the tables into this file, between its two marks
    #[arg(long, value_name = "COMPARE.md")]
    compare: Option<PathBuf>,

    /// Measure nothing; make the tables and the plot from this record
    #[arg(long, value_name = "RECORD.csv")]
    from: Option<PathBuf>,

    /// Run one cell and print its figures (used by the benchmark itself)
    #[arg(long, num_args = 2, value_names = ["WORKLOAD", "CONTENDER"], hide = true)]
    cell: Option<Vec<String>>,

    /// Run one of many clients of an etcd cluster (used by a cell itself)
    #[arg(long, num_args = 2, value_names = ["ROLE", "ENDPOINTS"], hide = true)]
    client: Option<Vec<String>>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    if let Some(cell) = &args.cell {
        let figures = cell::run(&cell[0], &cell[1], args.smoke)?;
        for (name, value) in figures {
            println!("{name} {value}");
        }
        return Ok(());
    }
    if let Some(client) = &args.client {
        return machines::client(&client[0], &client[1]);
    }
    let record = match &args.from {
        Some(path) => record::Record::read(path)?,
        None => record::measure(args.only.as_deref(), args.rounds, args.smoke)?,
    };
    let tables = report::tables(&record);
    // A closed pipe is no error: the reader does not need the rest.
    let _ = std::io::stdout().write_all(tables.as_bytes());
    let say = |what: &str, path: &PathBuf, error: std::io::Error| format!("{}: cannot {what}: {error}", path.display());
    if let Some(dir) = &args.out {
        std::fs::create_dir_all(dir).map_err(|error| say("be made", dir, error))?;
        record.write(&dir.join("record.csv"))?;
        for (name, content) in [("tables.md", tables.clone()), ("plot.svg", plot::draw(&record))] {
            let path = dir.join(name);
            std::fs::write(&path, content).map_err(|error| say("be written", &path, error))?;
        }
    }
    if let Some(path) = &args.compare {
        report::put_into(path, &tables)?;
    }
    Ok(())
}

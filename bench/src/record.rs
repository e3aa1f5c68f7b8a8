//! A record: every figure of every cell in every round, as CSV.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cell;
use crate::machines;
use crate::names;
use crate::processes;

/// The time limit of a cell, after which it counts as hanging. The slowest cells that work need a tenth of it, and a
/// third between machines, because they start and kill servers.
const BOUND: Duration = Duration::from_secs(20);
const BOUND_OF_MACHINES: Duration = Duration::from_secs(90);
/// A cell that hung this often does not run again.
const HANGS: usize = 2;

/// One figure of one cell in one round.
#[derive(Clone, Debug)]
pub struct Figure {
    pub workload: String,
    pub contender: String,
    pub round: u32,
    pub name: String,
    /// Nanoseconds, unless the name contains a unit. `None` if the cell hung.
    pub value: Option<f64>,
}

/// The machine, the date and the commit of the figures.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub date: String,
    pub machine: String,
    pub commit: String,
    pub command: String,
}

#[derive(Clone, Debug, Default)]
pub struct Record {
    pub origin: Origin,
    pub figures: Vec<Figure>,
}

const HEADER: [&str; 5] = ["workload", "contender", "round", "figure", "value"];

impl Record {
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let failed = |error: csv::Error| format!("{}: cannot be written: {error}", path.display());
        let mut out = csv::Writer::from_path(path).map_err(failed)?;
        out.write_record(HEADER).map_err(failed)?;
        let Origin { date, machine, commit, command } = &self.origin;
        for (name, value) in [("date", date), ("machine", machine), ("commit", commit), ("command", command)] {
            out.write_record(["origin", "", "", name, value]).map_err(failed)?;
        }
        for figure in &self.figures {
            let value = figure.value.map_or_else(|| "hangs".to_owned(), |value| format!("{value:.3}"));
            let round = figure.round.to_string();
            out.write_record([&figure.workload, &figure.contender, &round, &figure.name, &value]).map_err(failed)?;
        }
        out.flush().map_err(|error| failed(error.into()))
    }

    pub fn read(path: &Path) -> Result<Record, String> {
        let failed = |error: csv::Error| format!("{}: cannot be read: {error}", path.display());
        let mut record = Record::default();
        for row in csv::Reader::from_path(path).map_err(failed)?.records() {
            let row = row.map_err(failed)?;
            let field = |index| row.get(index).unwrap_or_default().to_owned();
            if &row[0] == "origin" {
                let origin = &mut record.origin;
                match &row[3] {
                    "date" => origin.date = field(4),
                    "machine" => origin.machine = field(4),
                    "commit" => origin.commit = field(4),
                    _ => origin.command = field(4),
                }
                continue;
            }
            let value = match &row[4] {
                "hangs" => None,
                number => Some(number.parse().map_err(|_| format!("{}: {number} is not a number", path.display()))?),
            };
            let round = row[2].parse().unwrap_or_default();
            record.figures.push(Figure { workload: field(0), contender: field(1), round, name: field(3), value });
        }
        Ok(record)
    }

    /// The workloads, in the order in which they were measured.
    pub fn workloads(&self) -> Vec<&str> {
        distinct(self.figures.iter().map(|figure| &*figure.workload))
    }

    pub fn contenders(&self, workload: &str) -> Vec<&str> {
        distinct(self.figures.iter().filter(|figure| figure.workload == workload).map(|figure| &*figure.contender))
    }

    pub fn names(&self, workload: &str) -> Vec<&str> {
        let figures = self.figures.iter().filter(|figure| figure.workload == workload && figure.value.is_some());
        distinct(figures.map(|figure| &*figure.name))
    }

    /// The median over the rounds, and the number of rounds in which the cell hung.
    pub fn median(&self, workload: &str, contender: &str, name: &str) -> (Option<f64>, usize) {
        let cell = self.figures.iter().filter(|figure| figure.workload == workload && figure.contender == contender);
        let hangs = cell.filter(|figure| figure.value.is_none()).count();
        let values = self.values(workload, contender, name);
        (median_of(&values), hangs)
    }

    /// The figures of the rounds that ended, in ascending order.
    pub fn values(&self, workload: &str, contender: &str, name: &str) -> Vec<f64> {
        let is_asked_for =
            |figure: &&Figure| figure.workload == workload && figure.contender == contender && figure.name == name;
        let mut values: Vec<f64> = self.figures.iter().filter(is_asked_for).filter_map(|figure| figure.value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    }
}

/// The middle one of values in ascending order, or the mean of the two in the middle.
fn median_of(values: &[f64]) -> Option<f64> {
    let upper = *values.get(values.len() / 2)?;
    let is_even = values.len().is_multiple_of(2);
    Some(if is_even { (values[values.len() / 2 - 1] + upper) / 2.0 } else { upper })
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    names.for_each(|name| {
        if !seen.contains(&name) {
            seen.push(name);
        }
    });
    seen
}

/// Runs every cell in every round.
pub fn measure(only: Option<&str>, rounds: u32, smoke: bool) -> Result<Record, String> {
    let rounds = if smoke { 1 } else { rounds };
    let cells: Vec<_> =
        cell::all().into_iter().filter(|(workload, _)| only.is_none_or(|only| workload.contains(only))).collect();
    if cells.is_empty() {
        let names: Vec<_> = cell::all().into_iter().map(|(workload, _)| workload).collect();
        return Err(format!("no workload is called like that; there are {}", names.join(", ")));
    }
    let has_machines = cells.iter().any(|(workload, _)| machines::is_one(workload));
    let etcd = if has_machines { machines::version()? } else { String::new() };
    if cells.iter().any(|(workload, _)| workload.contains("-command")) {
        processes::command::build()?;
    }
    let has_python = processes::python::is_there();
    if !has_python {
        eprintln!("bench: there is no python3 with multiprocessing, so it does not contend");
    }
    let mut figures: Vec<Figure> = Vec::new();
    for round in 1..=rounds {
        for (workload, contenders) in &cells {
            for &contender in
                contenders.iter().filter(|contender| has_python || **contender != names::processes::PYTHON)
            {
                say_progress(&format!("round {round} of {rounds}: {workload}, {contender}"));
                let hung = |figure: &&Figure| {
                    figure.workload == *workload && figure.contender == contender && figure.value.is_none()
                };
                if figures.iter().filter(hung).count() >= HANGS {
                    continue;
                }
                let (workload, contender) = ((*workload).to_owned(), contender.to_owned());
                match run_cell(&workload, &contender, smoke)? {
                    None => figures.push(Figure { workload, contender, round, name: "hangs".into(), value: None }),
                    Some(values) => figures.extend(values.into_iter().map(|(name, value)| Figure {
                        workload: workload.clone(),
                        contender: contender.clone(),
                        round,
                        name,
                        value: Some(value),
                    })),
                }
            }
        }
    }
    say_progress("");
    figures.sort_by_key(|figure| {
        let workload = cells.iter().position(|(workload, _)| *workload == figure.workload);
        let contender =
            workload.and_then(|workload| cells[workload].1.iter().position(|contender| *contender == figure.contender));
        (workload, contender, figure.round)
    });
    Ok(Record { origin: origin(rounds, &etcd), figures })
}

/// Prints progress on a terminal, in one line that is overwritten.
fn say_progress(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}");
    }
}

/// Runs one cell in a process of its own. `None` if it hangs.
fn run_cell(workload: &str, contender: &str, smoke: bool) -> Result<Option<Vec<(String, f64)>>, String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot find itself: {error}"))?;
    let mut command = Command::new(own);
    command.args(["--cell", workload, contender]).args(smoke.then_some("--smoke")).stdout(Stdio::piped());
    // Removes temporary files of a killed cell too.
    let place = tempfile::TempDir::with_prefix("tantara-bench-")
        .map_err(|error| format!("no place for temporary files: {error}"))?;
    command.env("TMPDIR", place.path());
    let bound = if machines::is_one(workload) { BOUND_OF_MACHINES } else { BOUND };
    let mut child = command.spawn().map_err(|error| format!("cannot start a cell: {error}"))?;
    let began = Instant::now();
    let ended = loop {
        match child.try_wait().map_err(|error| format!("cannot wait for a cell: {error}"))? {
            Some(status) => break Some(status),
            None if began.elapsed() > bound => {
                // An error means that it has just ended.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    processes::children::remove_leftovers(child.id());
    let Some(status) = ended else { return Ok(None) };
    let mut text = String::new();
    let read = child.stdout.take().map(|mut out| out.read_to_string(&mut text));
    if !status.success() || !matches!(read, Some(Ok(_))) {
        return Err(format!("the cell {workload}, {contender} failed ({status})"));
    }
    let figure = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Ok(Some(text.lines().filter_map(figure).collect()))
}

fn origin(rounds: u32, etcd: &str) -> Origin {
    let first_line = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).stderr(Stdio::null()).output().ok()?;
        String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
    };
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = first_line("uname", &["-sr"]).unwrap_or_default();
    let rustc = first_line("rustc", &["--version"]).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    Origin {
        date: first_line("date", &["+%Y-%m-%d"]).unwrap_or_default(),
        machine: format!("{model}, {cores} virtual cores, {kernel}, {rustc}{etcd}"),
        commit: first_line("git", &["describe", "--always", "--dirty", "--exclude=*"]).unwrap_or_default(),
        command: format!("cargo xtask bench --rounds {rounds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_rounds_is_the_mean_of_the_two_in_the_middle() {
        let figure = |round, value| {
            let (workload, contender, name) = ("w".to_owned(), "c".to_owned(), "f".to_owned());
            Figure { workload, contender, round, name, value }
        };
        let median = |values: &[f64]| {
            let figures = values.iter().zip(1..).map(|(value, round)| figure(round, Some(*value)));
            let hung = figure(0, None);
            Record { figures: figures.chain([hung]).collect(), ..Record::default() }.median("w", "c", "f")
        };
        assert_eq!(median(&[]), (None, 1));
        assert_eq!(median(&[3.0]), (Some(3.0), 1));
        assert_eq!(median(&[4.0, 1.0]), (Some(2.5), 1));
        assert_eq!(median(&[9.0, 1.0, 2.0]), (Some(2.0), 1));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), (Some(3.0), 1));
    }
}

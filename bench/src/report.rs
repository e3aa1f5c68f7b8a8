//! The tables: a row for each contender, with the ratio to the baseline in each cell, and tantara's ratio to the best
//! peer below.

use std::fmt::Write;
use std::path::Path;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::names::{BASELINES, OURS, machines};
use crate::processes::killed;
use crate::record::Record;

/// All tables, in Markdown.
pub fn tables(record: &Record) -> String {
    let origin = &record.origin;
    let mut text = format!(
        "Measured {} at commit {} on {}, by `{}`. Medians; in brackets the ratio to the baseline of the same run.\n",
        origin.date, origin.commit, origin.machine, origin.command
    );
    let mut last = "";
    for workload in record.workloads() {
        let section = section(workload);
        // Writing to a string cannot fail.
        if section != last {
            let _ = write!(text, "\n### {section}\n");
            last = section;
        }
        let table = if workload == "processes-killed" { kills(record, workload) } else { table(record, workload) };
        let _ = write!(text, "\n**{}**\n\n{table}\n", title(workload));
    }
    text
}

fn section(workload: &str) -> &'static str {
    match workload.split('-').next() {
        Some("processes") => "Processes",
        Some("machines") => "Machines",
        Some("tasks" | "bank") => "Tasks",
        Some("recorded") => "The record of waits",
        Some("latency") if workload.starts_with("latency-tasks") => "Tasks",
        _ => "Threads",
    }
}

fn title(workload: &str) -> String {
    let parts: Vec<&str> = workload.split('-').collect();
    match *parts {
        ["uncontended"] => "One thread, nobody waits (ns)".into(),
        ["round", "trip", cores, unit] => format!("Round trip of two threads bound to {cores} {unit} (ns)"),
        ["crowd", threads, cores, unit] => {
            format!("{threads} sleeping threads released on {cores} {unit} (ns per thread)")
        }
        ["latency", "threads", cores, unit] => {
            format!("From a set until a thread that slept runs, bound to {cores} {unit} (ns)")
        }
        ["latency", "tasks", cores, unit] => {
            format!("From a set until a task on another thread runs, bound to {cores} {unit} (ns)")
        }
        ["contention", threads] => format!("{threads} threads set, poll and clear one event (ns for one turn)"),
        ["contention", "side", "by", "side", threads] => {
            format!("{threads} threads set, poll and clear an event each, side by side in memory (ns for one turn)")
        }
        ["tasks", waiters] => format!("{waiters} tasks on one event (ns per task; bytes)"),
        ["recorded", "tasks", waiters] => format!("{waiters} tasks on one event (ns per task; bytes)"),
        ["recorded", "sleeps", cores, unit] => {
            format!("Round trip of two threads that sleep, bound to {cores} {unit} (ns)")
        }
        ["recorded", "waits", count] => format!("`waits()` of {count} waits of tasks for one event"),
        ["tasks", "owned", waiters] => {
            format!("{waiters} tasks that own the event together (ns per task; bytes)")
        }
        ["processes", "uncontended"] => "One process, nobody waits (ns)".into(),
        ["processes", "round", "trip", cores, unit] => {
            format!("Round trip of two processes bound to {cores} {unit} (ns)")
        }
        ["processes", "wake", ..] => "A process wakes one that sleeps on another core (ns)".into(),
        ["processes", "latency", cores, unit] => {
            format!("From a set until a process that slept runs, bound to {cores} {unit} (ns)")
        }
        ["processes", "crowd", processes, cores, unit] => {
            format!("{processes} sleeping processes released on {cores} {unit} (ns per process)")
        }
        ["processes", "any", events] => format!("A process waits for any of {events} events (ns)"),
        ["processes", "open"] => "An event that exists is opened by its name (ns)".into(),
        ["processes", "list", events] => format!("{events} events of a directory are listed"),
        ["processes", "memory"] => "Memory of an event".into(),
        ["processes", "killed"] => {
            "Whether the others can go on when one is killed (kill -9) at a random moment".into()
        }
        ["processes", "command"] => "`tantara set` and `tantara wait` on a set event, from start to exit (ns)".into(),
        ["machines", "verbs", nodes, unit] => {
            format!("The methods, and from a set until a waiter elsewhere is released, {nodes} {unit}")
        }
        ["machines", "crowd", waiters] => format!("{waiters} tasks of one process on one event, 1 node"),
        ["machines", "many", events] => format!("One process waits for {events} events, 1 node"),
        ["machines", "idle", processes] => format!("{processes} processes wait, and nothing happens, 1 node"),
        ["machines", "command", nodes, unit] => format!("`tantara --etcd … set`, from start to exit, {nodes} {unit}"),
        ["machines", "failover", processes] => {
            format!("{processes} waiting processes, 3 nodes, the leader is killed (kill -9), and the event is set")
        }
        ["bank", customers] => format!("The bank, {customers} customers as tasks, no pauses (s; bytes)"),
        _ => workload.to_owned(),
    }
}

pub fn baseline_of(record: &Record, workload: &str, name: &str) -> Option<f64> {
    BASELINES.into_iter().find_map(|baseline| record.median(workload, baseline, name).0)
}

/// The best contender that is neither the baseline nor tantara.
pub fn best_peer<'a>(record: &'a Record, workload: &str, name: &str) -> Option<(&'a str, f64)> {
    record
        .contenders(workload)
        .into_iter()
        .filter(|contender| *contender != OURS && !BASELINES.contains(contender))
        // A peer that hangs does not count.
        .filter(|contender| record.median(workload, contender, name).1 == 0)
        .filter_map(|contender| Some((contender, record.median(workload, contender, name).0?)))
        .min_by(|(_, a), (_, b)| a.total_cmp(b))
}

fn table(record: &Record, workload: &str) -> Table {
    let names = record.names(workload);
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header([""].into_iter().chain(names.iter().copied()));
    for contender in record.contenders(workload) {
        let cells = names.iter().map(|name| {
            let is_time = !name.ends_with("bytes") && ![machines::WATCHES, machines::LEASES].contains(name);
            let baseline = baseline_of(record, workload, name).filter(|baseline| is_time && *baseline > 0.0);
            match (record.median(workload, contender, name), baseline) {
                ((Some(value), 0), Some(baseline)) => format!("{} ({})", figure(value), ratio(value / baseline)),
                ((Some(value), 0), None) => figure(value),
                ((Some(value), _), _) => format!("{}, hangs", figure(value)),
                ((None, _), _) => "hangs".to_owned(),
            }
        });
        let name = if contender == OURS { format!("**{contender}**") } else { contender.to_owned() };
        table.add_row([name].into_iter().chain(cells));
    }
    let is_compared = |name: &&str| best_peer(record, workload, name).is_some();
    if record.contenders(workload).contains(&OURS) && names.iter().any(is_compared) {
        let ours = names.iter().map(|name| {
            let ours = record.median(workload, OURS, name).0;
            match (ours, best_peer(record, workload, name)) {
                (Some(ours), Some((_, best))) if best > 0.0 => ratio(ours / best),
                _ => String::new(),
            }
        });
        table.add_row(["tantara ÷ best peer".to_owned()].into_iter().chain(ours));
    }
    if workload.starts_with("machines-command") {
        let more = names.iter().map(|name| {
            let both = record.median(workload, OURS, name).0.zip(baseline_of(record, workload, name));
            both.map_or_else(String::new, |(ours, baseline)| figure(ours - baseline))
        });
        table.add_row(["tantara − baseline".to_owned()].into_iter().chain(more));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// One round that hangs is enough to report it.
fn kills(record: &Record, workload: &str) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header(["", "the others go on", "kills", "until they hung, at the median"]);
    for contender in record.contenders(workload) {
        let all = |name| record.values(workload, contender, name);
        let (kills, survived) = (all(killed::KILLS), all(killed::SURVIVED));
        let hung: Vec<f64> =
            kills.iter().zip(&survived).filter(|(all, some)| some < all).map(|(_, some)| *some).collect();
        let done = survived.iter().sum::<f64>() + hung.len() as f64;
        let verdict = match (hung.len(), kills.len()) {
            (0, 0) => "hangs".to_owned(),
            (0, _) => "yes".to_owned(),
            (hung, rounds) => format!("no: hang in {hung} of {rounds} rounds"),
        };
        let until = hung.get(hung.len() / 2).map_or_else(String::new, |some| figure(some + 1.0));
        let name = if contender == OURS { format!("**{contender}**") } else { contender.to_owned() };
        table.add_row([name, verdict, figure(done), until]);
    }
    table
}

/// Rounds to at least two significant digits.
pub fn ratio(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.4}") } else { format!("{ratio:.2}") }
}

fn figure(value: f64) -> String {
    if value >= 1_000.0 {
        // With separators of thousands.
        let digits = format!("{value:.0}");
        let mut grouped = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index) % 3 == 0 {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return grouped;
    }
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

/// Inserts the tables into a file, between its marks.
pub fn put_into(path: &Path, tables: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    let marks = text.find(BEGIN).zip(text.find(END)).filter(|(begin, end)| begin < end);
    let (begin, end) = marks.ok_or_else(|| format!("{}: expected {BEGIN} and, after it, {END}", path.display()))?;
    let text = format!("{}{BEGIN}\n\n{tables}\n{}", &text[..begin], &text[end..]);
    std::fs::write(path, text).map_err(|error| format!("{}: cannot be written: {error}", path.display()))
}

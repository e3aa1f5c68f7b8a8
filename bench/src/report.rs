//! The tables: a row for each contender, with the ratio to the floor in each cell, and ours to the best peer below.

use std::fmt::Write;
use std::path::Path;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::cell::{FLOOR_TASKS, FLOOR_THREADS, OURS};
use crate::record::Record;

/// All tables, in Markdown.
pub fn tables(record: &Record) -> String {
    let origin = &record.origin;
    let mut text = format!(
        "Measured {} at commit {} on {}, by `{}`. Medians; in brackets the ratio to the floor of the same run.\n",
        origin.date, origin.commit, origin.machine, origin.command
    );
    for workload in record.workloads() {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n**{}**\n\n{}\n", title(workload), table(record, workload));
    }
    text
}

fn title(workload: &str) -> String {
    let parts: Vec<&str> = workload.split('-').collect();
    match *parts {
        ["uncontended"] => "One thread, nobody waits (ns)".into(),
        ["round", "trip", cores, unit] => format!("Round trip of two threads bound to {cores} {unit} (ns)"),
        ["crowd", threads, cores, unit] => {
            format!("{threads} sleeping threads released on {cores} {unit} (ns per thread)")
        }
        ["tasks", waiters] => format!("{waiters} tasks on one event (ns per task; bytes)"),
        ["bank", customers] => format!("The bank, {customers} customers as tasks, no pauses (s; bytes)"),
        _ => workload.to_owned(),
    }
}

pub fn floor_of(record: &Record, workload: &str, name: &str) -> Option<f64> {
    [FLOOR_THREADS, FLOOR_TASKS].into_iter().find_map(|floor| record.median(workload, floor, name).0)
}

/// The best of those who are neither the floor nor ours.
pub fn best_peer<'a>(record: &'a Record, workload: &str, name: &str) -> Option<(&'a str, f64)> {
    record
        .contenders(workload)
        .into_iter()
        .filter(|contender| ![FLOOR_THREADS, FLOOR_TASKS, OURS].contains(contender))
        // A peer that hangs has not done the work.
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
            let floor = floor_of(record, workload, name).filter(|_| !name.ends_with("bytes"));
            match (record.median(workload, contender, name), floor) {
                ((Some(value), 0), Some(floor)) => format!("{} ({})", figure(value), ratio(value / floor)),
                ((Some(value), 0), None) => figure(value),
                ((Some(value), _), _) => format!("{}, hangs", figure(value)),
                ((None, _), _) => "hangs".to_owned(),
            }
        });
        let name = if contender == OURS { format!("**{contender}**") } else { contender.to_owned() };
        table.add_row([name].into_iter().chain(cells));
    }
    if names.iter().any(|name| best_peer(record, workload, name).is_some()) {
        let ours = names.iter().map(|name| {
            let ours = record.median(workload, OURS, name).0;
            match (ours, best_peer(record, workload, name)) {
                (Some(ours), Some((_, best))) => ratio(ours / best),
                _ => String::new(),
            }
        });
        table.add_row(["tantara ÷ best peer".to_owned()].into_iter().chain(ours));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Two digits that say something.
pub fn ratio(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.4}") } else { format!("{ratio:.2}") }
}

fn figure(value: f64) -> String {
    if value >= 1_000.0 {
        // Thousands apart.
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

/// Puts the tables into a file, between its marks.
pub fn put_into(path: &Path, tables: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    let marks = text.find(BEGIN).zip(text.find(END)).filter(|(begin, end)| begin < end);
    let (begin, end) = marks.ok_or_else(|| format!("{}: expected {BEGIN} and, after it, {END}", path.display()))?;
    let text = format!("{}{BEGIN}\n\n{tables}\n{}", &text[..begin], &text[end..]);
    std::fs::write(path, text).map_err(|error| format!("{}: cannot be written: {error}", path.display()))
}

//! `tantara ls`.

use std::io::IsTerminal;

use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, ContentArrangement, Table};
use serde::Serialize;

use crate::events::entry::{Entry, Inside};
use crate::events::origin::Origin;
use crate::events::place::Place;
use crate::events::text;
use crate::failure::Failure;
use crate::{local, output};

/// On a narrower terminal there are no columns.
const NARROWEST_TABLE: u16 = 72;

pub(crate) fn run(place: &Place, names: &[String], json: bool) -> Result<(), Failure> {
    let mut events: Vec<Entry> = match place {
        Place::Directory(directory) => local::entries(directory, names)?,
        Place::Cluster(region) => {
            region.cluster.list().map_err(Failure::of_cluster)?.into_iter().map(Entry::from).collect()
        }
    };
    if let Some(unknown) = names.iter().find(|name| !events.iter().any(|event| event.name == **name)) {
        return Err(Failure::usage(place.unknown(unknown)));
    }
    events.retain(|event| names.is_empty() || names.contains(&event.name));
    if json {
        print_json(&events)?;
    } else if events.is_empty() {
        output::note(format_args!("there are no events in {}", place.shown()));
    } else {
        print_table(place, &events);
    }
    output::flush();
    Ok(())
}

fn print_table(place: &Place, events: &[Entry]) {
    let is_terminal = std::io::stdout().is_terminal();
    let mut table = Table::new();
    table.load_style(NOTHING);
    if is_terminal {
        output::note(format_args!("{}", place.shown()));
        let width = output::columns().max(20);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width);
        let longest = events.iter().map(|event| event.name.chars().count()).max().unwrap_or_default();
        if width < NARROWEST_TABLE || longest > usize::from(width) / 2 {
            return print_lines(table, events);
        }
    }
    table.set_header(["NAME", "STATE", "LAST SET", "WAITING"]);
    for event in events {
        let last_set = event.last_set.as_ref().map_or("never".to_owned(), Origin::shown);
        table.add_row([event.name.clone(), state(event).to_owned(), last_set, waiters(event)]);
    }
    if let Some(names) = table.column_mut(0).filter(|_| is_terminal) {
        // A name that is broken cannot be copied.
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    print(&table);
}

/// Without columns: a line for each event, and one for each waiter.
fn print_lines(mut table: Table, events: &[Entry]) {
    for event in events {
        let last_set = event.last_set.as_ref().map_or("never set".to_owned(), Origin::shown);
        table.add_row([format!("{}: {}, {last_set}", event.name, state(event))]);
        if !event.waiters.is_empty() {
            table.add_row([format!("waiting: {}", waiters(event))]);
        }
    }
    print(&table);
}

fn print(table: &Table) {
    for line in table.lines() {
        // The table sets a margin of one on either side of each cell.
        output::line(format_args!("{}", line.strip_prefix(' ').unwrap_or(&line).trim_end()));
    }
}

fn state(event: &Entry) -> &'static str {
    match &event.holders {
        Some(holders) if !holders.is_empty() => "held",
        _ if event.is_set => "set",
        _ => "unset",
    }
}

/// One line for each of the first waiters.
fn waiters(event: &Entry) -> String {
    const MOST: usize = 8;
    let mut lines: Vec<String> = event.waiters.iter().take(MOST).map(text::waiter).collect();
    if event.waiters.len() > MOST {
        lines.push(format!("and {} more", event.waiters.len() - MOST));
    }
    for Inside { pid, waits, place, since } in event.inside.iter().take(MOST) {
        let (process, place, since) = (text::process(*pid), text::short(place), text::since(*since));
        lines.push(format!("inside of {process}: {waits}, the oldest at {place} (for {since})"));
    }
    if event.inside.len() > MOST {
        lines.push(format!("and inside of {} more", event.inside.len() - MOST));
    }
    lines.join("\n")
}

#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    state: &'static str,
    last_set: Option<By<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holders: Option<Vec<By<'a>>>,
    waiters: Vec<Waiting<'a>>,
    /// In a directory: the processes that record their waits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inside: Vec<InsideOf<'a>>,
}

/// The waits inside of a process that records them.
#[derive(Serialize)]
struct InsideOf<'a> {
    pid: Option<u32>,
    waits: u64,
    oldest_place: &'a str,
    since: String,
}

#[derive(Serialize)]
struct By<'a> {
    at: String,
    /// `null` for a process of another PID namespace.
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

/// A waiting thread of this machine, or a waiting process of a cluster.
#[derive(Serialize)]
struct Waiting<'a> {
    /// `null` for a process of another PID namespace.
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    since: String,
}

impl<'a> From<&'a Origin> for By<'a> {
    fn from(origin: &'a Origin) -> By<'a> {
        By { at: text::moment(origin.at), pid: origin.pid, host: origin.host.as_deref(), note: origin.note.as_deref() }
    }
}

fn print_json(events: &[Entry]) -> Result<(), Failure> {
    let events: Vec<Event<'_>> = events.iter().map(of_entry).collect();
    let json = serde_json::to_string_pretty(&events).map_err(Failure::internal)?;
    output::line(format_args!("{}", text::json(&json)));
    Ok(())
}

fn of_entry(event: &Entry) -> Event<'_> {
    let waiters = event.waiters.iter().map(|waiter| Waiting {
        pid: waiter.pid,
        tid: waiter.tid,
        command: waiter.command.as_deref(),
        host: waiter.host.as_deref(),
        count: waiter.host.is_some().then_some(waiter.count),
        since: text::moment(waiter.since),
    });
    let inside = event.inside.iter().map(|inside| InsideOf {
        pid: inside.pid,
        waits: inside.waits,
        oldest_place: &inside.place,
        since: text::moment(inside.since),
    });
    Event {
        name: &event.name,
        state: if event.is_set { "set" } else { "unset" },
        last_set: event.last_set.as_ref().map(By::from),
        holders: event.holders.as_ref().map(|holders| holders.iter().map(By::from).collect()),
        waiters: waiters.collect(),
        inside: inside.collect(),
    }
}

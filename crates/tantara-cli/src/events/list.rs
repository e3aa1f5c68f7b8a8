//! `tantara ls`.

use std::io::IsTerminal;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use tantara::Entry;

use crate::events::{Place, text};
use crate::exit::Failure;
use crate::output;

pub(crate) fn run(place: &Place, json: bool) -> Result<(), Failure> {
    let mut events = Vec::new();
    for entry in tantara::survey(&place.directory).map_err(Failure::of_event)? {
        match entry {
            Ok(event) => events.push(event),
            // It is in the way, but of nothing that was asked for.
            Err(error) => output::note(format_args!("{error}")),
        }
    }
    if json {
        print_json(&events)?;
    } else if events.is_empty() {
        output::note(format_args!("there are no events in {}", place.directory.display()));
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
        output::note(format_args!("{}", place.directory.display()));
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(terminal_width());
    }
    table.set_header(["NAME", "STATE", "LAST SET", "WAITING"]);
    for event in events {
        let state = if event.is_set { "set" } else { "unset" };
        let last_set =
            event.last_set.map_or("never".to_owned(), |last| format!("{} by {}", text::ago(last.at), last.pid));
        table.add_row([event.name.clone(), state.to_owned(), last_set, waiters(event)]);
    }
    for line in table.lines() {
        // The table sets a margin of one on either side of each cell.
        output::line(format_args!("{}", line.strip_prefix(' ').unwrap_or(&line).trim_end()));
    }
}

/// One line for each, but not for a crowd.
fn waiters(event: &Entry) -> String {
    const MOST: usize = 8;
    let mut lines: Vec<String> = event.waiters.iter().take(MOST).map(text::waiter).collect();
    if event.waiters.len() > MOST {
        lines.push(format!("and {} more", event.waiters.len() - MOST));
    }
    lines.join("\n")
}

fn terminal_width() -> u16 {
    use rustix::termios::tcgetwinsize;
    tcgetwinsize(std::io::stdout()).map_or(100, |size| size.ws_col.max(40))
}

#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    state: &'static str,
    last_set: Option<LastSet>,
    waiters: Vec<Waiter<'a>>,
}

#[derive(Serialize)]
struct LastSet {
    at: String,
    pid: u32,
}

#[derive(Serialize)]
struct Waiter<'a> {
    pid: u32,
    tid: u32,
    command: &'a str,
    since: String,
}

fn print_json(events: &[Entry]) -> Result<(), Failure> {
    let events: Vec<Event<'_>> = events.iter().map(of_entry).collect();
    let json = serde_json::to_string_pretty(&events).map_err(Failure::internal)?;
    output::line(format_args!("{json}"));
    Ok(())
}

fn of_entry(event: &Entry) -> Event<'_> {
    let waiters = event.waiters.iter().map(|waiter| Waiter {
        pid: waiter.pid,
        tid: waiter.tid,
        command: &waiter.command,
        since: text::moment(waiter.since),
    });
    Event {
        name: &event.name,
        state: if event.is_set { "set" } else { "unset" },
        last_set: event.last_set.map(|last| LastSet { at: text::moment(last.at), pid: last.pid }),
        waiters: waiters.collect(),
    }
}

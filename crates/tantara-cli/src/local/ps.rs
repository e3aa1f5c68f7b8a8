//! `tantara ps`: the waits inside of processes that record them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, SystemTime};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use tantara::{SharedEvent, waits};

use super::directory::Directory;
pub(crate) use super::page::Process;
use super::page::{Act, Event, Group, LastHold, Mode, Other, time};
use crate::events::entry::Inside;
use crate::events::text;
use crate::failure::Failure;
use crate::output;

/// The waits of this process are published in the directory that it was given.
pub(crate) fn publish_waits_in(directory: Option<&Path>) {
    directory.into_iter().for_each(waits::publish_in);
}

/// Fails if processes cannot publish waits on this system.
pub(crate) fn check_ps() -> Result<(), Failure> {
    Ok(())
}

pub(crate) fn ps(directory: &Directory, pid: Option<u32>, json: bool) -> Result<(), Failure> {
    let mut processes = all_processes(directory)?;
    tell_of_others(&mut processes, &last_set);
    if let Some(pid) = pid {
        processes.retain(|process| process.pid == Some(pid));
        if processes.is_empty() {
            return Err(Failure::usage(format!(
                "process {pid} publishes no waits in {}: start it with TANTARA_WAITS=1, and with the same TANTARA_DIR \
                 if that is set; its record begins with its first wait",
                directory.shown()
            )));
        }
    }
    if json {
        let json = serde_json::to_string_pretty(&processes).map_err(Failure::internal)?;
        output::line(format_args!("{}", text::json(&json)));
    } else if processes.is_empty() {
        output::note(format_args!(
            "no process publishes its waits in {}: start one with TANTARA_WAITS=1",
            directory.shown()
        ));
    } else {
        print(&processes);
    }
    output::flush();
    Ok(())
}

/// The living processes that publish their waits in the directory. An outdated page says nothing of now.
pub(crate) fn processes(directory: &Directory) -> Result<Vec<Process>, Failure> {
    let mut processes = all_processes(directory)?;
    processes.retain(|process| !process.has_ended && !process.is_outdated);
    Ok(processes)
}

/// The processes that publish their waits in the directory, and those that have ended before they had set the events
/// that they had declared to set. Invalid pages are reported.
fn all_processes(directory: &Directory) -> Result<Vec<Process>, Failure> {
    let mut processes = Vec::new();
    if !directory.is_there()? {
        return Ok(processes);
    }
    for page in waits::pages(directory.path()).map_err(Failure::of_event)? {
        match serde_json::from_str::<Process>(&page.text) {
            Ok(process) => processes.push(process.of(&page)),
            Err(_) if page.has_ended => {}
            Err(error) => output::note(format_args!(
                "the page of waits of process {} cannot be read: {}",
                text::process(page.pid),
                text::short(&error.to_string())
            )),
        }
    }
    Ok(processes)
}

impl Process {
    fn of(mut self, page: &waits::PageOfWaits) -> Process {
        let waits::PageOfWaits { pid, has_ended, is_outdated, user, .. } = *page;
        (self.pid, self.has_ended, self.is_outdated, self.user) = (pid, has_ended, is_outdated, user);
        if has_ended {
            // Its waits have ended with it.
            (self.total, self.groups) = (0, Vec::new());
        }
        self.command = pid
            .filter(|_| !has_ended)
            .and_then(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
            .map(|command| {
                let words = command.split(|byte| *byte == 0).filter(|word| !word.is_empty());
                let words: Vec<_> = words.map(String::from_utf8_lossy).collect();
                words.join(" ").chars().take(200).collect()
            });
        self
    }

    /// What a process that has ended had declared.
    fn duties(&self) -> impl Iterator<Item = String> {
        let events = self.declared.iter().filter(|_| self.has_ended).take(MOST_OTHERS);
        events.flat_map(|event| {
            let name = text::short(&event.name);
            let setters = event.setters.iter().map(|act| format!("{name} was to be set {}", act.shown()));
            let holders = event.holders.iter().map(|act| format!("{name} was held {}", act.shown()));
            setters.chain(holders).collect::<Vec<_>>()
        })
    }

    /// Its waits for the event between processes whose file that is.
    pub(crate) fn waits_for(&self, file: &Path) -> Option<Inside> {
        let is_it = |event: &Event| event.path.as_ref().is_some_and(|path| Path::new(path) == file);
        let groups: Vec<_> = self.groups.iter().filter(|group| group.events.iter().any(is_it)).collect();
        let since = |group: &Group| group.waiters.iter().map(|waiter| waiter.since).min();
        let oldest = groups.iter().min_by_key(|group| since(group).unwrap_or(u64::MAX))?;
        Some(Inside {
            pid: self.pid,
            waits: groups.iter().map(|group| group.count).fold(0, u64::saturating_add),
            place: oldest.place.clone(),
            since: time(since(oldest)?),
        })
    }

    fn title(&self) -> String {
        let command = self.command.as_deref().map(|command| format!("  {}", text::cut(&text::shown(command), 80)));
        let process = format!("{}{}", text::process(self.pid), of_user(self.user));
        if self.has_ended {
            return format!("{process}  has ended before it had done what it had declared");
        }
        let count = if self.total == 1 { "1 wait".into() } else { format!("{} waits", self.total) };
        format!("{process}{}: {count}", command.unwrap_or_default())
    }
}

/// When an event was set last, whose file that is: `Some(None)` if it never was. `None` if nobody can tell.
fn last_set(file: &Path) -> Option<Option<SystemTime>> {
    let event = SharedEvent::find_in(file.parent()?, file.file_name()?.to_str()?).ok()??;
    Some(event.last_set().ok()?.map(|last| last.at))
}

/// Adds to each awaited event which other processes have declared to set it, or hold it. `last_set` tells when the
/// event with that file was set last: another process may have set it since. Only files that a process of this user has
/// named are read.
fn tell_of_others(processes: &mut Vec<Process>, last_set: &dyn Fn(&Path) -> Option<Option<SystemTime>>) {
    let mut all: BTreeMap<String, Vec<Other>> = BTreeMap::new();
    for process in &*processes {
        for event in &process.declared {
            let Some(path) = &event.path else { continue };
            let other = |act: &Act, holds| {
                let Process { pid, user, has_ended, is_outdated, .. } = *process;
                Other { pid, user, has_ended, is_outdated, holds, act: act.clone() }
            };
            let setters = event.setters.iter().map(|act| other(act, false));
            let others = setters.chain(event.holders.iter().map(|act| other(act, true)));
            all.entry(path.clone()).or_default().extend(others);
        }
    }
    let own: HashSet<String> = {
        let own = processes.iter().filter(|process| process.user.is_none());
        let events = own.flat_map(|own| own.groups.iter().flat_map(|group| &group.events).chain(&own.declared));
        events.filter_map(|event| event.path.clone()).collect()
    };
    let mut asked: BTreeMap<&str, Option<Option<SystemTime>>> = BTreeMap::new();
    for (path, others) in &all {
        if others.iter().any(|other| other.has_ended) && own.contains(path) {
            asked.insert(path, last_set(Path::new(path)));
        }
    }
    // A declaration no longer counts if any process has set the event since. If the event cannot be read, it does not
    // count either.
    let is_left = |path: &str, act: &Act| match asked.get(path) {
        // A hold sets the event, and moments in a page are in whole milliseconds.
        Some(Some(last)) => last.is_none_or(|last| last < time(act.at.saturating_add(1))),
        _ => false,
    };
    let mut left = all.clone();
    for (path, others) in &mut left {
        others.retain(|other| !other.has_ended || is_left(path, &other.act));
    }
    for process in processes.iter_mut().filter(|process| process.has_ended) {
        for event in &mut process.declared {
            let path = event.path.as_deref().unwrap_or_default();
            event.setters.retain(|act| is_left(path, act));
            event.holders.retain(|act| is_left(path, act));
        }
        process.declared.retain(|event| !(event.setters.is_empty() && event.holders.is_empty()));
    }
    processes.retain(|process| !process.has_ended || !process.declared.is_empty());
    for process in &mut *processes {
        let events = process.groups.iter_mut().flat_map(|group| &mut group.events);
        for event in events {
            let Some(others) = event.path.as_ref().and_then(|path| left.get(path)) else { continue };
            let is_shown = |other: &&Other| {
                let is_of_own_opening = other.pid == process.pid && other.pid.is_some();
                let is_known =
                    is_of_own_opening && event.setters.iter().chain(&event.holders).any(|act| *act == other.act);
                // Show a holder to waits for the end of its hold, and to waits that go on because it has ended.
                !is_known
                    && if event.until_unset { other.holds && !other.has_ended } else { !other.holds || other.has_ended }
            };
            event.others = others.iter().filter(is_shown).take(MOST_OTHERS).cloned().collect();
        }
    }
}

const MOST_OTHERS: usize = 8;

/// For how long a wait may take to end after its release.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

fn print(processes: &[Process]) {
    for (number, process) in processes.iter().enumerate() {
        if number > 0 {
            output::line(format_args!(""));
        }
        output::line(format_args!("{}", process.title()));
        if process.missed > 0 {
            let missed = process.missed;
            output::line(format_args!(
                "  {missed} more were not recorded so far: there were too many at the same time"
            ));
        }
        if process.is_outdated {
            output::line(format_args!(
                "  outdated: the process cannot write its waits anew; check that the disk is not full, and that the \
                 process may still replace its files there"
            ));
        }
        process.duties().for_each(|duty| output::line(format_args!("  {duty}")));
        if process.groups.is_empty() {
            continue;
        }
        let mut table = Table::new();
        table.load_style(NOTHING);
        if std::io::stdout().is_terminal() {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(output::columns().max(60) - 1);
        }
        table.set_header(["FOR", "WHO", "EVENT", "WHERE", "KNOWN"]);
        for group in &process.groups {
            table.add_row([
                group.age(),
                group.who(),
                group.what(),
                text::short(&group.place),
                group.known().join("\n"),
            ]);
        }
        for line in table.lines() {
            output::line(format_args!(" {}", line.trim_end()));
        }
        // Once, and not for each place with waits.
        let guesses: BTreeSet<String> = process.groups.iter().flat_map(Group::guesses).collect();
        for guess in guesses.iter().take(MOST_OTHERS) {
            output::line(format_args!("  {guess}"));
        }
        let listed: u64 = process.groups.iter().map(|group| group.count).fold(0, u64::saturating_add);
        if listed < process.total {
            output::line(format_args!("  and {} more waits", process.total - listed));
        }
    }
}

impl Group {
    fn age(&self) -> String {
        let Some(oldest) = self.waiters.first() else { return String::new() };
        let age = text::since(time(oldest.since));
        if self.count > 1 { format!("oldest {age}") } else { age }
    }

    fn who(&self) -> String {
        let Some(first) = self.waiters.first() else { return String::new() };
        match (&first.task, self.count) {
            (Some(task), 1) => format!("task {}", text::short(task)),
            (Some(_), count) => format!("{count} tasks"),
            (None, 1) => who(first.thread.as_deref(), first.tid),
            (None, count) => {
                let names = self.waiters.iter().map(|waiter| who(waiter.thread.as_deref(), waiter.tid));
                let names: Vec<_> = names.take(3).collect();
                let rest = if count > 3 { ", …" } else { "" };
                format!("{count} threads: {}{rest}", names.join(", "))
            }
        }
    }

    fn what(&self) -> String {
        const MOST: usize = 4;
        let names = self.events.iter().map(|event| {
            // Without labels they may be different ones.
            let name = text::short(if self.count == 1 || event.labelled { &event.name } else { &event.kind });
            if event.until_unset { format!("{name} (until unset)") } else { name }
        });
        let names: Vec<_> = names.take(MOST).collect();
        let rest = if self.number_of_events > MOST as u64 { ", …" } else { "" };
        let mode = match self.mode {
            Mode::One => "",
            Mode::Any => "any of ",
            Mode::All => "all of ",
        };
        format!("{mode}{}{rest}", names.join(", "))
    }

    /// What is known of its events, a line each.
    fn known(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(cycle) = &self.cycle {
            lines.push(format!("a cycle: {}", text::short(cycle)));
        }
        let whose = if self.count > 1 && !self.same_events { "of the oldest: " } else { "" };
        for event in &self.events {
            let of = if self.events.len() > 1 { format!("{}: ", text::short(&event.name)) } else { String::new() };
            let act = |what: &str, act: &Act| format!("{whose}{of}{what} {}", act.shown());
            // Before that, the task or the thread may just not have run yet.
            let released = event.last_set.as_ref().filter(|_| event.released).map(|set| time(set.at));
            if let Some(at) = released.filter(|at| at.elapsed().is_ok_and(|ago| ago >= ON_ITS_WAY)) {
                let is_task = self.waiters.first().is_some_and(|waiter| waiter.task.is_some());
                let missing = if is_task { "polled" } else { "run" };
                lines.push(format!("{whose}{of}released {}, not {missing} since", text::ago(at)));
            }
            lines.extend(event.abandoned.as_ref().map(|it| act("abandoned", it)));
            if event.until_unset {
                lines.extend(event.holders.iter().take(3).map(|it| act("held", it)));
            } else {
                lines.extend(event.setters.iter().take(3).map(|it| act("to be set", it)));
                lines.extend(event.last_hold.as_ref().map(|hold| format!("{whose}{of}{}", hold.shown())));
            }
            // They are known by the file, which is the same for all of the group.
            lines.extend(event.others.iter().map(|other| format!("{of}{}", other.shown())));
            lines.extend(event.taken.as_ref().map(|it| act("last release taken", it)));
            lines.extend(event.last_set.as_ref().map(|it| act("last set", it)));
        }
        lines
    }

    /// What may have been set in place of its events, if nothing is known of these.
    fn guesses(&self) -> impl Iterator<Item = String> {
        let is_nothing_known = self.known().is_empty();
        self.set_in_vain.iter().filter(move |_| is_nothing_known).map(|event| {
            let set = event.last_set.as_ref().map(|act| format!(" {}", act.shown())).unwrap_or_default();
            let name = text::short(&event.name);
            format!("perhaps the wrong event was set: {name}{set}, and nobody waited for it")
        })
    }
}

impl Other {
    fn shown(&self) -> String {
        let what = match (self.holds, self.has_ended) {
            (false, false) => "to be set",
            (false, true) => "was to be set",
            (true, false) => "held",
            (true, true) => "was held",
        };
        let state = match (self.has_ended, self.is_outdated) {
            (true, _) => ", which has ended",
            (false, true) => " (outdated)",
            (false, false) => "",
        };
        let process = self.pid.map_or_else(|| text::process(None), |pid| format!("process {pid}"));
        let user = of_user(self.user);
        format!("{what} by {process}{user}{state}: {}", self.act.shown())
    }
}

impl LastHold {
    fn shown(&self) -> String {
        let (host, began) = (text::short(&self.host), text::ago(time(self.since)));
        format!("last held by process {} on {host}, which let it go or vanished; its hold began {began}", self.pid)
    }
}

impl Act {
    fn shown(&self) -> String {
        let ended = if self.has_ended { " (ended)" } else { "" };
        let by = who(self.thread.as_deref(), self.tid);
        format!("by {by}{ended} at {}, {}", text::short(&self.place), text::ago(time(self.at)))
    }
}

/// The user of the process, unless it is this user.
fn of_user(user: Option<u32>) -> String {
    user.map(|user| format!(" of user {user}")).unwrap_or_default()
}

fn who(name: Option<&str>, tid: u32) -> String {
    name.map_or_else(|| format!("thread {tid}"), text::short)
}

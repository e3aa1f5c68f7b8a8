//! The page that a recording process publishes, as JSON.

#![forbid(unsafe_code)]

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::waits::fold::{self, Group};
use crate::waits::store;
use crate::waits::view::{self, Act, Actor, Awaited, Mode, Waiting};

/// How many groups a page has at most, and how many events of a wait it shows.
const MOST_GROUPS: usize = 512;
const MOST_EVENTS: usize = 16;
/// How many setters and holders of an event it shows.
const MOST_ACTS: usize = 4;
/// After this many bytes no further declared event is written, and after twice as many no further
/// group. Each has less than two megabytes, so a page has less than the four megabytes that a
/// reader accepts.
const ENOUGH: usize = 1 << 20;
/// A longer path is omitted, because a part of it would be the path of another file.
const LONGEST_PATH: usize = 4096;
/// The beginning of the year 10000, in milliseconds.
const END_OF_DATES: u128 = 253_402_300_800_000;

/// All recorded waits of this process.
pub(crate) fn page() -> String {
    page_of(&view::declared(), &fold::groups())
}

/// The declarations that the process will not fulfil, because it exits. `None` if there are none.
pub(crate) fn last_page() -> Option<String> {
    let declared = view::declared();
    (!declared.is_empty()).then(|| page_of(&declared, &[]))
}

fn page_of(declared: &[Awaited], groups: &[Group]) -> String {
    let total: usize = groups.iter().map(|group| group.count).sum();
    let mut page = Json::new();
    page.object(|page| {
        page.number("version", 1);
        page.number("total", total as u128);
        page.number("missed", store::missed() as u128);
        // The declarations of this process, for waits in other processes.
        page.array_up_to(ENOUGH, "declared", declared.iter().take(MOST_GROUPS), |page, event| {
            page.object(|page| of_event(page, event))
        });
        page.array_up_to(2 * ENOUGH, "groups", groups.iter().take(MOST_GROUPS), |page, group| {
            page.object(|page| of_group(page, group))
        });
    });
    page.0
}

fn of_group(page: &mut Json, group: &Group) {
    let Some(first) = group.oldest.first() else { return };
    page.number("count", group.count as u128);
    page.text("place", &first.place.to_string());
    let mode = match first.mode {
        Mode::One => "one",
        Mode::Any => "any",
        Mode::All => "all",
    };
    page.text("mode", mode);
    page.flag("released", first.is_released());
    page.flag("abandoned", first.is_abandoned());
    page.flag("same_events", group.is_of_same_events);
    if let Some(cycle) = group.oldest.iter().find_map(|waiting| waiting.cycle.as_deref()) {
        page.text("cycle", cycle);
    }
    page.number("number_of_events", first.events.len() as u128);
    page.array("events", first.events.iter().take(MOST_EVENTS), |page, event| {
        page.object(|page| of_event(page, event))
    });
    page.array("set_in_vain", first.set_in_vain.iter(), |page, event| page.object(|page| of_event(page, event)));
    page.array("waiters", group.oldest.iter(), |page, waiting| page.object(|page| of_waiter(page, waiting)));
}

fn of_event(page: &mut Json, event: &Awaited) {
    page.text("name", &event.to_string());
    page.flag("labelled", event.label.is_some());
    page.text("kind", event.kind.name());
    if let Some(path) = event.path.as_ref().filter(|path| path.len() <= LONGEST_PATH) {
        page.key("path");
        page.quoted(path);
    }
    page.flag("until_unset", event.until_unset);
    if event.has_released {
        page.flag("released", true);
    }
    for (name, act) in [("last_set", &event.last_set), ("abandoned", &event.abandoned), ("taken", &event.taken)] {
        if let Some(act) = act {
            page.key(name);
            page.object(|page| of_act(page, act));
        }
    }
    if let Some(hold) = &event.last_hold {
        page.key("last_hold");
        page.object(|page| {
            page.text("host", &hold.host);
            page.number("pid", hold.pid.into());
            page.number("since", milliseconds(hold.since));
        });
    }
    for (key, acts) in [("setters", &event.setters), ("holders", &event.holders)] {
        page.array(key, acts.iter().take(MOST_ACTS), |page, act| page.object(|page| of_act(page, act)));
    }
}

fn of_waiter(page: &mut Json, waiting: &Waiting) {
    of_actor(page, &waiting.thread);
    if let Some(task) = waiting.task {
        page.text("task", &waiting.task_name.clone().unwrap_or_else(|| format!("{task:#x}")));
    }
    page.number("since", milliseconds(waiting.since));
    if let Some(left) = waiting.time_left {
        // The moment and not the duration, so that the page does not change while the waits do not.
        let until = milliseconds(waiting.since) + waiting.waited.saturating_add(left).as_millis();
        // Later moments are no valid dates, and may not fit into 64 bits.
        if until < END_OF_DATES {
            page.number("until", until);
        }
    }
}

fn of_act(page: &mut Json, act: &Act) {
    of_actor(page, &act.by);
    page.text("place", &act.place.to_string());
    page.number("at", milliseconds(act.at));
}

fn of_actor(page: &mut Json, actor: &Actor) {
    if let Some(name) = &actor.name {
        page.text("thread", name);
    }
    page.number("tid", actor.id.into());
    if actor.has_ended {
        page.flag("has_ended", true);
    }
}

fn milliseconds(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// A writer of JSON.
struct Json(String);

impl Json {
    fn new() -> Json {
        Json(String::new())
    }

    /// Separates a value from the one before it.
    fn separate(&mut self) {
        if !self.0.is_empty() && !self.0.ends_with(['{', '[', ':']) {
            self.0.push(',');
        }
    }

    fn key(&mut self, key: &str) {
        self.separate();
        self.quoted(key);
        self.0.push(':');
    }

    fn object(&mut self, content: impl FnOnce(&mut Json)) {
        self.separate();
        self.0.push('{');
        content(self);
        self.0.push('}');
    }

    fn array<T>(&mut self, key: &str, items: impl Iterator<Item = T>, each: impl FnMut(&mut Json, T)) {
        self.array_up_to(usize::MAX, key, items, each);
    }

    /// As many items as begin before the text has that length.
    fn array_up_to<T>(
        &mut self,
        length: usize,
        key: &str,
        items: impl Iterator<Item = T>,
        mut each: impl FnMut(&mut Json, T),
    ) {
        self.key(key);
        self.0.push('[');
        for item in items {
            if self.0.len() >= length {
                break;
            }
            each(self, item);
        }
        self.0.push(']');
    }

    fn number(&mut self, key: &str, number: u128) {
        self.key(key);
        let _ = write!(self.0, "{number}");
    }

    fn flag(&mut self, key: &str, flag: bool) {
        self.key(key);
        self.0.push_str(if flag { "true" } else { "false" });
    }

    /// A text, of which the beginning is enough.
    fn text(&mut self, key: &str, text: &str) {
        const LONGEST: usize = 400;
        self.key(key);
        let end = text.char_indices().nth(LONGEST).map_or(text.len(), |(end, _)| end);
        self.quoted(&text[..end]);
    }

    fn quoted(&mut self, text: &str) {
        self.0.push('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => self.0.extend(['\\', c]),
                c if c.is_control() => _ = write!(self.0, "\\u{:04x}", c as u32),
                c => self.0.push(c),
            }
        }
        self.0.push('"');
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_json() {
        let mut json = Json::new();
        json.object(|json| {
            json.text("text", "a \"quote\", a \\, a \n and a \u{7f}");
            json.number("number", 7);
            json.array("empty", std::iter::empty(), |_, ()| ());
            json.array("flags", [true, false].into_iter(), |json, flag| json.object(|json| json.flag("is", flag)));
        });
        let expected = concat!(
            r#"{"text":"a \"quote\", a \\, a \u000a and a \u007f","number":7,"empty":[],"#,
            r#""flags":[{"is":true},{"is":false}]}"#
        );
        assert_eq!(json.0, expected);
    }
}

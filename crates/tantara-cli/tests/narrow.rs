//! What the command shows on terminals, also on narrow ones.
#![cfg(all(target_os = "linux", in_repository))]

mod scratch;
mod signals;
mod terminal;

use scratch::Events;
use terminal::{Terminal, screen};

const COLUMNS: u16 = 60;

fn bank(events: &Events, pace: &str, is_silent: bool) -> Terminal {
    let silence = if is_silent { " > /dev/null" } else { "" };
    let script = format!("exec tantara bank --count 1000 --workers 20 --pace {pace}{silence}");
    Terminal::start(COLUMNS, &events.program("sh", &["-c", &script]))
}

#[test]
fn the_progress_bar_fits_and_is_gone_at_the_end() {
    let events = Events::new();
    let bar = bank(&events, "0.005", true);
    bar.until_shown("of 1,000 served, ");
    let (code, raw) = bar.end();
    assert_eq!(code, 0);
    let drawings: Vec<&str> = raw.split(['\r', '\n']).map(|line| line.trim_end_matches('\u{8}')).collect();
    assert!(drawings.iter().any(|drawing| drawing.contains('━')), "{raw:?}");
    assert!(drawings.iter().all(|drawing| drawing.chars().count() < COLUMNS.into()), "{raw:?}");
    assert!(screen(&raw, COLUMNS.into()).is_empty(), "{raw:?}");
    // The lines of the scenario stand above it.
    let (_, raw) = bank(&events, "0.001", false).end();
    let screen = screen(&raw, COLUMNS.into());
    assert_eq!(screen.last().unwrap(), "All customers have completed their transactions.");
    assert!(screen.iter().all(|line| !line.contains("served,")), "{screen:?}");
}

#[test]
fn the_progress_bar_is_gone_after_an_interrupt() {
    let events = Events::new();
    let mut bar = bank(&events, "1", true);
    bar.until_shown("0 of 1,000 served, ");
    bar.type_keys("\u{3}");
    let (code, raw) = bar.end();
    assert_eq!(code, 130);
    assert!(raw.contains("^C"), "the terminal has shown what was typed: {raw:?}");
    assert_eq!(screen(&raw, COLUMNS.into()), ["tantara: interrupted; 0 of 1000 customers were served"]);
}

#[test]
fn ls_fits_every_terminal_and_breaks_no_name() {
    let events = Events::new();
    let (long, longer) = ("migration-of-the-shop", "shop-frontend.assets.compiled-and-uploaded");
    events.done(&["set", "db-ready"]);
    let waiting = events.start(&["wait", long, "--timeout", "1h", "--", "./serve", "--with", "many", "--arguments"]);
    events.until_waiting(long);
    for (name, widths) in [(long, [200, 80, 60, 40]), (longer, [200, 100, 80, 50])] {
        events.done(&["set", "db-ready", name]);
        for columns in widths {
            let (code, raw) = Terminal::start(columns, &events.command(&["ls", "db-ready", name])).end();
            assert_eq!(code, 0);
            // The first line is the directory.
            let lines: Vec<&str> = raw.lines().skip(1).collect();
            assert!(lines.iter().all(|line| line.chars().count() <= columns.into()), "{columns}: {raw}");
            assert!(lines.iter().any(|line| line.starts_with(name)), "{columns}: {raw}");
        }
    }
    drop(waiting);
}

#[test]
fn on_a_terminal_set_hints_at_a_missing_separator() {
    let events = Events::new();
    let set = |names: &[&str]| Terminal::start(200, &events.command(&[&["set"], names].concat())).end();
    let hint = "tantara: setting an event sh; to run the command sh first, write tantara set built -- sh build\r\n";
    assert_eq!(set(&["built", "sh", "build"]), (0, hint.to_owned()));
    assert_eq!(set(&["built", "sh", "build"]), (0, String::new()), "there is such an event");
    assert_eq!(events.done(&["set", "built", "make"]), "");
}

/// Other programs are given a server or a process without an option.
#[test]
fn on_a_terminal_a_wait_hints_at_a_missing_option() {
    let events = Events::new();
    for (name, hint) in [("db:5432", "a server, write --tcp db:5432"), ("4711", "a process, write --pid 4711")] {
        let mut waiting = Terminal::start(200, &events.command(&["wait", name]));
        waiting.until_shown(&format!("; nobody else does (to wait for {hint})"));
        waiting.type_keys("\u{3}");
        assert_eq!(waiting.end().0, 130);
    }
    events.done(&["clear", "db:5433"]);
    let mut waiting = Terminal::start(200, &events.command(&["wait", "db:5432"]));
    waiting.until_shown("(there is also db:5433)");
    waiting.type_keys("\u{3}");
    waiting.end();
}

#[test]
fn on_a_terminal_a_wait_names_what_is_left() {
    let events = Events::new();
    events.done(&["set", "a", "c"]);
    let mut waiting = Terminal::start(200, &events.command(&["wait", "a", "b", "c"]));
    waiting.until_shown("waiting for b in ");
    waiting.type_keys("\u{3}");
    assert_eq!(waiting.end().0, 130);
}

//! Help texts, the manual page and the completion scripts, as they are printed.
#![cfg(all(target_os = "linux", in_repository))]

mod scratch;
mod signals;
mod terminal;

use std::fs;
use std::process::Command;

use scratch::Events;
use terminal::{Terminal, without_control_sequences};

const SUBCOMMANDS: [&str; 13] =
    ["set", "clear", "pulse", "wait", "hold", "is-set", "ls", "ps", "watch", "rm", "bank", "completions", "man"];

/// Everything that the command shows on a terminal.
fn shown(columns: u16, args: &[&str]) -> String {
    let (code, shown) = Terminal::start(columns, &Events::new().command(args)).end();
    assert_eq!(code, 0, "{args:?}: {shown}");
    without_control_sequences(&shown)
}

/// The lines of the examples.
fn examples(help: &str) -> Vec<&str> {
    let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
    lines.take_while(|line| !line.is_empty()).collect()
}

#[test]
fn every_help_is_short_or_full_and_has_examples_and_exit_codes() {
    let events = Events::new();
    for subcommand in SUBCOMMANDS {
        let (short, full) = (events.done(&[subcommand, "-h"]), events.done(&[subcommand, "--help"]));
        assert!(short.lines().count() <= 25 && !short.contains("Examples"), "{short}");
        assert!(full.contains("Examples:\n  "), "{full}");
        assert!(full.contains("Exit codes: ") || ["completions", "man"].contains(&subcommand), "{full}");
    }
}

#[test]
fn examples_are_aligned_and_unbroken_at_80_columns() {
    for subcommand in SUBCOMMANDS.map(Some).into_iter().chain([None]) {
        let args: Vec<&str> = subcommand.into_iter().chain(["--help"]).collect();
        let (narrow, wide) = (shown(80, &args), shown(500, &args));
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
        assert!(!examples(&narrow).is_empty(), "{narrow}");
        assert_eq!(examples(&narrow), examples(&wide), "{subcommand:?}");
        // Descriptions stand behind two spaces, in one column.
        let begins = examples(&narrow).into_iter().filter_map(|line| {
            let text = line.strip_prefix("  ")?;
            match text.strip_prefix(' ') {
                Some(_) => Some(line.len() - line.trim_start().len()),
                None => text.rfind("  ").map(|at| at + 4),
            }
        });
        let begins: std::collections::HashSet<usize> = begins.collect();
        assert!(begins.len() <= 1, "{begins:?}: {narrow}");
    }
}

#[test]
fn every_option_of_the_manual_is_described_once() {
    let manual = Events::new().done(&["man"]);
    assert!(manual.contains("tantara wait [OPTIONS] [NAME]... [\\-\\- <CMD>...]"), "{manual}");
    assert!(manual.contains("at most 200 bytes"), "{manual}");
    let plain = manual.replace("\\-", "-");
    for subcommand in SUBCOMMANDS {
        assert!(plain.contains(&format!(".SH TANTARA {}\n", subcommand.to_uppercase())), "{subcommand}");
    }
    let lines: Vec<&str> = plain.lines().collect();
    let described: Vec<(&str, &str)> =
        lines.windows(3).filter(|lines| lines[0] == ".TP").map(|lines| (lines[1], lines[2])).collect();
    assert!(described.len() > 30);
    for (option, description) in &described {
        assert!(!description.is_empty() && !description.starts_with('.'), "{option}: {description}");
    }
    for option in ["dir", "etcd", "namespace", "user", "password-file", "connect-timeout", "cacert", "cert", "key"] {
        let name = format!("--{option}\\fR");
        assert_eq!(described.iter().filter(|(option, _)| option.contains(&name)).count(), 1, "{name}");
    }
}

#[test]
fn the_manual_fits_80_columns() {
    let events = Events::new();
    let page = events.home().join("tantara.1");
    fs::write(&page, events.done(&["man"])).unwrap();
    let output = Command::new("man")
        .args(["--warnings", "--local-file"])
        .arg(&page)
        .envs([("MANWIDTH", "80"), ("LC_ALL", "C.UTF-8")])
        .output();
    let Ok(output) = output else {
        println!("left out: man is not installed");
        return;
    };
    let (text, complaints) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    if text.is_empty() {
        println!("left out: man has no pages here");
        return;
    }
    let text = without_control_sequences(&text);
    assert!(!text.contains('\u{2010}'), "a name is hyphenated: {text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for subcommand in SUBCOMMANDS {
        let help = events.done(&[subcommand, "--help"]);
        for example in examples(&help) {
            assert!(text.lines().any(|line| line.trim() == example.trim()), "{example:?} is broken:\n{text}");
        }
    }
}

#[test]
fn there_is_a_completion_script_for_each_shell() {
    let events = Events::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(events.done(&["completions", shell]).contains("tantara"));
    }
}

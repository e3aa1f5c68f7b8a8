//! `tantara completions` and `tantara man`: what the command tells of itself.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::env::Shells;
use clap_mangen::Man;

use crate::args::{Shell, Tantara};
use crate::failure::Failure;
use crate::output;

/// The variable by which a shell asks for completions.
pub(crate) const ASKED_BY: &str = "TANTARA_COMPLETE";

/// Answers the shell, if it is the shell that asks.
pub(crate) fn complete() {
    clap_complete::CompleteEnv::with_factory(Tantara::command).var(ASKED_BY).complete();
}

/// Prints the script that makes a shell ask.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let shells = Shells::builtins();
    let shell = shells.completer(shell.name()).ok_or_else(|| Failure::internal("the shell is not supported"))?;
    let mut script = Vec::new();
    shell.write_registration(ASKED_BY, "tantara", "tantara", "tantara", &mut script).map_err(Failure::internal)?;
    print(&script)
}

/// Prints the manual: the command's page, with a section for each verb.
pub(crate) fn man() -> Result<(), Failure> {
    let mut command = Tantara::command();
    command.build();
    let mut page = Vec::new();
    render(&command, &mut page).map_err(Failure::internal)?;
    print(&page)
}

fn render(command: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let man = Man::new(command.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    write_synopsis(command, page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if let Some(notes) = command.get_after_long_help() {
        writeln!(page, ".SH EXAMPLES, NAMES AND PLACES\n{}", roff(&notes.to_string()))?;
    }
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        let title = verb.get_bin_name().unwrap_or(verb.get_name()).to_uppercase();
        writeln!(page, ".SH {title}")?;
        let man = Man::new(verb.clone());
        // As parts of a section, not sections of their own.
        let mut parts = Vec::new();
        write_synopsis(verb, &mut parts)?;
        man.render_description_section(&mut parts)?;
        man.render_options_section(&mut parts)?;
        if let Some(examples) = verb.get_after_long_help() {
            writeln!(parts, ".SH EXAMPLES AND EXIT CODES\n{}", roff(&examples.to_string()))?;
        }
        page.extend(String::from_utf8_lossy(&parts).replace(".SH ", ".SS ").into_bytes());
    }
    man.render_version_section(page)
}

/// The line that the help has too: what clap_mangen makes of it knows no repetition, and no values of options.
fn write_synopsis(command: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let usage = command.clone().render_usage().to_string();
    writeln!(page, ".SH SYNOPSIS\n{}", roff(usage.trim_start_matches("Usage: ")))
}

/// Plain text as a manual page wants it: what is indented stays as it is, the rest is filled.
fn roff(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let safe = line.replace('\\', "\\\\").replace('-', "\\-");
        match line.chars().next() {
            None => ".PP".to_owned(),
            Some(' ') => format!(".nf\n{safe}\n.fi"),
            // None of it is to be taken for a request.
            Some(_) => format!("\\&{safe}"),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn print(text: &[u8]) -> Result<(), Failure> {
    output::line(format_args!("{}", String::from_utf8_lossy(text).trim_end()));
    output::flush();
    Ok(())
}

//! `tantara completions` and `tantara man`.

use std::io::Write;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::{Shell, Tantara};
use crate::complete;
use crate::failure::Failure;
use crate::output;

/// Prints the script that makes a shell request completions.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    print(&complete::script(shell)?)
}

/// Prints the manual page, with a section for each subcommand.
pub(crate) fn man() -> Result<(), Failure> {
    let mut command = Tantara::command();
    command.build();
    let mut page = Vec::new();
    render(&for_manual(command, false), &mut page).map_err(Failure::internal)?;
    print(&page)
}

/// The command as a manual describes it: options that every subcommand has are described once, at the top.
fn for_manual(command: clap::Command, is_subcommand: bool) -> clap::Command {
    let command = command.mut_args(|arg| {
        let is_of_all = arg.is_global_set() || arg.get_id() == "help";
        // The manual would otherwise lack a description of options that the short help leaves out.
        arg.hide_short_help(false).hide(is_of_all && is_subcommand)
    });
    command.mut_subcommands(|subcommand| for_manual(subcommand, true))
}

fn render(command: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let man = Man::new(command.clone());
    man.render_title(page)?;
    // No hyphens, which would look like a part of a name.
    writeln!(page, ".nh")?;
    man.render_name_section(page)?;
    write_synopsis(command, page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    writeln!(page, "{}", roff("\nEach subcommand takes these options, before or behind its own."))?;
    if let Some(notes) = command.get_after_long_help() {
        writeln!(page, ".SH EXAMPLES, NAMES AND PLACES\n{}", roff(&notes.to_string()))?;
    }
    let subcommands = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
    for subcommand in subcommands {
        let title = subcommand.get_bin_name().unwrap_or(subcommand.get_name()).to_uppercase();
        writeln!(page, ".SH {title}")?;
        let man = Man::new(subcommand.clone());
        // As subsections of the subcommand's section.
        let mut parts = Vec::new();
        write_synopsis(subcommand, &mut parts)?;
        man.render_description_section(&mut parts)?;
        if subcommand.get_arguments().any(|arg| !arg.is_hide_set()) {
            man.render_options_section(&mut parts)?;
        }
        if let Some(examples) = subcommand.get_after_long_help() {
            writeln!(parts, ".SH EXAMPLES AND EXIT CODES\n{}", roff(&examples.to_string()))?;
        }
        page.extend(String::from_utf8_lossy(&parts).replace(".SH ", ".SS ").into_bytes());
    }
    man.render_version_section(page)
}

/// Writes the usage line of the help text. clap_mangen's own synopsis shows neither repetition nor values of options.
fn write_synopsis(command: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let usage = command.clone().render_usage().to_string();
    writeln!(page, ".SH SYNOPSIS\n{}", roff(usage.trim_start_matches("Usage: ")))
}

/// Converts plain text to roff. Indented lines keep their form, the rest is filled.
fn roff(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let safe = line.replace('\\', "\\\\").replace('-', "\\-");
        match line.chars().next() {
            None => ".PP".to_owned(),
            Some(' ') => format!(".nf\n{safe}\n.fi"),
            // So that no line is taken for a request.
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

//! Completions of the command line, for shells.
//!
//! bash, zsh and fish source a script that `completions` prints. For each completion the script calls the command with
//! the words up to the cursor. The first line of the answer says what the shell completes:
//!
//! | first line | what |
//! |---|---|
//! | `words` | the following lines: a word, and behind a tab its description (not for bash) |
//! | `files`, `directories` | paths, as this shell does |
//! | `command N` | the command line that begins with word N (counted from 0), as this shell does |
//!
//! Other shells have the scripts of clap_complete.

use std::ffi::{OsStr, OsString};
use std::io::{Error, Write};
use std::path::Path;

use clap::builder::StyledStr;
use clap::{Command, CommandFactory, ValueHint};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, complete};
use clap_complete::env::{Elvish, EnvCompleter, Powershell, Shells};

use crate::args::{Shell, Tantara};
use crate::failure::Failure;

/// The variable by which a shell requests completions.
const REQUEST: &str = "TANTARA_COMPLETE";

const FILES: &str = "files";
const DIRECTORIES: &str = "directories";

const SHELLS: Shells<'static> = Shells(&[
    &Scripted { name: "bash", script: include_str!("completions/tantara.bash") },
    &Scripted { name: "zsh", script: include_str!("completions/tantara.zsh") },
    &Scripted { name: "fish", script: include_str!("completions/tantara.fish") },
    &Elvish,
    &Powershell,
]);

/// Prints completions and ends the process, if a shell requests them.
pub(crate) fn answer_if_requested() {
    if std::env::var_os(REQUEST).is_none() {
        return;
    }
    CompleteEnv::with_factory(Tantara::command).var(REQUEST).shells(SHELLS).complete();
}

/// The script that makes a shell request completions.
pub(crate) fn script(shell: Shell) -> Result<Vec<u8>, Failure> {
    let shell = SHELLS.completer(shell.name()).ok_or_else(|| Failure::internal("the shell is not supported"))?;
    let mut script = Vec::new();
    shell.write_registration(REQUEST, "tantara", "tantara", "tantara", &mut script).map_err(Failure::internal)?;
    Ok(script)
}

/// A shell with a script of its own.
struct Scripted {
    name: &'static str,
    script: &'static str,
}

impl EnvCompleter for Scripted {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is(&self, name: &str) -> bool {
        name == self.name
    }

    fn write_registration(&self, _: &str, _: &str, _: &str, _: &str, script: &mut dyn Write) -> Result<(), Error> {
        script.write_all(self.script.as_bytes())
    }

    fn write_complete(
        &self,
        command: &mut Command,
        words: Vec<OsString>,
        directory: Option<&Path>,
        answer: &mut dyn Write,
    ) -> Result<(), Error> {
        if let Some(first) = first_of_command(command, &words) {
            return writeln!(answer, "command {first}");
        }
        let mut command = mark_paths(command.clone());
        let index = words.len().saturating_sub(1);
        let begun = words.last().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        let candidates = complete(&mut command, words, index, directory)?;
        let kind_of_path = candidates.iter().find_map(CompletionCandidate::get_tag).map(ToString::to_string);
        if let Some(kind) = kind_of_path.filter(|kind| [FILES, DIRECTORIES].contains(&kind.as_str())) {
            return writeln!(answer, "{kind}");
        }
        writeln!(answer, "words")?;
        // Options only if one is begun, because they would hide the names.
        let is_wanted = |value: &str| begun.starts_with('-') || !value.starts_with('-');
        for candidate in candidates.iter().filter(|candidate| !candidate.is_hide_set()) {
            let value = candidate.get_value().to_string_lossy();
            if is_wanted(&value) {
                let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
                let help = help.lines().next().filter(|_| self.name != "bash");
                writeln!(answer, "{value}{}", help.map(|help| format!("\t{help}")).unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

/// The index of the first word after `--`, if a command stands there and the last word belongs to it.
fn first_of_command(command: &Command, words: &[OsString]) -> Option<usize> {
    let before = words.split_last()?.1;
    let end = before.iter().position(|word| word == "--")?;
    let subcommand = before[1..end.max(1)].iter().find_map(|word| command.find_subcommand(word))?;
    subcommand.get_positionals().any(clap::Arg::is_last_set).then_some(end + 1)
}

/// Paths are left to the shell, which knows about home directories, quotes and what the user has configured.
fn mark_paths(command: Command) -> Command {
    let mark = |kind: &'static str| {
        ArgValueCompleter::new(move |_: &OsStr| vec![CompletionCandidate::new("").tag(Some(StyledStr::from(kind)))])
    };
    let command = command.mut_args(|arg| match arg.get_value_hint() {
        ValueHint::AnyPath | ValueHint::FilePath => arg.add(mark(FILES)),
        ValueHint::DirPath => arg.add(mark(DIRECTORIES)),
        _ => arg,
    });
    command.mut_subcommands(mark_paths)
}

//! The program that a subcommand runs: whether it can be executed, and the failure if not.
//!
//! As shells do on Windows, a program without an extension is searched for with those of `PATHEXT`. Those of batch
//! files are among them, which the standard library runs by `cmd.exe`, with their arguments quoted for it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The extensions of what can be started without another program.
const STARTED: [&str; 4] = ["com", "exe", "bat", "cmd"];

/// How much of a file is read. Longer headers are not judged.
const HEAD: usize = 4096;

/// The failure of a program that was not executed.
pub(crate) fn failure(program: &OsStr, error: &Error) -> Failure {
    let program_text = program.to_string_lossy();
    let shown = if program.is_empty() { "\"\"" } else { &*program_text };
    match error.kind() {
        ErrorKind::NotFound => Failure::command_not_found(format!("{shown}: command not found{}", hint(&program_text))),
        _ => Failure::command_not_executable(format!("{shown}: cannot be executed: {error}")),
    }
}

/// What the user may have meant by a command that does not exist.
fn hint(program: &str) -> String {
    const OF_SHELL: [&str; 12] =
        ["cd", "copy", "del", "dir", "echo", "mkdir", "move", "rmdir", "set", "start", "type", "if"];
    if program.is_empty() {
        "; it is empty".into()
    } else if OF_SHELL.contains(&program.to_ascii_lowercase().as_str()) {
        format!("; it is a command of the shell: -- cmd /c {program} ...")
    } else if program.contains(char::is_whitespace) {
        format!("; without quotes it is a command with arguments, and with a shell: -- cmd /c \"{program}\"")
    } else {
        String::new()
    }
}

/// Checks a program without executing it. Whether it can be executed for certain. Otherwise, only an attempt tells.
pub(crate) fn check(program: &OsStr) -> Result<bool, Failure> {
    find(program).map(|file| is_executable_for_certain(&file))
}

/// The file that is executed for the program.
pub(crate) fn find(program: &OsStr) -> Result<PathBuf, Failure> {
    let is_path = program.to_string_lossy().contains(['/', '\\', ':']);
    let directories: Vec<PathBuf> = match env::var_os("PATH").filter(|_| !is_path) {
        // Not the current directory, in which others may have put a program.
        Some(path) => env::split_paths(&path).filter(|directory| directory.is_absolute()).collect(),
        None => vec![PathBuf::new()],
    };
    let found =
        directories.iter().flat_map(|directory| candidates(&directory.join(program))).find(|file| file.is_file());
    let is_none = || if is_path && Path::new(program).is_dir() { ErrorKind::IsADirectory } else { ErrorKind::NotFound };
    found.ok_or_else(|| failure(program, &is_none().into()))
}

/// The files that a path may mean: itself if it has one of the extensions, and else with each of them.
fn candidates(path: &Path) -> Vec<PathBuf> {
    if extension(path).is_some_and(|extension| STARTED.contains(&extension.as_str())) {
        return vec![path.to_owned()];
    }
    let known = env::var("PATHEXT").unwrap_or_else(|_| ".COM;.EXE;.BAT;.CMD".into()).to_ascii_lowercase();
    let known = known.split(';').filter_map(|extension| extension.strip_prefix('.'));
    let with = |extension: &str| {
        let mut longer = OsString::from(path);
        longer.push(".");
        longer.push(extension);
        PathBuf::from(longer)
    };
    known.filter(|extension| STARTED.contains(extension)).map(with).collect()
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// Batch files are, and programs for the processor that this one is for, or for that of 32 bits which it can replace.
pub(crate) fn is_executable_for_certain(file: &Path) -> bool {
    const OF_32_BITS: u16 = 0x014c;
    if extension(file).is_some_and(|extension| extension == "bat" || extension == "cmd") {
        return true;
    }
    let own = env::current_exe().ok().and_then(|own| processor_of(&own));
    processor_of(file).is_some_and(|processor| Some(processor) == own || processor == OF_32_BITS)
}

/// The number of the processor that a program is for, from its header.
fn processor_of(file: &Path) -> Option<u16> {
    let mut head = Vec::new();
    File::open(file).ok()?.take(HEAD as u64).read_to_end(&mut head).ok()?;
    let at = head.get(0x3c..0x40).filter(|_| head.starts_with(b"MZ"))?;
    let at = u32::from_le_bytes(at.try_into().ok()?) as usize;
    let header = head.get(at..)?.strip_prefix(b"PE\0\0")?;
    Some(u16::from_le_bytes(header.get(..2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_judged_without_being_executed() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.into_os_string()
        };
        let judged = |program: &OsStr| check(program).map_err(|failure| failure.code);
        assert_eq!(judged(env::current_exe().unwrap().as_os_str()), Ok(true));
        assert_eq!(judged(OsStr::new("cmd")), Ok(true));
        assert_eq!(judged(OsStr::new("CMD.exe")), Ok(true));
        assert_eq!(judged(OsStr::new("no-such-program")), Err(127));
        assert_eq!(judged(OsStr::new("C:\\no\\such\\program.exe")), Err(127));
        assert_eq!(judged(OsStr::new("")), Err(127));
        assert_eq!(judged(directory.path().as_os_str()), Err(126));
        file("batch.cmd", b"exit /b 3\r\n");
        assert_eq!(judged(directory.path().join("batch").as_os_str()), Ok(true));
        for (name, content) in [("text.exe", &b"text"[..]), ("cut.exe", b"MZ"), ("empty.exe", b"")] {
            assert_eq!(judged(&file(name, content)), Ok(false), "{name}");
        }
    }
}

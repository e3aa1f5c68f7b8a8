//! The program that a subcommand runs: whether it can be executed, and the failure if not.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::failure::Failure;

/// How much of a file is read. Longer headers are not judged.
const HEAD: usize = 4096;

/// The failure of a program that was not executed.
pub(crate) fn failure(program: &OsStr, error: &Error) -> Failure {
    let program_text = program.to_string_lossy();
    let shown = if program.is_empty() { "\"\"" } else { &*program_text };
    match error.kind() {
        ErrorKind::NotFound => Failure::command_not_found(match find(program) {
            Ok(file) => format!("{shown}: cannot be executed: {}", lack_of(&file)),
            Err(_) => format!("{shown}: command not found{}", hint(&program_text)),
        }),
        _ => Failure::command_not_executable(format!("{shown}: cannot be executed: {}", reason(program, error))),
    }
}

/// What the user may have meant by a command that does not exist.
fn hint(program: &str) -> String {
    const OF_SHELL: [&str; 12] =
        ["cd", "source", ".", "export", "alias", "eval", "exec", "set", "ulimit", "umask", "if", "for"];
    let is_assignment = program.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    });
    if program.is_empty() {
        "; it is empty".into()
    } else if is_assignment {
        format!("; to set a variable, write -- env {program} CMD")
    } else if program.contains(char::is_whitespace) {
        format!("; without quotes it is a command with arguments, and with a shell: -- sh -c '{program}'")
    } else if OF_SHELL.contains(&program) {
        format!("; it is a command of the shell: -- sh -c '{program} ...'")
    } else {
        String::new()
    }
}

/// Why a file that exists was not found all the same.
fn lack_of(file: &Path) -> String {
    let head = head_of(file).unwrap_or_default();
    let interpreter = interpreter_of(&head).or_else(|| is_own_elf(&head)?.map(Path::new));
    match interpreter {
        Some(interpreter) => format!("its interpreter {} does not exist", interpreter.display()),
        None => "its interpreter does not exist".into(),
    }
}

fn reason(program: &OsStr, error: &Error) -> String {
    let path = Path::new(program);
    if is_of_no_format(error) {
        "it is no program for this system, nor a script that begins with #!".into()
    } else if path.is_dir() {
        "it is a directory".into()
    } else if path.metadata().is_ok_and(|metadata| metadata.mode() & 0o111 == 0) {
        format!("it is not marked as executable (chmod +x {})", path.display())
    } else {
        error.to_string()
    }
}

/// Checks a program without executing it. Whether it can be executed for certain: its file has a format that this
/// system executes, and so has its interpreter. For other formats, only an attempt tells.
pub(crate) fn check(program: &OsStr) -> Result<bool, Failure> {
    let file = find(program).map_err(|error| failure(program, &error))?;
    Ok(is_executable_for_certain(&file, true))
}

/// The file that the system would execute for the program, as `execvp` searches for it.
fn find(program: &OsStr) -> Result<PathBuf, Error> {
    if program.is_empty() {
        return Err(ErrorKind::NotFound.into());
    }
    if program.as_bytes().contains(&b'/') {
        return may_execute(Path::new(program)).map(|()| PathBuf::from(program));
    }
    let path = env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    let mut refused = Error::from(ErrorKind::NotFound);
    for directory in env::split_paths(&path) {
        let directory = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
        match may_execute(&directory.join(program)) {
            Ok(()) => return Ok(directory.join(program)),
            // The search goes on. This is the reason if no other file is found.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => refused = error,
            Err(_) => {}
        }
    }
    Err(refused)
}

fn may_execute(file: &Path) -> Result<(), Error> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    // For root too, one of the bits must be there.
    if metadata.mode() & 0o111 == 0 {
        return Err(ErrorKind::PermissionDenied.into());
    }
    Ok(access(file, Access::EXEC_OK)?)
}

/// The file of a program that the system does not execute because it is a script without `#!`.
pub(crate) fn plain_script(program: &OsStr, error: &Error) -> Option<PathBuf> {
    let file = find(program).ok().filter(|_| is_of_no_format(error))?;
    let head = String::from_utf8(head_of(&file)?).ok()?;
    (!head.is_empty() && head.chars().all(|letter| !letter.is_control() || letter.is_whitespace())).then_some(file)
}

fn is_of_no_format(error: &Error) -> bool {
    error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error())
}

fn is_executable_for_certain(file: &Path, may_be_script: bool) -> bool {
    let Some(head) = head_of(file) else { return false };
    if head.starts_with(b"#!") {
        return may_be_script
            && interpreter_of(&head)
                .is_some_and(|file| may_execute(file).is_ok() && is_executable_for_certain(file, false));
    }
    is_own_elf(&head).is_some_and(|loader| loader.is_none_or(|loader| may_execute(Path::new(loader)).is_ok()))
        || own_head().is_some_and(|own| is_own_mach_o(&head, &own))
}

/// The program that runs a script.
fn interpreter_of(head: &[u8]) -> Option<&Path> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let mut words = line.split(|&byte| byte == b' ' || byte == b'\t').filter(|word| !word.is_empty());
    words.next().map(|word| Path::new(OsStr::from_bytes(word)))
}

fn head_of(file: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(file).ok()?.take(HEAD as u64).read_to_end(&mut head).ok()?;
    Some(head)
}

/// Of this program.
fn own_head() -> Option<Vec<u8>> {
    head_of(Path::new("/proc/self/exe")).or_else(|| head_of(&env::current_exe().ok()?))
}

/// Whether a file is a program for macOS and for this processor, as this program is. It may be for several processors.
fn is_own_mach_o(head: &[u8], own: &[u8]) -> bool {
    const OF_ONE: &[u8] = b"\xcf\xfa\xed\xfe";
    const OF_SEVERAL: &[u8] = b"\xca\xfe\xba\xbe";
    const LENGTH_OF_ENTRY: usize = 20;
    let Some(processor) = own.get(4..8).filter(|_| own.starts_with(OF_ONE)) else { return false };
    if head.starts_with(OF_ONE) {
        return head.get(4..8) == Some(processor);
    }
    let Some(rest) = head.strip_prefix(OF_SEVERAL).and_then(|rest| rest.split_at_checked(4)) else { return false };
    let (count, entries) = (rest.0.iter().fold(0, |count, byte| count << 8 | usize::from(*byte)), rest.1);
    // These numbers are big-endian.
    entries.chunks(LENGTH_OF_ENTRY).take(count).any(|entry| entry.iter().take(4).rev().eq(processor))
}

/// If the file is for this processor, as this program is: its dynamic loader, if it has one.
fn is_own_elf(head: &[u8]) -> Option<Option<&OsStr>> {
    const PROGRAM_HEADERS_AT: usize = 32;
    const INTERPRETER: u32 = 3;
    let own = own_head()?;
    // The magic number, class and byte order; the machine.
    let kind = |head: &[u8]| Some((head.get(..6)?.to_vec(), head.get(18..20)?.to_vec()));
    let is_64_bit = cfg!(target_pointer_width = "64") && own.get(4) == Some(&2);
    if !head.starts_with(b"\x7fELF") || kind(head)? != kind(&own)? || !is_64_bit {
        return None;
    }
    let number = |at: usize, length: usize| {
        let mut bytes = [0; 8];
        let there = head.get(at..at + length)?;
        if cfg!(target_endian = "little") {
            bytes[..length].copy_from_slice(there);
            Some(u64::from_le_bytes(bytes))
        } else {
            bytes[8 - length..].copy_from_slice(there);
            Some(u64::from_be_bytes(bytes))
        }
    };
    let (first, size, count) = (number(PROGRAM_HEADERS_AT, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = usize::try_from(first.checked_add(index.checked_mul(size)?)?).ok()?;
        // A header or a name that lies further back is not judged.
        if number(at, 4)? == u64::from(INTERPRETER) {
            let (from, length) =
                (usize::try_from(number(at + 8, 8)?).ok()?, usize::try_from(number(at + 32, 8)?).ok()?);
            let name = head.get(from..from.checked_add(length)?)?;
            return Some(Some(OsStr::from_bytes(name.strip_suffix(b"\0")?)));
        }
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn programs_for_macos_are_known() {
        let own = b"\xcf\xfa\xed\xfe\x0c\0\0\x01\0\0\0\0";
        let of_several = |processors: &[[u8; 4]]| {
            let entries = processors.iter().flat_map(|processor| [&processor[..], &[0; 16]].concat());
            b"\xca\xfe\xba\xbe\0\0\0\x02".iter().copied().chain(entries).collect::<Vec<u8>>()
        };
        let [arm, x86] = [[1, 0, 0, 12], [1, 0, 0, 7]];
        assert!(is_own_mach_o(own, own));
        assert!(is_own_mach_o(&of_several(&[x86, arm]), own) && is_own_mach_o(&of_several(&[arm, x86]), own));
        assert!(!is_own_mach_o(&of_several(&[x86, x86, arm]), own), "behind the entries");
        for other in [&b"\xcf\xfa\xed\xfe\x07\0\0\x01"[..], b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe\0", b"", b"\x7fELF"]
        {
            assert!(!is_own_mach_o(other, own) && !is_own_mach_o(own, other));
        }
    }

    #[test]
    fn programs_are_judged_without_being_executed() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str, mode| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path.into_os_string()
        };
        let judged = |program: &OsStr| check(program).map_err(|failure| failure.code);
        assert_eq!(judged(OsStr::new("sh")), Ok(cfg!(target_pointer_width = "64")));
        assert_eq!(judged(OsStr::new("no-such-program")), Err(127));
        assert_eq!(judged(OsStr::new("/no/such/program")), Err(127));
        assert_eq!(judged(OsStr::new("")), Err(127));
        assert_eq!(judged(OsStr::new("/")), Err(126));
        assert_eq!(judged(&file("plain", "#!/bin/sh\n", 0o644)), Err(126));
        assert_eq!(judged(&file("script", "#! /bin/sh -e\ntrue\n", 0o755)), Ok(cfg!(target_pointer_width = "64")));
        for (name, unknown) in [("lost", "#!/no/such/shell\n"), ("text", "echo\n"), ("cut", "\x7fELF"), ("empty", "")] {
            assert_eq!(judged(&file(name, unknown, 0o755)), Ok(false), "{name}");
        }
    }
}

//! Standard output and standard error. Lines are written whole, and a closed standard output ends the process quietly.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use terminal_size::{Height, Width};

use crate::failure::FAILED;
use crate::lock::lock;
use crate::outfile;
use crate::progress::Bar;

/// Locked while a line is written. The progress bar, if there is one.
static WRITING: Mutex<Option<Bar>> = Mutex::new(None);

fn writing() -> MutexGuard<'static, Option<Bar>> {
    lock(&WRITING)
}

/// Waits until no line is being written, prevents further ones and removes the progress bar, because the process is
/// about to end. Gives up after a moment, because a writer may be blocked by a pipe that is full.
pub(crate) fn silence() -> Option<MutexGuard<'static, impl Sized>> {
    let deadline = Instant::now() + Duration::from_millis(200);
    loop {
        match WRITING.try_lock() {
            Ok(mut guard) => {
                if let Some(mut bar) = guard.take() {
                    show(&bar.erase());
                }
                return Some(guard);
            }
            Err(_) if Instant::now() > deadline => return None,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Writes one line of results to standard output. Ends the process if standard output is closed.
pub(crate) fn line(line: fmt::Arguments<'_>) {
    let write = || io::stdout().lock().write_fmt(format_args!("{line}\n"));
    let written = {
        let mut bar = writing();
        let is_terminal = bar.is_some() && io::stdout().is_terminal();
        beside_progress(&mut bar, is_terminal, write)
    };
    check(written);
}

/// Writes one line of results that may not be Unicode. If standard output is closed, the process goes on, because it
/// has more to do.
pub(crate) fn line_before_more(line: &[u8]) {
    let guard = writing();
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(&[line, b"\n"].concat()).and_then(|()| stdout.flush());
    drop((guard, stdout));
    if !is_without_reader(&written) {
        check(written);
    }
}

/// Writes results that may not be Unicode.
pub(crate) fn raw(bytes: &[u8]) {
    let guard = writing();
    let written = io::stdout().lock().write_all(bytes);
    drop(guard);
    check(written);
}

/// Flushes standard output. Ends the process if that fails.
pub(crate) fn flush() {
    check(io::stdout().flush());
}

fn check(written: io::Result<()>) {
    if is_without_reader(&written) {
        end_without_reader();
    }
    if let Err(error) = written {
        end_with_failed_output(&error);
    }
}

fn is_without_reader(written: &io::Result<()>) -> bool {
    written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The reader of standard output has ended (`| head -1`), which is no error.
pub(crate) fn end_without_reader() -> ! {
    outfile::remove_drafts();
    std::process::exit(0)
}

/// Reports that standard output cannot be written.
fn end_with_failed_output(error: &io::Error) -> ! {
    // Several workers may get the error at once; only the first reports it.
    static REPORTING: Mutex<()> = Mutex::new(());
    std::mem::forget(REPORTING.lock());
    outfile::remove_drafts();
    note(format_args!("cannot write to standard output: {error}"));
    std::process::exit(FAILED.into())
}

/// Prints a message on standard error, if that is open.
pub(crate) fn note(note: fmt::Arguments<'_>) {
    // Escaped, because control characters in names could break the line or affect the terminal.
    let mut line = String::from("tantara: ");
    for c in without_middle(&note.to_string()).chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line.push('\n');
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Quoted input may have any length. Behind it stands what is wrong with it, so the middle is left out.
fn without_middle(text: &str) -> Cow<'_, str> {
    const HALF: usize = 500;
    match (text.char_indices().nth(HALF), text.char_indices().rev().nth(HALF - 1)) {
        (Some((left, _)), Some((right, _))) if left < right => format!("{}…{}", &text[..left], &text[right..]).into(),
        _ => text.into(),
    }
}

/// Whether standard error is a terminal.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Shows a progress bar on standard error, which is a terminal. Everything that is printed after this leaves it whole,
/// until [`end_progress`].
pub(crate) fn begin_progress(total: usize) {
    show(&writing().insert(Bar::new(total)).draw(width(terminal_size::terminal_size_of(io::stderr())).into()));
}

/// Updates the progress bar. Does nothing if there is none, or if another thread is writing.
pub(crate) fn progress(done: usize) {
    if let Ok(mut bar) = WRITING.try_lock()
        && let Some(drawing) =
            bar.as_mut().and_then(|bar| bar.advance(done, width(terminal_size::terminal_size_of(io::stderr())).into()))
    {
        show(&drawing);
    }
}

/// Removes the progress bar.
pub(crate) fn end_progress() {
    if let Some(mut bar) = writing().take() {
        show(&bar.erase());
    }
}

/// Prints a message on standard error while there may be a progress bar.
pub(crate) fn note_aside(text: fmt::Arguments<'_>) {
    beside_progress(&mut writing(), true, || note(text));
}

/// Writes while the progress bar is not there, if that is for the terminal on which it is.
fn beside_progress<R>(bar: &mut Option<Bar>, is_terminal: bool, write: impl FnOnce() -> R) -> R {
    let Some(bar) = bar.as_mut().filter(|_| is_terminal) else { return write() };
    show(&bar.erase());
    let result = write();
    show(&bar.draw(width(terminal_size::terminal_size_of(io::stderr())).into()));
    result
}

fn show(drawing: &str) {
    // A failure to draw it is ignored.
    let _ = io::stderr().write_all(drawing.as_bytes());
}

/// The width of the terminal that the results go to.
pub(crate) fn columns() -> u16 {
    width(terminal_size::terminal_size_of(io::stdout()))
}

/// A terminal of another program may not know.
fn width(size: Option<(Width, Height)>) -> u16 {
    size.map_or(80, |(Width(columns), _)| columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_lose_their_middle() {
        for short in ["", "x", &"é".repeat(1_000)] {
            assert_eq!(without_middle(short), short);
        }
        let long = format!("{}é{}", "a".repeat(500), "ü".repeat(500));
        assert_eq!(without_middle(&long), format!("{}…{}", "a".repeat(500), "ü".repeat(500)));
    }
}

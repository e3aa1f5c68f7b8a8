//! Standard output and standard error. Lines are written whole, and a closed standard output ends the process quietly.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::FAILED;
use crate::outfile;

/// Locked while a line is written.
static WRITING: Mutex<()> = Mutex::new(());

fn writing() -> MutexGuard<'static, ()> {
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no line is being written, and prevents further ones, because the process is about to end. Gives up after
/// a moment, because a writer may be blocked by a pipe that is full.
pub(crate) fn silence() -> Option<MutexGuard<'static, ()>> {
    let deadline = Instant::now() + Duration::from_millis(200);
    loop {
        match WRITING.try_lock() {
            Ok(guard) => return Some(guard),
            Err(_) if Instant::now() > deadline => return None,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Writes one line of results to standard output. Ends the process if standard output is closed.
pub(crate) fn line(line: fmt::Arguments<'_>) {
    let guard = writing();
    let written = io::stdout().lock().write_fmt(format_args!("{line}\n"));
    drop(guard);
    check(written);
}

/// Writes one line of results that may not be Unicode.
pub(crate) fn raw_line(line: &[u8]) {
    let guard = writing();
    let written = io::stdout().lock().write_all(&[line, b"\n"].concat());
    drop(guard);
    check(written);
}

/// Flushes standard output. Ends the process if that fails.
pub(crate) fn flush() {
    check(io::stdout().flush());
}

fn check(written: io::Result<()>) {
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => end_without_reader(),
        Err(error) => end_with_failed_output(&error),
    }
}

/// The reader of standard output has ended (`| head -1`), which is no error.
fn end_without_reader() -> ! {
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
    // Limited, because quoted input may have any length.
    const LONGEST: usize = 1_000;
    let note = note.to_string();
    let cut = note.char_indices().nth(LONGEST).map_or(note.as_str(), |(end, _)| &note[..end]);
    for c in cut.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line.push_str(if cut.len() < note.len() { "…\n" } else { "\n" });
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Whether standard error is a terminal.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// A progress bar on a terminal. Lines for the same terminal must be printed by it, so that they do not mix with it.
#[derive(Clone)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new(length: usize, of: &'static str) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(length as u64), ProgressDrawTarget::stderr_with_hz(10));
        let template = if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            "{bar:32} {human_pos} of {human_len} {msg}, {elapsed}"
        } else {
            "{bar:32.green} {human_pos} of {human_len} {msg}, {elapsed}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_message(of);
        Progress(bar)
    }

    pub(crate) fn step(&self) {
        self.0.inc(1);
    }

    /// Writes a line of results, above the bar if both are on the same terminal.
    pub(crate) fn line(&self, text: fmt::Arguments<'_>) {
        if io::stdout().is_terminal() { self.0.suspend(|| line(text)) } else { line(text) }
    }

    /// Hides the bar while `write` prints to its terminal.
    pub(crate) fn aside(&self, write: impl FnOnce()) {
        self.0.suspend(write);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

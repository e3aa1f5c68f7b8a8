//! Standard output and standard error, so that no line is torn and a vanished reader ends the run quietly.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::FAILED;
use crate::outfile;

/// Held while a line is written.
static WRITING: Mutex<()> = Mutex::new(());

fn writing() -> MutexGuard<'static, ()> {
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no line is half written, and keeps it so: the process is about to end. Gives up after a moment,
/// because a writer may be stuck in a pipe that nobody reads.
pub(crate) fn silence() -> Option<MutexGuard<'static, ()>> {
    let patience = Instant::now() + Duration::from_millis(200);
    loop {
        match WRITING.try_lock() {
            Ok(guard) => return Some(guard),
            Err(_) if Instant::now() > patience => return None,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Writes one line of results to standard output. Does not return if nobody reads it any more.
pub(crate) fn line(line: fmt::Arguments<'_>) {
    let guard = writing();
    let written = io::stdout().lock().write_fmt(format_args!("{line}\n"));
    drop(guard);
    check(written);
}

/// Makes sure that all was written.
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

/// The reader of standard output has gone (`| head -1`): there is nothing left to do for anyone.
fn end_without_reader() -> ! {
    outfile::remove_unfinished();
    std::process::exit(0)
}

/// Standard output cannot be written to.
fn end_with_failed_output(error: &io::Error) -> ! {
    // Several workers may find out at once; one of them says so.
    static SAYING: Mutex<()> = Mutex::new(());
    std::mem::forget(SAYING.lock());
    outfile::remove_unfinished();
    note(format_args!("standard output cannot be written to: {error}"));
    std::process::exit(FAILED.into())
}

/// Says something beside the results, on standard error. If that is closed there is nobody to tell.
pub(crate) fn note(note: fmt::Arguments<'_>) {
    // One line, whatever a file may be called: control characters would end it, or move about on the terminal.
    let mut line = String::from("tantara: ");
    // What it quotes from a file may be of any length.
    const LONGEST: usize = 1_000;
    let note = note.to_string();
    let cut = note.char_indices().nth(LONGEST).map_or(note.as_str(), |(end, _)| &note[..end]);
    for c in cut.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line.push_str(if cut.len() < note.len() { "…\n" } else { "\n" });
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Whether a person looks at standard error.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// A progress bar on a terminal. Lines for the same terminal go through it, so that the two do not mix.
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

    /// Writes a line of results, above the bar if they share a terminal.
    pub(crate) fn line(&self, text: fmt::Arguments<'_>) {
        if io::stdout().is_terminal() { self.0.suspend(|| line(text)) } else { line(text) }
    }

    /// Runs what writes to the terminal that the bar is on.
    pub(crate) fn aside(&self, write: impl FnOnce()) {
        self.0.suspend(write);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

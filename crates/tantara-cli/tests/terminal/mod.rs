//! A program on a terminal of its own, as a user sees it.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::scratch::LONG;

pub(crate) struct Terminal {
    keyboard: File,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    child: Child,
}

impl Terminal {
    /// Starts a command on a terminal that is so many columns wide. Its own process group and session are those of the
    /// terminal.
    pub(crate) fn start(columns: u16, command: &Command) -> Terminal {
        let keyboard = File::from(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap());
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let path = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        let screen = OpenOptions::new().read(true).write(true).open(path).unwrap();
        tcsetwinsize(&screen, Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let mut process = Command::new("setsid");
        process.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => process.env(name, value),
                None => process.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            process.current_dir(directory);
        }
        process.stdin(Stdio::from(screen.try_clone().unwrap()));
        process.stdout(Stdio::from(screen.try_clone().unwrap())).stderr(Stdio::from(screen));
        let child = process.spawn().unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let reader = thread::spawn({
            let (mut from, shown) = (keyboard.try_clone().unwrap(), Arc::clone(&shown));
            move || {
                let mut bytes = [0; 4096];
                // An error is the end of the last process on the terminal.
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    shown.lock().unwrap().extend(&bytes[..count]);
                }
            }
        });
        drop(process);
        Terminal { keyboard, shown, reader: Some(reader), child }
    }

    pub(crate) fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Everything that was shown so far, with the control sequences.
    pub(crate) fn raw(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Everything that was shown so far, without control sequences.
    pub(crate) fn shown(&self) -> String {
        without_control_sequences(&self.raw())
    }

    pub(crate) fn until_shown(&self, text: &str) {
        self.until(|shown| shown.contains(text).then_some(()));
    }

    /// Returns once there is a result for what is shown.
    pub(crate) fn until<R>(&self, result: impl Fn(&str) -> Option<R>) -> R {
        let deadline = Instant::now() + LONG;
        loop {
            // Before the look, so that it is the last one after the end.
            let is_over = Instant::now() > deadline || self.has_hung_up();
            let shown = self.shown();
            if let Some(result) = result(&shown) {
                return result;
            }
            assert!(!is_over, "this was shown: {shown}\n{:?}", self.raw());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn has_hung_up(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end of the program. Returns its exit code, or 128 plus the signal that ended it, and everything
    /// that was shown, with the control sequences.
    pub(crate) fn end(mut self) -> (i32, String) {
        let status = self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (status.code().or(status.signal().map(|signal| 128 + signal)).unwrap(), self.raw())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The processes on the terminal are hung up when the keyboard is closed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text without sequences that move the cursor, colour or ask the terminal.
pub(crate) fn without_control_sequences(text: &str) -> String {
    let mut plain = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => match letters.next() {
                Some('[') => while letters.next().is_some_and(|letter| !('@'..='~').contains(&letter)) {},
                Some(']') => while letters.next().is_some_and(|letter| letter != '\u{7}' && letter != '\\') {},
                Some('(') => drop(letters.next()),
                _ => {}
            },
            '\r' | '\u{7}' => {}
            letter => plain.push(letter),
        }
    }
    plain
}

/// The lines that are on the screen at the end, up to the last one with a text, of a terminal that is so many columns
/// wide.
pub(crate) fn screen(raw: &str, columns: usize) -> Vec<String> {
    assert!(!raw.contains('\u{1b}'), "a control sequence: {raw:?}");
    let mut lines: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    for letter in raw.chars() {
        match letter {
            '\r' => column = 0,
            '\n' => row += 1,
            '\u{8}' => column = column.min(columns - 1).saturating_sub(1),
            letter => {
                if column == columns {
                    (row, column) = (row + 1, 0);
                }
                lines.resize(lines.len().max(row + 1), Vec::new());
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = letter;
                column += 1;
            }
        }
    }
    let mut lines: Vec<String> =
        lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned()).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

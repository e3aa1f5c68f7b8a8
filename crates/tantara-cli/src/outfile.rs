//! Files that a run writes at its end. They are opened before it begins, so that a file which cannot be written is
//! known before anything has happened; and one that was made for it is removed again if the run does not get to its
//! end.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::exit::Failure;

/// What was made and is still empty.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A file that will be written at the end.
#[derive(Debug)]
pub(crate) struct OutFile {
    path: PathBuf,
    file: File,
}

impl OutFile {
    /// Opens `path` for writing, and makes it if there is none. What it holds stays until [`write`](OutFile::write).
    pub(crate) fn open(path: &Path) -> Result<OutFile, Failure> {
        let made = OpenOptions::new().write(true).create_new(true).open(path);
        let file = match made {
            Ok(file) => {
                unfinished().push(path.to_owned());
                Ok(file)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => OpenOptions::new().write(true).open(path),
            Err(error) => Err(error),
        };
        match file {
            Ok(file) => Ok(OutFile { path: path.to_owned(), file }),
            Err(error) => {
                remove_unfinished();
                Err(Failure::usage(format!(
                    "{}: cannot be written to: {error}; name a file in a directory that you may write to",
                    path.display()
                )))
            }
        }
    }

    /// Whether `other` is the same file, by whatever name.
    pub(crate) fn is(&self, other: &Path) -> bool {
        match (self.path.canonicalize(), other.canonicalize()) {
            (Ok(own), Ok(other)) => own == other && own.is_file(),
            _ => false,
        }
    }

    /// Replaces what the file holds.
    pub(crate) fn write(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
        let OutFile { path, file } = self;
        let fill = || {
            // A device or a pipe has no length to cut.
            if file.metadata()?.is_file() {
                file.set_len(0)?;
            }
            let mut out = BufWriter::new(&file);
            write(&mut out)?;
            out.flush()
        };
        let filled = fill();
        unfinished().retain(|unfinished| *unfinished != path);
        filled.map_err(|error| Failure::internal(format!("{}: cannot be written to: {error}", path.display())))
    }
}

/// Removes what was made and not written.
pub(crate) fn remove_unfinished() {
    for path in unfinished().drain(..) {
        // What cannot be removed stays, empty.
        let _ = std::fs::remove_file(path);
    }
}

fn unfinished() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

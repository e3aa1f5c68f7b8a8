//! Output files, which are written at the end of a run. Before the run begins they are checked for being writable. An
//! existing file keeps its content until the new content is complete. A run that is interrupted leaves no draft behind.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use same_file::Handle;
use tempfile::NamedTempFile;

use crate::failure::Failure;
use crate::lock::lock;
use crate::system;

/// The drafts that exist now.
static DRAFTS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A file that is written at the end of a run.
#[derive(Debug)]
pub(crate) struct OutFile {
    path: PathBuf,
    target: Target,
}

#[derive(Debug)]
enum Target {
    /// A file: a draft in the same directory replaces it when it is complete.
    Replaced { place: PathBuf, draft: NamedTempFile },
    /// A device or a pipe, which cannot be replaced.
    Stream(File),
}

impl OutFile {
    /// Checks that `path` can be written. Its content stays until [`write`](OutFile::write).
    pub(crate) fn open(path: &Path) -> Result<OutFile, Failure> {
        let directory = directory_of(path);
        if !directory.exists() {
            let [path, directory] = [path, directory].map(Path::display);
            return Err(Failure::usage(format!(
                "cannot write to {path}: there is no directory {directory}; create it"
            )));
        }
        let target = Target::open(path).map_err(|error| {
            Failure::usage(format!("cannot write to {}: {error}; name a file that you may write", path.display()))
        })?;
        Ok(OutFile { path: path.to_owned(), target })
    }

    /// Whether `other` is the same file, possibly under another name.
    pub(crate) fn is(&self, other: &Path) -> bool {
        match &self.target {
            // If neither exists yet, only equal paths are the same file.
            Target::Replaced { place, .. } => {
                same_file::is_same_file(place, other).unwrap_or_else(|_| *place == resolved(other))
            }
            Target::Stream(_) => false,
        }
    }

    /// Whether standard output is the same file.
    pub(crate) fn is_standard_output(&self) -> bool {
        let Target::Replaced { place, .. } = &self.target else { return false };
        matches!((Handle::stdout(), Handle::from_path(place)), (Ok(stdout), Ok(file)) if stdout == file)
    }

    /// Replaces the content of the file.
    pub(crate) fn write(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
        let OutFile { path, target } = self;
        target.fill(write).map_err(|error| Failure::internal(format!("cannot write to {}: {error}", path.display())))
    }
}

impl Target {
    fn open(path: &Path) -> io::Result<Target> {
        let place = resolved(path);
        let existing = match std::fs::metadata(&place) {
            Ok(metadata) => {
                let file = OpenOptions::new().write(true).open(&place)?;
                if !metadata.is_file() {
                    return Ok(Target::Stream(file));
                }
                Some(metadata.permissions())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tantara-");
        system::permit_as_other_files(&mut builder);
        let draft = builder.tempfile_in(directory_of(&place)).map_err(without_path)?;
        drafts().push(draft.path().to_owned());
        if let Some(permissions) = existing {
            draft.as_file().set_permissions(permissions)?;
        }
        Ok(Target::Replaced { place, draft })
    }

    fn fill(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let fill = |file: &File| {
            let mut out = BufWriter::new(file);
            write(&mut out)?;
            out.flush()
        };
        match self {
            Target::Stream(file) => fill(&file),
            Target::Replaced { place, draft } => {
                fill(draft.as_file())?;
                let draft_path = draft.path().to_owned();
                draft.persist(place).map_err(|error| error.error)?;
                drafts().retain(|draft| *draft != draft_path);
                Ok(())
            }
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The error without the path of the draft, which nobody has named.
fn without_path(error: io::Error) -> io::Error {
    let text = error.to_string();
    let cause = text.rsplit_once(" at path ").map(|(cause, _)| cause.to_owned());
    cause.map_or(error, io::Error::other)
}

/// The path with links resolved, or the path itself if it does not exist.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Removes all drafts.
pub(crate) fn remove_drafts() {
    for path in drafts().drain(..) {
        // Nothing can be done about an error.
        let _ = std::fs::remove_file(path);
    }
}

fn drafts() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    lock(&DRAFTS)
}

//! Output files, which are written at the end of a run. Before the run begins they are checked for being writable. An
//! existing file keeps its content until the new content is complete. A run that is interrupted leaves no draft behind.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, Write};
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
    /// A file: a draft in the same directory replaces it when it is complete. If the system refuses that, a file that
    /// exists is overwritten.
    Replaced { place: PathBuf, draft: NamedTempFile, is_new: bool },
    /// A file that exists, in a directory that takes no draft: a draft elsewhere overwrites it.
    Overwritten { place: PathBuf, draft: File, existing: File },
    /// A device or a pipe, which cannot be replaced.
    Stream(File),
}

impl OutFile {
    /// Checks that `path` can be written. Its content stays until [`write`](OutFile::write).
    pub(crate) fn open(path: &Path) -> Result<OutFile, Failure> {
        let directory = directory_of(path);
        let is_missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        if directory.metadata().is_err_and(is_missing) {
            let [path, directory] = [path, directory].map(Path::display);
            return Err(Failure::usage(format!(
                "cannot write to {path}: there is no directory {directory}; create it"
            )));
        }
        if path.to_string_lossy().ends_with(std::path::is_separator) {
            return Err(Failure::usage(format!(
                "cannot write to {}: it names a directory; name a file",
                path.display()
            )));
        }
        let target = Target::open(path).map_err(|error| {
            Failure::usage(format!("cannot write to {}: {error}; name a file that you may write", path.display()))
        })?;
        Ok(OutFile { path: path.to_owned(), target })
    }

    /// Whether `other` is the same file, possibly under another name.
    pub(crate) fn is(&self, other: &Path) -> bool {
        // If neither exists yet, only equal paths are the same file.
        self.target
            .place()
            .is_some_and(|place| same_file::is_same_file(place, other).unwrap_or_else(|_| *place == resolved(other)))
    }

    /// Whether standard output is the same file.
    pub(crate) fn is_standard_output(&self) -> bool {
        let Some(place) = self.target.place() else { return false };
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
                Some((file, metadata.permissions()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tantara-");
        system::permit_as_other_files(&mut builder);
        let (draft, existing) = match (builder.tempfile_in(directory_of(&place)), existing) {
            (Err(_), Some((existing, _))) => {
                return Ok(Target::Overwritten { place, draft: tempfile::tempfile()?, existing });
            }
            (draft, existing) => (draft.map_err(without_path)?, existing),
        };
        drafts().push(draft.path().to_owned());
        if let Some((_, permissions)) = &existing {
            draft.as_file().set_permissions(permissions.clone())?;
        }
        Ok(Target::Replaced { place, draft, is_new: existing.is_none() })
    }

    /// The path of a file; a stream has none.
    fn place(&self) -> Option<&Path> {
        match self {
            Target::Replaced { place, .. } | Target::Overwritten { place, .. } => Some(place),
            Target::Stream(_) => None,
        }
    }

    fn fill(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let fill = |file: &File| {
            let mut out = BufWriter::new(file);
            write(&mut out)?;
            out.flush()
        };
        match self {
            Target::Stream(file) => fill(&file),
            Target::Replaced { place, draft, is_new } => {
                fill(draft.as_file())?;
                let draft_path = draft.path().to_owned();
                match draft.persist(&place) {
                    // It may be a mount point, or another user's in a sticky directory.
                    Err(refused) if !is_new => {
                        overwrite(OpenOptions::new().write(true).open(&place)?, refused.file.as_file())?;
                    }
                    persisted => drop(persisted.map_err(|refused| refused.error)?),
                }
                drafts().retain(|draft| *draft != draft_path);
                Ok(())
            }
            Target::Overwritten { draft, existing, .. } => {
                fill(&draft)?;
                overwrite(existing, &draft)
            }
        }
    }
}

fn overwrite(mut existing: File, mut draft: &File) -> io::Result<()> {
    draft.rewind()?;
    existing.set_len(0)?;
    io::copy(&mut draft, &mut existing).map(drop)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The error without the path of the draft, which the user did not name.
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
        // An error is ignored: the process is ending.
        let _ = std::fs::remove_file(path);
    }
}

fn drafts() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    lock(&DRAFTS)
}

//! Files that a run writes at its end. That they can be written is known before the run begins; what they held stays
//! as it is until the new content is complete, and nothing is left behind by a run that does not get to its end.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use same_file::Handle;
use tempfile::NamedTempFile;

use crate::failure::Failure;

/// What exists for the time being only.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A file that will be written at the end.
#[derive(Debug)]
pub(crate) struct OutFile {
    path: PathBuf,
    target: Target,
}

#[derive(Debug)]
enum Target {
    /// A file: written beside its place, and moved there when it is complete.
    Replaced { place: PathBuf, draft: NamedTempFile },
    /// A device or a pipe, which cannot be replaced.
    Stream(File),
}

impl OutFile {
    /// Makes sure that `path` can be written to. What is there stays until [`write`](OutFile::write).
    pub(crate) fn open(path: &Path) -> Result<OutFile, Failure> {
        let target = Target::open(path).map_err(|error| {
            Failure::usage(format!(
                "{}: cannot be written to: {error}; name a file that you may write to",
                path.display()
            ))
        })?;
        Ok(OutFile { path: path.to_owned(), target })
    }

    /// Whether `other` is the same file, by whatever name.
    pub(crate) fn is(&self, other: &Path) -> bool {
        match &self.target {
            // Neither may exist yet; then they can only have the same name.
            Target::Replaced { place, .. } => {
                same_file::is_same_file(place, other).unwrap_or_else(|_| *place == resolved(other))
            }
            Target::Stream(_) => false,
        }
    }

    /// Whether standard output goes to the same file.
    pub(crate) fn is_standard_output(&self) -> bool {
        let Target::Replaced { place, .. } = &self.target else { return false };
        matches!((Handle::stdout(), Handle::from_path(place)), (Ok(stdout), Ok(file)) if stdout == file)
    }

    /// Replaces what the file holds.
    pub(crate) fn write(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
        let OutFile { path, target } = self;
        target
            .fill(write)
            .map_err(|error| Failure::internal(format!("{}: cannot be written to: {error}", path.display())))
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
        let directory = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tantara-");
        #[cfg(unix)]
        let new_file: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        #[cfg(unix)]
        builder.permissions(new_file);
        let draft = builder.tempfile_in(directory)?;
        unfinished().push(draft.path().to_owned());
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
                unfinished().retain(|unfinished| *unfinished != draft_path);
                Ok(())
            }
        }
    }
}

/// Where a path leads, links followed; itself, if nothing is there yet.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Removes what exists for the time being only.
pub(crate) fn remove_unfinished() {
    for path in unfinished().drain(..) {
        // What cannot be removed stays.
        let _ = std::fs::remove_file(path);
    }
}

fn unfinished() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The error of events outside of the process: one opaque type with predicates.

#![forbid(unsafe_code)]
#![allow(dead_code, reason = "some platforms have no events outside of the process")]

use std::fmt;
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::{Path, PathBuf};

use crate::sys;

/// Why an event outside of the process could not be used. Its text names the file, the cause, and
/// what to do.
///
/// It converts into an [`std::io::Error`].
#[derive(Debug)]
pub struct Error(Box<Kind>);

#[derive(Debug)]
pub(crate) enum Kind {
    /// The name is not valid.
    Name { name: String, why: &'static str },
    /// The text cannot be a note.
    Note { note: String, why: &'static str },
    /// The directory cannot be used for events.
    Directory { path: PathBuf, why: String },
    /// The file is not an event, or a damaged one.
    NotAnEvent { path: PathBuf, why: String },
    /// The system has refused something, and `why` explains more than its error.
    Refused { path: PathBuf, why: String, error: io::Error },
    /// This process may not write to the event.
    ReadOnly { event: String },
    /// The event was removed.
    Removed { event: String },
    /// The event's file was damaged while it was in use.
    Lost { event: String },
    /// An event without a name cannot be removed.
    Nameless,
    /// An event of another crate has failed.
    External { kind: io::ErrorKind, error: Box<dyn std::error::Error + Send + Sync> },
    /// The system has refused something.
    System { doing: &'static str, path: PathBuf, error: io::Error },
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Error {
        Error(Box::new(kind))
    }

    pub(crate) fn system(doing: &'static str, path: &Path, error: io::Error) -> Error {
        Error::new(Kind::System { doing, path: path.to_owned(), error })
    }

    /// The name is not valid, or the directory cannot be used for events.
    #[must_use]
    pub fn is_invalid_name(&self) -> bool {
        matches!(*self.0, Kind::Name { .. } | Kind::Directory { .. }) || self.is_external(io::ErrorKind::InvalidInput)
    }

    /// The text cannot be a note.
    #[must_use]
    pub fn is_invalid_note(&self) -> bool {
        matches!(*self.0, Kind::Note { .. })
    }

    /// The file is not an event, is damaged, or belongs to another version of the library.
    #[must_use]
    pub fn is_not_an_event(&self) -> bool {
        matches!(*self.0, Kind::NotAnEvent { .. })
    }

    /// The event was removed, or its file destroyed, so it can no longer be set.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        matches!(*self.0, Kind::Removed { .. } | Kind::Lost { .. }) || self.is_external(io::ErrorKind::NotFound)
    }

    /// Permission is missing; for example, an event that may only be read cannot be set.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        matches!(*self.0, Kind::ReadOnly { .. }) || self.io_kind() == io::ErrorKind::PermissionDenied
    }

    /// Another process keeps the file from being opened.
    pub(crate) fn is_leased(&self) -> bool {
        matches!(&*self.0, Kind::Refused { error, .. } if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn is_external(&self, kind: io::ErrorKind) -> bool {
        matches!(&*self.0, Kind::External { kind: of, .. } if *of == kind)
    }

    fn io_kind(&self) -> io::ErrorKind {
        match &*self.0 {
            Kind::Name { .. } | Kind::Note { .. } | Kind::Directory { .. } | Kind::Nameless => {
                io::ErrorKind::InvalidInput
            }
            Kind::NotAnEvent { .. } => io::ErrorKind::InvalidData,
            Kind::ReadOnly { .. } => io::ErrorKind::PermissionDenied,
            Kind::Removed { .. } | Kind::Lost { .. } => io::ErrorKind::NotFound,
            Kind::External { kind, .. } => *kind,
            Kind::System { error, .. } | Kind::Refused { error, .. } => error.kind(),
        }
    }
}

/// The error of an event of another crate.
pub fn external(kind: io::ErrorKind, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::External { kind, error: error.into() })
}

/// The value, for a method that returns no error: panics on an error, at the line of the caller.
#[track_caller]
pub(crate) fn or_panic<T>(outcome: Result<T, Error>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Name { name, why } => write!(f, "{name:?} cannot be the name of an event: {why}"),
            Kind::Note { note, why } => write!(f, "{note:?} cannot be a note: {why}"),
            Kind::Directory { path, why } => write!(f, "{}: cannot hold events: {why}", path.display()),
            Kind::NotAnEvent { path, why } => write!(f, "{}: is not an event: {why}", path.display()),
            Kind::Refused { path, why, .. } => write!(f, "{}: {why}", path.display()),
            Kind::ReadOnly { event } => {
                write!(f, "{event} is read-only: you have no permission to write to its file")
            }
            Kind::Removed { event } => write!(f, "{event} was removed"),
            Kind::Lost { event } => {
                write!(f, "{event} was lost: its file was truncated or damaged; remove the file")
            }
            Kind::Nameless => {
                f.write_str("an event without a name cannot be removed; it exists as long as a process has it open")
            }
            Kind::External { error, .. } => error.fmt(f),
            Kind::System { doing, path, error } => {
                write!(f, "{}: cannot be {doing}: {error}{}", path.display(), sys::advice(error))
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Kind::System { error, .. } | Kind::Refused { error, .. } => Some(error),
            Kind::External { error, .. } => Some(&**error),
            _ => None,
        }
    }
}

// An error never changes.
impl UnwindSafe for Error {}
impl RefUnwindSafe for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::new(error.io_kind(), error)
    }
}

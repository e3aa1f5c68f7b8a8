//! What can go wrong with events between machines: one opaque error with predicates.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::write::Pending;

/// Why an event between machines could not be used. It says which endpoint, what happened, and what to do.
///
/// An error never stands for a timeout, nor a timeout for an error: a wait whose time has passed while the cluster
/// could be asked answers `false`; where the cluster could not be asked it fails with
/// [`is_unreachable`](Error::is_unreachable).
///
/// It can be cloned, and an [`io::Error`] can be made of it.
#[derive(Clone, Debug)]
pub struct Error(Arc<Kind>);

#[derive(Debug)]
pub(crate) enum Kind {
    /// What the caller has said cannot be.
    Input { what: &'static str, said: String, why: String },
    /// No endpoint has answered in time. What each of them last said.
    Unreachable { doing: &'static str, tries: Vec<(String, String)> },
    /// Whether the change was made is not known.
    Unknown { doing: &'static str, tries: Vec<(String, String)>, pending: Option<Pending> },
    /// The user or the password is wrong, or missing.
    Credentials { endpoint: String, why: String },
    /// The user's roles do not allow it.
    Denied { doing: &'static str, endpoint: String },
    /// The event was removed while it was waited for.
    Removed { event: String },
    /// The server is too old.
    TooOld { endpoint: String, version: String },
    /// The cluster has refused, for a reason that repetition does not mend.
    Refused { doing: &'static str, endpoint: String, why: String },
    /// The connection belongs to another process, or has ended.
    Ended { why: &'static str },
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Error {
        Error(Arc::new(kind))
    }

    pub(crate) fn input(what: &'static str, said: &str, why: impl Into<String>) -> Error {
        // It may be of any length.
        let mut shown: String = said.chars().take(60).collect();
        if shown.len() < said.len() {
            shown.push('…');
        }
        Error::new(Kind::Input { what, said: shown, why: why.into() })
    }

    pub(crate) fn removed(event: &str) -> Error {
        Error::new(Kind::Removed { event: event.to_owned() })
    }

    /// A name, an endpoint or an option cannot be. Nothing was done.
    #[must_use]
    pub fn is_invalid_input(&self) -> bool {
        matches!(*self.0, Kind::Input { .. })
    }

    /// The cluster could not be asked: no endpoint has answered in time, or the cluster has no quorum. Nothing is known
    /// of the event, and nothing was changed.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(*self.0, Kind::Unreachable { .. })
    }

    /// Whether the change was made is not known: the connection was lost, or the time has passed, while the cluster
    /// was making it. [`pending`](Error::pending) finds out.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(*self.0, Kind::Unknown { .. })
    }

    /// The change whose outcome is not known, to find it out later.
    #[must_use]
    pub fn pending(&self) -> Option<&Pending> {
        match &*self.0 {
            Kind::Unknown { pending, .. } => pending.as_ref(),
            _ => None,
        }
    }

    /// The user, the password or the certificate is wrong or missing, or the user's roles do not allow it.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        matches!(*self.0, Kind::Credentials { .. } | Kind::Denied { .. })
    }

    /// The event was removed while it was waited for.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        matches!(*self.0, Kind::Removed { .. })
    }

    /// The cluster runs a version of etcd that is too old.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(*self.0, Kind::TooOld { .. })
    }

    pub(crate) fn io_kind(&self) -> io::ErrorKind {
        match &*self.0 {
            Kind::Input { .. } => io::ErrorKind::InvalidInput,
            Kind::Unreachable { .. } => io::ErrorKind::NotConnected,
            Kind::Unknown { .. } => io::ErrorKind::ConnectionAborted,
            Kind::Credentials { .. } | Kind::Denied { .. } => io::ErrorKind::PermissionDenied,
            Kind::Removed { .. } => io::ErrorKind::NotFound,
            Kind::TooOld { .. } => io::ErrorKind::Unsupported,
            Kind::Refused { .. } | Kind::Ended { .. } => io::ErrorKind::Other,
        }
    }
}

/// What each endpoint has said.
fn list(f: &mut fmt::Formatter<'_>, tries: &[(String, String)]) -> fmt::Result {
    for (index, (endpoint, why)) in tries.iter().enumerate() {
        let separator = if index == 0 { ": " } else { "; " };
        write!(f, "{separator}{endpoint}: {why}")?;
    }
    Ok(())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Input { what, said, why } => write!(f, "{said:?} cannot be {what}: {why}"),
            Kind::Unreachable { doing, tries } => {
                write!(f, "etcd cannot be reached to {doing}")?;
                list(f, tries)?;
                f.write_str("; look whether it runs there, and whether a majority of its members does")
            }
            Kind::Unknown { doing, tries, .. } => {
                write!(f, "no answer has come to the request to {doing}, so it may have been done or not")?;
                list(f, tries)
            }
            Kind::Credentials { endpoint, why } => write!(f, "{endpoint}: {why}"),
            Kind::Denied { doing, endpoint } => {
                write!(f, "{endpoint}: the user's roles do not allow to {doing}; grant them the namespace's keys")
            }
            Kind::Removed { event } => write!(f, "{event} was removed"),
            Kind::TooOld { endpoint, version } => {
                write!(f, "{endpoint}: runs etcd {version}; 3.4 is the oldest that has what events need, upgrade it")
            }
            Kind::Refused { doing, endpoint, why } => write!(f, "{endpoint}: etcd refused to {doing}: {why}"),
            Kind::Ended { why } => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::new(error.io_kind(), error)
    }
}

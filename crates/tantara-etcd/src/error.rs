//! What can go wrong with events between machines: one opaque error with predicates.

use std::fmt;
use std::io;
use std::sync::Arc;

use tonic::Status;

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
    Unreachable { doing: &'static str, tries: Vec<Try> },
    /// Whether the change was made is not known.
    Unknown { doing: &'static str, tries: Vec<Try>, pending: Option<Pending> },
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
fn list(f: &mut fmt::Formatter<'_>, tries: &[Try]) -> fmt::Result {
    for (index, Try { endpoint, why }) in tries.iter().enumerate() {
        let separator = if index == 0 { ": " } else { "; " };
        write!(f, "{separator}{endpoint}: {}", why.text)?;
    }
    Ok(())
}

/// What to do about it, once for each kind of trouble.
fn advise(f: &mut fmt::Formatter<'_>, tries: &[Try]) -> fmt::Result {
    let mut given: Vec<Advice> = Vec::new();
    for Try { why, .. } in tries {
        if !given.contains(&why.advice) {
            given.push(why.advice);
        }
    }
    for (index, advice) in given.iter().enumerate() {
        f.write_str(if index == 0 { " (" } else { "; " })?;
        f.write_str(match advice {
            Advice::Reach => "check that etcd runs there, and that nothing keeps you from it",
            Advice::Speak => "check that it is etcd's port for clients, and whether it wants TLS (https://)",
            Advice::Trust => "check the certificates: the authority, the client's own, and the name in the server's",
            Advice::Lead => "check that a majority of its members runs",
            Advice::LogIn => "check the user and the password",
            Advice::Member => "name the members that vote, too",
        })?;
    }
    f.write_str(if given.is_empty() { "" } else { ")" })
}

/// An endpoint that was tried in vain.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) endpoint: String,
    pub(crate) why: Why,
}

/// Why an endpoint did not serve, and what kind of trouble that is.
#[derive(Clone, Debug)]
pub(crate) struct Why {
    pub(crate) text: String,
    advice: Advice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    /// Nobody is there, or nobody answers.
    Reach,
    /// Somebody is there who speaks something else.
    Speak,
    /// TLS has failed.
    Trust,
    /// There is no leader.
    Lead,
    /// The user is refused.
    LogIn,
    /// The member serves nobody.
    Member,
}

impl From<String> for Why {
    fn from(text: String) -> Why {
        Why { text, advice: Advice::Reach }
    }
}

impl Why {
    /// From what a member has answered.
    pub(crate) fn of(status: &Status) -> Why {
        let message = status.message();
        let (advice, text) = if message == "etcdserver: no leader" {
            (Advice::Lead, "knows of no leader: has the cluster lost its quorum?".to_owned())
        } else if message.contains("not supported for learner") {
            (Advice::Member, "is a learner, which serves no requests".to_owned())
        } else {
            (Advice::Reach, said(status))
        };
        Why { text, advice }
    }

    /// From the first answer, which never comes from what is no etcd.
    pub(crate) fn of_first(is_secure: bool, status: &Status) -> Why {
        match Why::of(status) {
            Why { text, advice: Advice::Reach } => match Why::at(is_secure, text) {
                Why { text, advice: Advice::Reach } => Why { text, advice: Advice::Speak },
                why => why,
            },
            why => why,
        }
    }

    /// From what has become of the connection.
    pub(crate) fn at(is_secure: bool, text: String) -> Why {
        let small = text.to_lowercase();
        let of_tls = ["certificate", "tls", "alert", "handshake", "corrupt message", "peer is", "cert"];
        let of_network = ["refused", "reset", "unreachable", "no route", "timed out", "lookup", "resolve", "elapsed"];
        let names = |words: &[&str]| words.iter().any(|word| small.contains(word));
        let advice = if is_secure && (names(&of_tls) || !names(&of_network)) { Advice::Trust } else { Advice::Reach };
        Why { text, advice }
    }

    /// From what has become of the login.
    pub(crate) fn login(text: String) -> Why {
        Why { text, advice: Advice::LogIn }
    }
}

/// The innermost reason, which is the one that people understand.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    // The system's number says nothing to anybody.
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// The words of a status, without etcd's own name before them.
pub(crate) fn said(status: &Status) -> String {
    let message = status.message();
    let message = message.strip_prefix("etcdserver: ").unwrap_or(message);
    let source = std::error::Error::source(status).map(reason);
    let words = match source {
        Some(source) => source,
        None if message.is_empty() => status.code().description().to_owned(),
        None => message.to_owned(),
    };
    // One line of it, however hostile the server.
    words.chars().filter(|c| !c.is_control()).take(300).collect()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Input { what, said, why } => write!(f, "{said:?} cannot be {what}: {why}"),
            Kind::Unreachable { doing, tries } => {
                write!(f, "etcd cannot be reached to {doing}")?;
                list(f, tries)?;
                advise(f, tries)
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

//! The one error of events between machines, opaque and with predicates; and writes of unknown
//! outcome.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::sync::Arc;

use tonic::Status;

/// Why an operation on an event between machines failed: at which endpoint, what happened, and what
/// to do about it.
///
/// Errors and timeouts are never confused: a wait whose time has passed returns `false` if the
/// cluster confirms that the event was not set, and fails with
/// [`is_unreachable`](Error::is_unreachable) if the cluster cannot be asked.
///
/// [`source`](std::error::Error::source) is the answer of the server, or the failure of the
/// connection, where there is one. The error can be cloned, and converted to an [`io::Error`].
#[derive(Clone, Debug)]
pub struct Error(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    source: Option<Source>,
}

type Source = Arc<dyn StdError + Send + Sync>;

#[derive(Debug)]
pub(crate) enum Kind {
    /// A name, an endpoint or an option is invalid.
    Input { what: &'static str, said: String, why: String },
    /// No endpoint has answered in time. The last failure of each.
    Unreachable { doing: &'static str, tries: Vec<Try> },
    /// It is unknown whether the change was made.
    Unknown { doing: &'static str, tries: Vec<Try>, pending: Option<Pending> },
    /// The user or the password is wrong, or missing.
    Credentials { endpoint: String, why: String },
    /// The user's roles do not permit the request.
    Denied { doing: &'static str, endpoint: String },
    /// The event was removed during the wait.
    Removed { event: String },
    /// The server's version is not supported.
    TooOld { endpoint: String, version: String },
    /// The cluster has refused the request, and would refuse it again.
    Refused { doing: &'static str, endpoint: String, why: String },
    /// There is more to read than this process keeps.
    TooMuch { doing: &'static str, prefix: String, most: &'static str },
    /// The connection belongs to another process, or has ended.
    Ended { why: &'static str },
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Error {
        let source = match &kind {
            Kind::Unreachable { tries, .. } | Kind::Unknown { tries, .. } => {
                tries.iter().find_map(|tried| tried.why.source.clone())
            }
            _ => None,
        };
        Error(Arc::new(Inner { kind, source }))
    }

    /// An error whose source is the answer of a server.
    pub(crate) fn answered(kind: Kind, status: &Status) -> Error {
        Error(Arc::new(Inner { kind, source: Some(Arc::new(status.clone())) }))
    }

    pub(crate) fn input(what: &'static str, said: &str, why: impl Into<String>) -> Error {
        // The input may be of any length.
        let mut shown: String = said.chars().take(60).collect();
        if shown.len() < said.len() {
            shown.push('…');
        }
        Error::new(Kind::Input { what, said: shown, why: why.into() })
    }

    pub(crate) fn removed(event: &str) -> Error {
        Error::new(Kind::Removed { event: event.to_owned() })
    }

    pub(crate) fn ended(why: &'static str) -> Error {
        Error::new(Kind::Ended { why })
    }

    /// Whether a name, an endpoint or an option is invalid. Nothing was sent.
    #[must_use]
    pub fn is_invalid_input(&self) -> bool {
        matches!(self.0.kind, Kind::Input { .. })
    }

    /// Whether no endpoint has answered in time, or the cluster has no quorum. The state of the
    /// event is unknown, and nothing was changed.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self.0.kind, Kind::Unreachable { .. })
    }

    /// Whether the change may or may not have been made: the connection was lost, or the time has
    /// passed, after the request was sent. [`pending`](Error::pending) finds out.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self.0.kind, Kind::Unknown { .. })
    }

    /// The change of unknown outcome, to resolve it later.
    #[must_use]
    pub fn pending(&self) -> Option<&Pending> {
        match &self.0.kind {
            Kind::Unknown { pending, .. } => pending.as_ref(),
            _ => None,
        }
    }

    /// Whether the user, the password or the certificate is wrong or missing, or the user's roles
    /// do not permit the request.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        matches!(self.0.kind, Kind::Credentials { .. } | Kind::Denied { .. })
    }

    /// Whether the event was removed: during the wait, or since this handle has seen it.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        matches!(self.0.kind, Kind::Removed { .. })
    }

    /// Whether the cluster runs a version of etcd that is too old.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self.0.kind, Kind::TooOld { .. })
    }

    pub(crate) fn io_kind(&self) -> io::ErrorKind {
        match self.0.kind {
            Kind::Input { .. } => io::ErrorKind::InvalidInput,
            Kind::Unreachable { .. } => io::ErrorKind::NotConnected,
            Kind::Unknown { .. } => io::ErrorKind::ConnectionAborted,
            Kind::Credentials { .. } | Kind::Denied { .. } => io::ErrorKind::PermissionDenied,
            Kind::Removed { .. } => io::ErrorKind::NotFound,
            Kind::TooOld { .. } => io::ErrorKind::Unsupported,
            Kind::Refused { .. } | Kind::TooMuch { .. } | Kind::Ended { .. } => io::ErrorKind::Other,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            Kind::Input { what, said, why } => write!(f, "{said:?} cannot be {what}: {why}"),
            Kind::Unreachable { doing, tries } => {
                write!(f, "cannot {doing}: etcd cannot be reached")?;
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
                write!(f, "{endpoint}: runs etcd {version}; 3.4 is the oldest version that is supported, upgrade it")
            }
            Kind::Refused { doing, endpoint, why } => write!(f, "{endpoint}: etcd refused to {doing}: {why}"),
            Kind::TooMuch { doing, prefix, most } => {
                write!(f, "cannot {doing}: etcd shows more than {most} under {prefix}; ")?;
                f.write_str("remove what is not needed there, or use another namespace")
            }
            Kind::Ended { why } => f.write_str(why),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&**self.0.source.as_ref()?)
    }
}

// A panic leaves both valid: no method changes an error, or what resolves a write.
impl UnwindSafe for Error {}
impl RefUnwindSafe for Error {}
impl UnwindSafe for Pending {}
impl RefUnwindSafe for Pending {}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::new(error.io_kind(), error)
    }
}

/// For programs that use events of several kinds: the [`source`](StdError::source) of the new error
/// is this one.
impl From<Error> for tantara::Error {
    fn from(error: Error) -> tantara::Error {
        tantara::__private::error(error.io_kind(), error)
    }
}

/// Writes the failure of each endpoint.
fn list(f: &mut fmt::Formatter<'_>, tries: &[Try]) -> fmt::Result {
    for (index, Try { endpoint, why }) in tries.iter().enumerate() {
        let separator = if index == 0 { ": " } else { "; " };
        write!(f, "{separator}{endpoint}: {}", why.text)?;
    }
    Ok(())
}

/// Writes what to do, once for each kind of failure.
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
            Advice::Reach => "check that etcd runs there, and that no firewall is in between",
            Advice::Speak => "check that it is etcd's port for clients, and whether it requires TLS (https://)",
            Advice::Trust => "check the certificates: the authority, the client's own, and the name in the server's",
            Advice::Lead => "check that a majority of its members runs",
            Advice::LogIn => "check the user and the password",
            Advice::Member => "name members that vote, too",
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

/// Why an endpoint did not serve.
#[derive(Clone, Debug)]
pub(crate) struct Why {
    text: String,
    advice: Advice,
    source: Option<Source>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    /// Nothing listens there, or nothing answers.
    Reach,
    /// The server speaks another protocol.
    Speak,
    /// TLS has failed.
    Trust,
    /// There is no leader.
    Lead,
    /// The user is refused.
    LogIn,
    /// The member serves no requests.
    Member,
}

impl From<&str> for Why {
    fn from(text: &str) -> Why {
        Why { text: text.to_owned(), advice: Advice::Reach, source: None }
    }
}

impl Why {
    /// From the answer of a member.
    pub(crate) fn of(status: &Status) -> Why {
        let message = status.message();
        let (advice, text) = if message == "etcdserver: no leader" {
            (Advice::Lead, "knows of no leader: has the cluster lost its quorum?".to_owned())
        } else if message.contains("not supported for learner") {
            (Advice::Member, "is a learner, which serves no requests".to_owned())
        } else {
            (Advice::Reach, text_of(status))
        };
        Why { text, advice, source: Some(Arc::new(status.clone())) }
    }

    /// From the first answer, which may come from a server that is no etcd.
    pub(crate) fn of_first(is_secure: bool, status: &Status) -> Why {
        let mut why = Why::of(status);
        if why.advice == Advice::Reach {
            let is_tls = is_secure && is_about_tls(&why.text);
            why.advice = if is_tls { Advice::Trust } else { Advice::Speak };
        }
        why
    }

    /// From the failure of a connection.
    pub(crate) fn of_connection(is_secure: bool, error: tonic::transport::Error) -> Why {
        let text = reason(&error);
        let advice = if is_secure && is_about_tls(&text) { Advice::Trust } else { Advice::Reach };
        Why { text, advice, source: Some(Arc::new(error)) }
    }

    /// From a login that has failed.
    pub(crate) fn of_login(text: String) -> Why {
        Why { text, advice: Advice::LogIn, source: None }
    }
}

/// Whether TLS, rather than the network, is the reason of a failure.
fn is_about_tls(text: &str) -> bool {
    let text = text.to_lowercase();
    let tls = ["certificate", "tls", "alert", "handshake", "corrupt message", "peer is", "cert"];
    let network = ["refused", "reset", "unreachable", "no route", "timed out", "lookup", "resolve", "elapsed"];
    let names = |words: &[&str]| words.iter().any(|word| text.contains(word));
    names(&tls) || !names(&network)
}

/// The innermost cause of an error, without the error number of the operating system.
pub(crate) fn reason(error: &dyn StdError) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// The text of a status, without the prefix `etcdserver: `.
pub(crate) fn text_of(status: &Status) -> String {
    let message = status.message();
    let message = message.strip_prefix("etcdserver: ").unwrap_or(message);
    let text = match status.source() {
        Some(source) => reason(source),
        None if message.is_empty() => status.code().description().to_owned(),
        None => message.to_owned(),
    };
    // One line of bounded length, even from a hostile server.
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Finds out the outcome of a write. The implementation is above this module, which all others use.
pub(crate) trait Resolve: fmt::Debug + Send + Sync {
    fn resolve(&self) -> Result<bool, Error>;
    fn resolve_async(&self) -> Pin<Box<dyn Future<Output = Result<bool, Error>> + Send + '_>>;
}

/// A change of unknown outcome: the answer of the cluster was lost. From [`Error::pending`].
///
/// ```no_run
/// # let cluster = tantara_etcd::Cluster::connect("127.0.0.1:2379")?;
/// let event = cluster.event("deploy-done");
/// if let Err(error) = event.set() {
///     let Some(pending) = error.pending() else { return Err(error.into()) };
///     if !pending.resolve()? {
///         // It was not set, and that attempt will never set it.
///         event.set()?;
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Pending(Arc<dyn Resolve>);

impl Pending {
    pub(crate) fn new(write: impl Resolve + 'static) -> Pending {
        Pending(Arc::new(write))
    }

    /// Finds out the outcome: `true` if the change was made, `false` if it was not and never will
    /// be. Every call returns the same answer.
    ///
    /// # Errors
    ///
    /// [`is_unreachable`](Error::is_unreachable) if the cluster still does not answer: call it
    /// again. [`is_unknown`](Error::is_unknown), without a `pending`, if the cluster has compacted
    /// the history in question, or its history was replaced: then the outcome can no longer be
    /// found out.
    pub fn resolve(&self) -> Result<bool, Error> {
        self.0.resolve()
    }

    /// Async form of [`resolve`](Pending::resolve), with the same errors.
    pub async fn resolve_async(&self) -> Result<bool, Error> {
        self.0.resolve_async().await
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pending").field(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_an_error_is_the_answer_of_the_server() {
        let status = Status::permission_denied("etcdserver: permission denied");
        let denied = Error::answered(Kind::Denied { doing: "set", endpoint: "a:1".to_owned() }, &status);
        assert!(denied.source().unwrap().to_string().contains("permission denied"));
        let tries = ["a:1", "b:1"].map(|endpoint| Try { endpoint: endpoint.to_owned(), why: Why::of(&status) });
        let unreachable = Error::new(Kind::Unreachable { doing: "set", tries: tries.into() });
        assert!(unreachable.source().unwrap().downcast_ref::<Status>().is_some());
        assert!(Error::removed("x").source().is_none());
    }

    #[test]
    fn an_error_is_kept_in_the_error_of_all_kinds_of_events() {
        let error = tantara::Error::from(Error::removed("x"));
        assert!(error.is_removed());
        assert!(error.source().unwrap().downcast_ref::<Error>().unwrap().is_removed());
    }
}

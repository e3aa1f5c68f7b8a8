//! Classifies the errors with which members answer requests.

use tonic::{Code, Status};

use crate::error::{Error, Kind, text_of};

/// The answer of a member that is cut off from the leader.
const NO_LEADER: &str = "etcdserver: no leader";

/// The oldest etcd that accepts a watch ID from the client.
const OLDEST: (u32, u32) = (3, 4);

/// What to do after a request has failed.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Retry over another connection.
    Elsewhere,
    /// Retry over the same connection.
    Again,
    /// Retry with a new token.
    NewToken,
    /// Fail: a retry would fail as well.
    Never(Error),
}

pub(crate) fn judge(status: &Status, endpoint: &str, doing: &'static str, has_credentials: bool) -> Verdict {
    let endpoint = endpoint.to_owned();
    let message = status.message();
    let never = |kind| Verdict::Never(Error::answered(kind, status));
    let refused = |why: String| never(Kind::Refused { doing, endpoint: endpoint.clone(), why });
    match status.code() {
        Code::Unauthenticated => Verdict::NewToken,
        Code::InvalidArgument if message.contains("auth store is old") => Verdict::NewToken,
        Code::InvalidArgument if message.contains("user name is empty") => {
            if has_credentials {
                return Verdict::NewToken;
            }
            let why = "the cluster asks for a user and a password; give them".to_owned();
            never(Kind::Credentials { endpoint, why })
        }
        Code::PermissionDenied => never(Kind::Denied { doing, endpoint }),
        Code::ResourceExhausted if message.contains("database space exceeded") => refused(
            "its database is full; compact and defragment it, or raise its quota, and disarm the alarm".to_owned(),
        ),
        Code::ResourceExhausted if message.contains("larger than max") => refused(text_of(status)),
        // Recent versions use this code where earlier ones used `Unavailable`.
        Code::FailedPrecondition if is_about_the_member(message) => Verdict::Elsewhere,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::DataLoss => refused(text_of(status)),
        Code::ResourceExhausted if message.contains("too many requests") => Verdict::Again,
        Code::Unavailable if message == "etcdserver: leader changed" => Verdict::Again,
        // Among others, a server that is no etcd and does not know the request.
        _ => Verdict::Elsewhere,
    }
}

/// Whether another member may grant the same request.
fn is_about_the_member(message: &str) -> bool {
    ["not supported for learner", "not capable", "not leader"].iter().any(|words| message.contains(words))
}

/// Whether the request was certainly not carried out.
pub(crate) fn is_untouched(status: &Status) -> bool {
    let message = status.message();
    message == NO_LEADER || message == "etcdserver: too many requests" || is_about_the_member(message)
}

pub(crate) fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
        // An unknown version is assumed to be recent.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_concerns_one_member_sends_the_request_elsewhere() {
        let judged = |code, message: &str| judge(&Status::new(code, message), "a:1", "set", false);
        for code in [Code::Unavailable, Code::FailedPrecondition] {
            for message in ["etcdserver: rpc not supported for learner", "etcdserver: not capable"] {
                assert!(matches!(judged(code, message), Verdict::Elsewhere), "{code} {message}");
                assert!(is_untouched(&Status::new(code, message)));
            }
        }
        assert!(matches!(judged(Code::Unimplemented, "unknown service"), Verdict::Elsewhere));
        for (code, message) in [
            (Code::FailedPrecondition, "etcdserver: lease already exists"),
            (Code::NotFound, "etcdserver: requested lease not found"),
            (Code::PermissionDenied, "etcdserver: permission denied"),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        ] {
            assert!(matches!(judged(code, message), Verdict::Never(_)), "{message}");
        }
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for old in ["2.3.8", "3.3.27", "3.0.0"] {
            assert!(is_too_old(old), "{old}");
        }
        for new in ["3.4.0", "3.4.23", "3.5.33", "3.10.0", "4.0.0", "", "unknown", "3"] {
            assert!(!is_too_old(new), "{new}");
        }
    }
}

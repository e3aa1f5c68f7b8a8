//! [`LastHold`]: who has held an event between machines last.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::SystemTime;

/// The last hold of a `ClusterEvent`, after it has ended. Its process has released it, has ended,
/// or has lost the cluster; or its machine has ended. The cluster does not tell which.
///
/// The holder has written these values. Characters that no host name contains are replaced.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LastHold {
    /// The name of the holder's machine.
    pub host: String,
    /// Its process ID there.
    pub pid: u32,
    /// When the hold began, by the clock of that machine.
    pub since: SystemTime,
}

impl LastHold {
    /// Not part of the public API.
    #[doc(hidden)]
    #[must_use]
    pub fn new(host: &str, pid: u32, since: SystemTime) -> LastHold {
        /// The longest name of a host.
        const LONGEST: usize = 64;
        let is_of_a_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
        let host = host.chars().take(LONGEST).map(|c| if is_of_a_name(c) { c } else { '·' }).collect();
        LastHold { host, pid, since }
    }
}

/// `by process 4711 on m3, which let it go or vanished`
impl fmt::Display for LastHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by process {} on {}, which let it go or vanished", self.pid, self.host)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_a_hostile_holder_calls_its_machine_is_cut_and_has_no_control_characters() {
        let host = |host: &str| LastHold::new(host, 1, SystemTime::UNIX_EPOCH).host;
        assert_eq!(host("web-3.größe_1"), "web-3.größe_1");
        assert_eq!(host("a\u{1b}[2J\n\u{9b}\u{202e} b"), "a··2J····b");
        assert_eq!(host(&"x".repeat(100_000)).len(), 64);
    }
}

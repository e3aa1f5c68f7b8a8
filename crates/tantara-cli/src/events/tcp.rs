//! TCP ports that are waited for: how they are written, and attempts to connect.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::net::{Ipv6Addr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// The time limit of an attempt to connect to one address.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(3);

/// The host and the port of a server.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As the user has written it.
    text: String,
    host: String,
    port: u16,
}

impl Target {
    /// Parses `HOST:PORT`; an IPv6 address stands in brackets.
    pub(crate) fn parse(text: &str) -> Result<Target, String> {
        let expected = || "expected HOST:PORT, such as db:5432, 10.0.0.1:80 or [::1]:80".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']').ok_or_else(expected)?;
                // The part after % is the interface of a link-local address.
                let number = address.split('%').next().unwrap_or_default();
                number.parse::<Ipv6Addr>().map_err(|_| expected())?;
                address
            }
            None => host,
        };
        let is_of_host = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_host = text.starts_with('[') || (!host.is_empty() && host.chars().all(is_of_host));
        let port = port.parse().ok().filter(|&number| number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()));
        match port {
            Some(port) if is_host => Ok(Target { text: text.to_owned(), host: host.to_owned(), port }),
            _ => Err(expected()),
        }
    }

    /// Connects once to each address of the host, until one accepts.
    pub(crate) fn attempt(&self) -> Result<(), Refusal> {
        let addresses = (self.host.as_str(), self.port).to_socket_addrs();
        let addresses = addresses.map_err(|error| Refusal::Unresolved(reason(&error)))?;
        let mut refusal = Refusal::Unresolved("it has no address".into());
        for address in addresses {
            match TcpStream::connect_timeout(&address, LONGEST_ATTEMPT) {
                // A client that gets the number of the server's port as its own connects to itself.
                Ok(stream) if is_to_itself(&stream) => refusal = Refusal::Refused("connection refused".into()),
                Ok(_) => return Ok(()),
                Err(error) => refusal = Refusal::Refused(reason(&error)),
            }
        }
        Err(refusal)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn is_to_itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(own), Ok(other)) if own == other)
}

/// Why a server was not reached. Each of these may be temporary.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    /// The host has no address yet.
    Unresolved(String),
    Refused(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unresolved(why) => write!(f, "the host cannot be resolved: {why}"),
            Refusal::Refused(why) => f.write_str(why),
        }
    }
}

/// The text of an error, without numbers and in lower case.
fn reason(error: &Error) -> String {
    if error.kind() == ErrorKind::TimedOut {
        return "no answer".into();
    }
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(text);
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_the_help_says() {
        let read = |text: &str| Target::parse(text).map(|target| (target.host, target.port)).ok();
        let target = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(read("db:5432"), target("db", 5432));
        assert_eq!(read("127.0.0.1:65535"), target("127.0.0.1", 65535));
        assert_eq!(read("[::1]:80"), target("::1", 80));
        assert_eq!(read("[fe80::1%eth0]:80"), target("fe80::1%eth0", 80));
        assert_eq!(read("my_db.example.org.:1"), target("my_db.example.org.", 1));
        for bad in [
            "",
            ":",
            "db",
            "db:",
            ":80",
            "db:0",
            "db:65536",
            "db:+80",
            "db:http",
            "::1:80",
            "[::1]",
            "[::1:80",
            "[db]:80",
            "http://db:80",
            "db:80/",
            "a b:80",
            "user@db:80",
            "db:-1",
            "db: 80",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}

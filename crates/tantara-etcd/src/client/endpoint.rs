//! Endpoints, as users write them and as members report them.

use std::net::IpAddr;

use crate::error::Error;

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `HOST:PORT`.
    pub(crate) name: String,
    pub(crate) is_secure: bool,
}

impl Endpoint {
    /// An address that a member has reported, unless it makes no sense from here: an unspecified
    /// address, or the loopback of another machine, where another cluster may listen on this one.
    /// It must use TLS exactly if the member that reported it is connected with TLS, so that a
    /// password is never sent in clear where it was not before.
    pub(crate) fn learnt(url: &str, reported_by: &Endpoint) -> Option<Endpoint> {
        let endpoint = parse_one(url, false).ok().filter(|endpoint| endpoint.is_secure == reported_by.is_secure)?;
        let address = endpoint.host().parse::<IpAddr>().ok();
        let is_nowhere = address.is_some_and(|address| address.is_unspecified() || address.is_multicast());
        let is_elsewhere = endpoint.is_loopback() && !reported_by.is_loopback();
        (!is_nowhere && !is_elsewhere).then_some(endpoint)
    }

    /// Without the port, and without the brackets of an IPv6 address.
    fn host(&self) -> &str {
        let host = self.name.rfind(':').map_or(&*self.name, |colon| &self.name[..colon]);
        host.trim_matches(['[', ']'])
    }

    /// Whether the endpoint is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    pub(crate) fn uri(&self) -> String {
        format!("{}://{}", if self.is_secure { "https" } else { "http" }, self.name)
    }
}

/// The argument of [`Cluster::connect`](crate::Cluster::connect): one string, or an array, slice or
/// `Vec` of strings, each with one endpoint or several, separated by commas. An endpoint is
/// `HOST:PORT`, with `https://` before it for TLS.
///
/// This trait is sealed.
pub trait Endpoints: sealed::Sealed {}

mod sealed {
    pub trait Sealed {
        /// The strings, unparsed.
        fn into_strings(self) -> Vec<String>;
    }
}

impl Endpoints for &str {}
impl sealed::Sealed for &str {
    fn into_strings(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl Endpoints for String {}
impl sealed::Sealed for String {
    fn into_strings(self) -> Vec<String> {
        vec![self]
    }
}

impl Endpoints for &String {}
impl sealed::Sealed for &String {
    fn into_strings(self) -> Vec<String> {
        vec![self.clone()]
    }
}

macro_rules! endpoints_of_many {
    ($([$($generic:tt)*] $many:ty;)*) => {$(
        impl<$($generic)*> Endpoints for $many {}
        impl<$($generic)*> sealed::Sealed for $many {
            fn into_strings(self) -> Vec<String> {
                self.iter().map(|one| one.as_ref().to_owned()).collect()
            }
        }
    )*};
}

endpoints_of_many! {
    [S: AsRef<str>] &[S];
    [S: AsRef<str>] Vec<S>;
    [S: AsRef<str>] &Vec<S>;
    [S: AsRef<str>, const N: usize] [S; N];
    [S: AsRef<str>, const N: usize] &[S; N];
}

pub(crate) fn parse(endpoints: impl Endpoints, wants_tls: bool) -> Result<Vec<Endpoint>, Error> {
    let strings = endpoints.into_strings();
    if let Some(secret) = strings.iter().find(|string| string.contains('@')) {
        // Checked before the string is split: a password may contain a comma, a colon or a slash,
        // and is never shown.
        let rest = secret.rsplit('@').next().unwrap_or_default();
        let why = "an endpoint has no user and no password; give them apart from it";
        return Err(bad(&format!("…@{rest}"), why));
    }
    let mut parsed = Vec::new();
    for said in strings.iter().flat_map(|string| string.split(',')).map(str::trim).filter(|said| !said.is_empty()) {
        let endpoint = parse_one(said, wants_tls)?;
        if !parsed.contains(&endpoint) {
            parsed.push(endpoint);
        }
    }
    if parsed.is_empty() {
        return Err(bad(&strings.join(","), "it is empty"));
    }
    Ok(parsed)
}

fn bad(said: &str, why: &str) -> Error {
    Error::input("an endpoint of etcd", said, format!("{why}; expected HOST:PORT, such as 10.0.0.5:2379"))
}

const WITHOUT_TLS: &str = "this program was built without TLS; build it with the feature `tls` of tantara-etcd";

fn parse_one(said: &str, wants_tls: bool) -> Result<Endpoint, Error> {
    let (scheme, rest) = said.split_once("://").map_or((None, said), |(scheme, rest)| (Some(scheme), rest));
    let is_secure = match scheme {
        None => wants_tls,
        Some("https") if !cfg!(feature = "tls") => return Err(Error::input("an endpoint of etcd", said, WITHOUT_TLS)),
        Some("https") => true,
        Some("http") if wants_tls => return Err(bad(said, "it asks for no TLS, but certificates are given")),
        Some("http") => false,
        Some(_) => return Err(bad(said, "it begins with neither http:// nor https://")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(bad(said, "it has a path, and an endpoint has none"));
    }
    // An IPv6 address contains colons, so it is written in brackets.
    let after_address = rest.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match rest[after_address..].rfind(':') {
        Some(colon) => (&rest[..after_address + colon], Some(&rest[after_address + colon + 1..])),
        None => (rest, None),
    };
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if is_bracketed {
        if host[1..host.len() - 1].parse::<std::net::Ipv6Addr>().is_err() {
            return Err(bad(said, "what stands in the brackets is no IPv6 address"));
        }
    } else if host.is_empty() {
        return Err(bad(said, "it has no host"));
    } else if host.contains(':') {
        return Err(bad(said, "an IPv6 address stands in brackets: [::1]:2379"));
    } else if !host.chars().all(is_host) {
        return Err(bad(said, "a host is made of letters, digits, dots and dashes"));
    }
    let port = match port {
        None => 2379,
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port != 0 => port,
            _ => return Err(bad(said, "the port is not a number from 1 to 65535")),
        },
    };
    Ok(Endpoint { name: format!("{host}:{port}"), is_secure })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "tls")]
    fn names(endpoints: impl Endpoints) -> Vec<String> {
        parse(endpoints, false).unwrap().iter().map(Endpoint::uri).collect()
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn without_tls_its_endpoints_are_refused() {
        for said in ["https://a:1", "a:1,https://b"] {
            let error = parse(said, false).unwrap_err();
            assert!(error.is_invalid_input() && error.to_string().contains("feature `tls`"), "{error}");
        }
        let plain = &parse("http://a:1", false).unwrap()[0];
        assert_eq!(Endpoint::learnt("https://a:1", plain), None);
    }

    #[cfg(feature = "tls")]
    #[test]
    fn endpoints_are_taken_in_every_form() {
        let three = ["http://a:1", "http://b:2379", "https://[::1]:3"];
        assert_eq!(names("a:1,b, https://[::1]:3/,a:1"), three);
        assert_eq!(names("a:1,b,https://[::1]:3".to_owned()), three);
        assert_eq!(names(["a:1", "b,https://[::1]:3"]), three);
        assert_eq!(names(&["a:1", "b:2379", "https://[::1]:3"][..]), three);
        assert_eq!(names(vec!["a:1".to_owned(), "b".to_owned(), "https://[::1]:3".to_owned()]), three);
        assert_eq!(parse("a:1", true).unwrap()[0].uri(), "https://a:1");
    }

    #[test]
    fn what_is_no_endpoint_is_told_so() {
        for said in ["", ",", "a:b", "a:0", "a:65536", ":1", "ftp://a:1", "::1", "[a]:1", "a b:1", "a:1/x", "é:1", "a:"]
        {
            let error = parse(said, false).unwrap_err();
            assert!(error.is_invalid_input(), "{said}");
            assert!(error.to_string().contains("HOST:PORT"), "{error}");
        }
        assert!(parse("http://a:1", true).is_err());
        for said in ["a:1/x", "http://a:1/v3/kv", "a/b", "https://a:1//", "a:1?x=1"] {
            assert!(parse(said, false).unwrap_err().to_string().contains("it has a path"), "{said}");
        }
        for said in ["http://ann:sesame@a:1", "ann:sesame@a", "https://ann:ses,ame@a:1,b:2", "http://ann:ses@me@a:1"] {
            let text = parse(said, false).unwrap_err().to_string();
            assert!(!text.contains("ses") && !text.contains("ann:") && text.contains("no user"), "{text}");
        }
        let long = "x y".repeat(1_000);
        assert!(parse(&long, false).unwrap_err().to_string().len() < 300);
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_reported_address_is_used_only_where_it_makes_sense() {
        let learnt = |url: &str, reported_by: &str| {
            let reported_by = &parse(reported_by, false).unwrap()[0];
            Endpoint::learnt(url, reported_by).map(|endpoint| endpoint.uri())
        };
        assert_eq!(learnt("http://10.0.0.7:2379", "10.0.0.1:2379").as_deref(), Some("http://10.0.0.7:2379"));
        assert_eq!(learnt("http://127.0.0.1:3", "127.0.0.1:2379").as_deref(), Some("http://127.0.0.1:3"));
        assert_eq!(learnt("https://etcd-2:2379", "https://etcd-1").as_deref(), Some("https://etcd-2:2379"));
        for (url, reported_by) in [
            ("http://127.0.0.1:2379", "10.0.0.1:2379"),
            ("http://[::1]:2379", "etcd-1"),
            ("http://localhost:2379", "etcd-1"),
            ("http://0.0.0.0:2379", "127.0.0.1"),
            ("http://[::]:2379", "127.0.0.1"),
            ("http://etcd-2:2379", "https://etcd-1"),
            ("https://etcd-2:2379", "http://etcd-1"),
            ("unix:///run/etcd", "etcd-1"),
            ("http://ann:sesame@etcd-2:2379", "etcd-1"),
            ("", "etcd-1"),
        ] {
            assert_eq!(learnt(url, reported_by), None, "{url} from {reported_by}");
        }
    }
}

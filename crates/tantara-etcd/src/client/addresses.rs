//! The addresses of the members of a cluster: those that were given, and those that members report.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::timeout;

use crate::client::endpoint::Endpoint;
use crate::client::proto::MemberList;
use crate::client::transport::Transport;
use crate::lock::lock;
use crate::options::Options;

/// Upper bound on the addresses that are learnt.
const MOST: usize = 32;

/// The timeout of a request for the addresses.
const ANSWERING: Duration = Duration::from_secs(2);

/// The addresses of a cluster.
#[derive(Debug)]
pub(crate) struct Addresses {
    pub(crate) given: Vec<Endpoint>,
    are_learnt: bool,
    has_credentials: bool,
    /// Without the given ones.
    learnt: Mutex<Vec<Endpoint>>,
}

impl Addresses {
    pub(crate) fn new(given: Vec<Endpoint>, options: &Options) -> Addresses {
        let (are_learnt, has_credentials) = (options.learns_members, options.credentials.is_some());
        Addresses { given, are_learnt, has_credentials, learnt: Mutex::default() }
    }

    pub(crate) fn learnt(&self) -> Vec<Endpoint> {
        lock(&self.learnt).clone()
    }

    /// Asks a member for the addresses of all members. Which member does not matter, nor whether
    /// it answers.
    pub(crate) async fn ask(&self, transport: &Transport, member: &Endpoint) {
        if self.are_learnt
            && let Ok(Ok(members)) = timeout(ANSWERING, transport.unary(&MemberList {})).await
        {
            self.learn(member, members.urls());
        }
    }

    /// Stores the addresses that can be valid on this machine.
    pub(crate) fn learn(&self, reported_by: &Endpoint, urls: impl Iterator<Item = String>) {
        if !self.are_learnt {
            return;
        }
        let is_exposed = |endpoint: &Endpoint| !endpoint.is_secure && !endpoint.is_loopback();
        // A password is sent to another machine in clear only if the caller has given such an
        // endpoint.
        let may_expose = !self.has_credentials || self.given.iter().any(is_exposed);
        let addresses = urls.filter_map(|url| Endpoint::learnt(&url, reported_by));
        let addresses = addresses.filter(|address| may_expose || !is_exposed(address));
        let mut learnt: Vec<Endpoint> = Vec::new();
        for address in addresses {
            if !self.given.contains(&address) && !learnt.contains(&address) && learnt.len() < MOST {
                learnt.push(address);
            }
        }
        *lock(&self.learnt) = learnt;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::endpoint::parse;

    #[test]
    fn a_password_leaves_this_machine_in_clear_only_if_such_an_endpoint_was_given() {
        let learnt = |given: &str, options: Options| {
            let addresses = Addresses::new(parse(given, false).unwrap(), &options);
            let urls = ["http://127.0.0.1:2", "http://10.0.0.7:2379"].map(str::to_owned);
            addresses.learn(&addresses.given[0], urls.into_iter());
            let names: Vec<String> = addresses.learnt().into_iter().map(|endpoint| endpoint.name).collect();
            names.join(",")
        };
        let ann = || Options::new().user("ann", "sesame");
        assert_eq!(learnt("127.0.0.1:1", Options::new()), "127.0.0.1:2,10.0.0.7:2379");
        assert_eq!(learnt("127.0.0.1:1", ann()), "127.0.0.1:2");
        assert_eq!(learnt("10.0.0.5:2379", ann()), "10.0.0.7:2379", "and no loopback of another machine");
        assert_eq!(learnt("127.0.0.1:1", Options::new().learn_members(false)), "");
    }
}

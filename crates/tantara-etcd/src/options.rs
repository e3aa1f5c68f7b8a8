//! How to connect: namespace, user, TLS, and how long to try.

use std::fmt;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::error::Error;
use crate::keys;

/// How a [`Cluster`](crate::Cluster) connects. The default is what a cluster without TLS and users needs.
///
/// ```no_run
/// use tantara_etcd::{Cluster, Options, Tls};
///
/// let options = Options::new()
///     .namespace("shop")
///     .user("shop", std::env::var("SHOP_PASSWORD")?)
///     .tls(Tls::new().ca_pem(std::fs::read("ca.pem")?));
/// let cluster = Cluster::connect_with("etcd-1:2379,etcd-2:2379,etcd-3:2379", options)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Options {
    pub(crate) namespace: String,
    pub(crate) user: Option<(String, String)>,
    pub(crate) tls: Option<Tls>,
    pub(crate) timeout: Duration,
    pub(crate) hold_ttl: Duration,
    pub(crate) recheck: Duration,
    pub(crate) records_waits: bool,
    pub(crate) hears_watches: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}

impl Options {
    /// The default: namespace `tantara`, no user, no TLS, five seconds for a request.
    #[must_use]
    pub fn new() -> Options {
        Options {
            namespace: "tantara".to_owned(),
            user: None,
            tls: None,
            timeout: Duration::from_secs(5),
            hold_ttl: Duration::from_secs(10),
            recheck: Duration::from_secs(30),
            records_waits: false,
            hears_watches: true,
        }
    }

    /// The namespace: events of different namespaces have nothing to do with each other. All keys begin with
    /// `/NAMESPACE/`, which etcd's roles can guard. It is made as the names of events are.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Options {
        self.namespace = namespace.into();
        self
    }

    /// Who to be, where the cluster asks for it.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Options {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Speak TLS.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Options {
        self.tls = Some(tls);
        self
    }

    /// How long a request, and the connecting, may take before it fails; five seconds, unless said otherwise. A leader
    /// that dies is replaced within three, and requests outlast that.
    ///
    /// Waiting is not limited by it: once a wait has begun it outlasts every outage.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Options {
        self.timeout = timeout;
        self
    }

    /// How long a [hold](crate::ClusterEvent::hold) lasts after its process has died or was cut off: ten seconds,
    /// unless said otherwise. etcd counts in whole seconds, and no less than about two.
    #[must_use]
    pub fn hold_ttl(mut self, ttl: Duration) -> Options {
        self.hold_ttl = ttl;
        self
    }

    /// How often events that are waited for are read again although nothing seems to have happened: every thirty
    /// seconds, unless said otherwise. It bounds the delay where a server has forgotten to tell of a change.
    #[must_use]
    pub fn recheck(mut self, period: Duration) -> Options {
        self.recheck = period;
        self
    }

    /// Leave a record of who waits, for [`waiters`](crate::ClusterEvent::waiters) and `tantara ls`. It costs a write
    /// when a wait has lasted for a tenth of a second, and one when it ends. Nothing is recorded unless this is asked
    /// for.
    #[must_use]
    pub fn record_waits(mut self, records: bool) -> Options {
        self.records_waits = records;
        self
    }

    /// For tests: what happens where a server never tells of a change.
    #[doc(hidden)]
    #[must_use]
    pub fn deaf_to_watches(mut self) -> Options {
        self.hears_watches = false;
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        keys::check_namespace(&self.namespace)?;
        if self.timeout.is_zero() {
            return Err(Error::input("a timeout", "0", "no cluster answers in no time"));
        }
        match &self.user {
            Some((name, _)) if name.is_empty() => Err(Error::input("a user", name, "it is empty")),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither passwords nor private keys.
        f.debug_struct("Options")
            .field("namespace", &self.namespace)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &self.tls)
            .field("timeout", &self.timeout)
            .field("hold_ttl", &self.hold_ttl)
            .field("recheck", &self.recheck)
            .field("record_waits", &self.records_waits)
            .finish()
    }
}

/// How TLS is spoken: whom to trust, and who to be. The default trusts whom the system trusts.
#[derive(Clone, Default)]
pub struct Tls {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
}

impl Tls {
    /// Trusts the certificate authorities that the system trusts.
    #[must_use]
    pub fn new() -> Tls {
        Tls::default()
    }

    /// Trusts this certificate authority, in PEM, and no other.
    #[must_use]
    pub fn ca_pem(mut self, ca: impl Into<Vec<u8>>) -> Tls {
        self.ca = Some(ca.into());
        self
    }

    /// The client's own certificate and its key, in PEM.
    #[must_use]
    pub fn identity_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Tls {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The name that the servers' certificates carry, where it is not the host of the endpoint.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Tls {
        self.server_name = Some(name.into());
        self
    }

    pub(crate) fn config(&self) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new();
        config = match &self.ca {
            Some(ca) => config.ca_certificate(Certificate::from_pem(ca)),
            None => config.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        config
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}

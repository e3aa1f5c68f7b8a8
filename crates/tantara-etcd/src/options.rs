//! [`Options`] of a connection: namespace, user, TLS, timeouts.

use std::fmt;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use crate::client::endpoint::{self, Endpoints};
use crate::error::Error;
use crate::store::keys;
use crate::tls::Tls;

/// The limits of [`Options::recheck`].
const SHORTEST_RECHECK: Duration = Duration::from_millis(100);
const LONGEST_RECHECK: Duration = Duration::from_secs(86_400);

/// How a [`Cluster`](crate::Cluster) connects. The default suits a cluster without TLS and users.
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
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) namespace: String,
    pub(crate) credentials: Option<Credentials>,
    /// Always `None` without the feature `tls`.
    pub(crate) tls: Option<Tls>,
    pub(crate) timeout: Duration,
    /// `None`: the `timeout`.
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) learns_members: bool,
    pub(crate) hold_ttl: Duration,
    pub(crate) recheck: Duration,
    pub(crate) records_waits: bool,
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
            credentials: None,
            tls: None,
            timeout: Duration::from_secs(5),
            connect_timeout: None,
            learns_members: true,
            hold_ttl: Duration::from_secs(10),
            recheck: Duration::from_secs(30),
            records_waits: false,
        }
    }

    /// Sets the namespace, which separates events from those of other namespaces. All keys begin
    /// with `/NAMESPACE/`, so that etcd's roles can restrict access to it. It follows the rules for
    /// names of events.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Options {
        self.namespace = namespace.into();
        self
    }

    /// Sets the user and the password, for a cluster that requires them.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Options {
        self.credentials = Some(Credentials::Fixed(name.into(), password.into()));
        self
    }

    /// Sets a provider of a user and a password that may change. It is called for every login: for
    /// each connection, and when a token has expired.
    ///
    /// If the first login is refused, connecting fails, as with [`user`](Options::user). A later
    /// refusal counts as an outage: waits go on, and the provider is called again.
    ///
    /// The provider runs on the runtime thread of the connection and blocks all requests meanwhile,
    /// so it should be fast. The drop of the last handle of the connection waits for it for two
    /// seconds at most. Then the leases may stay until they expire.
    ///
    /// ```no_run
    /// use tantara_etcd::{Cluster, Options};
    ///
    /// let options = Options::new().credentials(|| {
    ///     std::fs::read_to_string("/run/secrets/etcd").map(|password| ("shop".to_owned(),
    /// password.trim().to_owned())) });
    /// let cluster = Cluster::connect_with("etcd-1:2379", options)?;
    /// # Ok::<(), tantara_etcd::Error>(())
    /// ```
    #[must_use]
    pub fn credentials<E: fmt::Display>(
        mut self,
        provider: impl Fn() -> Result<(String, String), E> + Send + Sync + 'static,
    ) -> Options {
        let provider = move || provider().map_err(|error| error.to_string());
        self.credentials = Some(Credentials::Provided(Arc::new(provider)));
        self
    }

    /// Enables TLS.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Options {
        self.tls = Some(tls);
        self
    }

    /// Sets how long a request may take before it fails; five seconds by default. A leader that
    /// dies is replaced within three, so requests survive that.
    ///
    /// It does not limit waits: a wait that has begun survives every outage.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Options {
        self.timeout = timeout;
        self
    }

    /// Sets how long connecting may take; by default, as long as a request.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Options {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Sets whether to learn the addresses of the members from the cluster; yes by default. Then
    /// the connection survives that all given endpoints are replaced by others.
    ///
    /// The given endpoints are tried first. A learnt address that cannot be reached from here costs
    /// no time. It is not used if it belongs to another cluster, or if it is reached without TLS
    /// and the member that reported it with TLS. With [`credentials`](Options::credentials), an
    /// address without TLS is used only if it reports its cluster's ID before the login, and one on
    /// another machine only if such an endpoint was given. Versions of etcd that report members to
    /// administrators alone (with users: 3.5.28 to 3.5.31, 3.6.0 to 3.6.11) do not report any.
    #[must_use]
    pub fn learn_members(mut self, learn: bool) -> Options {
        self.learns_members = learn;
        self
    }

    /// Sets how long a [hold](crate::ClusterEvent::hold) lasts after its process has died or has
    /// lost the cluster; ten seconds by default. etcd rounds it up to whole seconds, and to about
    /// two at least.
    #[must_use]
    pub fn hold_ttl(mut self, ttl: Duration) -> Options {
        self.hold_ttl = ttl;
        self
    }

    /// Sets how often events with waits are read again even if the watch shows no change; every
    /// thirty seconds by default. It bounds the delay of a wait if a server fails to send a change.
    /// [`Changes`](crate::Changes) list all events as often.
    /// A shorter period than a tenth of a second counts as that, and a longer one than a day as a day.
    #[must_use]
    pub fn recheck(mut self, period: Duration) -> Options {
        self.recheck = period.clamp(SHORTEST_RECHECK, LONGEST_RECHECK);
        self
    }

    /// Sets whether to record who waits, for [`waiters`](crate::ClusterEvent::waiters) and `tantara
    /// ls`; no by default. It costs a write when a wait has lasted for a tenth of a second, and one
    /// when it ends.
    #[must_use]
    pub fn record_waits(mut self, records: bool) -> Options {
        self.records_waits = records;
        self
    }

    /// Warnings about these options, for people to read: a password that would be sent to another
    /// machine in clear. Sends nothing.
    ///
    /// # Errors
    ///
    /// If an endpoint is invalid.
    pub fn warnings(&self, endpoints: impl Endpoints) -> Result<Vec<String>, Error> {
        let endpoints = endpoint::parse(endpoints, self.tls.is_some())?;
        let exposed = endpoints.iter().filter(|endpoint| !endpoint.is_secure && !endpoint.is_loopback());
        let exposed: Vec<&str> = exposed.map(|endpoint| &*endpoint.name).collect();
        if exposed.is_empty() || self.credentials.is_none() {
            return Ok(Vec::new());
        }
        Ok(vec![format!(
            "the password goes to {} without TLS, where others on the network can read it",
            exposed.join(", ")
        )])
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        keys::check_namespace(&self.namespace)?;
        if self.timeout.is_zero() || self.connect_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Error::input("a timeout", "0", "no cluster answers in no time"));
        }
        match &self.credentials {
            Some(Credentials::Fixed(name, _)) if name.is_empty() => Err(Error::input("a user", name, "it is empty")),
            _ => Ok(()),
        }
    }
}

// A panic of the provider is caught where it is called.
impl UnwindSafe for Options {}
impl RefUnwindSafe for Options {}

/// The user and the password.
#[derive(Clone)]
pub(crate) enum Credentials {
    Fixed(String, String),
    Provided(Arc<Provider>),
}

type Provider = dyn Fn() -> Result<(String, String), String> + Send + Sync;

impl Credentials {
    /// The name and the password for the next login.
    pub(crate) fn get(&self) -> Result<(String, String), String> {
        match self {
            Credentials::Fixed(name, password) => Ok((name.clone(), password.clone())),
            // A panic would end the task that logs in, and leave waits asleep.
            Credentials::Provided(provider) => std::panic::catch_unwind(AssertUnwindSafe(|| provider()))
                .unwrap_or_else(|_| Err("it has panicked".to_owned())),
        }
    }

    /// Whether the next login may use others.
    pub(crate) fn may_change(&self) -> bool {
        matches!(self, Credentials::Provided(_))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Fixed(name, _) => f.debug_tuple("Fixed").field(&shown_user(name)).finish_non_exhaustive(),
            Credentials::Provided(_) => f.debug_tuple("Provided").finish_non_exhaustive(),
        }
    }
}

/// The name of a user, for messages. A password after a colon, as etcdctl accepts it, is hidden.
pub(crate) fn shown_user(name: &str) -> String {
    match name.split_once(':') {
        Some((name, _)) => format!("{name}:…"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_clear_is_warned_of_if_others_can_read_it() {
        let warned = |options: &Options, endpoints: &str| !options.warnings(endpoints).unwrap().is_empty();
        let user = Options::new().user("ann", "sesame");
        for endpoints in ["10.0.0.1:2379", "127.0.0.1:2379,etcd-2:2379", "http://[2001:db8::1]:2379"] {
            assert!(warned(&user, endpoints), "{endpoints}");
            assert!(!warned(&Options::new(), endpoints), "{endpoints}");
            assert!(warned(&Options::new().credentials(|| Err("none")), endpoints), "{endpoints}");
            assert!(!user.warnings(endpoints).unwrap()[0].contains("sesame"));
        }
        for endpoints in ["127.0.0.1:2379", "localhost", "[::1]:2379"] {
            assert!(!warned(&user, endpoints), "{endpoints}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_password_under_tls_is_not_warned_of() {
        let user = Options::new().user("ann", "sesame");
        assert!(user.warnings("https://etcd-1:2379").unwrap().is_empty());
        assert!(user.tls(Tls::new()).warnings("etcd-1:2379").unwrap().is_empty());
    }

    #[test]
    fn a_provider_that_panics_has_failed() {
        let options = Options::new().credentials(|| -> Result<(String, String), String> { panic!("on purpose") });
        assert!(options.credentials.unwrap().get().unwrap_err().contains("panicked"));
    }

    #[test]
    fn events_are_read_again_neither_all_the_time_nor_never() {
        let recheck = |period| Options::new().recheck(period).recheck;
        assert_eq!(recheck(Duration::ZERO), SHORTEST_RECHECK);
        assert_eq!(recheck(Duration::MAX), LONGEST_RECHECK);
        assert_eq!(recheck(Duration::from_secs(7)), Duration::from_secs(7));
    }

    #[test]
    fn secrets_are_not_shown() {
        for options in [Options::new().user("ann:sesame", "sesame"), Options::new().user("ann", "sesame")] {
            assert!(!format!("{options:?}").contains("sesame"), "{options:?}");
        }
    }
}

//! Where the events lie that a verb speaks of: in a directory of this machine, or in an etcd cluster.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use tantara::{Error, SharedEvent, Waitable};
use tantara_etcd::{Cluster, ClusterEvent, Options, Tls};

use crate::events::outage::OutageReport;
use crate::events::text;
use crate::events::waiter::Waiter;
use crate::failure::Failure;
use crate::output;

/// A request to a cluster takes no longer, and no less time is granted.
const LONGEST_REQUEST: Duration = Duration::from_secs(5);
const SHORTEST_REQUEST: Duration = Duration::from_secs(1);

/// While a line is being typed nobody waits longer for its completion.
const WHILE_TYPING: Duration = Duration::from_millis(800);

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Where the events are")]
pub(crate) struct PlaceArgs {
    /// The directory in which the events lie [env: TANTARA_DIR]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) dir: Option<PathBuf>,

    /// The etcd cluster in which the events live, instead of a directory [env: TANTARA_ETCD]
    #[arg(long, value_name = "HOST:PORT,...", global = true, conflicts_with = "dir")]
    pub(crate) etcd: Option<String>,

    /// The namespace of the cluster's events [env: TANTARA_NAMESPACE] [default: tantara]
    #[arg(long, value_name = "NS", global = true, conflicts_with = "dir", hide_short_help = true)]
    namespace: Option<String>,

    /// Who to be for the cluster, without the password [env: TANTARA_ETCD_USER]
    #[arg(long, value_name = "USER", global = true, conflicts_with = "dir", hide_short_help = true)]
    user: Option<String>,

    /// The password of that user, in a file that is read again at every login; else it is in $TANTARA_ETCD_PASSWORD
    /// [env: TANTARA_ETCD_PASSWORD_FILE]
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "dir", hide_short_help = true)]
    password_file: Option<PathBuf>,

    /// Give up after DUR if the cluster cannot be reached at first; `wait --timeout` tries for as long as that says
    /// [default: 5s]
    #[arg(long, value_name = "DUR", value_parser = text::duration, allow_negative_numbers = true,
          global = true, conflicts_with = "dir", hide_short_help = true)]
    connect_timeout: Option<Duration>,

    /// The certificate authority of the cluster, in PEM; TLS is spoken [env: TANTARA_ETCD_CACERT]
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "dir", hide_short_help = true)]
    cacert: Option<PathBuf>,

    /// The client's own certificate, in PEM; TLS is spoken [env: TANTARA_ETCD_CERT]
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "dir", hide_short_help = true)]
    cert: Option<PathBuf>,

    /// The key of that certificate, in PEM [env: TANTARA_ETCD_KEY]
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "dir", hide_short_help = true)]
    key: Option<PathBuf>,
}

/// An empty variable is as good as none.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn text_variable(name: &str) -> Option<String> {
    variable(name).map(|value| value.to_string_lossy().into_owned())
}

impl PlaceArgs {
    /// From a command line that is being typed, and so not parsed yet.
    pub(crate) fn of_unfinished_line(words: impl Iterator<Item = OsString>) -> PlaceArgs {
        let words: Vec<OsString> = words.collect();
        let after = |option: &str| {
            let with_equals = format!("{option}=");
            let next = words.iter().position(|word| word == option).and_then(|at| words.get(at + 1)).cloned();
            let joined = words.iter().find_map(|word| word.to_str()?.strip_prefix(&with_equals).map(OsString::from));
            next.or(joined)
        };
        let text = |option: &str| after(option).map(|value| value.to_string_lossy().into_owned());
        let path = |option: &str| after(option).map(PathBuf::from);
        PlaceArgs {
            dir: path("--dir"),
            etcd: text("--etcd"),
            namespace: text("--namespace"),
            user: text("--user"),
            password_file: path("--password-file"),
            connect_timeout: None,
            cacert: path("--cacert"),
            cert: path("--cert"),
            key: path("--key"),
        }
    }

    /// The names of all events there, as far as can be told quickly.
    pub(crate) fn known_names(self) -> Vec<String> {
        let target = self.cluster(Some(WHILE_TYPING));
        let place = target.and_then(|target| Place::connect(self, target));
        place.map(|place| place.names()).unwrap_or_default()
    }

    /// How to reach the cluster that was named, or `None` without one. Reads all files, so call it once in a process:
    /// a file may be a pipe (`--cacert <(...)`).
    pub(crate) fn cluster(&self, patience: Option<Duration>) -> Result<Option<ClusterArgs>, Failure> {
        let Some(endpoints) = self.endpoints() else { return Ok(None) };
        Ok(Some(ClusterArgs { endpoints, options: self.options(patience)? }))
    }

    fn endpoints(&self) -> Option<String> {
        let inherited = || if self.dir.is_none() { text_variable("TANTARA_ETCD") } else { None };
        self.etcd.clone().or_else(inherited)
    }

    /// The arguments that name the same cluster once more. The password stays in the environment.
    pub(crate) fn as_arguments(&self) -> Vec<OsString> {
        let texts =
            [("--etcd", self.endpoints()), ("--namespace", self.namespace.clone()), ("--user", self.user.clone())];
        let texts = texts.into_iter().map(|(option, text)| (option, text.map(OsString::from)));
        let files = [
            ("--password-file", &self.password_file),
            ("--cacert", &self.cacert),
            ("--cert", &self.cert),
            ("--key", &self.key),
        ];
        let files = files.into_iter().map(|(option, file)| (option, file.clone().map(OsString::from)));
        let given = texts.chain(files).filter_map(|(option, value)| Some([option.into(), value?]));
        given.flatten().collect()
    }

    /// What was said of a cluster although none was named.
    fn stray(&self) -> Option<&'static str> {
        [
            ("--namespace", self.namespace.is_some()),
            ("--user", self.user.is_some()),
            ("--password-file", self.password_file.is_some()),
            ("--connect-timeout", self.connect_timeout.is_some()),
            ("--cacert", self.cacert.is_some()),
            ("--cert", self.cert.is_some()),
            ("--key", self.key.is_some()),
        ]
        .into_iter()
        .find_map(|(option, is_given)| is_given.then_some(option))
    }

    /// How to connect. Who waits can be seen by others, as it can on one machine.
    fn options(&self, patience: Option<Duration>) -> Result<Options, Failure> {
        let timeout = patience.map_or(LONGEST_REQUEST, |limit| limit.clamp(SHORTEST_REQUEST, LONGEST_REQUEST));
        let connecting = match patience {
            Some(limit) => limit.max(SHORTEST_REQUEST),
            None => self.connect_timeout.unwrap_or(LONGEST_REQUEST),
        };
        let mut options = Options::new().record_waits(true).timeout(timeout).connect_timeout(connecting);
        if let Some(namespace) = self.namespace.clone().or_else(|| text_variable("TANTARA_NAMESPACE")) {
            options = options.namespace(namespace);
        }
        if let Some(user) = self.user.clone().or_else(|| text_variable("TANTARA_ETCD_USER")) {
            options = self.log_in(options, user)?;
        } else if self.password_file.is_some() {
            return Err(Failure::usage("--password-file goes with --user, which is missing"));
        }
        let file = |given: &Option<PathBuf>, name: &str| given.clone().or_else(|| variable(name).map(PathBuf::from));
        let files = [
            file(&self.cacert, "TANTARA_ETCD_CACERT"),
            file(&self.cert, "TANTARA_ETCD_CERT"),
            file(&self.key, "TANTARA_ETCD_KEY"),
        ];
        if files.iter().all(Option::is_none) {
            return Ok(options);
        }
        let [ca, certificate, key] = files.map(|file| file.map(|file| read_pem(&file)).transpose());
        let mut tls = Tls::new();
        if let Some(ca) = ca? {
            tls = tls.ca_pem(ca);
        }
        match (certificate?, key?) {
            (Some(certificate), Some(key)) => tls = tls.identity_pem(certificate, key),
            (None, None) => {}
            _ => return Err(Failure::usage("--cert and --key belong together; give both or neither")),
        }
        Ok(options.tls(tls))
    }

    /// Unlike the environment, a file may change while the process runs, so it is read again for every login but the
    /// first.
    fn log_in(&self, options: Options, user: String) -> Result<Options, Failure> {
        if user.contains(':') {
            // What follows the colon is not shown.
            return Err(Failure::usage(
                "a user is named without the password; put that into --password-file or $TANTARA_ETCD_PASSWORD",
            ));
        }
        let named = || variable("TANTARA_ETCD_PASSWORD_FILE").map(PathBuf::from);
        if let Some(file) = self.password_file.clone().or_else(named) {
            let first = Mutex::new(Some(read_password(&file).map_err(Failure::usage)?));
            return Ok(options.credentials(move || {
                let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
                let password = first.map_or_else(|| read_password(&file), Ok)?;
                Ok::<_, String>((user.clone(), password))
            }));
        }
        let password = text_variable("TANTARA_ETCD_PASSWORD").ok_or_else(|| {
            Failure::usage(format!(
                "there is no password for user {user:?}; put it into --password-file or $TANTARA_ETCD_PASSWORD"
            ))
        })?;
        Ok(options.user(user, password))
    }
}

/// The first line of the file.
fn read_password(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => Err(format!("{}: there is no password in its first line", path.display())),
    }
}

fn read_pem(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    if bytes.starts_with(b"-----BEGIN") || bytes.windows(11).any(|window| window == b"\n-----BEGIN") {
        Ok(bytes)
    } else {
        Err(Failure::usage(format!("{}: is not PEM: there is no -----BEGIN in it", path.display())))
    }
}

/// How to reach a cluster: its endpoints and options, with the content of all files.
#[derive(Debug)]
pub(crate) struct ClusterArgs {
    pub(crate) endpoints: String,
    pub(crate) options: Options,
}

impl ClusterArgs {
    /// Prints warnings about an insecure connection.
    pub(crate) fn warn(&self) -> Result<(), Failure> {
        for warning in self.options.warnings(&self.endpoints).map_err(Failure::of_cluster)? {
            output::note(format_args!("warning: {warning}; use https:// or --cacert"));
        }
        Ok(())
    }

    pub(crate) fn connect(self) -> Result<Cluster, Failure> {
        Cluster::connect_with(&self.endpoints, self.options).map_err(Failure::of_cluster)
    }
}

/// Where the events are.
#[derive(Debug)]
pub(crate) enum Place {
    Directory(Directory),
    Cluster(Region),
}

/// A directory of this machine.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Named by the user, or the default.
    named: Option<PathBuf>,
    pub(crate) path: PathBuf,
}

/// A namespace of a cluster.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) cluster: Cluster,
    endpoints: String,
}

/// What can be done to an event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Set,
    Clear,
    Pulse,
}

/// An event, wherever it is.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Shared(SharedEvent),
    Cluster(ClusterEvent),
}

impl Place {
    pub(crate) fn new(args: PlaceArgs, patience: Option<Duration>) -> Result<Place, Failure> {
        let target = args.cluster(patience)?;
        target.as_ref().map_or(Ok(()), ClusterArgs::warn)?;
        Place::connect(args, target)
    }

    fn connect(args: PlaceArgs, target: Option<ClusterArgs>) -> Result<Place, Failure> {
        let Some(target) = target else {
            if let Some(stray) = args.stray() {
                return Err(Failure::usage(format!("{stray} goes with --etcd, which is missing")));
            }
            let named = args.dir.or_else(|| variable("TANTARA_DIR").map(PathBuf::from));
            let path = named.clone().unwrap_or_else(SharedEvent::default_directory);
            return Ok(Place::Directory(Directory { named, path }));
        };
        let endpoints = target.endpoints.clone();
        Ok(Place::Cluster(Region { cluster: target.connect()?, endpoints }))
    }

    /// Says from now on, while something is waited for, that the cluster cannot be reached.
    pub(crate) fn report_outages(&self) -> Option<OutageReport> {
        match self {
            Place::Directory(_) => None,
            Place::Cluster(region) => Some(OutageReport::begin(region.cluster.clone())),
        }
    }

    /// Does it to all of the events, after all of them could be opened.
    pub(crate) fn change(&self, names: &[String], change: Change) -> Result<(), Failure> {
        match self {
            Place::Directory(directory) => directory.change(names, change),
            Place::Cluster(region) => names.iter().try_for_each(|name| {
                let event = region.cluster.event(name);
                let done = match change {
                    Change::Set => event.set(),
                    Change::Clear => event.clear(),
                    Change::Pulse => event.pulse(),
                };
                done.map_err(Failure::of_cluster)
            }),
        }
    }

    /// Whether an event is set. One that does not exist is not, and is not made.
    pub(crate) fn is_set(&self, name: &str) -> Result<bool, Failure> {
        match self {
            Place::Directory(directory) => match directory.find(name)?.map(|event| event.is_set()) {
                None => Ok(false),
                Some(Err(error)) if error.is_removed() => Ok(false),
                Some(is_set) => is_set.map_err(Failure::of_event),
            },
            Place::Cluster(region) => region.cluster.event(name).is_set().map_err(Failure::of_cluster),
        }
    }

    /// All of them, or none: nothing has been done if one cannot be opened.
    pub(crate) fn open_all(&self, names: &[String]) -> Result<Vec<Event>, Failure> {
        let open = |name: &String| match self {
            Place::Directory(directory) => directory.open(name).map(Event::Shared),
            Place::Cluster(region) => Ok(Event::Cluster(region.cluster.event(name))),
        };
        names.iter().map(open).collect()
    }

    /// What to say of a name that is unknown.
    pub(crate) fn unknown(&self, name: &str) -> String {
        let mut text = format!("there is no event {name} in {}", self.shown());
        if let Some(nearest) = text::nearest(name, &self.names()).filter(|nearest| *nearest != name) {
            text.push_str(&format!("; did you mean {nearest}?"));
        }
        text
    }

    /// The names of all events, as far as can be told quickly.
    pub(crate) fn names(&self) -> Vec<String> {
        match self {
            Place::Directory(directory) => directory.names(),
            Place::Cluster(region) => {
                let entries = region.cluster.list().unwrap_or_default();
                entries.into_iter().map(|entry| entry.name).collect()
            }
        }
    }

    /// Where this is, for people.
    pub(crate) fn shown(&self) -> String {
        match self {
            Place::Directory(directory) => directory.path.display().to_string(),
            Place::Cluster(region) => format!("namespace {} of {}", region.cluster.namespace(), region.endpoints),
        }
    }
}

impl Directory {
    /// With which mode it is made, less the umask: one that is not named is its user's own.
    pub(crate) fn mode(&self) -> u32 {
        if self.named.is_some() { 0o777 } else { 0o700 }
    }

    pub(crate) fn open(&self, name: &str) -> Result<SharedEvent, Failure> {
        let opened = match &self.named {
            Some(directory) => SharedEvent::open_in(directory, name),
            None => SharedEvent::open(name),
        };
        opened.map_err(Failure::of_event)
    }

    /// Does it to all of the events, after all of them could be opened.
    fn change(&self, names: &[String], change: Change) -> Result<(), Failure> {
        let method = match change {
            Change::Set => SharedEvent::set,
            Change::Clear => SharedEvent::clear,
            Change::Pulse => SharedEvent::pulse,
        };
        let events = names.iter().map(|name| self.open(name)).collect::<Result<Vec<_>, _>>()?;
        if let Some(event) = events.iter().find(|event| !event.is_writable()) {
            // The first thing that it would say, before anything has happened to the others.
            event.set().map_err(Failure::of_event)?;
        }
        for (event, name) in events.iter().zip(names) {
            match method(event) {
                // Removed by another between the opening and now: there is a new one to be had by that name.
                Err(error) if error.is_removed() => method(&self.open(name)?).map_err(Failure::of_event)?,
                outcome => outcome.map_err(Failure::of_event)?,
            }
        }
        Ok(())
    }

    pub(crate) fn find(&self, name: &str) -> Result<Option<SharedEvent>, Failure> {
        SharedEvent::find_in(&self.path, name).map_err(Failure::of_event)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| SharedEvent::check_name(name).is_ok()).collect();
        names.sort_unstable();
        names
    }
}

impl Event {
    pub(crate) fn waitable(&self) -> &dyn Waitable {
        match self {
            Event::Shared(event) => event,
            Event::Cluster(event) => event,
        }
    }

    /// Waits for this one alone.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> Result<bool, Failure> {
        let of_shared = |outcome: Result<bool, Error>| outcome.map_err(Failure::of_event);
        match (self, deadline) {
            (Event::Shared(event), None) => of_shared(event.wait().map(|()| true)),
            (Event::Shared(event), Some(deadline)) => of_shared(event.wait_deadline(deadline)),
            (Event::Cluster(event), None) => event.wait().map(|()| true).map_err(Failure::of_cluster),
            (Event::Cluster(event), Some(deadline)) => event.wait_deadline(deadline).map_err(Failure::of_cluster),
        }
    }

    /// Whether it is set, as far as can be told.
    pub(crate) fn seems_set(&self) -> bool {
        match self {
            Event::Shared(event) => event.is_set().unwrap_or(false),
            Event::Cluster(event) => event.is_set().unwrap_or(false),
        }
    }

    /// Who waits for it, but for this process.
    pub(crate) fn other_waiters(&self) -> Vec<Waiter> {
        let mut waiters: Vec<Waiter> = match self {
            Event::Shared(event) => event.waiters().unwrap_or_default().iter().map(Waiter::from).collect(),
            Event::Cluster(event) => event.waiters().unwrap_or_default().iter().map(Waiter::from).collect(),
        };
        let is_here = |waiter: &Waiter| waiter.host.as_ref().is_none_or(|host| *host == text::host());
        waiters.retain(|waiter| waiter.pid != Some(std::process::id()) || !is_here(waiter));
        waiters
    }
}

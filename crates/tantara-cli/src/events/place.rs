//! Where events are: in a directory of this machine, or in an etcd cluster.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use clap::{Args, ValueHint};
use tantara_etcd::{Cluster, ClusterEvent, Options, Tls};

use crate::events::change::Change;
use crate::events::outage::OutageReport;
use crate::events::text;
use crate::events::waiter::Waiter;
use crate::failure::Failure;
use crate::local::{Directory, LocalEvent};
use crate::lock::lock;
use crate::{output, system};

/// Bounds of the timeout of one request to a cluster.
const LONGEST_REQUEST: Duration = Duration::from_secs(5);
const SHORTEST_REQUEST: Duration = Duration::from_secs(1);

/// The time limit of a completion.
const WHILE_TYPING: Duration = Duration::from_millis(800);

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Where the events are")]
pub(crate) struct PlaceArgs {
    /// The directory of the events [env: TANTARA_DIR]
    #[arg(long, value_name = "DIR", global = true, value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,

    /// The etcd cluster of the events, instead of a directory [env: TANTARA_ETCD]
    #[arg(long, value_name = "HOST:PORT,...", global = true, conflicts_with = "dir")]
    pub(crate) etcd: Option<String>,

    /// The namespace of the events in the cluster [env: TANTARA_NAMESPACE] [default: tantara]
    #[arg(long, value_name = "NS", global = true, conflicts_with = "dir", hide_short_help = true)]
    namespace: Option<String>,

    /// The user name for the cluster, without the password [env: TANTARA_ETCD_USER]
    #[arg(long, value_name = "USER", global = true, conflicts_with = "dir", hide_short_help = true)]
    user: Option<String>,

    /// The file with the password of that user, read again at every login; without it, $TANTARA_ETCD_PASSWORD is the
    /// password [env: TANTARA_ETCD_PASSWORD_FILE]
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "dir", hide_short_help = true)]
    password_file: Option<PathBuf>,

    /// Give up connecting after DUR; `wait --timeout DUR` takes precedence [default: 5s]
    #[arg(long, value_name = "DUR", value_parser = text::duration, allow_negative_numbers = true,
          global = true, conflicts_with = "dir", hide_short_help = true)]
    connect_timeout: Option<Duration>,

    /// The PEM file of the cluster's certificate authority; implies TLS [env: TANTARA_ETCD_CACERT]
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "dir", hide_short_help = true)]
    cacert: Option<PathBuf>,

    /// The PEM file of the client's own certificate; implies TLS [env: TANTARA_ETCD_CERT]
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "dir", hide_short_help = true)]
    cert: Option<PathBuf>,

    /// The PEM file of the key of that certificate [env: TANTARA_ETCD_KEY]
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "dir", hide_short_help = true)]
    key: Option<PathBuf>,
}

/// The value of an environment variable. An empty one counts as unset.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn text_variable(name: &str) -> Option<String> {
    variable(name).map(|value| value.to_string_lossy().into_owned())
}

impl PlaceArgs {
    /// Reads the options of an incomplete command line, for completions.
    pub(crate) fn of_unfinished_line(words: impl Iterator<Item = OsString>) -> PlaceArgs {
        // The line stands behind `--`. What follows its own `--` is another command's.
        let words: Vec<OsString> =
            words.skip_while(|word| word != "--").skip(1).take_while(|word| word != "--").collect();
        let after = |option: &str| {
            let with_equals = format!("{option}=");
            let value = |(at, word): (usize, &OsString)| match word.to_str()?.strip_prefix(&with_equals) {
                Some(value) => Some(OsString::from(value)),
                None => words.get(at + 1).filter(|_| word == option).cloned(),
            };
            words.iter().enumerate().filter_map(value).next_back()
        };
        let text = |option: &str| after(option).map(|value| value.to_string_lossy().into_owned());
        // The shell has not replaced the sign of the home directory yet.
        let path = |option: &str| {
            let path = PathBuf::from(after(option)?);
            let home = path.strip_prefix("~").ok().zip(variable("HOME"));
            Some(home.map(|(below, home)| PathBuf::from(home).join(below)).unwrap_or(path))
        };
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

    /// The names of all events, or none if they cannot be listed quickly.
    pub(crate) fn known_names(self) -> Vec<String> {
        let target = self.cluster(Some(WHILE_TYPING));
        let place = target.and_then(|target| Place::connect(self, target));
        place.map(|place| place.names()).unwrap_or_default()
    }

    /// How to reach the cluster that was named, or `None` without one. Reads all files, so call it once in a process:
    /// a file may be a pipe (`--cacert <(...)`).
    pub(crate) fn cluster(&self, time_limit: Option<Duration>) -> Result<Option<ClusterArgs>, Failure> {
        let Some(endpoints) = self.endpoints() else { return Ok(None) };
        Ok(Some(ClusterArgs { endpoints, options: self.options(time_limit)? }))
    }

    /// Whether the events are in a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.endpoints().is_some()
    }

    fn endpoints(&self) -> Option<String> {
        let inherited = || if self.dir.is_none() { text_variable("TANTARA_ETCD") } else { None };
        self.etcd.clone().or_else(inherited)
    }

    /// Arguments for a child process that name the same cluster. The password stays in the environment.
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

    /// An option for a cluster, if one is given without a cluster.
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

    /// How to connect. Waits are recorded, so that `ls` lists them as it does in a directory.
    fn options(&self, time_limit: Option<Duration>) -> Result<Options, Failure> {
        let timeout = time_limit.map_or(LONGEST_REQUEST, |limit| limit.clamp(SHORTEST_REQUEST, LONGEST_REQUEST));
        let connecting = match time_limit {
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
            return Err(Failure::usage("--password-file needs --user, which is missing"));
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
            _ => return Err(Failure::usage("--cert and --key must be given together")),
        }
        Ok(options.tls(tls))
    }

    /// Unlike the environment, a file may change while the process runs, so it is read again for every login but the
    /// first.
    fn log_in(&self, options: Options, user: String) -> Result<Options, Failure> {
        if user.contains(':') {
            // Do not print what follows the colon.
            return Err(Failure::usage(
                "--user must not contain the password; put it into --password-file or $TANTARA_ETCD_PASSWORD",
            ));
        }
        let named = || variable("TANTARA_ETCD_PASSWORD_FILE").map(PathBuf::from);
        if let Some(file) = self.password_file.clone().or_else(named) {
            let first = Mutex::new(Some(read_password(&file).map_err(Failure::usage)?));
            return Ok(options.credentials(move || {
                let first = lock(&first).take();
                let password = first.map_or_else(|| read_password(&file), Ok)?;
                Ok::<_, String>((user.clone(), password))
            }));
        }
        let password = text_variable("TANTARA_ETCD_PASSWORD").ok_or_else(|| {
            Failure::usage(format!(
                "no password for user {user:?}; put it into --password-file or $TANTARA_ETCD_PASSWORD"
            ))
        })?;
        Ok(options.user(user, password))
    }
}

/// Reads the first line of the file.
fn read_password(path: &Path) -> Result<String, String> {
    let bytes = read_short(path)?;
    let text = str::from_utf8(&bytes).map_err(|_| format!("{}: not text, expected UTF-8", path.display()))?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => Err(format!("{}: no password in its first line", path.display())),
    }
}

/// Reads a file for the connection. It may be a pipe, and a wrong one may be of any length.
fn read_short(path: &Path) -> Result<Vec<u8>, String> {
    const MOST: u64 = 1 << 20;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if bytes.len() as u64 > MOST {
        return Err(format!("{}: longer than 1 MiB, expected a password or a PEM file", path.display()));
    }
    Ok(bytes)
}

fn read_pem(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = read_short(path).map_err(Failure::usage)?;
    if bytes.starts_with(b"-----BEGIN") || bytes.windows(11).any(|window| window == b"\n-----BEGIN") {
        Ok(bytes)
    } else {
        Err(Failure::usage(format!("{}: not a PEM file: no -----BEGIN in it", path.display())))
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

/// A namespace of a cluster.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) cluster: Cluster,
    endpoints: String,
}

/// An event in a directory or in a cluster.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Local(LocalEvent),
    Cluster(ClusterEvent),
}

impl Place {
    pub(crate) fn new(args: PlaceArgs, time_limit: Option<Duration>) -> Result<Place, Failure> {
        let target = args.cluster(time_limit)?;
        target.as_ref().map_or(Ok(()), ClusterArgs::warn)?;
        Place::connect(args, target)
    }

    fn connect(args: PlaceArgs, target: Option<ClusterArgs>) -> Result<Place, Failure> {
        let Some(target) = target else {
            if let Some(stray) = args.stray() {
                return Err(Failure::usage(format!("{stray} needs --etcd, which is missing")));
            }
            let named = args.dir.or_else(|| variable("TANTARA_DIR").map(PathBuf::from));
            return Directory::new(named).map(Place::Directory);
        };
        let endpoints = target.endpoints.clone();
        Ok(Place::Cluster(Region { cluster: target.connect()?, endpoints }))
    }

    /// Reports outages of the cluster until the result is dropped.
    pub(crate) fn report_outages(&self) -> Option<OutageReport> {
        match self {
            Place::Directory(_) => None,
            Place::Cluster(region) => Some(OutageReport::begin(region.cluster.clone())),
        }
    }

    /// Changes the events. Nothing is changed if one of them cannot be opened.
    pub(crate) fn change(&self, names: &[String], change: Change<'_>) -> Result<(), Failure> {
        match self {
            Place::Directory(directory) => directory.change(names, change),
            Place::Cluster(region) => names.iter().try_for_each(|name| {
                let event = region.cluster.event(name);
                let done = match change {
                    Change::Set(note) => event.set_with_note(note),
                    Change::Clear => event.clear(),
                    Change::Pulse(note) => event.pulse_with_note(note),
                };
                done.map_err(Failure::of_cluster)
            }),
        }
    }

    /// Fails if the events cannot be changed later. Those that do not exist are created.
    pub(crate) fn prepare(&self, names: &[String]) -> Result<(), Failure> {
        match self {
            Place::Directory(directory) => directory.prepare(names),
            // The connection exists. Whether the user may write is known only after a request.
            Place::Cluster(_) => Ok(()),
        }
    }

    /// Whether an event is set. One that does not exist is unset, and is not created.
    pub(crate) fn is_set(&self, name: &str) -> Result<bool, Failure> {
        match self {
            Place::Directory(directory) => directory.is_set(name),
            Place::Cluster(region) => region.cluster.event(name).is_set().map_err(Failure::of_cluster),
        }
    }

    /// Opens all of the events, or fails if one of them cannot be opened.
    pub(crate) fn open_all(&self, names: &[String]) -> Result<Vec<Event>, Failure> {
        let open = |name: &String| match self {
            Place::Directory(directory) => directory.open(name).map(Event::Local),
            Place::Cluster(region) => Ok(Event::Cluster(region.cluster.event(name))),
        };
        names.iter().map(open).collect()
    }

    /// Opens those of the events that exist. One that cannot be found at once in a cluster counts as one that exists.
    pub(crate) fn find_all(&self, names: &[String]) -> Result<Vec<Option<Event>>, Failure> {
        let find = |name: &String| match self {
            Place::Directory(directory) => Ok(directory.find(name)?.map(Event::Local)),
            Place::Cluster(region) => Ok(Some(Event::Cluster(region.cluster.event(name)))),
        };
        names.iter().map(find).collect()
    }

    /// Whether the event exists.
    pub(crate) fn knows(&self, name: &str) -> Result<bool, Failure> {
        match self {
            Place::Directory(directory) => Ok(directory.find(name)?.is_some()),
            Place::Cluster(_) => Ok(self.names().iter().any(|known| known == name)),
        }
    }

    /// The message for an event that does not exist.
    pub(crate) fn unknown(&self, name: &str) -> String {
        let mut text = format!("there is no event {name} in {}", self.shown());
        if let Some(nearest) = text::nearest(name, &self.names()).filter(|nearest| *nearest != name) {
            text.push_str(&format!("; did you mean {nearest}?"));
        }
        text
    }

    /// The names of all events, or none if they cannot be listed.
    pub(crate) fn names(&self) -> Vec<String> {
        match self {
            Place::Directory(directory) => directory.names(),
            Place::Cluster(region) => {
                let entries = region.cluster.list().unwrap_or_default();
                entries.into_iter().map(|entry| entry.name).collect()
            }
        }
    }

    /// A description of the place, for messages.
    pub(crate) fn shown(&self) -> String {
        match self {
            Place::Directory(directory) => directory.shown(),
            Place::Cluster(region) => format!("namespace {} of {}", region.cluster.namespace(), region.endpoints),
        }
    }
}

impl Event {
    /// Whether the event is set; `false` if that cannot be read.
    pub(crate) fn seems_set(&self) -> bool {
        match self {
            Event::Local(event) => event.seems_set(),
            Event::Cluster(event) => event.is_set().unwrap_or(false),
        }
    }

    /// The waiters except this process.
    pub(crate) fn other_waiters(&self) -> Vec<Waiter> {
        let mut waiters: Vec<Waiter> = match self {
            Event::Local(event) => event.waiters(),
            Event::Cluster(event) => event.waiters().unwrap_or_default().iter().map(Waiter::from).collect(),
        };
        let is_here = |waiter: &Waiter| waiter.host.as_ref().is_none_or(|host| *host == system::host());
        waiters.retain(|waiter| waiter.pid != Some(std::process::id()) || !is_here(waiter));
        waiters
    }
}

//! iceoryx2's event service as a contender. It stores no state: a listener receives the number of notifications. The
//! benchmark leaves out the work for a level, so its figures flatter it.

use std::time::Duration;

use iceoryx2::config::Config;
use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::prelude::{LogLevel, Path, SemanticString, ServiceName, SignalHandlingMode, set_log_level};
use iceoryx2::service::ipc;

use super::children;
use super::peers::Signal;

/// The part of a service in one process.
pub struct Iceoryx {
    ports: Ports,
    _node: Node<ipc::Service>,
}

pub struct Ports {
    notifier: Notifier<ipc::Service>,
    listener: Listener<ipc::Service>,
}

/// The place of a service, and the number of its users.
pub struct Service {
    config: Config,
    name: ServiceName,
    users: usize,
}

impl Service {
    /// Creates what a process needs before it can use services.
    pub fn node(&self) -> Node<ipc::Service> {
        let builder = NodeBuilder::new().config(&self.config).signal_handling_mode(SignalHandlingMode::Disabled);
        builder.create().expect("a node")
    }

    /// A notifier and a listener, which must be dropped before their node.
    pub fn join(&self, node: &Node<ipc::Service>) -> Ports {
        // Killed users count until they are cleaned up.
        let users = 2 * self.users + 8;
        let service = node.service_builder(&self.name).event();
        let service = service.max_nodes(users).max_listeners(users).max_notifiers(users);
        let service = service.open_or_create().expect("a service");
        let notifier = service.notifier_builder().create().expect("a notifier");
        let listener = service.listener_builder().create().expect("a listener");
        Ports { notifier, listener }
    }
}

impl Signal for Iceoryx {
    type Place = Service;

    fn make(name: &str, waiters: usize) -> Service {
        let root = children::directory(name);
        // Otherwise it reports that it has found no configuration file.
        set_log_level(LogLevel::Error);
        let mut config = Config::global_config().clone();
        let root = root.to_str().expect("a path of letters");
        config.global.set_root_path(&Path::new(root.as_bytes()).expect("a path"));
        let prefix = format!("{}{name}-", children::prefix(std::process::id()));
        config.global.prefix = SemanticString::new(prefix.as_bytes()).expect("the beginning of a name");
        config.global.creation_timeout = Duration::from_secs(5);
        Service { config, name: ServiceName::new(name).expect("a name"), users: waiters + 1 }
    }
    fn open(place: &Service) -> Self {
        let node = place.node();
        Iceoryx { ports: place.join(&node), _node: node }
    }
    fn set(&self) {
        self.ports.notifier.notify().expect("everybody is told");
    }
    fn clear(&self) {}
    fn wait(&self) {
        while self.ports.listener.blocking_wait(|_| {}).expect("a wait") == 0 {}
    }
}

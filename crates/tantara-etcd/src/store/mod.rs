//! The data model on top of the client: keys, the state of an event, reads, and idempotent writes.

pub(crate) mod keys;
pub(crate) mod read;
pub(crate) mod state;
pub(crate) mod write;

use std::sync::Arc;

use crate::client::connection::Connection;
use crate::client::endpoint::Endpoint;
use crate::client::lease::Leases;
use crate::client::proto::{Compare, Put, Txn};
use crate::error::Error;
use crate::options::Options;
use keys::Keys;
use write::Writer;

/// Everything that a request needs. It does not keep the runtime thread alive.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) connection: Arc<Connection>,
    pub(crate) keys: Keys,
    pub(crate) leases: Leases,
    pub(crate) writer: Writer,
    pub(crate) options: Options,
}

impl Store {
    /// Also returns the task that keeps leases alive, which ends after `stop` completes.
    pub(crate) fn new(
        endpoints: Vec<Endpoint>,
        options: Options,
        stop: impl Future<Output = ()>,
    ) -> (Store, impl Future<Output = ()>) {
        let keys = Keys::new(&options.namespace);
        let first = write::random_slot();
        let connection = Arc::new(Connection::new(endpoints, options.clone(), keys.slot(first)));
        let (leases, keep_alive) = Leases::new(Arc::clone(&connection), stop);
        let writer = Writer::new(Arc::clone(&connection), keys.clone(), first);
        (Store { connection, keys, leases, writer, options }, keep_alive)
    }

    /// Creates an event, unset, if it does not exist. Returns a revision at which it exists.
    pub(crate) async fn create(&self, doing: &'static str, name: &str) -> Result<i64, Error> {
        let level = self.keys.level(name);
        let create = Txn {
            compare: vec![Compare::last_changed_at(level.clone(), 0)],
            success: vec![Put { key: level, value: b"0".to_vec(), lease: 0 }.into()],
            ..Txn::default()
        };
        let created = self.connection.call(doing, &create, self.connection.request_deadline()).await;
        created.map(|answer| answer.header.unwrap_or_default().revision).map_err(|failure| failure.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::endpoint::parse;
    use crate::client::proto::Range;

    /// A future that contains the making of a connection has tens of kB, and is moved across
    /// the stack several times before it runs.
    #[test]
    fn the_future_of_a_request_is_small() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let (store, keep_alive) = Store::new(parse("127.0.0.1:1", false).unwrap(), Options::new(), async {});
        let until = store.connection.request_deadline();
        let sizes = [
            size_of_val(&store.connection.call("read", &Range::default(), until)),
            size_of_val(&store.writer.apply("write", Vec::new(), until)),
            size_of_val(&store.create("create", "event")),
            size_of_val(&keep_alive),
        ];
        assert!(sizes.iter().all(|size| *size < 8_192), "{sizes:?}");
    }
}

//! The data model on top of the client: keys, the state of an event, reads, and idempotent writes.

pub(crate) mod create;
pub(crate) mod keys;
pub(crate) mod queue;
pub(crate) mod read;
pub(crate) mod recorded;
pub(crate) mod seen;
pub(crate) mod state;
pub(crate) mod write;

use std::sync::Arc;

use crate::client::connection::Connection;
use crate::client::endpoint::Endpoint;
use crate::client::lease::Leases;
use crate::options::Options;
use keys::Keys;
use queue::WriteQueue;
use recorded::Recorded;
use write::Writer;

/// Everything that a request needs. It does not keep the runtime thread alive.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) connection: Arc<Connection>,
    pub(crate) keys: Keys,
    pub(crate) leases: Leases,
    pub(crate) writes: Arc<WriteQueue>,
    pub(crate) options: Options,
    pub(crate) recorded: Recorded,
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
        let (writes, recorded) = (Arc::new(WriteQueue::new(writer)), Recorded::default());
        (Store { connection, keys, leases, writes, options, recorded }, keep_alive)
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
            size_of_val(&store.writes.writer.apply("write", Vec::new(), until)),
            size_of_val(&store.writes.apply("write", Vec::new(), until)),
            size_of_val(&keep_alive),
        ];
        assert!(sizes.iter().all(|size| *size < 8_192), "{sizes:?}");
    }
}

//! [`ClusterEvent::set_on_drop`]: sets an event of a cluster when a value is dropped.

use std::time::Duration;

use tantara::{SetOnDrop, waits};

use crate::error::Error;
use crate::event::{self, ClusterEvent};
use crate::store::keys;

/// How long a drop waits for the answer. The process may exit after it.
const PATIENCE: Duration = Duration::from_secs(2);

impl ClusterEvent {
    /// Sets the event when the returned value is dropped, also by a panic: see
    /// [`Event::set_on_drop`](tantara::Event::set_on_drop). The value keeps a handle of the event,
    /// and can be moved into a thread or a task. This call sends nothing.
    ///
    /// A process that is killed, or that exits by [`process::exit`](std::process::exit), runs no
    /// destructors. If others must learn of its end, set the event with a
    /// [`hold`](ClusterEvent::hold), which ends with the process, and let them wait until it is unset.
    ///
    /// # Blocking
    ///
    /// The drop sends a [`set`](ClusterEvent::set), and blocks until the cluster has answered it, but
    /// for two seconds at most. On the thread of the connection, where wakers run, it does not block.
    /// A task that must not block calls [`set_async`](ClusterEvent::set_async), and then
    /// [`disarm`](SetOnDrop::disarm).
    ///
    /// If the cluster cannot be reached, the connection tries to set the event until the options'
    /// [`timeout`](crate::Options::timeout) has passed since the drop, or until the process ends.
    /// Then the event is not set, and nobody is told. To handle that error, call `set` yourself,
    /// which returns it. In the child of a fork the drop has no effect.
    ///
    /// If the event is removed before the value is dropped, the drop creates it again.
    ///
    /// # Errors
    ///
    /// If the name is invalid, or in the child of a fork.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn migrate() -> Result<(), tantara_etcd::Error> { Ok(()) }
    /// let cluster = tantara_etcd::Cluster::connect("127.0.0.1:2379")?;
    /// let migrated = cluster.event("migrated").set_on_drop()?;
    /// migrate()?;         // sets the event, and so would an error or a panic
    /// # Ok::<(), tantara_etcd::Error>(())
    /// ```
    #[track_caller]
    pub fn set_on_drop(&self) -> Result<SetOnDrop<'static>, Error> {
        keys::check_name(self.name())?;
        self.runtime.check_process()?;
        let event = self.clone();
        Ok(waits::set_on_drop(self.recorded(), move || event.set_within(PATIENCE)))
    }

    /// Sets the event. Waits for the answer for that long, where that is possible.
    fn set_within(&self, patience: Duration) {
        // This fails in the child of a fork only.
        let Ok(set) = self.write(event::SET, event::put_set) else { return };
        let reply = set.begin();
        if self.runtime.check_may_block().is_ok() {
            reply.wait_timeout(patience);
        }
    }
}

//! The native part of the Python package. Each class wraps the Rust event of the same name.

mod auto_reset;
mod call;
mod cluster;
mod cluster_event;
mod connection;
mod coroutine;
mod empty_dict;
mod error;
mod event;
#[cfg(shared_events)]
#[path = "files_linux.rs"]
mod files;
#[cfg(not(shared_events))]
#[path = "files_elsewhere.rs"]
mod files;
mod forked;
mod hold;
mod locked;
mod loops;
mod many;
mod member;
mod notifier;
mod placed;
mod quick;
mod released;
mod seconds;
mod shared;
mod shared_hold;
mod sleep;
mod task;
mod waits;
#[cfg(loop_descriptors)]
#[path = "wakeup_pipe.rs"]
mod wakeup;
#[cfg(not(loop_descriptors))]
#[path = "wakeup_event.rs"]
mod wakeup;

use pyo3::prelude::*;

/// The native part of tantara. Import tantara instead.
#[pymodule(gil_used = false)]
mod _tantara {
    use super::*;

    #[pymodule_export]
    use super::auto_reset::AutoResetEvent;
    #[pymodule_export]
    use super::cluster::Cluster;
    #[pymodule_export]
    use super::cluster_event::ClusterEvent;
    #[pymodule_export]
    use super::coroutine::Wait;
    #[pymodule_export]
    use super::error::Change;
    #[pymodule_export]
    use super::event::Event;
    #[pymodule_export]
    use super::hold::Hold;
    #[pymodule_export]
    use super::many::{wait_all, wait_all_async, wait_any, wait_any_async};
    #[pymodule_export]
    use super::notifier::Notifier;
    #[pymodule_export]
    use super::released::Released;
    #[pymodule_export]
    use super::shared::SharedEvent;
    #[pymodule_export]
    use super::shared_hold::SharedHold;
    #[pymodule_export]
    use super::task::Pending;
    #[pymodule_export]
    use super::waits::{label_event, record_waits, recorded_waits};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        sleep::watch_forks()?;
        quick::install(module)?;
        released::install(module.py())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

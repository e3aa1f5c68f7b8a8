//! The Python package's native part: each class is a face of the Rust event of the same name.

mod auto_reset;
mod cluster;
mod cluster_event;
mod event;
mod forked;
mod held;
mod hold;
mod many;
mod quick;
mod seconds;
mod shared;
mod sleep;
mod task;

use pyo3::prelude::*;

/// The native part of tantara; import tantara instead.
#[pymodule(gil_used = false)]
mod _tantara {
    use super::*;

    #[pymodule_export]
    use super::auto_reset::AutoResetEvent;
    #[pymodule_export]
    use super::cluster::{Change, Cluster};
    #[pymodule_export]
    use super::cluster_event::ClusterEvent;
    #[pymodule_export]
    use super::event::Event;
    #[pymodule_export]
    use super::hold::Hold;
    #[pymodule_export]
    use super::many::{wait_all, wait_all_async, wait_any, wait_any_async};
    #[pymodule_export]
    use super::shared::SharedEvent;
    #[pymodule_export]
    use super::task::{Bell, Pending};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        sleep::watch_forks()?;
        quick::install(module.py())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

//! Real etcd servers for tests: started, killed, paused, cut off, and always cleared away.
//!
//! [`Servers`] are a cluster of one or more members on loopback ports of their own; a [`Proxy`]
//! stands between a client and a member and spoils what passes, and a [`StandIn`] answers as
//! versions of etcd that cannot be run here. They go when they are dropped, and servers with the
//! process that started them.
//!
//! ```
//! use etcd_for_tests::Servers;
//!
//! let servers = Servers::one();
//! servers.put_raw("/door", b"open");
//! assert_eq!(servers.keys("/"), [("/door".to_owned(), b"open".to_vec())]);
//! servers[0].kill();
//! ```

#![cfg(unix)]
#![forbid(unsafe_code)]

mod build;
mod certificates;
mod disks;
mod gateway;
mod hostile;
mod member;
mod messages;
mod proxy;
mod servers;
mod stand_in;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

pub use build::Build;
pub use member::Member;
pub use proxy::Proxy;
pub use serde_json::{Value, json};
pub use servers::Servers;
pub use stand_in::{Manner, StandIn};

/// The etcd that is run: what `$ETCD` names, or else the system's, or else the one that `cargo
/// xtask etcd` provides.
///
/// # Panics
///
/// If there is none.
#[must_use]
pub fn program() -> PathBuf {
    static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let named = std::env::var_os("ETCD").filter(|named| !named.is_empty()).map(PathBuf::from);
        // `xtask/src/etcd.rs` knows the same places.
        let provided = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/etcd/usr/bin/etcd");
        let places = || vec!["etcd".into(), "/usr/bin/etcd".into(), provided];
        named.map_or_else(places, |named| vec![named]).into_iter().find(|place| {
            let mut probe = Command::new(place);
            runs(probe.arg("--version"))
        })
    });
    let missing = "etcd is missing: run cargo xtask etcd, or install Debian's etcd-server, or point $ETCD to it";
    PROGRAM.clone().expect(missing)
}

fn runs(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A test that panics must still be able to clear away.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

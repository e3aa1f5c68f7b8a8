//! Slow disks. etcd makes its system calls without a library that could be replaced, so `strace`
//! delays them.

use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use crate::runs;

/// Whether there is an `strace` that may trace, and a `setpriv`.
pub(crate) fn can_be_slowed() -> bool {
    static CAN: LazyLock<bool> = LazyLock::new(|| {
        let wrapper = slowed(Duration::ZERO);
        runs(Command::new(&wrapper[0]).args(&wrapper[1..]).arg("true"))
    });
    *CAN
}

/// What runs a program whose disks are slow. It ends with its tracer.
pub(crate) fn slowed(delay: Duration) -> Vec<String> {
    let inject = format!("inject=fsync,fdatasync:delay_exit={}", delay.as_micros());
    let strace = ["strace", "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e"];
    let words = strace.into_iter().chain([&*inject, "setpriv", "--pdeathsig", "KILL"]);
    words.map(str::to_owned).collect()
}

//! The names of contenders and of figures, and the units of figures.

/// Named figures. The name contains the unit unless it is nanoseconds.
pub type Figures = Vec<(&'static str, f64)>;

pub const BASELINE_THREADS: &str = "bare futex word";
pub const BASELINE_TASKS: &str = "Vec of wakers";
pub const OURS: &str = "tantara";
/// All baselines: the bare mechanism of each workload. If a workload has two, ratios are relative to the first in this
/// list.
pub const BASELINES: [&str; 11] = [
    BASELINE_THREADS,
    BASELINE_TASKS,
    processes::BASELINE_OPEN,
    processes::CHECKED_OPEN,
    processes::BASELINE_LIST,
    processes::BASELINE_COMMAND,
    machines::BASELINE,
    machines::TRANSACTIONS,
    machines::BASELINE_CROWD,
    machines::BASELINE_COMMAND,
    recorded::OFF,
];

/// The two that show what the record of waits costs.
pub mod recorded {
    pub const OFF: &str = "tantara, waits not recorded";
    pub const ON: &str = "tantara, waits recorded";
}

/// The contenders between processes.
pub mod processes {
    pub const BASELINE: &str = super::BASELINE_THREADS;
    pub const BASELINE_OPEN: &str = "open, mmap";
    pub const CHECKED_OPEN: &str = "O_PATH, fstat, reopen, mmap";
    pub const BASELINE_LIST: &str = "open, read, close of each";
    pub const BASELINE_COMMAND: &str = "/bin/true";
    pub const PYTHON: &str = "Python multiprocessing";
    pub const EVENTFD: &str = "eventfd, poll";
    pub const FIFO: &str = "FIFO, poll";
    pub const SEMAPHORE: &str = "POSIX semaphore";
    pub const CONDVAR: &str = "pthread condvar";
    pub const ROBUST: &str = "pthread condvar, robust mutex";
    pub const ICEORYX: &str = "iceoryx2";
}

/// The contenders between machines.
pub mod machines {
    pub const BASELINE: &str = "bare put, range, watch";
    pub const TRANSACTIONS: &str = "the same transactions, bare";
    pub const BASELINE_CROWD: &str = "bare watch, Vec of wakers";
    pub const BASELINE_COMMAND: &str = "connect, put";
    pub const WATCH_EACH: &str = "a bare watch for each";

    /// The figure with the number of watches at the server.
    pub const WATCHES: &str = "watches";

    /// The figure with the number of leases for each process.
    pub const LEASES: &str = "leases of each";

    /// The roles of processes that a cell starts.
    pub const PUT: &str = "put";
    pub const WAIT: &str = "wait";
    pub const WAIT_BARE: &str = "wait-bare";
    pub const WAIT_IDLE: &str = "wait-idle";
}

/// Reads a count from the name of a workload.
pub fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

/// Nanoseconds in microseconds.
pub fn micros(nanoseconds: f64) -> f64 {
    nanoseconds / 1e3
}

/// Nanoseconds in milliseconds.
pub fn millis(nanoseconds: f64) -> f64 {
    nanoseconds / 1e6
}

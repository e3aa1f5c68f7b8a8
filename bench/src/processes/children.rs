//! The child processes of a cell. They communicate by shared memory, and end with the cell.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::ptr;
use std::thread;
use std::time::Duration;

const SHARED_MEMORY: &str = "/dev/shm";

/// A child process. Dropping it kills the process, at any instruction.
pub struct Member(libc::pid_t);

/// Forks a process that runs this and ends. The caller must have only one thread, because a fork copies no other.
pub fn start(work: impl FnOnce()) -> Member {
    let threads = fs::read_dir("/proc/self/task").expect("the list of this process's threads").count();
    assert_eq!(threads, 1, "a process with more than one thread cannot be forked");
    // SAFETY: the call has no arguments.
    let parent = unsafe { libc::getpid() };
    // SAFETY: there is only one thread, so no lock that the child needs is held by another.
    let process = unsafe { libc::fork() };
    assert!(process >= 0, "no process for the children: {}", std::io::Error::last_os_error());
    if process > 0 {
        return Member(process);
    }
    end_with(parent);
    let done = catch_unwind(AssertUnwindSafe(work)).is_ok();
    // SAFETY: ends this process without running the parent's exit handlers.
    unsafe { libc::_exit(if done { 0 } else { 101 }) }
}

/// Ends this process when its parent ends.
pub fn end_with(parent: libc::pid_t) {
    // SAFETY: the arguments are numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: the call has no arguments.
    if unsafe { libc::getppid() } != parent {
        // The parent has ended already.
        // SAFETY: ends this process.
        unsafe { libc::_exit(101) };
    }
}

impl Member {
    /// Waits until the process ends, which must succeed.
    pub fn join(self) {
        let status = self.reap();
        std::mem::forget(self);
        assert!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            "a process of the children failed ({status})"
        );
    }

    /// Kills the process, at any instruction.
    pub fn kill(self) {
        drop(self);
    }

    /// Whether the process sleeps, according to the kernel.
    pub fn is_asleep(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // The name may contain anything, also brackets.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    }

    fn reap(&self) -> libc::c_int {
        let mut status = 0;
        // SAFETY: the pointer refers to a status that outlives the call.
        let reaped = unsafe { libc::waitpid(self.0, &mut status, 0) };
        assert_eq!(reaped, self.0, "a process of the children is gone");
        status
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // SAFETY: the process has not been waited for, so its ID is not reused.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        self.reap();
    }
}

/// Returns once all processes have slept long enough to have finished the beginning of their waits.
pub fn until_asleep(children: &[Member]) {
    let mut looks = 0;
    while looks < 2 {
        if children.iter().all(Member::is_asleep) {
            looks += 1;
            thread::sleep(Duration::from_millis(20));
        } else {
            looks = 0;
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Puts a value into memory that is shared with all processes that are forked later. It stays until the cell ends.
pub fn in_common<T: Default + Sync>() -> &'static T {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address that the kernel chooses.
    let place = unsafe { libc::mmap(ptr::null_mut(), size_of::<T>(), access, kind, -1, 0) };
    assert_ne!(place, libc::MAP_FAILED, "no memory in common");
    let place = place.cast::<T>();
    // SAFETY: a mapping is aligned to a page and long enough, and there are no other references to it.
    unsafe { place.write(T::default()) };
    // SAFETY: the value was just written, and is never unmapped.
    unsafe { &*place }
}

/// A number on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
pub struct Alone<T>(pub T);

/// Nanoseconds on the clock that all processes share.
pub fn now() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// Keeps the processor busy for that many nanoseconds.
pub fn busy(nanoseconds: u64) {
    let until = now() + nanoseconds;
    while now() < until {
        std::hint::spin_loop();
    }
}

/// The processor time of this process, with all its threads, in nanoseconds.
pub fn time_of_process() -> u64 {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn clock(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer refers to a time that outlives the call.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "a clock that every Linux has");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The prefix of every name in shared memory that a cell creates, so that it can be removed if the cell is killed.
pub fn prefix(cell: u32) -> String {
    format!("tantara-bench-{cell}-")
}

/// The path at which a cell may create a file of that name, in memory. It stays until the benchmark calls
/// [`remove_leftovers`].
pub fn path(name: &str) -> PathBuf {
    Path::new(SHARED_MEMORY).join(prefix(std::process::id()) + name)
}

/// A directory there, which only this user can enter, like the default directory of events.
pub fn directory(name: &str) -> PathBuf {
    use std::os::unix::fs::DirBuilderExt;
    let directory = path(name);
    fs::DirBuilder::new().mode(0o700).recursive(true).create(&directory).expect("a directory in shared memory");
    directory
}

/// The size of the files that this cell has created there, including those in directories.
pub fn bytes_in_files() -> u64 {
    own_entries(std::process::id()).map(|path| bytes_below(&path)).sum()
}

fn bytes_below(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| bytes_below(&entry.path())).sum(),
        Err(_) => path.symlink_metadata().map_or(0, |metadata| metadata.blocks() * 512),
    }
}

fn own_entries(cell: u32) -> impl Iterator<Item = PathBuf> {
    let prefix = prefix(cell);
    // The file of a semaphore has an additional prefix.
    let is_own = move |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.trim_start_matches("sem.").starts_with(&prefix)
    };
    let entries = fs::read_dir(SHARED_MEMORY).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_own)
}

/// Removes the files that a cell has left in shared memory.
pub fn remove_leftovers(cell: u32) {
    for path in own_entries(cell) {
        // An error only leaves memory in use.
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
}

/// Raises the limit of open files to the maximum: a thousand events need more than the usual limit.
pub fn raise_limits() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer refers to a limit that outlives the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(result, 0, "the kernel does not say how many files may be open");
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}

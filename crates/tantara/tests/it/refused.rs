//! Tasks for which the system refuses something, which needs a process of its own.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::thread::JoinHandleExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use tantara::{AutoResetEvent, Event, SharedEvent, any, interruptible};

use crate::child_process::{NO, REMOVED, YES};

const NOBODY: u32 = 65_534;
const REFUSED: i32 = 20;

/// Runs a task of this file, if it is one.
pub(crate) fn run(action: &str, directory: &Path, words: &[&str]) -> Option<i32> {
    Some(match (action, words) {
        ("fault_elsewhere", [name]) => fault_elsewhere(directory, name),
        ("fault_with_handler", [name]) => fault_with_handler(directory, name),
        ("as_nobody", ["open_is_denied", name]) => open_is_denied(directory, name),
        ("as_nobody", ["removal_is_denied", name]) => removal_is_denied(directory, name),
        ("as_nobody", ["removal_by_links_is_denied", name]) => {
            forbid_safe_renaming();
            removal_is_denied(directory, name)
        }
        ("open_by_default", [name]) => open_by_default(name),
        ("open_by_default_with_umask", [name]) => {
            // SAFETY: takes a number.
            unsafe { libc::umask(0o777) };
            open_by_default(name)
        }
        ("interrupted", [name]) => interrupted(directory, name),
        ("without_descriptors", [name]) => without_descriptors(directory, name),
        ("without_disk", [name]) => without_disk(directory, name),
        ("without_renameat2", [name]) => without_renameat2(directory, name),
        ("without_waitv", [name]) => without_waitv(directory, name),
        ("without_wake_op", [name]) => without_wake_op(directory, name),
        ("without_wake_bitset", [name]) => without_wake_bitset(directory, name),
        ("without_futex", [name]) => without_futex(directory, name),
        ("without_one_futex", [name]) => without_one_futex(directory, name),
        ("without_the_other_futex", [name]) => without_the_other_futex(directory, name),
        _ => return None,
    })
}

/// Maps a file without an event, truncates it, and reads the page.
fn cut_off_and_look(directory: &Path) -> u8 {
    let path = directory.join("other");
    fs::write(&path, [7; 4096]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    // SAFETY: a new mapping where the kernel likes, of a file that is open.
    let page = unsafe { libc::mmap(ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(page, libc::MAP_FAILED);
    file.set_len(0).unwrap();
    // SAFETY: none; it is the fault that is wanted.
    unsafe { page.cast::<u8>().read_volatile() }
}

fn fault_elsewhere(directory: &Path, name: &str) -> i32 {
    let _event = SharedEvent::open_in(directory, name).unwrap();
    cut_off_and_look(directory).into()
}

fn fault_with_handler(directory: &Path, name: &str) -> i32 {
    extern "C" fn handler(_: libc::c_int) {
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(YES) }
    }
    // SAFETY: the handler is of the kind that `signal` takes.
    unsafe { libc::signal(libc::SIGBUS, handler as *const () as libc::sighandler_t) };
    fault_elsewhere(directory, name)
}

/// Gives up root permissions, for good.
pub(crate) fn become_nobody() {
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::setgroups(0, ptr::null()) }, 0);
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::setresgid(NOBODY, NOBODY, NOBODY) }, 0);
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }, 0);
}

fn removal_is_denied(directory: &Path, name: &str) -> i32 {
    become_nobody();
    let event = SharedEvent::open_in(directory, name).unwrap();
    assert!(event.is_writable());
    if event.remove().unwrap_err().is_permission_denied() { YES } else { NO }
}

fn open_is_denied(directory: &Path, name: &str) -> i32 {
    become_nobody();
    let error = SharedEvent::open_in(directory, name).unwrap_err();
    let is_clear = error.to_string().contains(directory.to_str().unwrap());
    if error.is_permission_denied() && is_clear { YES } else { NO }
}

fn open_by_default(name: &str) -> i32 {
    match SharedEvent::open(name) {
        Ok(event) => {
            assert!(event.path().unwrap().starts_with(SharedEvent::default_directory()));
            event.set().unwrap();
            assert!(SharedEvent::open(name).unwrap().is_set().unwrap());
            YES
        }
        Err(error) if error.is_invalid_name() => REFUSED,
        Err(error) => panic!("{error}"),
    }
}

/// Raises the limit of open files to at least this.
pub(crate) fn allow_descriptors(count: usize) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for writing.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    // Another test may do this at the same time, so it is never lowered.
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the structure is valid for reading.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    assert!(limit.rlim_max >= count as libc::rlim_t, "the system does not allow enough open files (ulimit -Hn)");
}

pub(crate) fn limit(resource: impl Into<i64>, most: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the structure is valid for reading.
    assert_eq!(unsafe { libc::setrlimit(resource.into() as _, &limit) }, 0);
}

fn without_descriptors(directory: &Path, name: &str) -> i32 {
    let event = SharedEvent::open_in(directory, name).unwrap();
    let taken: Vec<_> = (0..20).map_while(|_| File::open("/dev/null").ok()).collect();
    limit(libc::RLIMIT_NOFILE, taken.len() as libc::rlim_t);
    for error in [
        SharedEvent::open_in(directory, "y").unwrap_err(),
        SharedEvent::open_in(directory, name).unwrap_err(),
        SharedEvent::anonymous().unwrap_err(),
        event.waiters().unwrap_err(),
        SharedEvent::inherited(event.as_fd_number()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("ulimit -n"), "{error}");
    }
    works(&event)
}

trait AsNumber {
    fn as_fd_number(&self) -> i32;
}

impl AsNumber for SharedEvent {
    fn as_fd_number(&self) -> i32 {
        std::os::fd::AsFd::as_fd(self).as_raw_fd()
    }
}

/// The methods of an open event work.
fn works(event: &SharedEvent) -> i32 {
    assert!(!event.wait_timeout(Duration::from_millis(30)).unwrap());
    assert_eq!(any([event]).wait_timeout(Duration::from_millis(30)), None);
    std::thread::scope(|scope| {
        let waiting = [(); 2].map(|()| scope.spawn(|| event.wait()));
        let awaiting = scope.spawn(|| pollster::block_on(event.wait_async()));
        std::thread::sleep(Duration::from_millis(50));
        event.set().unwrap();
        event.clear().unwrap();
        // For a wait that began after the pulse.
        event.set().unwrap();
        waiting.into_iter().for_each(|participant| participant.join().unwrap().unwrap());
        awaiting.join().unwrap().unwrap();
    });
    event.clear().unwrap();
    YES
}

fn without_disk(directory: &Path, name: &str) -> i32 {
    let event = SharedEvent::open_in(directory, name).unwrap();
    // Then the kernel sends a signal to whoever writes more, which would end the process.
    limit(libc::RLIMIT_FSIZE, 100);
    for error in [SharedEvent::open_in(directory, "y").unwrap_err(), SharedEvent::anonymous().unwrap_err()] {
        assert!(error.to_string().contains("cannot be made"), "{error}");
    }
    works(&event)
}

/// Sandboxes that do not know the call, and refuse it like a forbidden one.
fn without_renameat2(directory: &Path, name: &str) -> i32 {
    forbid(libc::SYS_renameat2, libc::EPERM).unwrap();
    let event = SharedEvent::open_in(directory, "y").unwrap();
    assert!(event.remove().unwrap());
    works(&SharedEvent::open_in(directory, name).unwrap())
}

/// Waits on a thread that gets a signal every two milliseconds, as from a profiler.
fn interrupted(directory: &Path, name: &str) -> i32 {
    extern "C" fn handler(_: libc::c_int) {}
    // SAFETY: the handler is of the kind that `signal` takes, and does nothing.
    unsafe { libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t) };
    let event = SharedEvent::open_in(directory, name).unwrap();
    let waiting = std::thread::spawn(move || event.wait());
    while !waiting.is_finished() {
        // SAFETY: the thread was not joined yet, so its number is still its own.
        unsafe { libc::pthread_kill(waiting.as_pthread_t() as _, libc::SIGUSR1) };
        std::thread::sleep(Duration::from_millis(2));
    }
    match waiting.join().unwrap() {
        Ok(()) => YES,
        Err(error) => {
            if error.is_removed() {
                REMOVED
            } else {
                NO
            }
        }
    }
}

/// Kernels and sandboxes that refuse `futex_waitv` in different ways.
fn without_waitv(directory: &Path, name: &str) -> i32 {
    for errno in [libc::ENOMEM, libc::EPERM, libc::ENOSYS, libc::EINVAL] {
        forbid(libc::SYS_futex_waitv, errno).unwrap();
        let event = SharedEvent::open_in(directory, name).unwrap();
        works(&event);
    }
    YES
}

/// Kernels and sandboxes that refuse the operation that changes the word and wakes. `set` and `pulse` must not change
/// `errno`, because a signal handler may call them.
fn without_wake_op(directory: &Path, name: &str) -> i32 {
    const MARK: i32 = 77;
    // No other operation that is used here has this bit.
    filter(libc::SYS_futex, Some((1, libc::FUTEX_WAKE_OP & !libc::FUTEX_WAKE)), libc::ENOSYS).unwrap();
    let event = SharedEvent::open_in(directory, name).unwrap();
    for signal in [SharedEvent::set, SharedEvent::pulse] {
        event.clear().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| event.wait());
            crate::shared::until_waiters(&event, 1);
            // SAFETY: takes nothing.
            let errno = unsafe { libc::__errno_location() };
            // SAFETY: the C library's errno of this thread is always there.
            unsafe { *errno = MARK };
            signal(&event).unwrap();
            // SAFETY: as above.
            assert_eq!(unsafe { *errno }, MARK);
            waiting.join().unwrap().unwrap();
        });
    }
    event.clear().unwrap();
    works(&event)
}

/// Sandboxes that refuse the operation that wakes a group of threads.
fn without_wake_bitset(directory: &Path, name: &str) -> i32 {
    // No other operation that is used here has this bit.
    filter(libc::SYS_futex, Some((1, libc::FUTEX_WAKE_BITSET & !libc::FUTEX_WAIT_BITSET)), libc::EPERM).unwrap();
    let event = &Event::new();
    std::thread::scope(|scope| {
        let waiting = [(); 3].map(|()| scope.spawn(|| event.wait()));
        crate::until_waiting(event, 3);
        // So that they sleep.
        std::thread::sleep(Duration::from_millis(50));
        event.set();
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
    });
    works(&SharedEvent::open_in(directory, name).unwrap())
}

/// The newer call of processors of 32 bits. On others, no call has this number.
const SYS_FUTEX_TIME64: libc::c_long = 422;

/// Sandboxes that refuse to let threads sleep on words. A signal ends the wait all the same.
fn without_futex(directory: &Path, name: &str) -> i32 {
    static HAS_COME: AtomicBool = AtomicBool::new(false);
    extern "C" fn handler(_: libc::c_int) {
        HAS_COME.store(true, Relaxed);
    }
    // SAFETY: the handler is of the kind that `signal` takes.
    unsafe { libc::signal(libc::SIGALRM, handler as *const () as libc::sighandler_t) };
    let shared = SharedEvent::open_in(directory, name).unwrap();
    let (event, auto_reset) = (Event::new(), AutoResetEvent::new());
    for call in [libc::SYS_futex, SYS_FUTEX_TIME64, libc::SYS_futex_waitv] {
        forbid(call, libc::EPERM).unwrap();
    }
    let waits: [&dyn Fn() -> bool; 4] = [
        &|| event.wait_timeout(Duration::MAX),
        &|| auto_reset.wait_timeout(Duration::MAX),
        &|| shared.wait_timeout(Duration::MAX).unwrap(),
        &|| any([&event]).wait_timeout(Duration::MAX).is_some(),
    ];
    for wait in waits {
        HAS_COME.store(false, Relaxed);
        // SAFETY: takes a number.
        unsafe { libc::alarm(1) };
        assert!(!interruptible(|| HAS_COME.load(Relaxed), wait));
    }
    YES
}

/// Kernels of 32 bits that have the newer call alone. The C library here may rely on the older one, so only the
/// thread that sets is without it, and the process ends at once.
fn without_one_futex(directory: &Path, name: &str) -> i32 {
    if cfg!(target_pointer_width = "64") {
        return YES;
    }
    let shared = SharedEvent::open_in(directory, name).unwrap();
    let (event, auto_reset) = (Event::new(), AutoResetEvent::new());
    let released = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            event.wait();
            released.fetch_add(1, AcqRel);
        });
        scope.spawn(|| {
            auto_reset.wait();
            released.fetch_add(1, AcqRel);
        });
        scope.spawn(|| {
            pollster::block_on(shared.wait_async()).unwrap();
            released.fetch_add(1, AcqRel);
        });
        std::thread::sleep(Duration::from_millis(200));
        forbid(libc::SYS_futex, libc::ENOSYS).unwrap();
        event.set();
        auto_reset.set();
        shared.set().unwrap();
        while released.load(Acquire) < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(YES) }
    })
}

/// Sandboxes that do not know the newer call: they refuse it, or kill the process. Then threads sleep all the same,
/// and do not only look often.
fn without_the_other_futex(directory: &Path, name: &str) -> i32 {
    if cfg!(target_pointer_width = "64") {
        return YES;
    }
    fn switches() -> u64 {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse().unwrap()
    }
    let shared = SharedEvent::open_in(directory, name).unwrap();
    shared.clear().unwrap();
    forbid(SYS_FUTEX_TIME64, libc::EPERM).unwrap();
    let before = switches();
    assert!(!Event::new().wait_timeout(Duration::from_secs(1)));
    assert!(!shared.wait_timeout(Duration::from_secs(1)).unwrap());
    assert!(switches() - before < 100, "it looks every millisecond");
    // SAFETY: ends the process at once, because the C library uses the call too.
    unsafe { libc::_exit(YES) }
}

pub(crate) fn forbid(call: libc::c_long, errno: i32) -> io::Result<()> {
    filter(call, None, errno)
}

/// From here on, files without a name (O_TMPFILE) cannot be made, as on some file systems.
pub(crate) fn forbid_nameless_files() {
    filter(libc::SYS_openat, Some((2, libc::O_TMPFILE & !libc::O_DIRECTORY)), libc::EOPNOTSUPP).unwrap();
}

/// From here on, the kernel cannot rename without replacing, as on some file systems.
pub(crate) fn forbid_safe_renaming() {
    filter(libc::SYS_renameat2, Some((4, libc::RENAME_NOREPLACE as libc::c_int)), libc::EINVAL).unwrap();
}

/// From here on `call` fails with `errno`, if the given argument has one of these bits.
fn filter(call: libc::c_long, argument: Option<(u32, libc::c_int)>, errno: i32) -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |at: u32| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    // Without an argument, the number of the call is tested again, which has some bit.
    let (at, bits) = argument.map_or((0, u32::MAX), |(number, bits)| (16 + 8 * number, bits as u32));
    let mut filter = [
        // The number of the system call.
        load(0),
        libc::sock_filter { jf: 3, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32) },
        load(at),
        libc::sock_filter { jf: 1, ..statement(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, bits) },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the program and its filter are valid for reading.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

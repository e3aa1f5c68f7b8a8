//! Events in files: opening one by its name, listing ten thousand, and the memory of one.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use tantara::SharedEvent;

use super::children::{self, Member};
use super::iceoryx::Iceoryx;
use super::peers::{Fifo, Semaphore, Signal};
use super::workloads::median;
use crate::names::processes::{BASELINE_LIST, BASELINE_OPEN, CHECKED_OPEN, FIFO, ICEORYX, SEMAPHORE};
use crate::names::{Figures, OURS};

const PAGE: usize = 4096;

/// A contender that is opened by name: the time to open an existing event, and to close it again.
pub fn open(contender: &str, smoke: bool) -> Option<Figures> {
    let directory = children::directory("opened");
    Some(match contender {
        BASELINE_OPEN | CHECKED_OPEN => {
            let path = directory.join("page");
            File::create(&path).and_then(|mut file| file.write_all(&[0; PAGE])).expect("a page in a file");
            let open = if contender == BASELINE_OPEN { open_directly } else { open_checked };
            timed(smoke, || map(open(&path)), |(file, page)| unmap(file, page))
        }
        OURS => {
            SharedEvent::open_in(&directory, "event").expect("an event").set().expect("it is set");
            timed(
                smoke,
                || SharedEvent::open_in(&directory, "event").expect("an event"),
                |event| assert!(event.is_set().expect("it is there")),
            )
        }
        SEMAPHORE => {
            let name = Semaphore::create("opened");
            let figures = timed(smoke, || Semaphore::open_at(&name, 1), Semaphore::close);
            Semaphore::unlink(&name);
            figures
        }
        FIFO => {
            let path = Fifo::create("fifo");
            let _kept_open = Fifo::open_at(&path);
            timed(smoke, || Fifo::open_at(&path), drop)
        }
        ICEORYX => {
            let service = Iceoryx::make("opened", 1);
            let _kept_open = Iceoryx::open(&service);
            // A node belongs to the process, so it is not part of the event.
            let node = service.node();
            timed(smoke, || service.join(&node), drop)
        }
        _ => return None,
    })
}

fn timed<T>(smoke: bool, open: impl Fn() -> T, close: impl Fn(T)) -> Figures {
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    for _ in 0..if smoke { 10 } else { 1_000 } {
        let began = Instant::now();
        let one = black_box(open());
        opened.push(began.elapsed().as_nanos() as u64);
        close(one);
        closed.push(began.elapsed().as_nanos() as u64);
    }
    vec![("open", median(opened)), ("open, close", median(closed))]
}

fn open_directly(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("the file")
}

/// Opens it only if it is a regular file.
fn open_checked(path: &Path) -> File {
    let mut by_path = OpenOptions::new();
    let found = by_path.read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path).expect("the file");
    assert!(found.metadata().expect("its kind").is_file(), "a regular file");
    open_directly(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())))
}

/// The baseline: mapping a page of a file.
fn map(file: File) -> (File, *mut libc::c_void) {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(page, libc::MAP_FAILED, "no memory");
    // SAFETY: the file contains this page.
    assert_eq!(unsafe { page.cast::<u8>().read_volatile() }, 0, "what was written there");
    (file, page)
}

fn unmap(file: File, page: *mut libc::c_void) {
    // SAFETY: it was mapped with that length, and there are no references to it.
    unsafe { libc::munmap(page, PAGE) };
    drop(file);
}

/// The time to list this many events, every tenth of them set, in milliseconds.
pub fn list(contender: &str, count: usize, smoke: bool) -> Option<Figures> {
    let directory = children::directory("listed");
    for index in 0..count {
        let event = SharedEvent::open_in(&directory, &format!("event-{index}")).expect("an event");
        if index % 10 == 0 {
            event.set().expect("it is there");
        }
    }
    let look: fn(&Path) -> usize = match contender {
        BASELINE_LIST => by_hand,
        OURS => by_list,
        _ => return None,
    };
    let times = (0..if smoke { 1 } else { 5 }).map(|_| {
        let began = Instant::now();
        assert_eq!(look(&directory), count, "every event is listed");
        began.elapsed().as_nanos() as u64
    });
    Some(vec![("milliseconds", median(times.collect()) / 1e6)])
}

/// The baseline: reading the beginning of every file.
fn by_hand(directory: &Path) -> usize {
    let mut head = [0; 104];
    let files = fs::read_dir(directory).expect("the directory").map(|entry| {
        let path = entry.expect("an entry").path();
        File::open(path).and_then(|mut file| file.read_exact(&mut head)).expect("the beginning of a file");
        black_box(&head);
    });
    files.count()
}

fn by_list(directory: &Path) -> usize {
    let entries = SharedEvent::list_in(directory).expect("the list");
    let set = entries.iter().filter(|entry| entry.as_ref().expect("an event").is_set).count();
    assert_eq!(set, entries.len().div_ceil(10), "every tenth is set");
    entries.len()
}

/// The memory of an event in bytes: in shared memory, in each process that has opened it, and in files for each process
/// that sleeps on it. Memory of the kernel is not visible.
pub fn memory<E: Signal>(smoke: bool) -> Figures {
    let (count, sleepers) = if smoke { (20, 4) } else { (500, 50) };
    // Without the costs of the first event, which later ones share.
    let first = E::make("first", sleepers);
    let event = E::open(&first);
    event.set();
    event.clear();
    let before = children::bytes_in_files();
    let children: Vec<Member> = (0..sleepers).map(|_| children::start(|| E::open(&first).wait())).collect();
    children::until_asleep(&children);
    let of_sleepers = (children::bytes_in_files() - before) as f64;
    event.set();
    children.into_iter().for_each(Member::join);

    let before = resident();
    let mut kept = Vec::with_capacity(count);
    for index in 0..count {
        let place = E::make(&format!("event-{index}"), 1);
        let event = E::open(&place);
        event.set();
        kept.push((place, event));
    }
    let after = resident();
    let each = |before: f64, after: f64| (after - before) / count as f64;
    vec![
        ("shared-bytes", each(before.0, after.0)),
        ("private-bytes", each(before.1, after.1)),
        ("waiter-bytes", of_sleepers / sleepers as f64),
    ]
}

/// The shared and the private memory of this process in bytes.
fn resident() -> (f64, f64) {
    let status = fs::read_to_string("/proc/self/status").expect("the kernel's account of this process");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of the account");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
    };
    (field("RssShmem:"), field("RssAnon:"))
}

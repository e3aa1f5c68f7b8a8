//! Hostile files and names, and refusals of the system: each gives a clear error, and harms no other process.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use tantara::{Error, SharedEvent, any};
use tempfile::TempDir;

use crate::LONG;
use crate::child_process::{ChildProcess, REMOVED, YES};

/// Length of the page, and offset of the word; see `layout.rs`.
const PAGE: usize = 4096;
const WORD: usize = 128;
const SEAL: usize = 132;

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The bytes of an event's file.
fn page() -> Vec<u8> {
    let directory = directory();
    SharedEvent::open_in(&directory, "model").unwrap();
    fs::read(directory.path().join("model")).unwrap()
}

/// Every method reports that the file is not an event, and why, and does not change it.
fn is_refused(directory: &Path, name: &str, why: &str) {
    let errors: [Error; 2] =
        [SharedEvent::open_in(directory, name).unwrap_err(), SharedEvent::find_in(directory, name).unwrap_err()];
    for error in errors {
        assert!(error.is_not_an_event() && !error.is_removed(), "{name}: {error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(why), "{why}: {text}");
    }
    assert!(directory.join(name).symlink_metadata().is_ok(), "{name} is still there");
    // In a directory that others may write to, each file is checked before it is opened.
    for mode in [0o777, 0o700] {
        fs::set_permissions(directory, PermissionsExt::from_mode(mode)).unwrap();
        let listed = SharedEvent::list_in(directory).unwrap();
        let faults = listed.iter().filter_map(|entry| entry.as_ref().err()).map(Error::to_string);
        let own: Vec<_> = faults.filter(|fault| fault.contains(&format!("/{name}: "))).collect();
        assert_eq!(own.len(), 1, "{listed:?}");
    }
}

#[test]
fn what_is_no_event_is_refused_and_left_alone() {
    let (home, good) = (directory(), page());
    let home = home.path();
    let file = |name: &str, content: &[u8]| fs::write(home.join(name), content).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    for (name, length) in [("empty", 0), ("one-byte", 1), ("short", PAGE - 1)] {
        file(name, &good[..length]);
        is_refused(home, name, &format!("{length} bytes"));
    }
    file("long", &[&good[..], &[0]].concat());
    is_refused(home, "long", "4097 bytes");
    File::create(home.join("sparse")).unwrap().set_len(PAGE as u64).unwrap();
    is_refused(home, "sparse", "does not begin as an event does");
    file("magic", &with(0, b'T'));
    is_refused(home, "magic", "does not begin as an event does");
    let of_version = |version: u32| [&good[..8], &version.to_ne_bytes(), &good[12..]].concat();
    file("later", &of_version(77));
    is_refused(home, "later", "a later version of tantara (layout 77, this one has 2); update this one");
    file("earlier", &of_version(1));
    is_refused(home, "earlier", "an earlier version of tantara (layout 1, this one has 2)");
    file("seal", &with(SEAL, b'S'));
    is_refused(home, "seal", "damaged");
    file("kind", &with(12, 9));
    is_refused(home, "kind", "kind 9");

    SharedEvent::open_in(home, "target").unwrap();
    symlink("target", home.join("link")).unwrap();
    symlink("nowhere", home.join("dangling")).unwrap();
    is_refused(home, "link", "symbolic link");
    is_refused(home, "dangling", "symbolic link");
    assert!(!home.join("nowhere").exists(), "nothing is made through a link");
    fs::create_dir(home.join("folder")).unwrap();
    is_refused(home, "folder", "directory");
    assert!(Command::new("mkfifo").arg(home.join("pipe")).status().unwrap().success());
    is_refused(home, "pipe", "pipe");
    let _listener = UnixListener::bind(home.join("socket")).unwrap();
    is_refused(home, "socket", "socket");

    // A hard link to an event is the same event.
    fs::hard_link(home.join("target"), home.join("twin")).unwrap();
    SharedEvent::open_in(home, "twin").unwrap().set().unwrap();
    assert!(SharedEvent::open_in(home, "target").unwrap().is_set().unwrap());
}

/// In a directory that others may write to, they choose the names of files, and errors are printed.
#[test]
fn a_file_whose_name_could_affect_a_terminal_is_reported_without_that() {
    let home = directory();
    fs::write(home.path().join("größe it's \u{1b}]0;x\u{7}\u{202e}\n"), "").unwrap();
    let error = SharedEvent::list_in(&home).unwrap().remove(0).unwrap_err();
    let text = error.to_string();
    assert!(error.is_not_an_event() && text.contains("/größe it's \\u{1b}]0;x\\u{7}\\u{202e}\\n: is not"), "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");
}

#[test]
fn names_that_cannot_be_make_nothing() {
    let home = directory();
    let long = "x".repeat(10_000);
    let names =
        ["", ".", "..", "../x", "/x", "a/b", "x\ny", "x\0", "-x", ".x", "~x", "x y", "x\u{7f}", "\u{202e}x", &long];
    for name in names {
        for error in [
            SharedEvent::open_in(&home, name).unwrap_err(),
            SharedEvent::find_in(&home, name).unwrap_err(),
            SharedEvent::open(name).unwrap_err(),
        ] {
            assert!(error.is_invalid_name(), "{error}");
            let text = error.to_string();
            assert!(text.len() < 400 && !text.contains(char::is_control), "{text}");
        }
    }
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
}

/// A small random number generator, so that a failure can be repeated (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Every method returns without a panic, whatever the file is that could be opened.
fn try_everything(event: &SharedEvent) {
    let moment = Duration::from_millis(1);
    let _ = (event.is_set(), event.is_removed(), event.last_set(), event.waiters().unwrap());
    let before = event.state();
    let _ = event.wait_timeout(Duration::ZERO);
    let _ = event.wait_timeout(moment);
    let _ = any([event]).try_wait_timeout(moment);
    let is_set = event.set();
    if is_set.is_ok() {
        assert!(event.is_set().unwrap() && event.wait().is_ok());
        event.clear().unwrap();
        assert!(!event.is_set().unwrap());
        assert!(event.state().sets_since(before) <= 1);
    } else {
        assert!(event.is_removed() && event.clear().is_err() && event.wait().is_err());
    }
}

#[test]
fn random_pages_are_refused_or_behave() {
    let home = directory();
    let good = page();
    let mut random = Random(4);
    let mut opened = 0;
    for round in 0..3_000 {
        let mut bytes = good.clone();
        match round % 3 {
            // Random bytes.
            0 => bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_ne_bytes())),
            // A valid header, and random bytes behind it.
            1 => {
                bytes[16..].chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_ne_bytes()));
                bytes[SEAL..SEAL + 4].copy_from_slice(&good[SEAL..SEAL + 4]);
            }
            // A few bits.
            _ => (0..=random.next() % 4).for_each(|_| bytes[random.next() as usize % 300] ^= 1 << (random.next() % 8)),
        }
        let path = home.path().join("x");
        fs::write(&path, &bytes).unwrap();
        match SharedEvent::open_in(&home, "x") {
            Ok(event) => {
                opened += 1;
                try_everything(&event);
            }
            Err(error) => assert!(error.is_not_an_event(), "{round}: {error}"),
        }
        let _ = SharedEvent::list_in(&home).unwrap();
        // One that was marked as gone was unlinked and made anew.
        let _ = fs::remove_file(&path);
    }
    assert!(opened > 1_000, "{opened}");
}

#[test]
fn every_word_behaves() {
    let home = directory();
    let good = page();
    let counters = [0, 1, 2, 3, (1 << 27) - 1, (1 << 27) - 2, 1 << 26];
    for word in counters.into_iter().flat_map(|counter: u32| (0..32).map(move |flags| counter << 5 | flags)) {
        let mut bytes = good.clone();
        bytes[WORD..WORD + 4].copy_from_slice(&word.to_ne_bytes());
        fs::write(home.path().join("x"), bytes).unwrap();
        let event = SharedEvent::open_in(&home, "x").unwrap();
        try_everything(&event);
        // A set releases a waiter, whatever the word was.
        let participant = {
            let event = SharedEvent::open_in(&home, "x").unwrap();
            event.clear().unwrap();
            thread::spawn(move || event.wait_timeout(LONG).unwrap())
        };
        while !participant.is_finished() {
            event.set().unwrap();
            thread::yield_now();
        }
        assert!(participant.join().unwrap(), "{word:#x}");
        fs::remove_file(home.path().join("x")).unwrap();
    }
}

/// Starts a process that waits, and returns once it sleeps.
fn sleeper(home: &Path, name: &str) -> ChildProcess {
    let participant = ChildProcess::start(["wait", home.to_str().unwrap(), name]);
    let event = SharedEvent::open_in(home, name).unwrap();
    while event.waiters().unwrap().is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    participant
}

#[test]
fn a_file_that_is_cut_off_is_an_error_and_no_fault() {
    for (length, then) in [(0, 0), (1, 1), (64, 64), (0, PAGE as u64), (WORD as u64, PAGE as u64), (PAGE as u64 - 1, 0)]
    {
        let then = if length > WORD as u64 { length } else { then };
        let home = directory();
        let event = SharedEvent::open_in(&home, "x").unwrap();
        let mut participant = sleeper(home.path(), "x");
        let (looking, local) = (event.clone(), SharedEvent::open_in(&home, "x").unwrap());
        let looker = thread::spawn(move || while !looking.is_removed() {});
        let awaiting = thread::spawn(move || pollster::block_on(local.wait_async()));
        let file = OpenOptions::new().write(true).open(home.path().join("x")).unwrap();
        file.set_len(length).unwrap();
        file.set_len(then).unwrap();
        if length > WORD as u64 {
            // The word is still there. Sleepers find out that the file is too short.
            assert_eq!(participant.answer(), REMOVED);
        }
        for error in [event.set(), event.clear()].map(Result::unwrap_err) {
            assert!(error.is_removed(), "{error}");
        }
        assert_eq!(participant.answer(), REMOVED);
        assert!(awaiting.join().unwrap().unwrap_err().is_removed());
        looker.join().unwrap();
        assert!(event.wait().unwrap_err().is_removed());
        assert!(SharedEvent::open_in(&home, "x").unwrap_err().is_not_an_event());
    }
}

#[test]
fn a_file_that_was_truncated_between_accesses_is_lost() {
    let home = directory();
    let event = SharedEvent::open_in(&home, "x").unwrap();
    let file = OpenOptions::new().write(true).open(home.path().join("x")).unwrap();
    file.set_len(0).unwrap();
    file.set_len(PAGE as u64).unwrap();
    assert!(event.is_removed() && event.is_set().unwrap_err().is_removed());
    assert!(event.wait().unwrap_err().is_removed());
}

#[test]
fn a_fault_that_is_not_ours_still_ends_the_process() {
    let home = directory();
    let mut participant = ChildProcess::start(["fault_elsewhere", home.path().to_str().unwrap(), "x"]);
    assert_eq!(participant.end().signal(), Some(libc::SIGBUS));
    let mut participant = ChildProcess::start(["fault_with_handler", home.path().to_str().unwrap(), "x"]);
    assert_eq!(participant.answer(), YES, "the earlier handler is called");
}

#[test]
fn removing_the_file_ends_all_waits() {
    let home = directory();
    let (first, second) = (sleeper(home.path(), "x"), sleeper(home.path(), "y"));
    let old = SharedEvent::open_in(&home, "y").unwrap();
    fs::remove_file(home.path().join("x")).unwrap();
    // Another event is renamed to the name of the second.
    SharedEvent::open_in(&home, "z").unwrap();
    fs::rename(home.path().join("z"), home.path().join("y")).unwrap();
    for mut participant in [first, second] {
        assert_eq!(participant.answer(), REMOVED);
    }
    assert!(old.set().unwrap_err().is_removed());
    // The new event works.
    let mut participant = sleeper(home.path(), "y");
    SharedEvent::open_in(&home, "y").unwrap().set().unwrap();
    assert_eq!(participant.answer(), YES);
}

/// Whether the test may become other users.
pub(crate) fn is_root(test: &str) -> bool {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        println!("{test} is left out: it needs to be root");
    }
    is_root
}

const NOBODY: u32 = 65_534;

#[test]
fn what_one_may_not_do_is_said() {
    if !is_root("what_one_may_not_do_is_said") {
        return;
    }
    let home = directory();
    let path = home.path().to_str().unwrap();
    let as_nobody = |action: &str, name: &str| ChildProcess::start(["as_nobody", path, action, name]).answer();
    // Another user's directory without permissions.
    fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(as_nobody("open_is_denied", "x"), YES);
    // A directory that may only be read.
    fs::set_permissions(&home, PermissionsExt::from_mode(0o555)).unwrap();
    assert_eq!(as_nobody("open_is_denied", "x"), YES);
    // An event without permissions.
    SharedEvent::open_in(&home, "x").unwrap();
    fs::set_permissions(home.path().join("x"), PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(as_nobody("open_is_denied", "x"), YES);
}

#[test]
fn the_default_directory_is_the_users_own() {
    let home = directory();
    let start = |action: &str, home: &Path| {
        let mut command = ChildProcess::command([action, home.to_str().unwrap(), "x"]);
        ChildProcess(command.env("XDG_RUNTIME_DIR", home).spawn().unwrap()).answer()
    };
    let participant = |home: &Path| start("open_by_default", home);
    assert_eq!(start("open_by_default_with_umask", home.path()), YES);
    assert_eq!(participant(home.path()), YES);
    let place = home.path().join("tantara");
    assert_eq!(place.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(place.join("x").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&place, PermissionsExt::from_mode(0o777)).unwrap();
    assert_eq!(participant(home.path()), REFUSED, "others could put things there");
    fs::remove_dir_all(&place).unwrap();
    symlink("/tmp", &place).unwrap();
    assert_eq!(participant(home.path()), REFUSED, "a link could lead anywhere");
    fs::remove_file(&place).unwrap();
    if is_root("the rest of the_default_directory_is_the_users_own") {
        fs::create_dir(&place).unwrap();
        std::os::unix::fs::chown(&place, Some(NOBODY), None).unwrap();
        assert_eq!(participant(home.path()), REFUSED, "it is someone else's");
    }
}

/// The answer of `open_by_default` if the directory is refused.
const REFUSED: i32 = 20;

#[test]
fn limits_of_the_system_are_errors_and_leave_what_is_open_alone() {
    let home = directory();
    let path = home.path().to_str().unwrap();
    for action in [
        "without_descriptors",
        "without_disk",
        "without_renameat2",
        "without_waitv",
        "without_wake_op",
        "without_wake_bitset",
        "without_futex",
        "without_one_futex",
        "without_the_other_futex",
    ] {
        assert_eq!(ChildProcess::start([action, path, "x"]).answer(), YES, "{action}");
        assert_eq!(
            fs::read_dir(&home).unwrap().filter(|file| !file_is(file, "x")).count(),
            0,
            "{action}: nothing is left"
        );
    }
}

fn file_is(file: &std::io::Result<fs::DirEntry>, name: &str) -> bool {
    file.as_ref().unwrap().file_name() == name
}

#[test]
fn a_full_disk_is_an_error_before_anything_is_made() {
    if !is_root("a_full_disk_is_an_error_before_anything_is_made") {
        return;
    }
    let home = directory();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16k", "full"]).arg(home.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("a_full_disk_is_an_error_before_anything_is_made is left out: nothing can be mounted here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let open = |index: usize| SharedEvent::open_in(home.path(), &format!("e{index}"));
        let (events, errors): (Vec<_>, Vec<_>) = (0..10).map(open).partition(Result::is_ok);
        assert!((1..10).contains(&events.len()), "{events:?}");
        let error = errors.into_iter().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("No space left"), "{error}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), events.len(), "no halves");
        for event in events {
            let event = event.unwrap();
            event.set().unwrap();
            assert!(event.wait_timeout(Duration::ZERO).unwrap());
        }
    });
    assert!(Command::new("umount").arg("-l").arg(home.path()).status().unwrap().success());
    outcome.unwrap();
}

/// The kernel takes process 0 for the caller, which seems to be alive.
#[test]
fn a_mark_of_process_zero_is_no_process_and_a_spoiled_record_is_not_shown() {
    let home = directory();
    let event = SharedEvent::open_in(&home, "x").unwrap();
    let file = OpenOptions::new().read(true).write(true).open(home.path().join("x")).unwrap();
    // The first entry of the table of namespaces is that of the process that made the event.
    for start in [1_u64 << 32, 1] {
        let lock = libc::flock64 {
            l_type: libc::F_RDLCK as _,
            l_whence: libc::SEEK_SET as _,
            l_start: start as _,
            l_len: 1,
            l_pid: 0,
        };
        #[cfg(target_pointer_width = "32")]
        let call = libc::SYS_fcntl64;
        #[cfg(not(target_pointer_width = "32"))]
        let call = libc::SYS_fcntl;
        // SAFETY: the lock is valid for reading.
        let marked = unsafe { libc::syscall(call, file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
        assert_eq!(marked, 0);
        assert_eq!(event.waiters().unwrap(), []);
    }
    event.set().unwrap();
    assert_eq!(event.last_set().unwrap().unwrap().pid, Some(std::process::id()));
    for hostile in [0, -1_i32] {
        for raised in [256, 288] {
            file.write_all_at(&hostile.to_ne_bytes(), raised + 8).unwrap();
        }
        assert_eq!(event.last_set().unwrap(), None);
    }
    event.clear().unwrap();
    event.set_with_note("mended").unwrap();
    assert_eq!(event.last_set().unwrap().unwrap().note.as_deref(), Some("mended"));
}

/// A hostile reader that keeps the file's lock delays a removal by a moment.
#[test]
fn a_lock_that_is_kept_delays_a_removal_and_nothing_else() {
    let home = directory();
    let event = SharedEvent::open_in(&home, "x").unwrap();
    let hostile = File::open(home.path().join("x")).unwrap();
    // SAFETY: takes two numbers.
    assert_eq!(unsafe { libc::flock(hostile.as_raw_fd(), libc::LOCK_EX) }, 0);
    event.set().unwrap();
    event.clear().unwrap();
    event.remove().unwrap();
    assert!(event.set().unwrap_err().is_removed() && !home.path().join("x").exists());
    SharedEvent::open_in(&home, "x").unwrap().set().unwrap();
}

/// When many processes remove an event while another makes a new one, none unlinks the new one.
#[test]
fn removers_take_no_name_but_the_one_that_they_mean() {
    let home = directory();
    for _ in 0..300 {
        let event = SharedEvent::open_in(&home, "x").unwrap();
        let new = thread::scope(|scope| {
            let removers = [(); 3].map(|()| scope.spawn(|| event.remove()));
            let new = scope.spawn(|| {
                while !event.is_removed() {}
                SharedEvent::open_in(&home, "x").unwrap()
            });
            let removed = removers.map(|remover| remover.join().unwrap().unwrap());
            assert!(removed.contains(&true));
            new.join().unwrap()
        });
        new.set().unwrap();
        assert!(
            SharedEvent::find_in(&home, "x").unwrap().is_some_and(|there| there.is_set().unwrap()),
            "it is still to be found"
        );
        new.remove().unwrap();
    }
}

#[test]
fn who_may_not_take_a_name_away_cannot_remove_the_event_either() {
    if !is_root("who_may_not_take_a_name_away_cannot_remove_the_event_either") {
        return;
    }
    let home = directory();
    let event = SharedEvent::open_in(&home, "x").unwrap();
    fs::set_permissions(home.path().join("x"), PermissionsExt::from_mode(0o666)).unwrap();
    // In another user's directory, and in one like /tmp.
    for mode in [0o755, 0o1777] {
        fs::set_permissions(&home, PermissionsExt::from_mode(mode)).unwrap();
        let path = home.path().to_str().unwrap();
        for removal in ["removal_is_denied", "removal_by_links_is_denied"] {
            assert_eq!(ChildProcess::start(["as_nobody", path, removal, "x"]).answer(), YES);
            assert!(!event.is_removed());
            assert_eq!(fs::read_dir(&home).unwrap().count(), 1, "{removal}: the file has a second name");
        }
    }
    event.set().unwrap();
}

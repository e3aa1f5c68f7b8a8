//! Pages that no process of this program has written, and those of other users.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Running, pages, ps, recording, run};

#[test]
fn hostile_pages_are_ignored_or_reported_in_one_line_and_hide_nothing() {
    let dir = TempDir::new().unwrap();
    let waiter = recording(dir.path(), &["wait", "db-ready"]);
    let namespace = fs::metadata("/proc/self/ns/pid").unwrap().ino();
    let path = |pid: u32| dir.path().join(format!(".waits-{pid}-{namespace}"));
    // Without the lock of a living process: whatever they contain.
    fs::write(path(4_000_001), b"{").unwrap();
    fs::create_dir(path(4_000_002)).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path(4_000_003)).unwrap();
    assert!(Command::new("mkfifo").arg(path(4_000_004)).status().unwrap().success());
    fs::File::create(path(4_000_005)).unwrap().set_len(1 << 40).unwrap();
    fs::write(dir.path().join(".waits-x-y"), b"").unwrap();
    fs::write(dir.path().join(".waits-"), b"").unwrap();
    let output = run(dir.path(), &["ps"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");

    // Locked by a living process, so that it is read.
    let deep = "[".repeat(100_000);
    let long = "x".repeat(100_000);
    let hold = json!({"host": format!("\u{1b}[2J\n{long}"), "pid": u32::MAX, "since": u64::MAX});
    let event = json!({"name": "\u{1b}[2J\n", "labelled": true, "kind": "Event", "setters": [], "last_hold": hold});
    let group = json!({
        "count": u64::MAX, "place": long, "mode": "one", "released": true, "abandoned": true, "number_of_events": 0,
        "events": [event], "waiters": [{"tid": 1, "since": u64::MAX}],
    });
    let page =
        |groups: Vec<Value>| json!({"version": 1, "total": u64::MAX, "missed": u64::MAX, "groups": groups}).to_string();
    // As many as a page never has.
    let many = vec![
        json!({"count": 1, "place": "", "mode": "one", "released": false, "abandoned": false,
        "number_of_events": 0, "events": [], "waiters": []});
        2_000
    ];
    fs::write(path(4_100_001), page(many)).unwrap();
    let lock = locked(&path(4_100_001));
    let shown = ps(dir.path()).into_iter().find(|shown| shown["pid"] == 4_100_001).unwrap();
    assert_eq!(shown["groups"].as_array().unwrap().len(), 512);
    drop(lock);
    let mut late = group.clone();
    late["waiters"][0]["until"] = json!(1e30);
    let texts = [deep, "{}".into(), "\u{0}".repeat(5_000), page(vec![group.clone(), group, late]), page(vec![])];
    for (number, text) in texts.iter().enumerate() {
        let file = path(4_100_000);
        let _ = fs::remove_file(&file);
        fs::write(&file, text).unwrap();
        let _lock = locked(&file);
        let output = run(dir.path(), &["ps"]);
        let (table, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{error}");
        assert!(table.contains(&waiter.0.id().to_string()) && table.contains("db-ready"), "{table}");
        assert!(!table.contains('\u{1b}') && table.len() < 5_000, "{table}");
        assert_eq!(table.contains("18446744073709551615 more were not recorded so far"), number >= 3, "{table}");
        assert_eq!(error.lines().count(), usize::from(number < 3), "{number}: {error}");
        assert_eq!(error.contains("the page of waits of process 4100000 cannot be read"), number < 3, "{error}");
        assert!(run(dir.path(), &["ps", "--json"]).status.success());
    }
}

/// Locks a file as a process locks its page, until the result is dropped.
fn locked(file: &Path) -> Running {
    locked_after(file, "")
}

/// As [`locked`]; the locker runs this beforehand.
fn locked_after(file: &Path, beforehand: &str) -> Running {
    let python = format!(
        "import fcntl, os, signal, struct, sys, time\n\
         {beforehand}\n\
         f = open(sys.argv[1], 'r+b')\n\
         fcntl.fcntl(f, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 1, 0))\n\
         print(flush=True)\n\
         time.sleep(600)"
    );
    let mut locker = Command::new("python3");
    locker.args(["-c", &python]).arg(file).stdout(Stdio::piped()).stdin(Stdio::null());
    let mut locker = Running(locker.spawn().expect("the locker"));
    let mut line = [0];
    std::io::Read::read_exact(locker.0.stdout.as_mut().unwrap(), &mut line).expect("it has the lock");
    locker
}

const NOBODY: u32 = 65_534;

/// For a locker that root starts.
const AS_NOBODY: &str = "os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3)\n\
    signal.signal(signal.SIGIO, signal.SIG_IGN)";

/// Everybody can put files into such a directory. Root believes what a process writes of itself, and says whose
/// it is.
#[test]
fn no_other_user_can_write_the_page_of_a_process_nor_keep_readers_waiting() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let waiter = recording(dir.path(), &["wait", "db-ready"]);
    let pid = waiter.0.id();
    let namespace = fs::metadata("/proc/self/ns/pid").unwrap().ino();
    let forged = |name: String, owner: u32| {
        let path = dir.path().join(name);
        let group = json!({
            "count": 1, "place": "forged.rs:1", "mode": "one", "released": false, "abandoned": false,
            "number_of_events": 0, "events": [], "waiters": [],
        });
        fs::write(&path, json!({"version": 1, "total": 1, "groups": [group]}).to_string()).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), Some(owner)).unwrap();
        path
    };
    let path = pages(dir.path()).remove(0);
    let own = fs::read(&path).unwrap();
    let mut lockers = Vec::new();
    for name in ["+7", "007", &format!("0{pid}"), &format!("{}", std::process::id())] {
        lockers.push(locked(&forged(format!(".waits-{name}-{namespace}"), NOBODY)));
    }
    lockers.push(locked(&forged(format!(".waits-+{pid}-{namespace}"), 0)));
    let shown = ps(dir.path());
    assert_eq!((shown.len(), &shown[0]["pid"]), (1, &json!(pid)), "{shown:?}");
    assert_eq!(fs::read(&path).unwrap(), own);
    assert_eq!(shown[0].get("user"), None);

    // The name of the page is that of its process, whose number is known afterwards.
    let draft = forged("page".into(), NOBODY);
    let begin = format!(
        "name = os.path.join(os.path.dirname(sys.argv[1]), f'.waits-{{os.getpid()}}-{namespace}')\n\
         os.rename(sys.argv[1], name)\n\
         sys.argv[1] = name"
    );
    let other = locked_after(&draft, &format!("{AS_NOBODY}\n{begin}"));
    let shown = ps(dir.path());
    assert_eq!(shown.len(), 2, "{shown:?}");
    let its = shown.iter().find(|page| page["pid"] == other.0.id()).expect("its page");
    assert_eq!(its["user"], NOBODY);
    let table = String::from_utf8(run(dir.path(), &["ps"]).stdout).unwrap();
    assert!(table.contains(&format!("{} of user {NOBODY}", other.0.id())), "{table}");
    drop(other);

    // It has a lease, which it does not give back. (The page is one of a process that has ended.)
    let page = forged(format!(".waits-4000001-{namespace}"), NOBODY);
    let begin = "lease = os.open(sys.argv[1], os.O_RDWR)\n\
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
        print(flush=True)\n\
        time.sleep(600)";
    let _lease = locked_after(&page, &format!("{AS_NOBODY}\n{begin}"));
    let file = format!(":{} ", fs::metadata(&page).unwrap().ino());
    // When its time is over it is one for reading.
    let is_it = |lock: &str| {
        lock.contains("LEASE") && lock.contains(&file) && (lock.contains("WRITE") || lock.contains("BREAKING"))
    };
    let is_leased = || fs::read_to_string("/proc/locks").unwrap().lines().any(is_it);
    assert!(is_leased());
    assert_eq!(ps(dir.path()).len(), 1);
    assert!(run(dir.path(), &["ls"]).status.success());
    let _next = recording(dir.path(), &["wait", "db-ready"]);
    assert!(is_leased(), "they would have waited for its end");
}

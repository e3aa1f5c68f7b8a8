//! `tantara bank`, driven through the real binary.

mod signals;

use std::fs;
#[cfg(unix)]
use std::io::Read;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn tantara(args: &[&str]) -> Command {
    signals::end_children();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tantara"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn bank(args: &[&str]) -> Output {
    tantara(&["bank"]).args(args).output().expect("tantara starts")
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stdout.clone()).expect("text").lines().map(str::to_owned).collect()
}

fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// The position of a line, which occurs exactly once.
fn place(lines: &[String], line: &str) -> usize {
    let places: Vec<_> = lines.iter().enumerate().filter(|(_, said)| *said == line).map(|(place, _)| place).collect();
    assert_eq!(places.len(), 1, "{line:?} occurs {} times in {lines:#?}", places.len());
    places[0]
}

/// Checks the lines of a run and their order.
fn check_lines(lines: &[String], customers: &[(&str, &str)]) {
    let bank_open = place(lines, "Bank is now open!");
    let transactions_open = place(lines, "Transactions are now open!");
    assert!(place(lines, "Bank manager is preparing to open the bank.") < bank_open);
    assert!(bank_open < transactions_open);
    assert_eq!(place(lines, "All customers have completed their transactions."), lines.len() - 1);
    let mut expected = 4;
    for (name, kind) in customers {
        let waits = place(lines, &format!("{name} is waiting for the bank to open."));
        let enters = place(lines, &format!("{name} entered the bank"));
        assert!(waits < enters && bank_open < enters, "{name} entered before the bank was open");
        if *kind == "WITHDRAW_MONEY" {
            let waits = place(lines, &format!("{name} is waiting for transactions to open."));
            let starts = place(lines, &format!("{name} is starting their transaction."));
            let completes = place(lines, &format!("{name} completed transaction and exited bank"));
            assert!(enters < waits && waits < starts && transactions_open < starts && starts < completes);
            expected += 5;
        } else {
            assert!(enters < place(lines, &format!("{name} has exited bank")));
            expected += 3;
        }
    }
    assert_eq!(lines.len(), expected, "there are other lines: {lines:#?}");
}

const CUSTOMERS: [(&str, &str); 4] = [
    ("Customer 1", "WITHDRAW_MONEY"),
    ("Customer 2", "CHECK_BALANCE"),
    ("Customer 3", "WITHDRAW_MONEY"),
    ("Customer 4", "WITHDRAW_MONEY"),
];

#[test]
fn the_lines_are_exact_at_every_scope_and_with_any_number_of_workers() {
    for reach in ["threads", "tasks"] {
        for workers in ["1", "2", "4", "40"] {
            for pace in ["0", "0.005"] {
                let output = bank(&["--reach", reach, "--workers", workers, "--pace", pace]);
                assert!(output.status.success(), "{output:?}");
                assert_eq!(complaint(&output), "");
                check_lines(&lines(&output), &CUSTOMERS);
            }
        }
    }
}

#[test]
fn a_pool_serves_its_customers_in_order() {
    let lines = lines(&bank(&["--count", "20", "--workers", "1", "--pace", "0"]));
    let waits = (1..=20).map(|n| place(&lines, &format!("Customer {n} is waiting for the bank to open.")));
    assert!(waits.collect::<Vec<_>>().is_sorted());
}

#[cfg(in_repository)]
#[test]
fn the_sample_list_of_the_repository_is_served() {
    let output = bank(&["--customers", "../../examples/customers.csv", "--pace", "0"]);
    let list = fs::read_to_string("../../examples/customers.csv").unwrap();
    let customers: Vec<_> = list.lines().skip(1).map(|line| line.split_once(',').unwrap()).collect();
    check_lines(&lines(&output), &customers);
}

#[test]
fn json_is_one_line_with_the_figures() {
    for reach in ["threads", "tasks"] {
        let output = bank(&["--count", "10", "--pace", "0", "--json", "--reach", reach]);
        let lines = lines(&output);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let figures: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(figures["customers"], 10);
        assert_eq!(figures["reach"], reach);
        assert_eq!(figures["released"]["bank_open"], 10);
        assert_eq!(figures["released"]["transactions_open"], 7);
        assert_eq!(figures["lost"], Value::Array(Vec::new()));
        assert!(figures["seconds"].as_f64().unwrap() > 0.0);
        assert!((1..=10).contains(&figures["peak_waiting"].as_u64().unwrap()));
    }
}

#[test]
fn quiet_prints_nothing() {
    let output = bank(&["--quiet", "--pace", "0"]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_timeline_and_the_trace_show_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list.csv");
    fs::write(&list, "name,type\n<&\"Ann\">,WITHDRAW_MONEY\nBob,CHECK_BALANCE\n").unwrap();
    let (svg, json) = (dir.path().join("day.svg"), dir.path().join("day.json"));
    fs::write(&svg, "x".repeat(1 << 20)).unwrap();
    let output = tantara(&["bank", "--pace", "0.01", "--quiet", "--customers"])
        .arg(&list)
        .args(["--timeline".as_ref(), svg.as_os_str(), "--trace".as_ref(), json.as_os_str()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let picture = fs::read_to_string(svg).unwrap();
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"), "what was there before is replaced");
    assert!(picture.contains("&lt;&amp;\"Ann\"&gt;") && !picture.contains("<&"), "names are escaped");
    for expected in ["bank_open set", "transactions_open set", "waiting for transactions", "Bob"] {
        assert!(picture.contains(expected), "{expected} is missing");
    }
    let trace: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let with = |phase: &str| events.iter().filter(|event| event["ph"] == phase).count();
    // A mark for each event, three spans for Ann, two for Bob, and names for the process and for both customers.
    assert_eq!((with("i"), with("X"), with("M")), (2, 5, 3));
}

/// Exit code 2, one line on standard error that names the place, and nothing on standard output.
#[test]
fn bad_input_is_refused_in_one_line_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let malformed = file("malformed.csv", b"name,type\nAnn,WITHDRAW_MONEY\nBob\n");
    let unknown = file("unknown.csv", b"name,type\nAnn,DEPOSIT\n");
    let nameless = file("nameless.csv", b"name,type\n,WITHDRAW_MONEY\n");
    let headless = file("headless.csv", b"Ann,WITHDRAW_MONEY\n");
    let nobody = file("nobody.csv", b"name,type\n");
    let empty = file("empty.csv", b"");
    let binary = file("binary.csv", b"name,type\n\xff\xfe\x00,CHECK_BALANCE\n");
    // Windows has no such names, and opens no directories.
    let two_lines = if cfg!(windows) { "two\nlines.csv".to_owned() } else { file("two\nlines.csv", b"") };
    let directory = if cfg!(windows) { "cannot read .: " } else { "cannot be read" };
    let cases: &[(&[&str], &str)] = &[
        (&["--customers", &malformed], "malformed.csv:3: 1 value found, expected two: name,type"),
        (
            &["--customers", &unknown],
            "unknown.csv:2: unknown type \"DEPOSIT\", expected WITHDRAW_MONEY or CHECK_BALANCE",
        ),
        (&["--customers", &nameless], "nameless.csv:2: the name is empty"),
        (&["--customers", &headless], "headless.csv:1: the header is \"Ann,WITHDRAW_MONEY\", expected name,type"),
        (&["--customers", &nobody], "nobody.csv: no customer follows the header"),
        (&["--customers", &empty], "empty.csv: the list is empty"),
        (&["--customers", &binary], "binary.csv:2: the line is not text"),
        (&["--customers", &two_lines], "two\\nlines.csv: "),
        (&["--customers", "no/such/file.csv"], "cannot read no/such/file.csv: "),
        (&["--customers", "."], directory),
        (&["--workers", "0"], "expected a whole number from 1 to"),
        (&["--workers", "-1"], "expected a whole number from 1 to"),
        (&["--workers", "many"], "expected a whole number from 1 to"),
        (&["--count", "0"], "expected a whole number from 1 to"),
        (&["--count", "-5"], "expected a whole number from 1 to"),
        (&["--count", "99999999999999999999"], "expected a whole number from 1 to"),
        (&["--count", "5", "--customers", &unknown], "cannot be used with"),
        (&["--pace", "-1"], "expected a number from 0"),
        (&["--pace", "fast"], "expected a number from 0"),
        (&["--pace", "NaN"], "expected a number from 0"),
        (&["--pace", "inf"], "expected a number from 0"),
        (&["--reach", "moon"], "threads, tasks"),
        (&["--timeline", "no/such/dir/day.svg"], "cannot write to no/such/dir/day.svg"),
        (&["--trace", "/"], "cannot write to /"),
        (&["--trace", "day.json/"], "cannot write to day.json/: it names a directory"),
        (&["--timelin", "x"], "--timeline"),
        (&["nonsense"], "nonsense"),
        (&["--bogus"], "see tantara bank --help"),
    ];
    for (args, expected) in cases {
        let output = bank(args);
        let complaint = complaint(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{args:?} ran something");
        assert!(complaint.contains(expected), "{args:?} says {complaint:?}");
        assert_eq!(complaint.matches('\n').count(), 1, "{args:?} says more than one line: {complaint:?}");
        assert!(complaint.starts_with("tantara: "), "{complaint:?}");
    }
}

#[test]
fn a_file_that_is_named_twice_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list.csv");
    fs::write(&list, "name,type\nAnn,CHECK_BALANCE\n").unwrap();
    let other = dir.path().join("other");
    for (first, first_path, second, second_path) in
        [("--customers", &list, "--timeline", &list), ("--timeline", &other, "--trace", &other)]
    {
        let output = tantara(&["bank", "--pace", "0", first]).arg(first_path).arg(second).arg(second_path).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(complaint(&output).contains("name the same file"));
    }
    assert_eq!(fs::read_to_string(list).unwrap(), "name,type\nAnn,CHECK_BALANCE\n");
    assert!(!other.exists(), "what was made for the run is removed again");
}

#[test]
fn a_closed_standard_output_ends_the_run_quietly() {
    for reach in ["threads", "tasks"] {
        let args = ["bank", "--count", "5000", "--pace", "0", "--reach", reach];
        let mut child = tantara(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(complaint(&output), "");
    }
}

/// A file keeps its content until the new content is complete.
#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let svg = dir.path().join("day.svg");
    fs::write(&svg, "yesterday").unwrap();
    let mut child =
        tantara(&["bank", "--timeline"]).arg(&svg).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    kill("HUP", child.id());
    child.wait().unwrap();
    assert_eq!(fs::read_to_string(&svg).unwrap(), "yesterday");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a draft is left behind");
}

#[cfg(unix)]
#[test]
fn a_hard_link_to_the_list_is_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let (list, link) = (dir.path().join("list.csv"), dir.path().join("link.svg"));
    fs::write(&list, "name,type\nAnn,CHECK_BALANCE\n").unwrap();
    fs::hard_link(&list, &link).unwrap();
    let output = tantara(&["bank", "--pace", "0", "--customers"]).arg(&list).arg("--timeline").arg(&link).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(complaint(&output).contains("name the same file"));
    assert!(fs::read_to_string(list).unwrap().starts_with("name,type"));
}

/// Containers get single files by mounts. No file can replace a mount point, nor be made in a read-only directory.
#[cfg(target_os = "linux")]
#[test]
fn a_picture_is_written_into_a_file_that_cannot_be_replaced() {
    for is_read_only in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let read_only = if is_read_only { "mount -o remount,bind,ro d; ! touch d/x 2>&- || exit 99;" } else { "" };
        let script = format!(
            "mkdir d; touch d/day.svg; seq 100000 > kept; mount --bind d d; mount --bind kept d/day.svg; {read_only} \
             \"$0\" bank --pace 0 --quiet --timeline d/day.svg && ls -A d"
        );
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_tantara")])
            .current_dir(dir.path())
            .output()
            .unwrap();
        if output.stderr.starts_with(b"unshare:") {
            println!("left out: {output:?}");
            return;
        }
        assert!(output.status.success(), "{output:?}");
        assert_eq!(lines(&output), ["day.svg"], "no draft is left");
        let picture = fs::read_to_string(dir.path().join("kept")).unwrap();
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"), "{picture}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_picture_does_not_replace_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    let story = dir.path().join("story");
    fs::write(&story, "before\n").unwrap();
    let out = fs::OpenOptions::new().append(true).open(&story).unwrap();
    let output = tantara(&["bank", "--pace", "0", "--timeline", "/dev/stdout"]).stdout(out).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(fs::read_to_string(&story).unwrap(), "before\n");
    let output = bank(&["--pace", "0", "--quiet", "--timeline", "/dev/stdout"]);
    assert!(output.status.success() && output.stdout.starts_with(b"<svg"), "a pipe takes both: {output:?}");
}

#[test]
fn a_long_value_is_cut_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list.csv");
    fs::write(&list, format!("name,type\nAnn,{}\n", "x".repeat(1 << 20))).unwrap();
    let output = tantara(&["bank", "--customers"]).arg(&list).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let complaint = complaint(&output);
    assert!(complaint.len() < 2_000 && complaint.contains("list.csv:2: unknown type \"xxx"), "{complaint}");
    assert!(complaint.ends_with("xxx\", expected WITHDRAW_MONEY or CHECK_BALANCE\n"), "{complaint}");
}

/// A shell may start a background job with Ctrl-C ignored. The command does not change that.
#[cfg(target_os = "linux")]
#[test]
fn an_ignored_interrupt_stays_ignored() {
    let binary = env!("CARGO_BIN_EXE_tantara");
    let script = format!("trap '' INT; exec '{binary}' bank --pace 0.1");
    let mut child = Command::new("bash").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    out.read_line(&mut text).unwrap();
    kill("INT", child.id());
    out.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(text.ends_with("All customers have completed their transactions.\n"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_picture_that_cannot_be_written_does_not_prevent_the_other_one() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("day.json");
    let args = ["bank", "--pace", "0", "--quiet", "--timeline", "/dev/full", "--trace"];
    let output = tantara(&args).arg(&trace).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(complaint(&output).contains("cannot write to /dev/full: No space left"), "{output:?}");
    let _: Value = serde_json::from_str(&fs::read_to_string(trace).unwrap()).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_reported() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = tantara(&["bank", "--pace", "0"]).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(complaint(&output).contains("cannot write to standard output: No space left"), "{output:?}");
    let output = bank(&["--pace", "0", "--quiet", "--timeline", "/dev/full"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(complaint(&output).contains("cannot write to /dev/full: No space left"), "{output:?}");
}

/// Ctrl-C in every phase: while the bank is closed, between the events, and during service; also when the output is
/// blocked.
#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_run_cleanly_at_any_moment() {
    use std::os::unix::process::ExitStatusExt;

    let dir = tempfile::tempdir().unwrap();
    let svg = dir.path().join("day.svg");
    for reach in ["threads", "tasks"] {
        for last_line in ["preparing to open", "Bank is now open!", "Transactions are now open!"] {
            for signal in ["INT", "TERM"] {
                let mut child = tantara(&["bank", "--count", "200", "--pace", "0.2", "--reach", reach, "--timeline"])
                    .arg(&svg)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut out = BufReader::new(child.stdout.take().unwrap());
                let mut text = String::new();
                while !text.contains(last_line) {
                    assert_ne!(out.read_line(&mut text).unwrap(), 0, "it ended before {last_line:?}: {text}");
                }
                kill(signal, child.id());
                out.read_to_string(&mut text).unwrap();
                let output = child.wait_with_output().unwrap();
                let number = if signal == "INT" { 2 } else { 15 };
                assert_eq!(output.status.signal(), Some(number), "a shell must see the signal: {output:?}");
                assert!(text.ends_with('\n'), "the last line is torn: {text:?}");
                assert!(complaint(&output).starts_with("tantara: interrupted; "), "{output:?}");
                assert!(!svg.exists(), "an unfinished file is left behind");
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_run_whose_output_is_blocked() {
    use std::os::unix::process::ExitStatusExt;

    let args = ["bank", "--count", "20000", "--pace", "0"];
    let mut child = tantara(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Read a little, so that it runs; then let the pipe become full.
    let mut some = [0; 4096];
    child.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    kill("INT", child.id());
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(2));
}

#[cfg(unix)]
fn kill(signal: &str, id: u32) {
    let status = Command::new("kill").args([&format!("-{signal}"), &id.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn files_may_be_standard_input_and_output() {
    let list = "name,type\nAnn,WITHDRAW_MONEY\nBob,CHECK_BALANCE\n";
    let piped = |args: &[&str], list: &str| {
        let mut command = tantara(&["bank", "--pace", "0"]);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    check_lines(&lines(&piped(&["--customers", "-"], list)), &[("Ann", "WITHDRAW_MONEY"), ("Bob", "CHECK_BALANCE")]);
    let output = piped(&["--customers", "-"], "name,type\nAnn,ROB_THE_BANK\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(complaint(&output).starts_with("tantara: standard input:2: "), "{output:?}");

    let picture = piped(&["--customers", "-", "--timeline", "-"], list);
    let text = lines(&picture).join("\n");
    assert!(text.starts_with("<svg") && text.ends_with("</svg>") && text.contains("Ann"), "{text}");
    let trace: Value = serde_json::from_slice(&bank(&["--pace", "0", "--trace", "-"]).stdout).unwrap();
    assert!(!trace.is_null());
    for both in [["--timeline", "-", "--trace", "-"], ["--json", "--quiet", "--trace", "-"]] {
        let output = bank(&both);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(complaint(&output).contains("both write to standard output"), "{output:?}");
    }
    assert!(!std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("-").exists());
}

#[test]
fn a_directory_that_does_not_exist_is_named_and_nothing_runs() {
    for option in ["--timeline", "--trace"] {
        let output = bank(&["--pace", "0", option, "/no/such/folder/day"]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        let expected =
            "tantara: cannot write to /no/such/folder/day: there is no directory /no/such/folder; create it\n";
        assert_eq!(complaint(&output), expected);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn no_error_names_a_draft() {
    // Nobody may create a file there, root included.
    let output = bank(&["--pace", "0", "--timeline", "/proc/day.svg"]);
    assert_eq!(output.status.code(), Some(2));
    let text = complaint(&output);
    assert!(text.starts_with("tantara: cannot write to /proc/day.svg: ") && !text.contains(".tantara-"), "{text}");
}

#[test]
fn help_is_short_or_full_and_shows_examples() {
    let short = lines(&bank(&["-h"]));
    let full = lines(&bank(&["--help"]));
    assert!(short.len() < full.len());
    assert!(full.iter().any(|line| line.starts_with("  tantara bank --customers")));
    let version = tantara(&["--version"]).output().unwrap();
    assert_eq!(lines(&version), [format!("tantara {}", env!("CARGO_PKG_VERSION"))]);
    let nothing = tantara(&[]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(2));
    assert!(complaint(&nothing).contains("Usage: tantara"));
}

//! What Compose, systemd and cron would run of docs/shell.md, run as they would.
#![cfg(all(target_os = "linux", in_repository))]

mod scratch;
mod signals;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use doc_tests::{blocks, documents};
use scratch::{Events, Running, until};

/// The blocks of a language.
fn blocks_of(language: &str) -> Vec<String> {
    let (_, text) = documents().into_iter().find(|(path, _)| path == "docs/shell.md").unwrap();
    blocks(&text).into_iter().filter(|block| block.language == language).map(|block| block.text).collect()
}

/// A place with programs that write what they do into one log.
struct Machine(Events);

impl Machine {
    fn new(programs: &[(&str, &str)]) -> Machine {
        let machine = Machine(Events::new());
        fs::create_dir(machine.0.path()).unwrap();
        for (name, script) in programs {
            let file = machine.0.home().join(name);
            fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        machine
    }

    /// A recipe with the directory of this test.
    fn here(&self, recipe: &str, directory: &str) -> String {
        recipe.replace(directory, self.0.path().to_str().unwrap())
    }

    /// A unit with the directory and the programs of this test.
    fn unit(&self, unit: &str) -> String {
        let unit = self.here(unit, "/run/events").replace("/usr/local/bin/tantara", env!("CARGO_BIN_EXE_tantara"));
        unit.replace("/usr/local/bin/", &format!("{}/", self.0.home().display()))
    }

    /// A shell that runs this, with nothing but these variables.
    fn shell(&self, script: &str, variables: &[String]) -> Command {
        let command = Path::new(env!("CARGO_BIN_EXE_tantara"));
        let mut shell = self.0.program("env", &["--ignore-environment", "HOME=."]);
        shell.arg(format!("PATH={}:{}:/usr/bin:/bin", self.0.home().display(), command.parent().unwrap().display()));
        shell.args(variables).args(["sh", "-c", script]);
        shell
    }

    fn start(&self, script: &str, variables: &[String]) -> Running {
        let mut shell = self.shell(script, variables);
        Running(shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.0.home().join("log")).unwrap_or_default()
    }
}

#[test]
fn the_services_of_compose_share_the_events_of_a_volume() {
    let machine =
        Machine::new(&[("migrate", "sleep 0.2; echo migrated >> log"), ("serve", "echo served by process $$ >> log")]);
    let [compose] = &blocks_of("yaml")[..] else { panic!("the recipe was not found") };
    let commands: Vec<&str> =
        compose.lines().filter_map(|line| Some(line.trim().strip_prefix("command: ")?.trim())).collect();
    let [migrate, web] = commands[..] else { panic!("{compose}") };
    // As process 1, where that is possible.
    let namespace = ["--user", "--map-root-user", "--pid", "--fork"];
    let has_namespaces = Command::new("unshare").args(namespace).arg("true").stderr(Stdio::null()).status();
    let has_namespaces = has_namespaces.is_ok_and(|status| status.success());
    let contained = if has_namespaces { format!("unshare {} sh -c", namespace.join(" ")) } else { "sh -c".to_owned() };
    let variables = [format!("TANTARA_DIR={}", machine.0.path().display())];
    assert_eq!(compose.matches("environment: {TANTARA_DIR: /events}").count(), 2);
    let run = |command: &str| machine.start(&format!("exec {contained} \"exec {command}\""), &variables);
    let web = run(web);
    machine.0.until_waiting("migrated");
    run(migrate).done();
    web.done();
    let log = machine.log();
    assert!(log.starts_with("migrated\nserved by process "), "{log}");
    assert!(!has_namespaces || log.ends_with(" 1\n"), "{log}");
}

/// The values of a key.
fn values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_units_of_systemd_order_their_services() {
    let web = "trap 'exit 0' TERM; echo web >> log; while :; do sleep 0.01; done";
    let programs = [("web", web), ("report", "echo report >> log")];
    let blocks = blocks_of("ini");
    let [by_set, by_hold] = &blocks[..] else { panic!("the recipes were not found") };

    let machine = Machine::new(&programs);
    let units = machine.unit(by_set);
    let (service, report) = units.split_once("# report.service").unwrap();
    let environment =
        |unit: &str| values(unit, "Environment").iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let start = |unit: &str, key: &str| {
        let [command] = values(unit, key)[..] else { panic!("{unit}") };
        machine.start(&format!("exec {command}"), &environment(unit))
    };
    let reporting = start(report, "ExecStart");
    machine.0.until_waiting("web-up");
    let serving = start(service, "ExecStart");
    until(|| machine.log() == "web\n");
    start(service, "ExecStartPost").done();
    reporting.done();
    assert_eq!(machine.log(), "web\nreport\n");
    // It crashes.
    drop(serving);
    start(service, "ExecStopPost").done();
    assert!(!machine.0.is_set("web-up"));

    let machine = Machine::new(&programs);
    let unit = machine.unit(by_hold);
    let [command] = values(&unit, "ExecStart")[..] else { panic!("{unit}") };
    let mut serving = machine.start(&format!("exec {command}"), &environment(&unit));
    machine.0.done(&["wait", "web-up", "--timeout", "1m"]);
    until(|| machine.log() == "web\n");
    serving.signal("-TERM");
    assert!(serving.0.wait().unwrap().success());
    assert!(!machine.0.is_set("web-up"));
}

#[test]
fn systemd_accepts_the_units() {
    let machine = Machine::new(&[("web", ""), ("report", "")]);
    for (index, block) in blocks_of("ini").iter().enumerate() {
        for (part, unit) in block.split("\n\n").enumerate() {
            let file = machine.0.home().join(format!("unit-{index}-{part}.service"));
            fs::write(&file, machine.unit(unit)).unwrap();
            let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output();
            let Ok(output) = output else {
                println!("left out: systemd-analyze is not installed");
                return;
            };
            let complaints = String::from_utf8_lossy(&output.stderr);
            // It also reports what it finds in other units of this machine.
            let own: Vec<&str> = complaints.lines().filter(|line| line.contains("unit-")).collect();
            assert!(own.is_empty(), "{own:?}");
        }
    }
}

#[test]
fn the_jobs_of_cron_wait_for_the_one_of_this_night() {
    let machine = Machine::new(&[
        ("backup", "until test -e go; do sleep 0.01; done; echo backup >> log"),
        ("verify-backup", "echo verify >> log"),
    ]);
    let [table] = &blocks_of("crontab")[..] else { panic!("the recipe was not found") };
    let table = machine.here(table, "/var/lib/backup/events");
    let (mut variables, mut jobs) = (Vec::new(), Vec::new());
    for line in table.lines() {
        match line.splitn(6, ' ').collect::<Vec<_>>()[..] {
            [.., job] if line.starts_with(|letter: char| letter.is_ascii_digit()) => jobs.push(job.trim()),
            _ => variables.push(line.to_owned()),
        }
    }
    let [backup, verify] = jobs[..] else { panic!("{table}") };
    assert!(!table.contains('%'), "cron takes it for the end of a line");
    // What the last night has left.
    machine.0.done(&["set", "backup-done"]);
    let backing_up = machine.start(backup, &variables);
    until(|| !machine.0.is_set("backup-done"));
    let verifying = machine.start(verify, &variables);
    machine.0.until_waiting("backup-done");
    assert_eq!(machine.log(), "");
    fs::write(machine.0.home().join("go"), "").unwrap();
    backing_up.done();
    verifying.done();
    assert_eq!(machine.log(), "backup\nverify\n");
}

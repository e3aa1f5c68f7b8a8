//! The commands of the documents, run as they stand. See `crates/doc-tests` for the rules.
#![cfg(in_repository)]

use std::process::Command;

use doc_tests::{blocks, documents, root};

#[test]
fn the_commands_of_the_documents_work() {
    let mut count = 0;
    for (path, text) in documents() {
        for block in blocks(&text).into_iter().filter(|block| block.language == "console") {
            for command in block.text.lines().filter_map(|line| line.strip_prefix("$ tantara ")) {
                let command = command.split('#').next().unwrap_or_default();
                // A million customers take too long in an unoptimised build.
                let command = command.replace("1000000", "10000");
                let output = Command::new(env!("CARGO_BIN_EXE_tantara"))
                    .args(command.split_whitespace())
                    .current_dir(root())
                    .output()
                    .unwrap();
                assert!(output.status.success(), "{path}:{}: {command}: {output:?}", block.line);
                count += 1;
            }
        }
    }
    assert!(count > 0);
}

#[cfg(target_os = "linux")]
mod scripts {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::{Command, Output};

    use doc_tests::{Block, ENDPOINTS, blocks, documents};
    use etcd_for_tests::Servers;
    use tempfile::TempDir;

    /// Endpoints with TLS, as documents write them.
    const WITH_TLS: &str = "https://10.0.0.1:2379,https://10.0.0.2:2379,https://10.0.0.3:2379";

    /// After this time something is wrong, however slow the machine. In seconds.
    const LONG: &str = "300";

    /// A script that has run, and the directories that it had.
    struct Ran {
        printed: String,
        events: TempDir,
        servers: Option<Servers>,
    }

    /// Runs the script in an empty directory, with a directory for events, and with a cluster if it names one.
    fn run(place: &str, block: &Block) -> Ran {
        let (events, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut script = block.text.clone();
        let mut servers = None;
        if script.contains(WITH_TLS) {
            let cluster = Servers::build().tls().client_certificates().start();
            script = script.replace(WITH_TLS, &cluster.endpoints().join(","));
            for file in ["ca.pem", "client.pem", "client-key.pem"] {
                std::fs::copy(cluster.folder().join(file), home.path().join(file)).unwrap();
            }
            servers = Some(cluster);
        } else if script.contains(ENDPOINTS) {
            let cluster = Servers::one();
            script = script.replace(ENDPOINTS, &cluster.endpoints().join(","));
            servers = Some(cluster);
        }
        let Output { status, stdout, stderr } = bash(&script, home.path(), events.path());
        let [printed, complaints] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(status.success() && complaints.is_empty(), "{place}: {status}\n{printed}\n{complaints}");
        Ran { printed, events, servers }
    }

    fn bash(script: &str, home: &Path, events: &Path) -> Output {
        let command = Path::new(env!("CARGO_BIN_EXE_tantara")).parent().unwrap();
        let programs = home.join(".programs");
        std::fs::create_dir(&programs).unwrap();
        // As the server of ssh does: a shell gets the words, joined by spaces.
        let ssh = programs.join("ssh");
        std::fs::write(&ssh, "#!/bin/sh\nshift\nexec sh -c \"$*\"\n").unwrap();
        std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut bash = Command::new("timeout");
        bash.args(["--signal", "KILL", LONG, "bash", "-euo", "pipefail", "-c", script])
            .current_dir(home)
            .env("PATH", format!("{}:{}:{}", command.display(), programs.display(), std::env::var("PATH").unwrap()))
            .envs([("HOME", home), ("TMUX_TMPDIR", home), ("TANTARA_DIR", events)]);
        for variable in ["TANTARA_ETCD", "TANTARA_NAMESPACE", "TMUX", "MAKEFLAGS", "MAKELEVEL"] {
            bash.env_remove(variable);
        }
        bash.output().unwrap()
    }

    fn is_installed(program: &str) -> bool {
        Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null", program]).status().unwrap().success()
    }

    fn prints_each_line(place: &str, ran: &Ran, expected: &str) {
        let mut printed: Vec<_> = ran.printed.lines().map(str::trim_end).collect();
        for line in expected.lines() {
            let found = printed.iter().position(|printed| *printed == line);
            printed.remove(found.unwrap_or_else(|| panic!("{place} has not printed {line:?}:\n{}", ran.printed)));
        }
    }

    #[test]
    fn every_script_of_the_documents_works() {
        let works = |path: &str, text: &str| {
            let blocks = blocks(text);
            for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "bash") {
                let place = format!("{path}:{}", block.line);
                if let Some(missing) = block.needs().find(|program| !is_installed(program)) {
                    println!("{place} is left out: {missing} is not installed");
                    continue;
                }
                let ran = run(&place, block);
                if let Some(next) = blocks.get(index + 1).filter(|next| next.marks == "printed") {
                    prints_each_line(&place, &ran, &next.text);
                }
            }
        };
        std::thread::scope(|scope| {
            for (path, text) in documents() {
                scope.spawn(move || works(&path, &text));
            }
        });
    }

    /// The number-th script of README.md.
    fn of_readme(number: usize) -> Ran {
        let (path, text) = documents().into_iter().find(|(path, _)| path == "README.md").unwrap();
        let scripts: Vec<_> = blocks(&text).into_iter().filter(|block| block.language == "bash").collect();
        run(&path, &scripts[number])
    }

    #[test]
    fn the_readme_example_between_processes_releases_both_workers_and_leaves_nothing() {
        let ran = of_readme(0);
        prints_each_line("README.md", &ran, "worker 1 is at work\nworker 2 is at work\nready\n");
        assert!(ran.printed.lines().any(|line| line.starts_with("db-ready  set")), "{}", ran.printed);
        assert_eq!(std::fs::read_dir(ran.events.path()).unwrap().count(), 0, "it has tidied up");
    }

    #[test]
    fn the_readme_example_between_machines_restarts_and_leaves_nothing() {
        let ran = of_readme(1);
        assert!(ran.printed.contains("restarting") && ran.printed.contains("deploy-done  set"), "{}", ran.printed);
        assert_eq!(ran.servers.unwrap().keys("/tantara/e/"), []);
    }
}

//! The commands of README.md.
#![cfg(in_repository)]

use std::path::Path;
use std::process::Command;

#[test]
fn the_commands_of_the_readme_work() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let commands: Vec<_> = readme.lines().filter_map(|line| line.strip_prefix("$ tantara ")).collect();
    assert!(!commands.is_empty());
    for command in commands {
        let command = command.split('#').next().unwrap_or_default();
        // A million customers take too long in an unoptimised build.
        let command = command.replace("1000000", "10000");
        let output = Command::new(env!("CARGO_BIN_EXE_tantara"))
            .args(command.split_whitespace())
            .current_dir(&root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
}

/// A block of shell commands.
#[cfg(target_os = "linux")]
fn example(readme: &str, number: usize) -> &str {
    readme.split("```bash\n").nth(number).and_then(|rest| rest.split("```").next()).expect("an example")
}

#[cfg(target_os = "linux")]
#[test]
fn the_shell_example_between_machines_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let servers = etcd_for_tests::Servers::one();
    let script = example(&readme, 2).replace("10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379", &servers.endpoints()[0]);
    let bin = Path::new(env!("CARGO_BIN_EXE_tantara")).parent().unwrap();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(said.contains("restarting") && said.contains("deploy-done  set"), "{said}");
    assert_eq!(servers.keys("/tantara/e/"), []);
}

#[cfg(target_os = "linux")]
#[test]
fn the_shell_example_of_the_readme_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let script = example(&readme, 1);
    let bin = Path::new(env!("CARGO_BIN_EXE_tantara")).parent().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
        .env("TANTARA_DIR", directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    for line in ["worker 1 is at work", "worker 2 is at work", "ready"] {
        assert_eq!(said.lines().filter(|said| *said == line).count(), 1, "{line}: {said}");
    }
    assert!(said.lines().any(|line| line.starts_with("db-ready  set")), "{said}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it has tidied up");
}

/// The Rust example with a cluster is compiled as a part of the README of its crate.
#[test]
fn the_rust_example_between_machines_is_compiled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let (readme, compiled) = (read("README.md"), read("crates/tantara-etcd/README.md"));
    let example = readme.split("```rust,ignore\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(compiled.contains(&format!("# let stop = Event::new();\n{example}")), "{example}");
}

//! The commands of README.md, as they stand there.

use std::path::Path;
use std::process::Command;

#[test]
fn the_commands_of_the_readme_work() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let commands: Vec<_> = readme.lines().filter_map(|line| line.strip_prefix("$ tantara ")).collect();
    assert!(!commands.is_empty());
    for command in commands {
        // A million customers take their time in an unoptimised build.
        let command = command.replace("1000000", "10000");
        let output = Command::new(env!("CARGO_BIN_EXE_tantara"))
            .args(command.split_whitespace())
            .current_dir(&root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_shell_example_of_the_readme_works_as_it_stands_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let script = readme.split("```bash\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
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

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

//! Every code block of the documents is a test: of README.md, of the READMEs of packages, and of
//! `docs/`.
//!
//! | language | how a block is tested | by |
//! |---|---|---|
//! | `rust` | compiled and, unless it is marked `no_run`, run | the doctests here, or the package's own |
//! | `python` | run, in a process with the package | `python/tests/test_documents.py` |
//! | `bash` | run, in an empty directory, with the command in `$PATH` | `crates/tantara-cli/tests/documents.rs` |
//! | `console` | each line that begins with `$ tantara` is run in the root of the repository | the same |
//! | `yaml`, `ini`, `crontab` | run as Compose, systemd and cron would run it | `crates/tantara-cli/tests/recipes.rs` |
//! | `text`, `diff` | not at all | |
//!
//! A `bash` block may need programs that not every machine has: after `bash needs=make,tmux` it is
//! left out, with a message, where one of them is missing. If a block marked `text printed`
//! follows, the script must print each of its lines. The endpoints `10.0.0.1:2379,…` stand for a
//! cluster that the test starts, and `ssh HOST` runs a command on this machine.
//!
//! README.md and `docs/` belong to the repository and to no package, so no package can include
//! them.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// The endpoints of a cluster, as documents write them. Tests put those of a real server in their
/// place.
pub const ENDPOINTS: &str = "10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379";

/// The languages of blocks.
pub const LANGUAGES: [&str; 10] = ["", "rust", "python", "bash", "console", "text", "diff", "yaml", "ini", "crontab"];

/// A code block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// The number of the line on which it begins.
    pub line: usize,
    /// The first word behind the fence; empty if there is none.
    pub language: String,
    /// The rest of the line behind the fence.
    pub marks: String,
    /// The lines between the fences.
    pub text: String,
}

impl Block {
    /// The programs that the block needs.
    pub fn needs(&self) -> impl Iterator<Item = &str> {
        let needs = self.marks.split_whitespace().find_map(|mark| mark.strip_prefix("needs="));
        needs.into_iter().flat_map(|programs| programs.split(','))
    }
}

/// The code blocks of a document, from top to bottom.
///
/// # Panics
///
/// If the last one does not end.
#[must_use]
pub fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(opening) = line.trim_start().strip_prefix("```") else { continue };
        let (language, marks) = opening.split_once([' ', ',']).unwrap_or((opening, ""));
        let mut text = String::new();
        loop {
            let (_, line) = lines.next().unwrap_or_else(|| panic!("line {}: the block does not end", number + 1));
            if line.trim_start().starts_with("```") {
                break;
            }
            text.push_str(line);
            text.push('\n');
        }
        blocks.push(Block { line: number + 1, language: language.to_owned(), marks: marks.to_owned(), text });
    }
    blocks
}

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All documents: their paths, relative to the root of the repository, and their texts.
///
/// # Panics
///
/// If one of them cannot be read.
#[must_use]
pub fn documents() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    let crates = files(Path::new("crates"));
    for folder in ["", "docs", "python"].map(PathBuf::from).iter().chain(&crates) {
        paths.extend(files(folder).into_iter().filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path.to_string_lossy().replace('\\', "/"), text)
    };
    paths.into_iter().map(read).collect()
}

/// What is in a folder of the repository, if it is one.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| folder.join(entry.file_name())).collect();
    paths.sort();
    paths
}

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/hangs.md")]
struct Hangs;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/rust.md")]
struct Rust;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read() {
        let found = blocks("one\n```bash needs=a,b\n$ x\n```\n\n```rust,no_run\n```\n```\ny\n```\n");
        let read: Vec<_> = found.iter().map(|block| (block.line, &*block.language, &*block.text)).collect();
        assert_eq!(read, [(2, "bash", "$ x\n"), (6, "rust", ""), (8, "", "y\n")]);
        assert_eq!(found[0].needs().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((&*found[1].marks, found[1].needs().count()), ("no_run", 0));
    }

    #[test]
    fn every_block_has_a_language_with_a_test() {
        let this = include_str!("lib.rs");
        let documents = documents();
        assert!(documents.iter().any(|(path, _)| path == "docs/shell.md"), "the documents were not found");
        for (path, text) in documents {
            // The documentation of a crate, in which Rust is the default.
            let is_of_crate = path.starts_with("crates/");
            for block in blocks(&text) {
                let place = format!("{path}:{}", block.line);
                assert!(LANGUAGES.contains(&&*block.language), "{place}: no rule for {}", block.language);
                assert!(is_of_crate || !block.language.is_empty(), "{place}: the block has no language");
                let is_compiled = is_of_crate || this.contains(&format!("include_str!(\"../../../{path}\")"));
                assert!(block.language != "rust" || is_compiled, "{place}: no test compiles it");
                assert!(!block.marks.split(',').any(|mark| mark == "ignore"), "{place}: it is ignored");
            }
        }
    }
}

//! Checks ARCHITECTURE.md against the code: that it names every folder, that the column "may use"
//! of its tables is what the files use, that a file stands above those it uses, and that its list of
//! files with unsafe code is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::layers::{Graph, ROOTS, Tests};
use crate::run::root;
use crate::tidy::tracked;

/// The folders with a table in ARCHITECTURE.md, under a heading of the same name, and the root
/// files of their crates.
const MAPPED: [(&str, &str); 4] = [
    ("crates/tantara/src", "lib.rs"),
    ("crates/tantara-etcd/src", "lib.rs"),
    ("crates/tantara-cli/src", "main.rs"),
    ("python/src", "lib.rs"),
];

/// The heading of the table that lists the files with unsafe code.
const UNSAFE: &str = "Unsafe code";

pub(crate) fn check() -> Result<(), String> {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).map_err(|e| format!("ARCHITECTURE.md: {e}"))?;
    let mut faults = missing_folders(&map)?;
    for (folder, file) in MAPPED {
        let graph = Graph::read(&root().join(folder).join(file), Tests::LeftOut)?;
        faults.extend(Table::read(&map, folder).faults(&graph).into_iter().map(|fault| format!("{folder}: {fault}")));
    }
    faults.extend(unsafe_files(&map)?);
    let faults: Vec<String> = faults.iter().map(|fault| format!("\n  ARCHITECTURE.md: {fault}")).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.concat()) }
}

/// Every folder of the repository is in it.
fn missing_folders(map: &str) -> Result<Vec<String>, String> {
    let mut faults = Vec::new();
    for path in tracked()? {
        let depth = if path.starts_with("crates/") { 2 } else { 1 };
        let folder = path.split('/').take(depth).collect::<Vec<_>>().join("/");
        if Path::new(&path).components().count() > 1 && !folder.starts_with('.') && !map.contains(&folder) {
            faults.push(format!("does not name {folder}"));
        }
    }
    faults.dedup();
    Ok(faults)
}

/// The rows of the tables under a heading, each split into its cells.
fn rows<'m>(map: &'m str, heading: &str) -> Vec<Vec<&'m str>> {
    let lines =
        map.lines().skip_while(|line| line.strip_prefix("## ").is_none_or(|title| title.trim_matches('`') != heading));
    let lines = lines.skip(1).take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The table of a crate: from top to bottom, files and folders (`sys/`), and what they may use.
struct Table<'m>(Vec<(Vec<&'m str>, &'m str)>);

impl<'m> Table<'m> {
    fn read(map: &'m str, folder: &str) -> Table<'m> {
        let rows = rows(map, folder).into_iter().filter(|cells| cells.len() == 3);
        Table(rows.map(|cells| (quoted(cells[0]).collect(), cells[2])).collect())
    }

    /// The row of a file: its own, or that of the innermost folder around it.
    fn row_of(&self, file: &str) -> Option<usize> {
        let length =
            |row: &(Vec<&str>, &str)| row.0.iter().filter(|name| is_in(file, name)).map(|name| name.len()).max();
        let longest = self.0.iter().enumerate().filter_map(|(index, row)| Some((length(row)?, index))).max();
        longest.map(|(_, index)| index)
    }

    fn faults(&self, graph: &Graph) -> Vec<String> {
        let mut faults = Vec::new();
        let mut used: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
        for (file, uses) in &graph.uses {
            let Some(row) = self.row_of(file) else {
                faults.push(format!("has no row for `{file}`"));
                continue;
            };
            let others = uses.iter().filter(|other| self.row_of(other) != Some(row));
            used.entry(row).or_default().extend(others.map(String::as_str));
        }
        for (index, (names, allowed)) in self.0.iter().enumerate() {
            let Some(used) = used.get(&index) else {
                faults.push(format!("the row of {} is about no file", names.join(", ")));
                continue;
            };
            let is_below = |file: &str| self.row_of(file).is_some_and(|row| row > index);
            // Files of one row, as those for different systems, are named by any of them.
            let names_it = |token: &str, file: &str| {
                let row = self.row_of(file).map_or(&[][..], |row| &self.0[row].0);
                row.iter().chain([&file]).any(|file| names_it(token, file))
            };
            let tokens: BTreeSet<&str> = allowed.split(',').map(str::trim).filter(|token| *token != "–").collect();
            let is_allowed = |file: &str| match *allowed {
                "all" => true,
                "all below" => is_below(file),
                _ => tokens.iter().any(|token| names_it(token, file)),
            };
            let is_used = |token: &str| token.starts_with("all") || used.iter().any(|file| names_it(token, file));
            for file in used.iter().filter(|file| !is_allowed(file)) {
                faults.push(format!("{} uses {}, which its row does not allow", names[0], module_of(file)));
            }
            for token in tokens.iter().filter(|token| !is_used(token)) {
                faults.push(format!("{} does not use {token}, which its row allows", names[0]));
            }
            // The files of two folders may use each other without a circle of files.
            let is_of_folder = |row: usize| self.0[row].0.iter().any(|name| name.ends_with('/'));
            let is_above = |file: &str| {
                self.row_of(file).is_some_and(|row| row < index && !is_of_folder(row)) && !is_of_folder(index)
            };
            for file in used.iter().filter(|file| is_allowed(file) && is_above(file)) {
                faults.push(format!("{} uses {}, which must stand below it", names[0], module_of(file)));
            }
        }
        faults
    }
}

/// Whether the name of a row is this file, or a folder (`sys/`) around it.
fn is_in(file: &str, name: &str) -> bool {
    if name.ends_with('/') { file.starts_with(name) } else { file == name }
}

/// How the column names a file: `shared/word.rs` is `shared/word`, and `sys/mod.rs` is `sys`.
fn module_of(file: &str) -> &str {
    let module = file.strip_suffix(".rs").unwrap_or(file);
    module.strip_suffix("/mod").unwrap_or(module)
}

/// Whether a token of the column names this file, or a folder around it.
fn names_it(token: &str, file: &str) -> bool {
    let module = module_of(file);
    module == token || module.strip_prefix(token).is_some_and(|rest| rest.starts_with('/'))
}

/// The list of files with unsafe code is complete.
fn unsafe_files(map: &str) -> Result<Vec<String>, String> {
    let mut faults = Vec::new();
    let rows = rows(map, UNSAFE);
    for path in ROOTS.iter().filter(|path| !path.starts_with("bench/")) {
        let (folder, _) = path.rsplit_once('/').unwrap_or_default();
        let graph = Graph::read(&root().join(path), Tests::LeftOut)?;
        let listed = rows.iter().filter(|cells| quoted(cells[0]).any(|name| name == folder));
        let listed: BTreeSet<String> = listed.flat_map(|cells| quoted(cells[1])).map(str::to_owned).collect();
        for file in graph.has_unsafe.difference(&listed) {
            faults.push(format!("{folder}/{file} has unsafe code, but is not in the table of it"));
        }
        for file in listed.difference(&graph.has_unsafe) {
            faults.push(format!("{folder}/{file} has no unsafe code, but is in the table of it"));
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "\
## `src`

| file | holds | may use |
|---|---|---|
| `lib.rs` | | all |
| `top.rs` | | all below |
| `a/x.rs` | | a/y, y, b |
| `a/y.rs` | | – |
| `y.rs` | | – |
| `b/` | | – |
";

    fn graph(uses: &[(&str, &[&str])]) -> Graph {
        let set = |files: &[&str]| files.iter().map(|file| file.to_string()).collect();
        let uses = uses.iter().map(|(file, used)| (file.to_string(), set(used))).collect();
        Graph { uses, ..Graph::default() }
    }

    fn faults(x: &[&str], z: &[&str]) -> Vec<String> {
        Table::read(MAP, "src").faults(&graph(&[
            ("lib.rs", &["b/mod.rs"]),
            ("top.rs", &["a/x.rs", "b/z.rs"]),
            ("a/x.rs", x),
            ("a/y.rs", &[]),
            ("y.rs", &[]),
            ("b/mod.rs", &["b/z.rs"]),
            ("b/z.rs", z),
        ]))
    }

    #[test]
    fn a_table_that_is_right_has_no_faults() {
        assert_eq!(faults(&["a/y.rs", "y.rs", "b/z.rs"], &[]), [""; 0]);
    }

    #[test]
    fn what_is_used_must_be_allowed_and_what_is_allowed_must_be_used() {
        assert_eq!(faults(&["a/y.rs", "y.rs", "b/z.rs"], &["y.rs"]).len(), 1);
        assert_eq!(faults(&["a/y.rs", "y.rs"], &[]), ["a/x.rs does not use b, which its row allows"]);
        assert_eq!(faults(&["a/y.rs", "b/z.rs"], &[]).len(), 1);
        assert_eq!(faults(&["a/y.rs", "y.rs", "b/z.rs", "top.rs"], &[]).len(), 1);
    }

    #[test]
    fn a_file_stands_above_those_it_uses() {
        let map = "## `src`\n| `lib.rs` | | all |\n| `a.rs` | | – |\n| `b.rs` | | a, c |\n| `c/` | | a |\n";
        let graph = graph(&[("lib.rs", &[]), ("a.rs", &[]), ("b.rs", &["a.rs", "c/d.rs"]), ("c/d.rs", &["a.rs"])]);
        assert_eq!(Table::read(map, "src").faults(&graph), ["b.rs uses a, which must stand below it"]);
    }

    #[test]
    fn every_file_has_a_row_and_every_row_a_file() {
        let graph = graph(&[("lib.rs", &[]), ("new.rs", &[])]);
        let faults = Table::read(MAP, "src").faults(&graph);
        assert!(faults.contains(&"has no row for `new.rs`".to_owned()), "{faults:?}");
        assert!(faults.contains(&"the row of y.rs is about no file".to_owned()), "{faults:?}");
    }
}

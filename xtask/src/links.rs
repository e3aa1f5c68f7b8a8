//! Checks the links of Markdown files, and that all files give the same address of the repository.
//!
//! The address is set in Cargo.toml. Files that cannot inherit it repeat it: the READMEs that
//! registries show, where a relative link leads nowhere, and the metadata of the Python package.

use std::path::Path;

use crate::run::root;
use crate::tidy::tracked;

/// What stands for the address as long as the repository has none. This file alone may name it in
/// any case.
const PLACEHOLDER: &str = "https://github.example/";
const THIS_FILE: &str = "xtask/src/links.rs";
/// How an address goes on to a file.
pub(crate) const BRANCH: &str = "/blob/main/";

pub(crate) fn check() -> Result<(), String> {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).map_err(|error| format!("{path}: {error}"));
    let repository = repository(&read("Cargo.toml")?)?;
    let files = tracked()?;
    let mut faults = Vec::new();
    for path in &files {
        let Ok(text) = read(path) else { continue };
        if path != THIS_FILE {
            faults.extend(other_addresses(path, &text, &repository));
        }
        if path.ends_with(".md") {
            let page = Page { path, is_packaged: is_packaged(path, &files), repository: &repository };
            faults.extend(page.faults(&text, |path| root().join(path).exists()));
        }
    }
    let pyproject = read("python/pyproject.toml")?;
    let urls = urls(&pyproject);
    if urls.is_empty() || urls.iter().any(|url| !url.starts_with(&repository)) {
        faults.push(format!("python/pyproject.toml: the addresses in [project.urls] must begin with {repository}"));
    }
    if faults.is_empty() { Ok(()) } else { Err(format!("\n  {}", faults.join("\n  "))) }
}

/// The address of the repository, from the workspace's manifest.
pub(crate) fn repository(manifest: &str) -> Result<String, String> {
    let value = manifest.lines().find_map(|line| line.strip_prefix("repository = \"")?.strip_suffix('"'));
    value.map(str::to_owned).ok_or("Cargo.toml: [workspace.package] has no `repository`".into())
}

/// Whether the address is only a placeholder.
pub(crate) fn is_placeholder(repository: &str) -> bool {
    repository.starts_with(PLACEHOLDER)
}

/// The README of a package: a registry shows it.
fn is_packaged(path: &str, files: &[String]) -> bool {
    path.strip_suffix("README.md").is_some_and(|folder| {
        !folder.is_empty()
            && ["Cargo.toml", "pyproject.toml"].iter().any(|name| files.contains(&format!("{folder}{name}")))
    })
}

/// The placeholder must be gone once Cargo.toml has an address, and until then it names one
/// repository.
fn other_addresses(path: &str, text: &str, repository: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    let wrong = lines.filter(|(_, line)| {
        line.match_indices(PLACEHOLDER).any(|(start, _)| {
            let rest = line[start..].strip_prefix(repository);
            rest.is_none_or(|rest| rest.starts_with(|next: char| next.is_alphanumeric() || next == '-'))
        })
    });
    wrong.map(|(line, _)| format!("{path}:{}: Cargo.toml's `repository` is {repository}", line + 1)).collect()
}

/// The values of `[project.urls]`.
fn urls(pyproject: &str) -> Vec<&str> {
    let lines = pyproject.lines().skip_while(|line| *line != "[project.urls]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split_once(" = \"")?.1.strip_suffix('"')).collect()
}

struct Page<'a> {
    path: &'a str,
    is_packaged: bool,
    repository: &'a str,
}

impl Page<'_> {
    fn faults(&self, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
        let folder = Path::new(self.path).parent().unwrap_or(Path::new(""));
        let mut faults = Vec::new();
        for (number, link) in links(text) {
            let mut fault = |what: &str| faults.push(format!("{}:{number}: {link}: {what}", self.path));
            let file = link.split('#').next().unwrap_or_default();
            if let Some(file) = file.strip_prefix(self.repository).and_then(|rest| rest.strip_prefix(BRANCH)) {
                if !exists(Path::new(file)) {
                    fault("the repository has no such file");
                }
            } else if link.contains(BRANCH) {
                fault("not the address that is in Cargo.toml");
            } else if !link.contains("://") && !file.is_empty() {
                if self.is_packaged {
                    fault("registries show this page, so links must be absolute");
                } else if !exists(&folder.join(file)) {
                    fault("there is no such file");
                }
            }
        }
        faults
    }
}

/// The lines of a page that are not in blocks of code, with their numbers.
pub(crate) fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The targets of the links of a page, with their line numbers; not those in code.
pub(crate) fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        if line.starts_with('[')
            && let Some((_, target)) = line.split_once("]: ")
        {
            found.push((number, target.trim()));
        }
        // Every second part is between backticks.
        for prose in line.split('`').step_by(2) {
            let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            found.extend(targets.map(|target| (number, target)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "https://github.example/a/b";

    fn faults(is_packaged: bool, text: &str) -> usize {
        let page = Page { path: "folder/page.md", is_packaged, repository: HOME };
        page.faults(text, |path| [Path::new("folder/there.md"), Path::new("there.md")].contains(&path)).len()
    }

    #[test]
    fn relative_links_lead_to_files_and_are_not_on_pages_of_registries() {
        assert_eq!(faults(false, "[a](there.md), [`b`](there.md#part)\nand [c\nd](#part)"), 0);
        assert_eq!(faults(false, "[a](missing.md) [b](there.md) [c](../x)"), 2);
        assert_eq!(faults(true, "[a](there.md)"), 1);
        assert_eq!(faults(true, "[a]: there.md"), 1);
    }

    #[test]
    fn absolute_links_to_the_repository_lead_to_its_files() {
        assert_eq!(faults(true, &format!("[a]({HOME}/blob/main/there.md#x), [b]({HOME}), [c](https://docs.rs/x)")), 0);
        assert_eq!(faults(true, &format!("[a]({HOME}/blob/main/missing.md)")), 1);
        assert_eq!(faults(true, "[a]: https://elsewhere.example/a/b/blob/main/there.md"), 1);
    }

    #[test]
    fn code_has_no_links() {
        assert_eq!(faults(false, "```\n[a](missing.md)\n```\n`[a](missing.md)`, `x` [b](missing.md)"), 1);
    }

    #[test]
    fn all_files_name_the_same_repository() {
        assert_eq!(
            other_addresses("x", "https://github.example/a/b/issues, https://github.example/a/b", HOME).len(),
            0
        );
        assert_eq!(other_addresses("x", "https://github.example/a/bc\nhttps://github.example/x/y", HOME).len(), 2);
        assert_eq!(other_addresses("x", HOME, "https://real.invalid/a/b").len(), 1);
    }
}

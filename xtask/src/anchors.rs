//! Checks the anchors of links between Markdown files: each must be that of a heading.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::links::{BRANCH, links, prose, repository};
use crate::run::root;
use crate::tidy::tracked;

pub(crate) fn check() -> Result<(), String> {
    let read = |path: &str| fs::read_to_string(root().join(path)).map_err(|error| format!("{path}: {error}"));
    let repository = repository(&read("Cargo.toml")?)?;
    let paths = tracked()?.into_iter().filter(|path| path.ends_with(".md"));
    // A file that was removed is still tracked until that is committed.
    let pages: BTreeMap<String, String> = paths.filter_map(|path| Some((path.clone(), read(&path).ok()?))).collect();
    let faults = faults(&pages, &repository);
    if faults.is_empty() { Ok(()) } else { Err(format!("\n  {}", faults.join("\n  "))) }
}

/// The links to headings that do not exist.
fn faults(pages: &BTreeMap<String, String>, repository: &str) -> Vec<String> {
    let anchors: BTreeMap<&str, BTreeSet<String>> =
        pages.iter().map(|(path, text)| (path.as_str(), anchors(text))).collect();
    let mut faults = Vec::new();
    for (path, text) in pages {
        for (number, link) in links(text) {
            let Some((file, anchor)) = link.split_once('#') else { continue };
            let own = file.strip_prefix(repository).and_then(|rest| rest.strip_prefix(BRANCH));
            let target = match own {
                Some(file) => file.to_owned(),
                None if file.is_empty() => path.clone(),
                None => joined(path, file),
            };
            if anchors.get(target.as_str()).is_some_and(|anchors| !anchors.contains(anchor)) {
                faults.push(format!("{path}:{number}: {link}: {target} has no such heading"));
            }
        }
    }
    faults
}

/// The path of a file that is given relative to a page.
fn joined(page: &str, file: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in file.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let title = line.trim_start_matches('#');
        if let (1..=6, Some(title)) = (line.len() - title.len(), title.strip_prefix(' ')) {
            let base = anchor(title);
            let numbered = (1..).map(|number| format!("{base}-{number}"));
            let free = [base.clone()].into_iter().chain(numbered).find(|anchor| !anchors.contains(anchor));
            anchors.extend(free);
        }
    }
    anchors
}

fn anchor(title: &str) -> String {
    // Of a link, its text.
    let mut parts = title.split("](");
    let first = parts.next().unwrap_or_default();
    let rest = parts.map(|part| part.split_once(')').map_or(part, |(_, rest)| rest));
    let text = [first].into_iter().chain(rest).collect::<String>().trim().to_lowercase();
    let kept = text.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
    kept.map(|char| if char == ' ' { '-' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "https://host.example/a/b";
    const OTHER: &str =
        "# Top\n## Why `set`, and not [all](docs)? — I, II\n## Twice\n## Twice\n```\n# in code\n```\n#nothing\n";

    fn faults_of(text: &str) -> usize {
        let pages = [("docs/page.md", text), ("README.md", OTHER)];
        faults(&pages.map(|(path, text)| (path.to_owned(), text.to_owned())).into(), HOME).len()
    }

    #[test]
    fn links_to_headings_have_no_faults() {
        let text = "# Here\n[a](#here) [b](../README.md#why-set-and-not-all--i-ii) [c](../README.md#twice-1)\n\
            [d](https://host.example/a/b/blob/main/README.md#top) [e](https://elsewhere.example/README.md#x)\n\
            [f](../code.rs#L1) `[g](#code)`\n";
        assert_eq!(faults_of(text), 0);
    }

    #[test]
    fn links_to_what_is_no_heading_are_faults() {
        let absolute = format!("{HOME}/blob/main/README.md#there");
        for link in [
            "#there",
            "../README.md#why-set",
            "../README.md#twice-2",
            "../README.md#in-code",
            "../README.md#nothing",
            &absolute,
        ] {
            assert_eq!(faults_of(&format!("# Here\n[it]({link})")), 1, "{link}");
        }
    }
}

//! The files of a crate and which of them use which, and a check that no two files use each other,
//! over any number of steps.
//!
//! A file uses another if one of its paths (in a `use` line, an expression, a type or a macro's
//! arguments) leads to an item of that file. A path through a re-export leads to the file that
//! defines the item. Re-exports and `mod` lines do not count as uses, so a `lib.rs` that only
//! re-exports is part of no circle.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Item, Token, UseTree, Visibility};

use crate::run::root;

/// The roots of the crates whose files must not use each other in a circle.
pub(crate) const ROOTS: [&str; 8] = [
    "crates/tantara/src/lib.rs",
    "crates/tantara-bank/src/lib.rs",
    "crates/etcd-for-tests/src/lib.rs",
    "crates/tantara-cli/src/main.rs",
    "crates/tantara-etcd/src/lib.rs",
    "bench/src/main.rs",
    "python/src/lib.rs",
    "xtask/src/main.rs",
];

/// Fails if files of a crate use each other in a circle.
pub(crate) fn check() -> Result<(), String> {
    let mut faults = Vec::new();
    for path in ROOTS {
        for circle in Graph::read(&root().join(path), Tests::Included)?.circles() {
            faults.push(format!("{path}: these files use each other in a circle: {}", circle.join(", ")));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(format!("\n  {}", faults.join("\n  "))) }
}

/// The files of a crate, relative to its `src`.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// For each file, the files that it uses.
    pub(crate) uses: BTreeMap<String, BTreeSet<String>>,
    /// The files with unsafe code.
    pub(crate) has_unsafe: BTreeSet<String>,
}

/// Whether code that exists only in tests counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tests {
    Included,
    LeftOut,
}

/// One module: a file, or an inline module of one.
#[derive(Debug, Default)]
struct Module {
    file: usize,
    parent: Option<usize>,
    /// One module for each `cfg` that a name is declared under.
    children: HashMap<String, Vec<usize>>,
    items: HashSet<String>,
    /// The names that `use` lines bring into scope, and their paths.
    imports: Vec<(String, Vec<String>)>,
    globs: Vec<Vec<String>>,
    /// The paths of its code, without re-exports.
    paths: HashSet<Vec<String>>,
    has_unsafe: bool,
}

#[derive(Debug)]
struct Crate {
    tests: Tests,
    files: Vec<PathBuf>,
    modules: Vec<Module>,
}

impl Graph {
    /// Reads the crate whose root module is this file.
    pub(crate) fn read(root: &Path, tests: Tests) -> Result<Graph, String> {
        let mut krate = Crate { tests, files: Vec::new(), modules: Vec::new() };
        krate.read_file(root, None, true)?;
        let folder = root.parent().unwrap_or(Path::new(""));
        let name = |file: usize| {
            let path = &krate.files[file];
            path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned()
        };
        let mut graph = Graph::default();
        for file in 0..krate.files.len() {
            graph.uses.entry(name(file)).or_default();
        }
        for (index, module) in krate.modules.iter().enumerate() {
            if module.has_unsafe {
                graph.has_unsafe.insert(name(module.file));
            }
            for path in &module.paths {
                let mut used = BTreeSet::new();
                krate.resolve(index, path, &mut HashSet::new(), &mut used);
                used.remove(&module.file);
                graph.uses.entry(name(module.file)).or_default().extend(used.into_iter().map(name));
            }
        }
        Ok(graph)
    }

    /// The groups of files that use one another in a circle, each sorted.
    fn circles(&self) -> Vec<Vec<&str>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> =
            self.uses.keys().map(|file| (file.as_str(), self.reached_from(file))).collect();
        let mut circles = BTreeSet::new();
        for (file, reached) in &reach {
            if reached.contains(file) {
                let circle: Vec<&str> = reached.iter().copied().filter(|other| reach[other].contains(file)).collect();
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    fn reached_from(&self, file: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![file];
        while let Some(file) = open.pop() {
            for used in self.uses.get(file).into_iter().flatten() {
                if reached.insert(used.as_str()) {
                    open.push(used);
                }
            }
        }
        reached
    }
}

impl Crate {
    fn read_file(&mut self, path: &Path, parent: Option<usize>, is_folder: bool) -> Result<usize, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
        let parsed = syn::parse_file(&text).map_err(|error| failed(&error))?;
        self.files.push(path.to_owned());
        let file = self.files.len() - 1;
        // Where the files of child modules are.
        let folder = path.parent().unwrap_or(Path::new(""));
        let folder = if is_folder { folder.to_owned() } else { folder.join(path.file_stem().unwrap_or_default()) };
        self.read_items(&parsed.items, file, parent, &folder)
    }

    fn read_items(
        &mut self,
        items: &[Item],
        file: usize,
        parent: Option<usize>,
        folder: &Path,
    ) -> Result<usize, String> {
        self.modules.push(Module { file, parent, ..Module::default() });
        let index = self.modules.len() - 1;
        for item in items {
            if self.tests == Tests::LeftOut && is_for_tests(item) {
                continue;
            }
            match item {
                Item::Mod(module) => {
                    let name = module.ident.to_string();
                    let mut children = Vec::new();
                    match &module.content {
                        Some((_, items)) => {
                            children.push(self.read_items(items, file, Some(index), &folder.join(&name))?);
                        }
                        None => {
                            for path in paths_of(module) {
                                let alone = folder.join(path.clone().unwrap_or_else(|| format!("{name}.rs")));
                                // The files of a module with a path lie beside it, as those of a
                                // `mod.rs` do.
                                let is_folder = path.is_some() || !alone.exists();
                                let path = if alone.exists() { alone } else { folder.join(&name).join("mod.rs") };
                                children.push(self.read_file(&path, Some(index), is_folder)?);
                            }
                        }
                    }
                    self.modules[index].children.entry(name).or_default().extend(children);
                }
                Item::Use(line) => {
                    let is_export = !matches!(line.vis, Visibility::Inherited);
                    self.modules[index].import(&line.tree, &mut Vec::new(), is_export);
                }
                item => {
                    if let Some(name) = name_of(item) {
                        self.modules[index].items.insert(name);
                    }
                    let mut paths = Paths(&mut self.modules[index]);
                    paths.visit_item(item);
                }
            }
        }
        Ok(index)
    }

    /// Collects the files of this crate that define what the path leads to.
    fn resolve(&self, from: usize, path: &[String], seen: &mut Seen, found: &mut BTreeSet<usize>) {
        // A name that is imported from a path that begins with the same name makes the path longer
        // each time.
        if path.len() > LONGEST_PATH || !seen.insert((from, path.to_owned())) {
            return;
        }
        let Some((first, rest)) = path.split_first() else { return };
        match first.as_str() {
            "crate" => self.walk(self.root_of(from), rest, seen, found),
            "self" => self.walk(from, rest, seen, found),
            _ => self.walk(from, path, seen, found),
        }
    }

    fn root_of(&self, mut module: usize) -> usize {
        while let Some(parent) = self.modules[module].parent {
            module = parent;
        }
        module
    }

    fn walk(&self, at: usize, path: &[String], seen: &mut Seen, found: &mut BTreeSet<usize>) {
        let module = &self.modules[at];
        let Some((first, rest)) = path.split_first() else {
            found.insert(module.file);
            return;
        };
        if first == "super" {
            if let Some(parent) = module.parent {
                self.walk(parent, rest, seen, found);
            }
        } else if let Some(children) = module.children.get(first) {
            children.iter().for_each(|child| self.walk(*child, rest, seen, found));
        } else if module.items.contains(first) {
            found.insert(module.file);
        } else if let Some((_, import)) = module.imports.iter().find(|(name, _)| name == first) {
            let longer: Vec<String> = import.iter().chain(rest).cloned().collect();
            self.resolve(at, &longer, seen, found);
        } else {
            for glob in &module.globs {
                let longer: Vec<String> = glob.iter().chain(path).cloned().collect();
                self.resolve(at, &longer, seen, found);
            }
        }
    }
}

const LONGEST_PATH: usize = 20;

/// Where a search has been, so that two globs that import each other do not lead it in a circle.
type Seen = HashSet<(usize, Vec<String>)>;

/// Whether the item exists in tests only: `#[cfg(test)]`, or `#[cfg(all(test, …))]`.
fn is_for_tests(item: &Item) -> bool {
    let attributes = match item {
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let condition: String = list.tokens.to_string().split_whitespace().collect();
            condition == "test" || condition.starts_with("all(test,")
        }
        _ => false,
    })
}

/// The value of a `#[path]` attribute; `None` for the file that has the module's name. A `cfg_attr`
/// stands for both.
fn paths_of(module: &syn::ItemMod) -> Vec<Option<String>> {
    let value = |meta: &syn::Meta| match meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) => Some(path.value()),
            _ => None,
        },
        _ => None,
    };
    let conditional = |meta: &syn::Meta| match meta {
        syn::Meta::List(list) if list.path.is_ident("cfg_attr") => {
            let parts = list.parse_args_with(Punctuated::<syn::Meta, Token![,]>::parse_terminated).ok()?;
            parts.iter().skip(1).find_map(value)
        }
        _ => None,
    };
    let metas = || module.attrs.iter().map(|attribute| &attribute.meta);
    match metas().find_map(value) {
        Some(path) => vec![Some(path)],
        None => [None].into_iter().chain(metas().filter_map(conditional).map(Some)).collect(),
    }
}

impl Module {
    fn import(&mut self, tree: &UseTree, path: &mut Vec<String>, is_export: bool) {
        match tree {
            UseTree::Path(step) => {
                path.push(step.ident.to_string());
                self.import(&step.tree, path, is_export);
                path.pop();
            }
            UseTree::Name(name) if name.ident == "self" => {
                let name = path.last().cloned().unwrap_or_default();
                self.bring(name, path.clone(), is_export);
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                let whole = path.iter().cloned().chain([name.clone()]).collect();
                self.bring(name, whole, is_export);
            }
            UseTree::Rename(renamed) => {
                let whole = path.iter().cloned().chain([renamed.ident.to_string()]).collect();
                self.bring(renamed.rename.to_string(), whole, is_export);
            }
            UseTree::Glob(_) => {
                self.globs.push(path.clone());
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, path, is_export);
                }
            }
        }
    }

    fn bring(&mut self, name: String, path: Vec<String>, is_export: bool) {
        if !is_export {
            self.paths.insert(path.clone());
        }
        self.imports.push((name, path));
    }
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        _ => return None,
    };
    Some(ident.to_string())
}

/// Collects the paths of an item.
struct Paths<'m>(&'m mut Module);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            self.0.paths.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, line: &'ast syn::ItemUse) {
        // A `use` line inside a function counts as one of its module.
        self.0.import(&line.tree, &mut Vec::new(), false);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        visit::visit_macro(self, invocation);
        self.take_tokens(invocation.tokens.clone());
    }

    /// The path of `pub(crate)` is not a use.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.0.has_unsafe = true;
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.0.has_unsafe |= matches!(signature.safety, syn::Safety::Unsafe(_));
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.0.has_unsafe |= item.unsafety.is_some();
        visit::visit_item_impl(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        self.0.has_unsafe |= item.unsafety.is_some();
        visit::visit_item_foreign_mod(self, item);
    }
}

impl Paths<'_> {
    /// Paths in a macro's arguments: identifiers joined by `::`.
    fn take_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    self.0.has_unsafe |= ident == "unsafe";
                    if colons != 2 {
                        self.end(&mut path);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                other => {
                    self.end(&mut path);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.take_tokens(group.stream());
                    }
                }
            }
        }
        self.end(&mut path);
    }

    fn end(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        // `crate` alone is that of `pub(crate)`.
        if !path.is_empty() && path != ["crate"] {
            self.0.paths.insert(path);
        }
    }
}

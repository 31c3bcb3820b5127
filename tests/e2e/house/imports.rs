//! Which file of the program names what of which other file. Names that a file only passes on
//! (`pub use`) count where they are made. Code for tests does not count.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{Item, UseTree, Visibility};

use super::sources::{self, Path, is_for_tests};

/// As code has it.
pub(super) fn shown(path: &Path) -> String {
    path.join("::")
}

/// What one file says.
#[derive(Debug, Default)]
struct Source {
    /// What is made here.
    made: BTreeSet<String>,
    /// Names that stand for something of elsewhere.
    names: BTreeMap<String, Path>,
    /// Those of them that are only passed on, if nothing here uses them.
    passed_on: BTreeSet<String>,
    /// Paths in the code, from the root.
    paths: BTreeSet<Path>,
}

/// All files.
#[derive(Debug)]
pub(super) struct Imports {
    edges: BTreeMap<Path, BTreeMap<Path, BTreeSet<String>>>,
}

impl Imports {
    /// Reads the program.
    pub(super) fn read() -> Self {
        let mut files = sources::of_crate("staunch");
        // The root only lists the wings.
        files.remove(&Path::new());
        let known: BTreeSet<Path> = files.keys().cloned().collect();
        let sources: BTreeMap<Path, Source> = files
            .iter()
            .map(|(module, items)| (module.clone(), Reader::read(module, items, &known)))
            .collect();
        let edges =
            sources.iter().map(|(from, source)| (from.clone(), source.edges(from, &sources)));
        Self { edges: edges.collect() }
    }

    /// Every file, as a module.
    pub(super) fn modules(&self) -> impl Iterator<Item = &Path> {
        self.edges.keys()
    }

    /// Who names what of whom.
    pub(super) fn edges(&self) -> impl Iterator<Item = (&Path, &Path, &BTreeSet<String>)> {
        self.edges.iter().flat_map(|(from, to)| to.iter().map(move |(to, names)| (from, to, names)))
    }

    /// The files of each circle.
    pub(super) fn circles(&self) -> Vec<BTreeSet<Path>> {
        let reached: BTreeMap<&Path, BTreeSet<&Path>> =
            self.edges.keys().map(|from| (from, self.reached_from(from))).collect();
        let mut circles: Vec<BTreeSet<Path>> = Vec::new();
        for (from, to) in &reached {
            if to.contains(from) && !circles.iter().any(|circle| circle.contains(*from)) {
                let is_in_it = |other: &&&Path| reached[**other].contains(from);
                circles.push(to.iter().filter(is_in_it).map(|other| (*other).clone()).collect());
            }
        }
        circles
    }

    fn reached_from<'a>(&'a self, from: &'a Path) -> BTreeSet<&'a Path> {
        let mut reached = BTreeSet::new();
        let mut todo = vec![from];
        while let Some(next) = todo.pop() {
            for to in self.edges.get(next).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(to) {
                    todo.push(to);
                }
            }
        }
        reached
    }

    /// The edges between these files, in words.
    pub(super) fn within(&self, circle: &BTreeSet<Path>) -> Vec<String> {
        self.edges()
            .filter(|(from, to, _)| circle.contains(*from) && circle.contains(*to))
            .map(|(from, to, names)| format!("{} -> {}: {names:?}", shown(from), shown(to)))
            .collect()
    }
}

impl Source {
    fn edges(
        &self,
        from: &Path,
        sources: &BTreeMap<Path, Self>,
    ) -> BTreeMap<Path, BTreeSet<String>> {
        let imported =
            self.names.iter().filter(|(name, _)| !self.passed_on.contains(*name)).map(|(_, to)| to);
        let mut edges: BTreeMap<Path, BTreeSet<String>> = BTreeMap::new();
        for path in imported.chain(&self.paths) {
            let Some((module, name)) = resolve(path, sources, 0) else { continue };
            // To name a module is to name what is called by it, which is among the paths.
            let Some(name) = name else { continue };
            if module != *from {
                edges.entry(module).or_default().insert(name);
            }
        }
        edges
    }
}

/// Where is what `path` names made? With its name there, unless it is the module itself.
fn resolve(
    path: &Path,
    sources: &BTreeMap<Path, Source>,
    depth: usize,
) -> Option<(Path, Option<String>)> {
    let length = (1..=path.len()).rev().find(|&length| sources.contains_key(&path[..length]))?;
    let (module, rest) = path.split_at(length);
    let Some((name, behind)) = rest.split_first() else { return Some((module.to_vec(), None)) };
    let source = &sources[module];
    match source.names.get(name) {
        Some(other) if !source.made.contains(name) && depth < 10 => {
            let other: Path = other.iter().chain(behind).cloned().collect();
            resolve(&other, sources, depth + 1)
        }
        Some(_) | None => Some((module.to_vec(), Some(name.clone()))),
    }
}

/// Reads one file.
struct Reader<'a> {
    module: &'a Path,
    known: &'a BTreeSet<Path>,
    source: Source,
    exported: BTreeSet<String>,
    words: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn read(module: &'a Path, items: &[Item], known: &'a BTreeSet<Path>) -> Source {
        let (source, exported, words) = Default::default();
        let mut reader = Self { module, known, source, exported, words };
        items.iter().for_each(|item| reader.visit_item(item));
        let mut source = reader.source;
        // Also what another module of the file uses by `super::` is only passed on.
        source.passed_on =
            reader.exported.into_iter().filter(|name| !reader.words.contains(name)).collect();
        source
    }

    /// From the root, if it leads into the program.
    fn absolute(&self, path: &[String]) -> Option<Path> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some(self.module.iter().chain(rest).cloned().collect()),
            "super" => {
                let ups = path.iter().take_while(|word| *word == "super").count();
                let home = self.module.get(..self.module.len().checked_sub(ups)?)?;
                Some(home.iter().chain(&path[ups..]).cloned().collect())
            }
            name => {
                let child: Path = self.module.iter().cloned().chain([name.to_owned()]).collect();
                let is_child = self.known.contains(&child);
                let other = self.source.names.get(name).filter(|_| !rest.is_empty());
                match other {
                    _ if is_child => Some(child.into_iter().chain(rest.iter().cloned()).collect()),
                    Some(other) => Some(other.iter().chain(rest).cloned().collect()),
                    None => None,
                }
            }
        }
    }

    fn note_path(&mut self, path: &[String]) {
        self.words.extend(path.first().cloned());
        if path.len() > 1
            && let Some(path) = self.absolute(path)
        {
            self.source.paths.insert(path);
        }
    }

    fn note_use(&mut self, tree: &UseTree, before: &mut Path, visibility: &Visibility) {
        let (name, called) = match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.note_use(&path.tree, before, visibility);
                before.pop();
                return;
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.note_use(tree, before, visibility));
                return;
            }
            UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
            UseTree::Rename(name) => (name.ident.to_string(), name.rename.to_string()),
            UseTree::Glob(_) => return,
        };
        let (path, called) = if name == "self" {
            let last = before.last().cloned().unwrap_or_default();
            (before.clone(), if called == "self" { last } else { called })
        } else {
            (before.iter().cloned().chain([name]).collect(), called)
        };
        if let Some(path) = self.absolute(&path) {
            if !matches!(visibility, Visibility::Inherited) {
                self.exported.insert(called.clone());
            }
            self.source.names.insert(called, path);
        }
    }
}

impl Visit<'_> for Reader<'_> {
    fn visit_item(&mut self, item: &Item) {
        let (name, attributes) = match item {
            Item::Const(item) => (Some(&item.ident), &item.attrs),
            Item::Enum(item) => (Some(&item.ident), &item.attrs),
            Item::Fn(item) => (Some(&item.sig.ident), &item.attrs),
            Item::Macro(item) => (item.ident.as_ref(), &item.attrs),
            Item::Static(item) => (Some(&item.ident), &item.attrs),
            Item::Struct(item) => (Some(&item.ident), &item.attrs),
            Item::Trait(item) => (Some(&item.ident), &item.attrs),
            Item::Type(item) => (Some(&item.ident), &item.attrs),
            Item::Impl(item) => (None, &item.attrs),
            Item::Mod(item) => (None, &item.attrs),
            Item::Use(item) => (None, &item.attrs),
            _ => return,
        };
        if is_for_tests(attributes) {
            return;
        }
        self.source.made.extend(name.map(ToString::to_string));
        if let Item::Use(item) = item {
            self.note_use(&item.tree, &mut Path::new(), &item.vis);
        } else {
            visit::visit_item(self, item);
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let words: Path = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note_path(&words);
        visit::visit_path(self, path);
    }

    /// What stands in a macro is not parsed.
    fn visit_macro(&mut self, item: &syn::Macro) {
        let text = item.tokens.to_string();
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        for part in text.replace(" :: ", "::").split(|c: char| !is_word(c) && c != ':') {
            let words: Path = part.split("::").map(str::to_owned).collect();
            self.note_path(&words);
        }
        visit::visit_macro(self, item);
    }
}

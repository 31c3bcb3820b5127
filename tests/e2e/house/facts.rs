//! Calls that write to the log by themselves.

use syn::visit::{self, Visit};
use syn::{Item, Macro};

use super::imports::shown;
use super::sources::{self, is_for_tests};

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "event"];

/// Each with its module; those that `facts!` makes are none.
pub(super) fn lines_without_a_fact() -> Vec<String> {
    let mut strays = Vec::new();
    for (module, items) in sources::of_crate("staunch") {
        let mut lines = Lines::default();
        items.iter().for_each(|item| lines.visit_item(item));
        strays.extend(lines.0.into_iter().map(|name| format!("{}: {name}!", shown(&module))));
    }
    strays
}

#[derive(Debug, Default)]
struct Lines(Vec<String>);

impl<'ast> Visit<'ast> for Lines {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Mod(module) if is_for_tests(&module.attrs) => {}
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        let name = called.path.segments.last().map(|segment| segment.ident.to_string());
        self.0.extend(name.filter(|name| LEVELS.contains(&name.as_str())));
    }
}

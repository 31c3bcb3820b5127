//! Where the names of `[aliases]` and `submit.aliases_file` lead.
//!
//! An alias may lead to another one. The chains are followed once, when the configuration is read,
//! so that one that leads nowhere is found before mail comes.

use std::collections::{BTreeMap, HashMap, HashSet};

use smtp::Mailbox;

use super::aliases::TARGETS_MAX;
use super::aliases_file::{self, AliasEntry};
use super::checker::Checker;
use super::error::{ConfigError, ConfigProblem};
use super::load::Loaded;
use super::settings::Config;

/// Aliases one behind the other. Our choice.
const DEPTH_MAX: usize = 10;

impl Checker {
    /// Follows `[aliases]` to their ends. Those that may end in `submit.aliases_file` wait for
    /// [`Loaded::with_aliases`].
    pub(super) fn follow_aliases(&mut self, config: &mut Config) {
        if config.submit.aliases_file.is_some() {
            return;
        }
        let (names, lost) = Chains::of(config, &config.aliases.written).ends();
        config.aliases.names = names;
        for (name, reason) in lost {
            self.finding(format!("aliases.{name}"), reason);
        }
    }
}

impl Loaded {
    /// With the aliases of `submit.aliases_file`, for those who ask where local names lead.
    /// `[aliases]` stand before them.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] that names file and line, or the key.
    pub(crate) fn with_aliases(mut self) -> Result<Self, ConfigError> {
        let Some(path) = &self.config.submit.aliases_file else { return Ok(self) };
        let path_text = path.display().to_string();
        let text = aliases_file::read(path).map_err(|error| {
            self.problem("submit.aliases_file", format!("{path_text:?}: {error}"))
        })?;
        let of_line = |(line, name, reason): (usize, String, String)| ConfigProblem {
            place: format!("{path_text}:{line}"),
            key: name,
            reason,
        };
        let (entries, wrong) = aliases_file::parse(&text, &self.config.origin);
        let mut problems: Vec<ConfigProblem> = wrong.into_iter().map(of_line).collect();
        let mut all = self.config.aliases.written.clone();
        let mut lines = HashMap::new();
        for AliasEntry { line, name, targets } in entries {
            if !self.config.aliases.written.contains_key(&name) {
                all.insert(name.clone(), targets);
                lines.insert(name, line);
            }
        }
        let (names, lost) = Chains::of(&self.config, &all).ends();
        problems.extend(lost.into_iter().map(|(name, reason)| match lines.get(&name) {
            Some(line) => of_line((*line, name, reason)),
            None => self.problem(&format!("aliases.{name}"), reason),
        }));
        if !problems.is_empty() {
            return Err(ConfigError(problems));
        }
        self.config.aliases.names = names;
        Ok(self)
    }
}

/// Follows aliases from name to name.
struct Chains<'a> {
    config: &'a Config,
    all: &'a BTreeMap<String, Vec<Mailbox>>,
}

/// One way through them.
#[derive(Default)]
struct Way<'a> {
    /// The names on it.
    names: Vec<&'a str>,
    /// Those that were followed already.
    seen: HashSet<&'a str>,
    /// Where it has led so far.
    found: Vec<Mailbox>,
}

/// The addresses of each name, and why a name has none.
type AliasEnds = (HashMap<String, Vec<Mailbox>>, Vec<(String, String)>);

impl<'a> Chains<'a> {
    fn of(config: &'a Config, all: &'a BTreeMap<String, Vec<Mailbox>>) -> Self {
        Self { config, all }
    }

    fn ends(&self) -> AliasEnds {
        let (mut ends, mut lost) = (HashMap::new(), Vec::new());
        for (name, targets) in self.all {
            let mut way = Way::default();
            match self.follow(name, targets, &mut way) {
                Ok(()) => drop(ends.insert(name.clone(), way.found)),
                Err(reason) => lost.push((name.clone(), reason)),
            }
        }
        (ends, lost)
    }

    fn follow(
        &self,
        name: &'a str,
        targets: &'a [Mailbox],
        way: &mut Way<'a>,
    ) -> Result<(), String> {
        if way.names.contains(&name) {
            let names = way.names.join(", ");
            return Err(format!("leads back to itself ({names}, {name})"));
        }
        if way.names.len() == DEPTH_MAX {
            return Err(format!("leads through more than {DEPTH_MAX} aliases"));
        }
        if !way.seen.insert(name) {
            return Ok(());
        }
        way.names.push(name);
        for target in targets {
            // A name that is its own alias is the address: others know where that is.
            let alias = self.alias(target).filter(|(next, _)| *next != name);
            match alias {
                Some((next, targets)) => self.follow(next, targets, way)?,
                None => self.arrive(target, way)?,
            }
        }
        way.names.pop();
        Ok(())
    }

    /// The alias that an address is.
    fn alias(&self, target: &Mailbox) -> Option<(&'a str, &'a [Mailbox])> {
        if !self.config.is_local(target) {
            return None;
        }
        let name = target.unquoted_local_part().to_ascii_lowercase();
        self.all.get_key_value(&name).map(|(name, targets)| (name.as_str(), targets.as_slice()))
    }

    fn arrive(&self, target: &Mailbox, way: &mut Way<'_>) -> Result<(), String> {
        if !self.config.goes_on(target) {
            return Err(format!(
                "{:?}: a name of this machine that has neither an alias nor a [[route]]",
                target.as_str()
            ));
        }
        let same = |one: &Mailbox| {
            one.local_part() == target.local_part() && one.domain() == target.domain()
        };
        if !way.found.iter().any(same) {
            way.found.push(target.clone());
        }
        if way.found.len() > TARGETS_MAX {
            return Err(format!("stands for more than {TARGETS_MAX} addresses"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, load};

    const HEAD: &str = "origin = \"corp.example\"\n";

    /// With this aliases file, and words about it that call it FILE.
    fn with_file(document: &str, file: &str) -> Result<Loaded, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aliases");
        std::fs::write(&path, file).unwrap();
        let path = path.to_str().unwrap();
        with_path(document, path).map_err(|error| error.replace(path, "FILE"))
    }

    fn with_path(document: &str, path: &str) -> Result<Loaded, String> {
        let document = format!("{HEAD}{document}\n[submit]\naliases_file = \"{path}\"\n");
        let variables = [("HOME", "/home/relay"), ("STAUNCH_CONFIG_TOML", &document)];
        let surroundings = Surroundings {
            variables: variables.map(|(name, value)| (name.into(), value.into())).into(),
            host_name: "web1.example.net".into(),
            system_file: "/nonexistent/staunch.toml".into(),
        };
        let loaded = load(None, &surroundings).and_then(Loaded::with_aliases);
        loaded.map_err(|error| error.to_string())
    }

    fn targets(loaded: &Loaded, name: &str) -> String {
        let targets = loaded.config.aliases.targets(name).unwrap_or_default();
        targets.iter().map(Mailbox::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_file_in_the_form_of_etc_aliases_is_read_and_its_chains_are_followed() {
        let file = "# See man 5 aliases for format\npostmaster:    root\n\
                    Root: anna@dest.example,\n\tbert@dest.example, anna@DEST.example\n\
                    \n  # a comment\nwww-data: webmaster\nwebmaster : root@localhost , <c@dest.example>\n\
                    \"John Doe\": \"j d\"@dest.example\nanna: anna\nlogs: nobody, root@web1.example.net\n";
        let loaded = with_file("", file).unwrap();
        for (name, want) in [
            ("postmaster", "anna@dest.example bert@dest.example"),
            ("ROOT", "anna@dest.example bert@dest.example"),
            ("www-data", "anna@dest.example bert@dest.example c@dest.example"),
            ("john doe", "\"j d\"@dest.example"),
            ("anna", "anna@corp.example"),
            ("logs", "nobody@corp.example anna@dest.example bert@dest.example"),
            ("nobody", ""),
        ] {
            assert_eq!(targets(&loaded, name), want, "{name}");
        }
    }

    #[test]
    fn what_stands_in_the_configuration_stands_before_the_file() {
        let loaded = with_file(
            "[aliases]\nroot = \"ops@dest.example\"\nweb = \"log@localhost\"",
            "root: x@dest.example\npostmaster: root\nlog: root\n",
        );
        let loaded = loaded.unwrap();
        for name in ["root", "postmaster", "web", "log"] {
            assert_eq!(targets(&loaded, name), "ops@dest.example", "{name}");
        }
    }

    #[test]
    fn what_is_no_alias_for_a_relay_is_refused_with_its_line() {
        let program =
            "runs a program, which staunch does not: write an address, or take the line out";
        let into_file =
            "writes to a file, which staunch does not: write an address, or take the line out";
        let include = "reads another file, which staunch does not: write its addresses here";
        let nobody = "a name of this machine that has neither an alias nor a [[route]]";
        let cases = [
            ("\n\na: |/bin/x", format!("FILE:3: a: \"|/bin/x\": {program}")),
            ("a: \"|/bin/x -y, z\", b@x.example", format!("FILE:1: a: \"|/bin/x -y, z\": {program}")),
            ("a: /dev/null", format!("FILE:1: a: \"/dev/null\": {into_file}")),
            ("a:\n  :include:/etc/list", format!("FILE:1: a: \":include:/etc/list\": {include}")),
            ("a: \\b", "FILE:1: a: \"\\\\b\": there are no mailboxes here: write an address".into()),
            ("a", "FILE:1: no colon behind the name".into()),
            ("\"a: b@x.example", "FILE:1: a quote has no end".into()),
            ("a: \"b", "FILE:1: a quote has no end".into()),
            ("a: ,", "FILE:1: a: no address behind the name".into()),
            ("a@x.example: b@x.example", "FILE:1: a@x.example: not a local name like root".into()),
            ("a: b c@x.example", "FILE:1: a: \"b c@x.example\": the local part is malformed".into()),
            ("a: b@[192.0.2.1]", "FILE:1: a: \"b@[192.0.2.1]\": address literals are not relayed to: write a domain".into()),
            ("a: b@x.example\nA: c@x.example", "FILE:2: a: stands there twice".into()),
            (" a: b@x.example", "FILE:1: a line that begins with a blank goes on with the one before, and there is none".into()),
            ("a: b\nb: c\nc: a", [
                "FILE:1: a: leads back to itself (a, b, c, a)",
                "FILE:2: b: leads back to itself (b, c, a, b)",
                "FILE:3: c: leads back to itself (c, a, b, c)",
            ].join("\n")),
            ("a: b@localhost", format!("FILE:1: a: \"b@localhost\": {nobody}")),
        ];
        for (file, want) in cases {
            assert_eq!(with_file("", file).map(drop), Err(want), "{file}");
        }
        let refused = with_file("[aliases]\nweb = \"x@localhost\"", "b: c\n").unwrap_err();
        assert!(
            refused.ends_with(&format!("3: aliases.web: \"x@localhost\": {nobody}")),
            "{refused}"
        );
    }

    #[test]
    fn long_chains_and_large_lists_have_an_end() {
        let chain = |length: usize| -> String {
            (1..length).map(|n| format!("a{n}: a{}\n", n + 1)).collect::<String>()
                + &format!("a{length}: b@x.example\n")
        };
        assert_eq!(targets(&with_file("", &chain(DEPTH_MAX)).unwrap(), "a1"), "b@x.example");
        let refused = with_file("", &chain(DEPTH_MAX + 1)).unwrap_err();
        assert_eq!(refused, "FILE:1: a1: leads through more than 10 aliases");
        let list =
            |length: usize| (0..length).map(|n| format!("b{n}@x.example")).collect::<Vec<_>>();
        let file = |length: usize| format!("a: {}\n", list(length).join(", "));
        assert_eq!(
            targets(&with_file("", &file(TARGETS_MAX)).unwrap(), "a"),
            list(TARGETS_MAX).join(" ")
        );
        assert!(
            with_file("", &file(TARGETS_MAX + 1)).unwrap_err().contains("more than 100 addresses")
        );
        // Ways that meet again are followed once.
        let diamond: String =
            (1..10).map(|n| format!("a{n}: a{0}, b{0}\nb{n}: a{0}, b{0}\n", n + 1)).collect();
        let file = format!("{diamond}a10: c@x.example\nb10: c@x.example\n");
        assert_eq!(targets(&with_file("", &file).unwrap(), "a1"), "c@x.example");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = with_path("", "/nonexistent/aliases").unwrap_err();
        let said = "4: submit.aliases_file: \"/nonexistent/aliases\": No such file";
        assert!(error.contains(said), "{error}");
    }
}

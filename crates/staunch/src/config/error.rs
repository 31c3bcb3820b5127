//! What is wrong with a configuration, and where.

use std::fmt;

/// One thing that is wrong, as one line: `FILE:LINE: key: reason`, or with the variable's name in
/// front.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ConfigProblem {
    /// `FILE:LINE`, `FILE`, the name of a variable, or `default`.
    pub(crate) place: String,
    /// The key as it stands in a file, with its section; empty where no key is at fault.
    pub(crate) key: String,
    /// What is wrong, and what would be right.
    pub(crate) reason: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.place.as_str(), self.key.as_str()) {
            (place, "") => write!(f, "{place}: {}", self.reason),
            (place, key) => write!(f, "{place}: {key}: {}", self.reason),
        }
    }
}

/// Why a configuration was not accepted: everything found, not just the first of it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", .0.iter().map(ConfigProblem::to_string).collect::<Vec<_>>().join("\n"))]
pub(crate) struct ConfigError(pub(crate) Vec<ConfigProblem>);

impl ConfigError {
    /// In the order of files and lines, as they are mended.
    pub(crate) fn in_order(mut self) -> Self {
        self.0.sort_by(|a, b| a.position().cmp(&b.position()));
        self
    }
}

impl ConfigProblem {
    /// The place, with its line as a number.
    fn position(&self) -> (&str, Option<usize>) {
        match self.place.rsplit_once(':') {
            Some((file, line)) => (file, line.parse().ok()),
            None => (&self.place, None),
        }
    }
}

impl From<ConfigProblem> for ConfigError {
    fn from(problem: ConfigProblem) -> Self {
        Self(vec![problem])
    }
}

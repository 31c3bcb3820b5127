//! What became of the messages of one road.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::message::Message;

/// What became of one message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// Octet by octet as it was sent; for a bounce and for `sendmail`: as it has to be.
    Identical,
    /// Converted, and the same tree to both parsers.
    Converted,
    /// We refused or returned it, for this reason.
    Refused(String),
    /// It differs in a way that has a name.
    Allowed(String),
    /// It differs.
    Differing(String),
}

/// The counts of one road.
#[derive(Debug)]
pub(crate) struct Tally {
    road: &'static str,
    identical: usize,
    converted: usize,
    refused: BTreeMap<String, Vec<String>>,
    allowed: BTreeMap<String, Vec<String>>,
    differing: Vec<String>,
}

/// Names shown of a class.
const SHOWN: usize = 3;

impl Tally {
    pub(crate) fn new(road: &'static str) -> Self {
        Self {
            road,
            identical: 0,
            converted: 0,
            refused: BTreeMap::new(),
            allowed: BTreeMap::new(),
            differing: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, message: &Message, verdict: Verdict) {
        match verdict {
            Verdict::Identical => self.identical += 1,
            Verdict::Converted => self.converted += 1,
            Verdict::Refused(reason) => {
                self.refused.entry(reason).or_default().push(message.name.clone());
            }
            Verdict::Allowed(class) => {
                self.allowed.entry(class).or_default().push(message.name.clone());
            }
            Verdict::Differing(how) => {
                self.differing.push(format!("{} ({}): {how}", message.name, message.origin));
            }
        }
    }

    pub(crate) fn differing(&self) -> usize {
        self.differing.len()
    }

    fn row(&self) -> String {
        let count = |classes: &BTreeMap<String, Vec<String>>| -> usize {
            classes.values().map(Vec::len).sum()
        };
        let (refused, allowed) = (count(&self.refused), count(&self.allowed));
        let all = self.identical + self.converted + refused + allowed + self.differing.len();
        format!(
            "| {} | {all} | {} | {} | {allowed} | {refused} | {} |\n",
            self.road,
            self.identical,
            self.converted,
            self.differing.len()
        )
    }

    /// The reasons and classes with their counts, and each message that differs.
    pub(crate) fn details(&self) -> String {
        let mut text = format!("{}:\n", self.road);
        for (what, classes) in [("refused", &self.refused), ("named class", &self.allowed)] {
            for (class, names) in classes {
                let some: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
                let _ = writeln!(text, "- {what}: {class}: {} ({})", names.len(), some.join(", "));
            }
        }
        for one in &self.differing {
            let _ = writeln!(text, "- DIFFERS: {one}");
        }
        text
    }
}

/// One row for each road.
pub(crate) fn table(tallies: &[Tally]) -> String {
    let rows: String = tallies.iter().map(Tally::row).collect();
    format!(
        "\n| road | messages | identical | converted, equal trees | other named class | refused or returned | differing |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n{rows}"
    )
}

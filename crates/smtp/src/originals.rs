//! What a sender wrote for one recipient, which may be more than one address.

use crate::params::OriginalRecipient;

/// A line end is no part of any of them.
const SEPARATOR: char = '\n';
/// Our choice: so many are kept, the others are the same person once more.
const KEPT_MAX: usize = 16;

/// The ORCPTs of one recipient, in the order in which they came (RFC 3461 §4.2): programs repeat
/// RCPT where an address stands in To, Cc and Bcc, and several aliases may lead to one mailbox.
///
/// ```
/// use smtp::originals::OriginalRecipients;
/// let all = OriginalRecipients::parse("rfc822;a@b.example\nrfc822;c@d.example").unwrap();
/// assert_eq!(all.first().unwrap().address_xtext(), "a@b.example");
/// assert_eq!(all.iter().count(), 2);
/// ```
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct OriginalRecipients {
    all: Box<[OriginalRecipient]>,
    /// Their text, if they are several.
    joined: Box<str>,
}

impl OriginalRecipients {
    /// Reads what [`OriginalRecipients::as_str`] returned; empty text is none.
    pub fn parse(text: &str) -> Option<Self> {
        text.split(SEPARATOR).filter(|one| !one.is_empty()).map(OriginalRecipient::parse).collect()
    }

    /// One more, unless it is there already or there are enough.
    pub fn add(&mut self, original: OriginalRecipient) {
        if self.all.len() < KEPT_MAX && !self.all.contains(&original) {
            *self = self.all.iter().cloned().chain([original]).collect();
        }
    }

    /// All of them, one a line.
    pub fn as_str(&self) -> &str {
        match &*self.all {
            [only] => only.as_str(),
            _ => &self.joined,
        }
    }

    /// What goes on with the recipient: RCPT has room for one.
    pub fn first(&self) -> Option<&OriginalRecipient> {
        self.all.first()
    }

    /// Each of them, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &OriginalRecipient> {
        self.all.iter()
    }

    /// Did no RCPT have an ORCPT?
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl FromIterator<OriginalRecipient> for OriginalRecipients {
    fn from_iter<T: IntoIterator<Item = OriginalRecipient>>(all: T) -> Self {
        let all: Box<[_]> = all.into_iter().collect();
        let joined = match &*all {
            [] | [_] => Box::default(),
            [first, others @ ..] => {
                let mut text = first.as_str().to_owned();
                for one in others {
                    text.push(SEPARATOR);
                    text.push_str(one.as_str());
                }
                text.into()
            }
        };
        Self { all, joined }
    }
}

impl From<Option<OriginalRecipient>> for OriginalRecipients {
    fn from(one: Option<OriginalRecipient>) -> Self {
        one.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_kept_once_and_read_again_up_to_a_limit() {
        let mut all = OriginalRecipients::default();
        assert_eq!(OriginalRecipients::parse(all.as_str()), Some(all.clone()));
        for number in [1, 2, 1].into_iter().chain(3..100) {
            all.add(OriginalRecipient::parse(&format!("rfc822;{number}@b.example")).unwrap());
        }
        assert_eq!((all.iter().count(), all.first().unwrap().as_str()), (16, "rfc822;1@b.example"));
        assert_eq!(OriginalRecipients::parse(all.as_str()), Some(all));
        assert_eq!(OriginalRecipients::parse("rfc822;a@b.example\nx"), None);
    }
}

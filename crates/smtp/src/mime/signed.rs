//! Which header fields must not be touched, lest a DKIM signature break that would survive else
//! (RFC 6376 §3.4, §3.5).

use std::collections::HashSet;

use crate::header;

/// Octets of a signature that is read. Our choice: far more than any has.
const SIGNATURE_OCTETS_MAX: usize = 16 * 1024;
/// Names that are remembered. Our choice: beyond that nothing is touched.
const NAMES_MAX: usize = 1000;

/// What the signatures of a message cover octet by octet.
#[derive(Clone, Debug, Default)]
pub(super) struct Untouchable {
    /// The signature that is being read.
    signature: Vec<u8>,
    /// Names of fields, in lower case.
    names: HashSet<Vec<u8>>,
    /// Is there a signature that is too long to be read, or are there too many names?
    is_unknown: bool,
}

impl Untouchable {
    /// Is a field of this name a signature of others? ARC's has the same form (RFC 8617 §4.1.2).
    pub(super) fn is_signature(name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(b"dkim-signature")
            || name.eq_ignore_ascii_case(b"arc-message-signature")
    }

    /// More of a signature.
    pub(super) fn push(&mut self, octets: &[u8]) {
        if self.signature.len() + octets.len() > SIGNATURE_OCTETS_MAX {
            self.is_unknown = true;
        }
        if !self.is_unknown {
            self.signature.extend_from_slice(octets);
        }
    }

    /// The signature, if one was being read, is over.
    pub(super) fn end(&mut self) {
        let signature = std::mem::take(&mut self.signature);
        if signature.is_empty() {
            return;
        }
        let is_simple = tag(&signature, b"c").is_none_or(|c| !c.starts_with(b"relaxed"));
        if !is_simple {
            return;
        }
        self.names.extend(header::name(&signature).map(<[u8]>::to_ascii_lowercase));
        let listed = tag(&signature, b"h").unwrap_or_default();
        for name in listed.split(|octet| *octet == b':').filter(|name| !name.is_empty()) {
            self.is_unknown |= self.names.len() >= NAMES_MAX;
            if self.is_unknown {
                self.names = HashSet::new();
                return;
            }
            self.names.insert(name.to_vec());
        }
    }

    /// Does a signature cover fields of this name as they are written?
    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.is_unknown || self.names.contains(&name.to_ascii_lowercase())
    }
}

/// The value of a tag, in lower case and without white space (RFC 6376 §3.2).
fn tag(signature: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let bare = |text: &[u8]| -> Vec<u8> {
        let octets = text.iter().filter(|octet| !octet.is_ascii_whitespace());
        octets.map(u8::to_ascii_lowercase).collect()
    };
    header::value(signature).split(|octet| *octet == b';').find_map(|pair| {
        let at = pair.iter().position(|octet| *octet == b'=')?;
        let (front, value) = pair.split_at_checked(at)?;
        (bare(front) == name).then(|| bare(value.get(1..).unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_signatures_cover_what_they_list_and_themselves() {
        let covers = |signature: &str, name: &str| {
            let mut untouchable = Untouchable::default();
            signature.as_bytes().chunks(3).for_each(|piece| untouchable.push(piece));
            untouchable.end();
            untouchable.has(name.as_bytes())
        };
        let simple = "DKIM-Signature: v=1; h=From : To;\r\n b=x; c = Simple / relaxed\r\n";
        assert!(covers(simple, "to") && covers(simple, "FROM") && covers(simple, "dkim-Signature"));
        assert!(!covers(simple, "Cc"));
        let relaxed = "DKIM-Signature: v=1; c=relaxed/simple; h=from:to; b=x";
        assert!(!covers(relaxed, "to") && !covers(relaxed, "dkim-signature"));
        assert!(covers("ARC-Message-Signature: i=1; h=cc", "Cc"), "simple is the default");
        let many: String = (0..=NAMES_MAX).map(|number| format!("n{number}:")).collect();
        assert!(covers(&format!("DKIM-Signature: h={many}"), "Subject"));
        let empty = format!("DKIM-Signature: h={}to", ":".repeat(10_000));
        assert!(covers(&empty, "to") && !covers(&empty, "Subject"));
        let long = format!("DKIM-Signature: h=a; b={}", "x".repeat(SIGNATURE_OCTETS_MAX));
        assert!(covers(&long, "Subject"));
    }
}

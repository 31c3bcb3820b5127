//! A file in the form of /etc/aliases (aliases(5)): `name: target, target`.
//!
//! Read strictly: a line that is passed over is mail that nobody gets. Programs, files and included
//! lists are refused, since a relay has no mailboxes and runs nothing.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::Path;

use smtp::{Domain, Mailbox};

use crate::regular_file;

/// Octets of the file. Our choice: some ten thousand names.
const OCTETS_MAX: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct AliasEntry {
    /// Where it begins, from 1.
    pub(super) line: usize,
    /// In lower case, without quotes.
    pub(super) name: String,
    /// Complete addresses; at least one.
    pub(super) targets: Vec<Mailbox>,
}

/// Line, name (empty where that is at fault) and reason.
pub(super) type Wrong = (usize, String, String);

/// The text of the file.
///
/// # Errors
///
/// Why there is none.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let file = regular_file::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(OCTETS_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let is_small = u64::try_from(text.len()).is_ok_and(|octets| octets <= OCTETS_MAX);
    if is_small { Ok(text) } else { Err(format!("over {OCTETS_MAX} bytes")) }
}

/// The aliases of `text`, and all that is wrong with it. Names without a domain are completed by
/// `origin`.
pub(super) fn parse(text: &str, origin: &Domain) -> (Vec<AliasEntry>, Vec<Wrong>) {
    let (mut entries, mut wrong): (Vec<AliasEntry>, Vec<Wrong>) = (Vec::new(), Vec::new());
    let mut names = HashSet::new();
    for (line, text) in logical_lines(text) {
        match entry(&text, origin) {
            Ok((name, _)) if !names.insert(name.clone()) => {
                wrong.push((line, name, "stands there twice".to_owned()));
            }
            Ok((name, targets)) => entries.push(AliasEntry { line, name, targets }),
            Err((name, reason)) => wrong.push((line, name, reason)),
        }
    }
    (entries, wrong)
}

/// Lines with those that continue them, and where they begin; without comments and empty lines,
/// which may stand in between.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let is_comment = text.trim_start().starts_with('#') || text.trim().is_empty();
        match lines.last_mut() {
            _ if is_comment => {}
            Some((_, before)) if text.starts_with([' ', '\t']) => before.push_str(text),
            Some(_) | None => lines.push((line, text.to_owned())),
        }
    }
    lines
}

/// Name and targets of one entry; an error is name (or "") and reason.
fn entry(text: &str, origin: &Domain) -> Result<(String, Vec<Mailbox>), (String, String)> {
    let nameless = |reason: &str| (String::new(), reason.to_owned());
    if text.starts_with([' ', '\t']) {
        let reason =
            "a line that begins with a blank goes on with the one before, and there is none";
        return Err(nameless(reason));
    }
    let parts = split(text, ':').map_err(nameless)?;
    let (written, targets) = match parts.as_slice() {
        [name, targets @ ..] if !targets.is_empty() => (name.trim(), targets.join(":")),
        _ => return Err(nameless("no colon behind the name")),
    };
    let name = local_name(written)
        .ok_or_else(|| (written.to_owned(), "not a local name like root".to_owned()))?;
    let with_name = |reason: String| (name.clone(), reason);
    let texts = split(&targets, ',').map_err(|reason| with_name(reason.to_owned()))?;
    let texts = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
    let targets: Result<Vec<_>, _> = texts.map(|text| target(text, origin)).collect();
    match targets.map_err(with_name)? {
        targets if targets.is_empty() => Err(with_name("no address behind the name".to_owned())),
        targets => Ok((name, targets)),
    }
}

/// The parts between separators that stand outside of quotes.
fn split(text: &str, separator: char) -> Result<Vec<String>, &'static str> {
    let mut parts = vec![String::new()];
    let (mut is_quoted, mut is_escaped) = (false, false);
    for c in text.chars() {
        if c == separator && !is_quoted {
            parts.push(String::new());
            continue;
        }
        is_quoted ^= c == '"' && !is_escaped;
        is_escaped = is_quoted && c == '\\' && !is_escaped;
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    if is_quoted { Err("a quote has no end") } else { Ok(parts) }
}

/// The name as it is looked for: in lower case, without quotes.
pub(super) fn local_name(written: &str) -> Option<String> {
    let mailbox = Mailbox::parse(&format!("{written}@x")).ok()?;
    let is_whole =
        mailbox.local_part() == written && (written.starts_with('"') || !written.contains('@'));
    is_whole.then(|| mailbox.unquoted_local_part().to_ascii_lowercase())
}

fn target(text: &str, origin: &Domain) -> Result<Mailbox, String> {
    let is_quoted_only = text.starts_with('"') && text.ends_with('"');
    let inner = if is_quoted_only { text.trim_matches('"') } else { text };
    let no_such = "which staunch does not: write an address, or take the line out";
    let reason = match inner.chars().next() {
        Some('|') => format!("runs a program, {no_such}"),
        Some('/') => format!("writes to a file, {no_such}"),
        Some(':') if inner.to_ascii_lowercase().starts_with(":include:") => {
            "reads another file, which staunch does not: write its addresses here".to_owned()
        }
        Some('\\') => "there are no mailboxes here: write an address".to_owned(),
        Some(_) | None => {
            return mailbox(text, origin).map_err(|reason| format!("{text:?}: {reason}"));
        }
    };
    Err(format!("{inner:?}: {reason}"))
}

fn mailbox(text: &str, origin: &Domain) -> Result<Mailbox, String> {
    let within = |text, open, close| {
        str::strip_prefix(text, open).and_then(|rest: &str| rest.strip_suffix(close))
    };
    let angle = within(text, '<', '>').unwrap_or(text);
    // aliases(5): a target in quotes is what stands between them, which is an address of its own.
    let angle = match within(angle, '"', '"') {
        Some(inner) if inner.contains('@') && !inner.contains(['"', '\\']) => inner,
        _ => angle,
    };
    let is_bare = !angle.contains('@') || (angle.starts_with('"') && angle.ends_with('"'));
    let whole = if is_bare { format!("{angle}@{origin}") } else { angle.to_owned() };
    let mailbox = Mailbox::parse(&whole).map_err(|error| error.to_string())?;
    match mailbox.domain() {
        // What completes a bare name is known not to go out.
        Domain::Literal(_) if !is_bare => {
            Err("address literals are not relayed to: write a domain".to_owned())
        }
        Domain::Literal(_) | Domain::Name(_) => Ok(mailbox),
    }
}

#[cfg(test)]
mod tests {
    use smtp::HostName;

    use super::*;

    #[test]
    fn a_target_in_quotes_is_the_address_between_them() {
        let origin = Domain::Name(HostName::parse("corp.example").unwrap());
        for (written, want) in [
            ("\"ops@dest.example\"", "ops@dest.example"),
            ("\"a b\"", "\"a b\"@corp.example"),
            ("\"a b\"@dest.example", "\"a b\"@dest.example"),
            ("<ops@dest.example>", "ops@dest.example"),
        ] {
            let (entries, wrong) = parse(&format!("root: {written}\n"), &origin);
            assert_eq!(wrong, Vec::new(), "{written}");
            assert_eq!(entries[0].targets[0].as_str(), want, "{written}");
        }
    }
}

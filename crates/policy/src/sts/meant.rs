//! What was probably meant by what is nearly it: field names and values, mx values that are no
//! names, and names that stand in examples only.
//!
//! Only words: no verdict hangs on anything here.

use smtp::HostName;

use super::legible::{is_plain, named, shown};
use super::mx_pattern::MxPattern;

/// Is `written` nearly one of `known`? Case, and all that is no letter, make no difference.
pub(super) fn one_of(written: &str, known: &[&'static str]) -> Option<&'static str> {
    let written = letters(written);
    known.iter().find(|word| is_near(&written, &letters(word))).copied()
}

/// No field name or value is longer, by far.
const LETTERS_MAX: usize = 32;

fn letters(text: &str) -> String {
    let letters = text.chars().filter(char::is_ascii_alphabetic).take(LETTERS_MAX);
    letters.map(|c| c.to_ascii_lowercase()).collect()
}

fn is_near(written: &str, word: &str) -> bool {
    let allowed = match word.len() {
        0..=2 => usize::from(written.len() > word.len()),
        3..=4 => 1,
        _ => 2,
    };
    let is_cut = written.len() >= 3 && word.starts_with(written);
    let is_swapped = word.len() >= 4 && sorted(written) == sorted(word);
    is_cut || is_swapped || (written.len() >= 2 && distance(written, word) <= allowed)
}

fn sorted(text: &str) -> Vec<u8> {
    let mut octets = text.as_bytes().to_vec();
    octets.sort_unstable();
    octets
}

/// Letters to insert, remove or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (pair, to) in row.windows(2).zip(b.bytes()) {
            let [diagonal, above] = pair else { continue };
            left = (left + 1).min(above + 1).min(diagonal + usize::from(from != to));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// What is wrong with an mx value that [`MxPattern::parse`] refuses, and what to write instead.
pub(super) fn mx_fault(value: &str) -> String {
    if value.is_empty() {
        return "there is nothing behind mx:".to_owned();
    }
    if value == "." {
        return "a single dot is the null MX of DNS (RFC 7505); for a domain without mail, publish mode: none"
            .to_owned();
    }
    let Some(fault) = mx_character(value) else { return mx_form(value) };
    let instead = value.split([' ', '\t', ',', ';']).filter(|word| word.contains('.'));
    let names: Vec<String> =
        instead.filter_map(|word| MxPattern::parse(word).ok()).map(|p| p.to_string()).collect();
    match names.as_slice() {
        [] => fault,
        [name] => format!("{fault}; write only mx: {name}"),
        [_, _, ..] => format!("{fault}; each name needs a line of its own"),
    }
}

/// The first character that does not belong there.
fn mx_character(value: &str) -> Option<String> {
    let name = value.strip_prefix("*.").unwrap_or(value);
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // U-labels are fine if there is nothing else.
    let c = name.chars().find(|c| !is_fine(*c) && (c.is_ascii() || !c.is_alphanumeric()))?;
    Some(match c {
        '*' => {
            "a star (*) stands for one whole label, and only in front, as in *.example.com".into()
        }
        ' ' => "it has a blank".into(),
        '@' => "it has an at sign (@): a mail address is no host".into(),
        ':' => "it has a colon (:): no port, scheme or address can stand there".into(),
        '[' | ']' => format!("it has a bracket ({c}): mx takes names, not addresses"),
        '<' | '>' => format!("it has a bracket ({c}), as placeholders have"),
        ',' => "it has a comma (,)".into(),
        c if is_plain(c) => format!("it has the character {c}"),
        c => format!("it has {}", named(c)),
    })
}

/// All characters could stand in a name, but it is none.
fn mx_form(value: &str) -> String {
    let name = value.strip_prefix("*.").unwrap_or(value);
    if let Some(domain) = name.strip_prefix('.').and_then(|rest| HostName::parse(rest).ok()) {
        return format!(
            "it begins with a dot, the form of an early draft of RFC 8461; \
             write mx: *.{domain}, else all hosts under {domain} are refused"
        );
    }
    match HostName::parse(name) {
        Err(smtp::HostNameError::EmptyLabel) if name.is_empty() => {
            "there is no name behind the star (*.)".into()
        }
        Err(smtp::HostNameError::EmptyLabel) => {
            "it has two dots (.) with nothing between them".into()
        }
        Err(smtp::HostNameError::BadCharacter) => {
            "a hyphen (-) stands at the beginning or end of a label".into()
        }
        Err(smtp::HostNameError::Address) => {
            "it is an IP address: mx takes the names that the MX records have".into()
        }
        Err(error @ (smtp::HostNameError::TooLong | smtp::HostNameError::BadIdna)) => {
            error.to_string()
        }
        Ok(_) => String::new(),
    }
}

/// Is the name one that stands in examples and nowhere else?
pub(super) fn is_placeholder(name: &HostName) -> bool {
    // RFC 2606, and what tutorials write. Who writes .test or .localhost knows what it is.
    const LAST: [&str; 1] = ["tld"];
    const ANY: [&str; 14] = [
        "example",
        "yourdomain",
        "your-domain",
        "your_domain",
        "mydomain",
        "my-domain",
        "yourcompany",
        "your-company",
        "yourorg",
        "yourhost",
        "domainname",
        "changeme",
        "placeholder",
        "thisdomain",
    ];
    let last = name.labels().last().unwrap_or_default();
    LAST.contains(&last) || name.labels().any(|label| ANY.contains(&label))
}

/// Seconds, if `value` is a number that people read: with separators, or with a unit.
pub(super) fn seconds(value: &str) -> Option<u64> {
    let value: String = value.chars().filter(|c| is_plain(*c)).collect();
    let value = value.trim_matches(['"', '\'', ' ']).to_ascii_lowercase();
    let number: String = value.chars().take_while(|c| !c.is_ascii_alphabetic()).collect();
    let unit = value.strip_prefix(&number)?;
    let separators = [',', '.', '_', '\'', ' '];
    let digits: String = number.chars().filter(|c| !separators.contains(c)).collect();
    // 1.5d is no 15 days.
    if digits.is_empty() || (!unit.is_empty() && number.contains(['.', ','])) {
        return None;
    }
    let factor = match unit {
        "" | "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// A field that begins within the value of another: a line end was lost.
pub(super) fn joined_field(value: &str, fields: &[&'static str]) -> Option<&'static str> {
    fields.iter().find(|field| value.contains(&format!("{field}:"))).copied()
}

/// The value and what is odd about it; quotation marks are said to be too many.
pub(super) fn quoted(value: &str) -> String {
    let is_quoted =
        value.len() > 1 && value.starts_with(['"', '\'']) && value.ends_with(['"', '\'']);
    let note = if is_quoted { "; write it without quotation marks" } else { "" };
    format!("{}{note}", shown(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nearly_a_field_is_that_field() {
        const FIELDS: &[&str] = &["version", "mode", "max_age", "mx"];
        for (written, want) in [
            ("nmx", Some("mx")),
            ("mx1", Some("mx")),
            ("MX", Some("mx")),
            ("mxx", Some("mx")),
            ("max-age", Some("max_age")),
            ("maxage", Some("max_age")),
            ("Max Age", Some("max_age")),
            ("max_ag", Some("max_age")),
            ("mdoe", Some("mode")),
            ("max", Some("max_age")),
            ("mod", Some("mode")),
            ("\u{feff}version", Some("version")),
            ("versoin", Some("version")),
            ("Mode", Some("mode")),
            ("note", None),
            ("permalink", None),
            ("id", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(one_of(written, FIELDS), want, "{written}");
        }
        for (written, want) in [
            ("enforced", Some("enforce")),
            ("Enforce", Some("enforce")),
            ("test", Some("testing")),
            ("\"testing\"", Some("testing")),
            ("off", None),
            ("reject", None),
        ] {
            assert_eq!(one_of(written, &["enforce", "testing", "none"]), want, "{written}");
        }
    }

    #[test]
    fn a_bad_mx_value_names_its_character_and_what_to_write() {
        for (value, want) in [
            ("", "nothing behind mx:"),
            (".", "mode: none"),
            (
                ".example.net",
                "write mx: *.example.net, else all hosts under example.net are refused",
            ),
            (
                "Priority 5: ALT1.ASPMX.L.GOOGLE.COM",
                "blank; write only mx: alt1.aspmx.l.google.com",
            ),
            ("10 mx.a.test", "blank; write only mx: mx.a.test"),
            ("a.example, b.example", "comma (,); each name needs a line of its own"),
            ("a.example b.example", "blank; each name needs a line of its own"),
            ("**.a.test", "star (*) stands for one whole label"),
            ("*", "star (*)"),
            ("*.", "no name behind the star"),
            ("a@b.test", "at sign (@)"),
            ("mx.a.test:25", "colon (:)"),
            ("https://mx.a.test/", "colon (:)"),
            ("[192.0.2.1]", "bracket ([)"),
            ("192.0.2.1", "IP address"),
            ("<mx.a.test>", "bracket (<)"),
            ("mx.a.test/24", "the character /"),
            ("mx\u{200e}.a.test", "U+200E, left-to-right mark"),
            ("mx.a.test\u{a0}", "U+00A0, no-break space"),
            ("a..test", "two dots"),
            ("-a.test", "hyphen (-)"),
            ("\u{5d0}a\u{5d1}.test", "internationalized"),
        ] {
            assert!(MxPattern::parse(value).is_err(), "{value}");
            let got = mx_fault(value);
            assert!(got.contains(want), "{value:?}: {got}");
        }
    }

    #[test]
    fn names_out_of_examples_are_known() {
        for (name, want) in [
            ("example.com", true),
            ("mail.example.com", true),
            ("mail.yourdomain.tld", true),
            ("mx.yourdomain.com", true),
            ("mail.domain.tld", true),
            ("mx.a.test", false),
            ("mx.a.example", true),
            ("mx0.example.de", true),
            ("mail.protonmail.ch", false),
            ("examples.com", false),
            ("smtp.google.com", false),
        ] {
            assert_eq!(is_placeholder(&HostName::parse(name).unwrap()), want, "{name}");
        }
    }

    #[test]
    fn numbers_as_people_write_them_are_seconds() {
        for (value, want) in [
            ("604,800", Some(604_800)),
            ("604.800", Some(604_800)),
            ("1 209 600", Some(1_209_600)),
            ("\"86400\"", Some(86_400)),
            ("604800\u{a0}", Some(604_800)),
            ("1d", Some(86_400)),
            ("2 weeks", Some(1_209_600)),
            ("1.5d", None),
            ("86400version: STSv1", None),
            ("-1", None),
            ("99999999999999999999", None),
            ("9999999999999999999w", None),
            ("", None),
            ("d", None),
        ] {
            assert_eq!(seconds(value), want, "{value}");
        }
    }
}

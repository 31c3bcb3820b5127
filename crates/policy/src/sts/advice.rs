//! What a publisher should know about a policy file that is no fault of its form: short ages,
//! fields that nobody reads, names out of examples. `staunch policy lint` shows it; who sends mail
//! has no use for it.

use std::time::Duration;

use super::document::{BLANKS, DocumentProblem, FIELDS, Lint, Mode, lines, lint};
use super::legible::other_format;
use super::meant::{is_placeholder, one_of};
use super::mx_pattern::MxPattern;
use super::record::is_extension_name;

const DAY: Duration = Duration::from_secs(86_400);
/// RFC 8461 §3.2: "weeks or greater".
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// What [`lint`] says of a policy file, and what its publisher should know besides.
///
/// ```
/// use policy::sts::advice;
/// let lint = advice::policy(b"version: STSv1\nmode: enforce\nmx: mx.a.test\nmax_age: 60\n");
/// assert!(lint.errors.is_empty());
/// assert_eq!(lint.warnings[0].code, "max_age_below_day");
/// ```
pub fn policy(body: &[u8]) -> Lint {
    let mut found = lint(body);
    let format = other_format(body);
    // Said already of what is no UTF-8, or has NULs.
    if let (Some(format), Ok(text)) = (format, std::str::from_utf8(body))
        && !text.contains('\0')
    {
        let text = format!("no plain text: the file is {format}");
        let problem = DocumentProblem { line: None, code: "not_plain_text", text };
        let is_refused = !found.errors.is_empty();
        let list = if is_refused { &mut found.errors } else { &mut found.warnings };
        list.insert(0, problem);
    }
    // What is no text is one mistake, however many lines it seems to have.
    if let (Ok(text), None) = (std::str::from_utf8(body), format) {
        for (number, key, value) in fields(text) {
            let code_and_text = match key {
                "max_age" => about_age(&found),
                "mx" => about_name(value),
                "version" | "mode" => None,
                key => about_field(key, value),
            };
            if let Some((code, text)) = code_and_text {
                found.warning(number, code, text);
            }
        }
        // A mark at the beginning makes the first line something else.
        if text.starts_with('\u{feff}') {
            let text = "the file begins with a byte order mark (U+FEFF), which makes its first line no field; \
                        save it as UTF-8 without one";
            found.warning(1, "byte_order_mark", text);
        }
    }
    found.warnings.sort_by_key(|problem| problem.line);
    found
}

/// The fields of the policy, the first of each that counts once.
fn fields(text: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let mut has_age = false;
    lines(text).filter_map(move |(number, line)| {
        let (key, value) = line.split_once(':')?;
        let (key, value) = (key.trim_matches(BLANKS), value.trim_matches(BLANKS));
        if key == "max_age" && std::mem::replace(&mut has_age, true) {
            return None;
        }
        Some((number, key, value))
    })
}

fn about_age(lint: &Lint) -> Option<(&'static str, String)> {
    let (mode, age) = (lint.mode?, lint.max_age?);
    // RFC 8461 §8.3: a policy that is to go says so for as short a time as it likes.
    if mode == Mode::None || age >= WEEK {
        return None;
    }
    let seconds = age.as_secs();
    let recommended = "publish a week (604800) or more";
    Some(match (mode, age) {
        (Mode::Enforce, Duration::ZERO) => (
            "max_age_zero",
            format!(
                "max_age 0 protects nothing: senders forget the policy at once, and who can stop one DNS or \
                 HTTPS query switches it off; {recommended}"
            ),
        ),
        (Mode::Testing | Mode::None, Duration::ZERO) => {
            ("max_age_zero", format!("max_age 0: senders forget the policy at once; {recommended}"))
        }
        (Mode::Enforce | Mode::Testing | Mode::None, age) if age < DAY => (
            "max_age_below_day",
            format!(
                "max_age {seconds} is less than a day: who can stop DNS or HTTPS for that long switches the \
                 policy off, and senders that write seldom never know it; {recommended}"
            ),
        ),
        (Mode::Enforce | Mode::Testing | Mode::None, _) => (
            "max_age_below_week",
            format!(
                "max_age {seconds} is less than a week, RFC 8461 wants weeks or more; {recommended}"
            ),
        ),
    })
}

fn about_name(value: &str) -> Option<(&'static str, String)> {
    let pattern = MxPattern::parse(value).ok()?;
    let (MxPattern::Exact(name) | MxPattern::AnyLabelUnder(name)) = &pattern;
    is_placeholder(name).then(|| {
        ("placeholder", format!("mx {pattern} looks copied from an example: write your MX hosts"))
    })
}

/// RFC 8461 §3.2 lets a policy have other fields, and no other RFC defines any.
fn about_field(key: &str, value: &str) -> Option<(&'static str, String)> {
    // Else it is junk, and that has been said.
    if !is_extension_name(key.as_bytes()) || value.is_empty() || value.chars().any(char::is_control)
    {
        return None;
    }
    // Said, too.
    if FIELDS.iter().any(|field| field.eq_ignore_ascii_case(key)) {
        return None;
    }
    let hint = match key.to_ascii_lowercase().as_str() {
        "id" | "v" => "; it belongs in the TXT record of _mta-sts".to_owned(),
        "rua" | "ruf" => "; reports are asked for in the TXT record of _smtp._tls".to_owned(),
        _ => {
            one_of(key, &FIELDS).map(|meant| format!("; did you mean {meant}?")).unwrap_or_default()
        }
    };
    Some(("unknown_field", format!("the field {key} is unknown, senders ignore it{hint}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sts::document::Policy;
    use crate::vectors::{self, VectorRow};

    fn codes(lines: &str) -> Vec<&'static str> {
        let body = format!("version: STSv1\n{}", lines.replace('|', "\n"));
        policy(body.as_bytes()).warnings.iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn short_ages_are_warned_of_and_zero_most_of_all() {
        for (mode, age, want) in [
            ("enforce", "0", Some("max_age_zero")),
            ("enforce", "86399", Some("max_age_below_day")),
            ("enforce", "86400", Some("max_age_below_week")),
            ("enforce", "604799", Some("max_age_below_week")),
            ("enforce", "604800", None),
            ("testing", "0", Some("max_age_zero")),
            ("testing", "86400", Some("max_age_below_week")),
            ("none", "0", None),
            ("none", "86400", None),
        ] {
            let got = codes(&format!("mode: {mode}|mx: mx.a.test|max_age: {age}|max_age: 1"));
            let want: Vec<_> = want.into_iter().chain(["duplicate"]).collect();
            assert_eq!(got, want, "{mode} {age}");
        }
        let zero = policy(b"version: STSv1\nmode: enforce\nmx: mx.a.test\nmax_age: 0\n");
        assert!(zero.warnings[0].text.contains("protects nothing"), "{:?}", zero.warnings);
        assert_eq!(zero.warnings[0].line, Some(4));
    }

    #[test]
    fn fields_that_nobody_reads_are_named_with_what_was_meant() {
        let long = "mode: enforce|mx: mx.a.test|max_age: 604800|";
        for (field, want) in [
            ("nmx: b.test", "did you mean mx?"),
            ("max-age: 1", "did you mean max_age?"),
            ("id: 20260101", "TXT record of _mta-sts"),
            ("rua: mailto:a@a.test", "TXT record of _smtp._tls"),
            ("note: caf\u{e9}", "senders ignore it"),
        ] {
            let body = format!("version: STSv1\n{}{field}", long.replace('|', "\n"));
            let lint = policy(body.as_bytes());
            let [warning] = lint.warnings.as_slice() else {
                panic!("{field}: {:?}", lint.warnings)
            };
            assert_eq!((warning.code, warning.line), ("unknown_field", Some(5)), "{field}");
            assert!(warning.text.contains(want), "{field}: {}", warning.text);
        }
        assert_eq!(codes(&format!("{long}Mode: none|-x: 1")), ["key_case", "junk_line"]);
        assert_eq!(codes(&format!("{long}mx: *.yourdomain.tld")), ["placeholder"]);
    }

    #[test]
    fn the_verdict_is_that_of_the_daemon() {
        for VectorRow { id, cells } in vectors::rows("policy.tsv") {
            let body = vectors::unescape(&cells[0]);
            assert_eq!(policy(&body).errors.is_empty(), Policy::parse(&body).is_ok(), "{id}");
        }
    }

    #[test]
    fn warnings_stay_bounded() {
        let body = "nmx: a\nmx: a.example\n".repeat(3_000);
        assert!(policy(body.as_bytes()).warnings.len() <= 100);
    }

    /// What the column `said` of a row has, or all its parts between `&`.
    fn says(shown: &str, said: &str) -> bool {
        said == "-" || said.split('&').all(|part| shown.contains(part))
    }

    #[test]
    fn what_people_publish_is_judged_and_explained_as_listed() {
        for VectorRow { id, cells } in vectors::rows("wild.tsv") {
            let [kind, input, applied, codes, said] = &cells[..] else { panic!("{id}: {cells:?}") };
            if kind != "policy" {
                continue;
            }
            let lint = policy(&vectors::unescape(input));
            let errors = lint.errors.iter().map(|problem| problem.code.to_owned());
            let warnings = lint.warnings.iter().map(|problem| format!("w:{}", problem.code));
            let got: Vec<String> = errors.chain(warnings).collect();
            assert_eq!(got.join(" "), *codes, "{id}: {lint:?}");
            let all = lint.errors.iter().chain(&lint.warnings);
            let shown: Vec<&str> = all.map(|problem| problem.text.as_str()).collect();
            assert!(says(&shown.join("\n"), said), "{id}: {said}: {shown:#?}");
            let verdict = lint.policy().map_or_else(
                |_| "invalid".to_owned(),
                |policy| {
                    let mx: Vec<String> = policy.mx().iter().map(ToString::to_string).collect();
                    let age = policy.max_age().as_secs();
                    format!("{}/{age}/{}", policy.mode(), mx.join(","))
                },
            );
            assert_eq!(verdict, *applied, "{id}");
        }
    }
}

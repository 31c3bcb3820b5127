//! Is an MX host covered by a policy, and what has to be added if not? (RFC 8461 §4.1)

use std::io::{self, Write};

use policy::sts::coverage::{self, MxValues};
use policy::sts::document::{DocumentProblem, Lint, Mode};
use serde_json::{Value, json};
use smtp::HostName;

/// One MX host beside the policy.
#[derive(Debug)]
pub(super) struct Covered {
    host: HostName,
    verdict: CoverVerdict,
}

#[derive(Debug)]
enum CoverVerdict {
    /// Covered by this pattern of the policy.
    Yes(String),
    /// What happens, and what to add.
    No { effect: String, hint: String },
    /// There is no policy that could cover it, or one that asks for nothing.
    Open,
}

impl Covered {
    pub(super) fn new(host: HostName, lint: &Lint) -> Self {
        let verdict = judge(&host, lint);
        Self { host, verdict }
    }

    /// What is wrong, if it is not covered.
    pub(super) fn problem(&self) -> Option<DocumentProblem> {
        let CoverVerdict::No { effect, hint } = &self.verdict else { return None };
        let text = format!("MX {} is not covered: {effect}; {hint}", self.host);
        Some(DocumentProblem { line: None, code: "mx_not_covered", text })
    }

    pub(super) fn in_json(&self) -> Value {
        let (covered, pattern, hint) = match &self.verdict {
            CoverVerdict::Yes(pattern) => (Some(true), Some(pattern), None),
            CoverVerdict::No { hint, .. } => (Some(false), None, Some(hint)),
            CoverVerdict::Open => (None, None, None),
        };
        json!({ "host": self.host.as_str(), "covered": covered, "pattern": pattern, "hint": hint })
    }

    /// Says it, if it is not a problem.
    pub(super) fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.verdict {
            CoverVerdict::Yes(pattern) => writeln!(out, "covered: {} by {pattern}", self.host),
            CoverVerdict::No { .. } | CoverVerdict::Open => Ok(()),
        }
    }
}

fn judge(host: &HostName, lint: &Lint) -> CoverVerdict {
    let effect = match lint.mode {
        Some(Mode::Enforce) => "senders that obey the policy send it no mail",
        Some(Mode::Testing) => "senders report it as a failure, under enforce it would get no mail",
        Some(Mode::None) | None => return CoverVerdict::Open,
    };
    if lint.mx.is_empty() {
        return CoverVerdict::Open;
    }
    if let Some(pattern) = lint.mx.iter().find(|pattern| pattern.matches(host)) {
        return CoverVerdict::Yes(pattern.to_string());
    }
    let misses: Vec<String> =
        lint.mx.iter().filter_map(|pattern| coverage::near_miss(pattern, host)).collect();
    let why = if misses.is_empty() { String::new() } else { format!(" ({})", misses.join("; ")) };
    CoverVerdict::No { effect: format!("{effect}{why}"), hint: hint(&coverage::values_for(host)) }
}

fn hint(values: &MxValues) -> String {
    let lines: Vec<String> = values.mx.iter().map(|value| format!("mx: {value}")).collect();
    let lines = lines.join(", ");
    match values.provider {
        Some(provider) => format!("policies for {provider} have {lines}"),
        None => format!("add {lines}"),
    }
}

#[cfg(test)]
mod tests {
    use policy::sts::advice;

    use super::*;

    fn judged(mode: &str, host: &str) -> Covered {
        let body = format!(
            "version: STSv1\nmode: {mode}\nmx: smtp.google.com\nmx: *.google.com\nmax_age: 604800\n"
        );
        Covered::new(HostName::parse(host).unwrap(), &advice::policy(body.as_bytes()))
    }

    #[test]
    fn a_host_that_is_left_out_is_named_with_the_provider_s_patterns() {
        let problem = judged("enforce", "alt1.aspmx.l.google.com").problem().unwrap();
        assert_eq!(
            problem.text,
            "MX alt1.aspmx.l.google.com is not covered: senders that obey the policy send it no mail \
             (the star of *.google.com stands for exactly one label, alt1.aspmx.l.google.com has 3 there); \
             policies for Google Workspace have mx: aspmx.l.google.com, mx: *.aspmx.l.google.com, \
             mx: *.googlemail.com"
        );
        let own = judged("testing", "mx.a.test").problem().unwrap();
        assert!(own.text.ends_with("it would get no mail; add mx: mx.a.test"), "{}", own.text);
    }

    #[test]
    fn who_is_covered_or_asked_for_nothing_is_no_problem() {
        assert!(judged("enforce", "smtp.google.com").problem().is_none());
        assert!(judged("none", "mx.a.test").problem().is_none());
        assert!(judged("nothing", "mx.a.test").problem().is_none());
        assert_eq!(judged("enforce", "smtp.google.com").in_json()["pattern"], "smtp.google.com");
        assert_eq!(judged("none", "mx.a.test").in_json()["covered"], Value::Null);
    }
}

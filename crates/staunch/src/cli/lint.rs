//! `staunch policy lint`, `lint-record`, `match`: the daemon's own judgement of what a domain
//! publishes, and what its publisher should know. Without network or daemon, but for
//! `lint --domain`.

mod covered;
mod published;

use std::io::{self, Read, Write, stderr, stdout};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use policy::sts::document::{self, DocumentProblem, Lint, Mode};
use policy::sts::{MxPattern, advice, coverage, record_lint};
use serde_json::{Value, json};
use smtp::{HostName, RemoteText};

use super::arguments::{LintFile, LintRecord, Match};
use super::exit::{Exit, Failure};
use super::output;
use crate::config::Loaded;
use covered::Covered;
use published::{Publication, PublishedSource};

/// One octet more than a policy may have is enough to see that it is too long.
const READ_MAX: u64 = document::BODY_OCTETS_MAX as u64 + 1;

/// `load` gives the configuration, which only a look at a domain needs.
pub(super) fn policy(
    command: &LintFile,
    load: impl FnOnce() -> Result<Loaded, Failure>,
) -> Result<Exit, Failure> {
    let mut named = Vec::new();
    for text in &command.mx {
        named.push(host("--mx", text)?);
    }
    let domain = command.domain.as_ref().map(|text| host("--domain", text)).transpose()?;
    let file = command.file.as_deref().map(body_of).transpose()?;
    let source = if file.is_some() { PublishedSource::File } else { PublishedSource::Domain };
    let published = match domain {
        Some(domain) => Some(Publication::look_up(&domain, &load()?, source)?),
        None => None,
    };
    let is_about_hosts = published.is_some() || !named.is_empty();
    let body = file.map(Ok).or_else(|| published.as_ref()?.policy.clone());
    let report = LintReport::new(body, named, published);
    let mut out = stdout().lock();
    if command.json.json {
        let mut answer = report.in_json();
        if !is_about_hosts && let Some(hosts) = answer.get_mut("mx_hosts") {
            *hosts = Value::Null;
        }
        output::json(&mut out, &answer)?;
    } else {
        report.tell(&mut out)?;
    }
    Ok(Exit::from(report.is_valid() && report.mx_errors.is_empty()))
}

/// What `policy lint` found.
struct LintReport {
    lint: Lint,
    hosts: Vec<Covered>,
    /// About the MX hosts, not the file.
    mx_errors: Vec<DocumentProblem>,
    mx_warnings: Vec<DocumentProblem>,
}

impl LintReport {
    fn new(
        body: Option<Result<Vec<u8>, DocumentProblem>>,
        mut named: Vec<HostName>,
        published: Option<Publication>,
    ) -> Self {
        let lint = match body {
            Some(Ok(body)) => advice::policy(&body),
            Some(Err(problem)) => Lint { errors: vec![problem], ..Lint::default() },
            None => Lint::default(),
        };
        let (mut mx_errors, mut mx_warnings) = (Vec::new(), Vec::new());
        if let Some(published) = published {
            named.extend(published.hosts(&lint.mx));
            mx_warnings = published.warnings;
            if published.takes_no_mail && lint.mode != Some(Mode::None) {
                let text = "the domain takes no mail (null MX): publish mode: none".to_owned();
                mx_warnings.push(DocumentProblem { line: None, code: "null_mx", text });
            }
            if lint.mode != Some(Mode::None) {
                mx_errors = published.errors;
            }
        }
        let hosts: Vec<Covered> = named.into_iter().map(|host| Covered::new(host, &lint)).collect();
        mx_errors.extend(hosts.iter().filter_map(Covered::problem));
        Self { lint, hosts, mx_errors, mx_warnings }
    }

    fn is_valid(&self) -> bool {
        self.lint.errors.is_empty()
    }

    fn in_json(&self) -> Value {
        let in_json =
            |p: &DocumentProblem| json!({ "line": p.line, "code": p.code, "text": p.text });
        json!({
            "valid": self.is_valid(),
            "mode": self.lint.mode.map(Mode::as_str),
            "max_age": self.lint.max_age.map(|age| age.as_secs()),
            "mx": self.lint.mx.iter().map(MxPattern::to_string).collect::<Vec<_>>(),
            "errors": self.lint.errors.iter().chain(&self.mx_errors).map(in_json).collect::<Vec<_>>(),
            "warnings":
                self.lint.warnings.iter().chain(&self.mx_warnings).map(in_json).collect::<Vec<_>>(),
            "mx_hosts": self.hosts.iter().map(Covered::in_json).collect::<Vec<_>>(),
        })
    }

    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let errors = self.lint.errors.iter().chain(&self.mx_errors).map(|p| ("error", p));
        let warnings = self.lint.warnings.iter().chain(&self.mx_warnings).map(|p| ("warning", p));
        for (kind, problem) in errors.chain(warnings) {
            let line = problem.line.map_or_else(String::new, |line| format!("line {line}: "));
            writeln!(out, "{kind}: {line}{} [{}]", problem.text, problem.code)?;
        }
        for host in &self.hosts {
            host.tell(out)?;
        }
        let (Some(mode), Some(max_age), true) =
            (self.lint.mode, self.lint.max_age, self.is_valid())
        else {
            return writeln!(
                out,
                "not a policy: it is ignored; senders that hold an older one keep it until it expires"
            );
        };
        let mx: Vec<String> = self.lint.mx.iter().map(MxPattern::to_string).collect();
        writeln!(out, "valid: mode {mode}, max_age {} s, mx {}", max_age.as_secs(), mx.join(" "))
    }
}

fn host(option: &str, text: &str) -> Result<HostName, Failure> {
    HostName::parse(text).map_err(|error| {
        let text = RemoteText::new(text);
        Failure::new(Exit::BadInput, format!("{option}: {text:?} is no host name: {error}"))
    })
}

fn body_of(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().take(READ_MAX).read_to_end(&mut body)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(READ_MAX).read_to_end(&mut body))
    };
    match read {
        Ok(_) => Ok(body),
        Err(error) => Err(Failure::new(Exit::NoInput, format!("{}: {error}", file.display()))),
    }
}

pub(super) fn record(command: &LintRecord) -> Result<Exit, Failure> {
    let given: Vec<Vec<u8>> =
        command.records.iter().map(|record| record.as_bytes().to_owned()).collect();
    let lint = record_lint::lint(&given);
    let id = lint.verdict.as_ref().ok().map(policy::sts::Id::as_str);
    let mut out = stdout().lock();
    if command.json.json {
        let list = |findings: &[record_lint::RecordFinding]| -> Vec<Value> {
            findings.iter().map(|f| json!({ "code": f.code, "text": f.text })).collect()
        };
        let answer = json!({
            "usable": id.is_some(), "id": id,
            "errors": list(&lint.errors), "warnings": list(&lint.warnings),
        });
        output::json(&mut out, &answer)?;
        return Ok(Exit::from(id.is_some()));
    }
    for (kind, findings) in [("error", &lint.errors), ("warning", &lint.warnings)] {
        for finding in findings {
            writeln!(out, "{kind}: {} [{}]", finding.text, finding.code)?;
        }
    }
    match id {
        Some(id) => writeln!(out, "usable: id {id}")?,
        None => writeln!(
            out,
            "not usable: it counts as no record; senders that hold a policy keep it until it expires"
        )?,
    }
    Ok(Exit::from(id.is_some()))
}

/// A pattern that is none matches nothing, so "yes" is sure whatever else was given; "no" is not.
pub(super) fn matches(command: &Match) -> Result<Exit, Failure> {
    let mx = host("--mx", &command.mx);
    let mut faults: Vec<String> =
        mx.as_ref().err().map(|failure| failure.text.clone()).into_iter().collect();
    let (mut found, mut misses) = (None, Vec::new());
    for text in &command.patterns {
        match MxPattern::parse(text) {
            Ok(pattern) => {
                let matches = mx.as_ref().is_ok_and(|mx| pattern.matches(mx));
                found = found.or_else(|| matches.then_some(text));
                misses.extend(mx.as_ref().ok().and_then(|mx| coverage::near_miss(&pattern, mx)));
            }
            Err(_) => faults.push(format!(
                "--pattern: {:?} is no MX pattern: {}",
                RemoteText::new(text),
                coverage::fault(text)
            )),
        }
    }
    let hint = (found.is_none() && !misses.is_empty()).then(|| misses.join("; "));
    let mut out = stdout().lock();
    if command.json.json {
        let answer =
            json!({ "match": found.is_some(), "pattern": found, "hint": hint, "errors": faults });
        output::json(&mut out, &answer)?;
    } else if let Some(pattern) = found {
        writeln!(out, "yes: {} is covered by {pattern}", command.mx)?;
    } else if faults.is_empty() {
        let hint = hint.map(|hint| format!(": {hint}")).unwrap_or_default();
        writeln!(out, "no: {} is not covered{hint}", command.mx)?;
    }
    if found.is_none() && !faults.is_empty() {
        return Err(Failure::new(Exit::BadInput, faults.join("\n")));
    }
    for fault in faults {
        writeln!(stderr(), "warning: {fault}")?;
    }
    Ok(Exit::from(found.is_some()))
}

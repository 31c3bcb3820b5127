//! `staunch policy lint`, `lint-record`, `match`: the daemon's own judgement of what a domain
//! publishes, and what its publisher should know, without network or daemon.

use std::io::{self, Read, Write, stderr, stdout};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use policy::sts::document::{self, Problem};
use policy::sts::{MxPattern, advice, record_lint};
use serde_json::{Value, json};
use smtp::HostName;

use super::arguments::{LintFile, LintRecord, Match};
use super::exit::{Exit, Failure};
use super::output;

/// One octet more than a policy may have is enough to see that it is too long.
const READ_MAX: u64 = document::BODY_OCTETS_MAX as u64 + 1;

pub(super) fn policy(command: &LintFile) -> Result<Exit, Failure> {
    let body = read(&command.file).map_err(|error| {
        Failure::new(Exit::NoInput, format!("{}: {error}", command.file.display()))
    })?;
    let lint = advice::policy(&body);
    let mx: Vec<String> = lint.mx.iter().map(MxPattern::to_string).collect();
    let mode = lint.mode.map(document::Mode::as_str);
    let max_age = lint.max_age.map(|age| age.as_secs());
    let valid = lint.errors.is_empty();
    let mut out = stdout().lock();
    if command.json.json {
        let list = |problems: &[Problem]| -> Vec<Value> {
            problems
                .iter()
                .map(|p| json!({ "line": p.line, "code": p.code, "text": p.text }))
                .collect()
        };
        let answer = json!({
            "valid": valid, "mode": mode, "max_age": max_age, "mx": mx,
            "errors": list(&lint.errors), "warnings": list(&lint.warnings),
        });
        output::json(&mut out, &answer)?;
        return Ok(Exit::from(valid));
    }
    for (kind, problems) in [("error", &lint.errors), ("warning", &lint.warnings)] {
        for problem in problems {
            let line = problem.line.map_or_else(String::new, |line| format!("line {line}: "));
            writeln!(out, "{kind}: {line}{} [{}]", problem.text, problem.code)?;
        }
    }
    if valid {
        let mode = mode.unwrap_or_default();
        let max_age = max_age.unwrap_or_default();
        writeln!(out, "valid: mode {mode}, max_age {max_age} s, mx {}", mx.join(" "))?;
    } else {
        writeln!(
            out,
            "not a policy: it is ignored; senders that hold an older one keep it until it expires"
        )?;
    }
    Ok(Exit::from(valid))
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if file == Path::new("-") {
        io::stdin().take(READ_MAX).read_to_end(&mut body)?;
    } else {
        std::fs::File::open(file)?.take(READ_MAX).read_to_end(&mut body)?;
    }
    Ok(body)
}

pub(super) fn record(command: &LintRecord) -> Result<Exit, Failure> {
    let given: Vec<Vec<u8>> =
        command.records.iter().map(|record| record.as_bytes().to_owned()).collect();
    let lint = record_lint::lint(&given);
    let id = lint.verdict.as_ref().ok().map(policy::sts::Id::as_str);
    let mut out = stdout().lock();
    if command.json.json {
        let list = |findings: &[record_lint::Finding]| -> Vec<Value> {
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

pub(super) fn matches(command: &Match) -> Result<Exit, Failure> {
    let mx = HostName::parse(&command.mx);
    if let Err(error) = &mx {
        writeln!(stderr(), "warning: {:?} is no host name: {error}", command.mx)?;
    }
    let mut found = None;
    for text in &command.patterns {
        match MxPattern::parse(text) {
            Ok(pattern) => {
                let matches = mx.as_ref().is_ok_and(|mx| pattern.matches(mx));
                found = found.or_else(|| matches.then_some(text));
            }
            Err(error) => writeln!(stderr(), "warning: {error}")?,
        }
    }
    let mut out = stdout().lock();
    if command.json.json {
        output::json(&mut out, &json!({ "match": found.is_some(), "pattern": found }))?;
    } else if let Some(pattern) = found {
        writeln!(out, "yes: {} is covered by {pattern}", command.mx)?;
    } else {
        writeln!(out, "no: {} is not covered", command.mx)?;
    }
    Ok(Exit::from(found.is_some()))
}

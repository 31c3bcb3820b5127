//! `staunch explain`: the walk itself is `crate::control::explain`; here it is asked for, and
//! shown.
//!
//! A running daemon walks with what it knows. Without one the walk is made here, with what is kept
//! in the data directory.

mod alone;

use std::io::{self, Write, stdout};

use serde_json::Value;

use super::arguments::ExplainCommand;
use super::exit::{Exit, Failure};
use super::output::{self, cell};
use crate::cli::admin_client::{AdminClient, runtime};
use crate::config::Loaded;
use crate::control::explain::ExplainQuestion;
use crate::daemon::check_files::check_files;

pub(super) fn run(command: &ExplainCommand, loaded: &Loaded) -> Result<Exit, Failure> {
    let question = ExplainQuestion {
        address: command.address.clone(),
        connect: command.connect,
        sender: command.sender.clone(),
        require_tls: command.require_tls,
    };
    let flag = |set: bool| if set { "true" } else { "false" };
    let query = [
        ("address", Some(command.address.as_str())),
        ("connect", Some(flag(command.connect))),
        ("sender", command.sender.as_deref()),
        ("require_tls", Some(flag(command.require_tls))),
    ];
    let client = AdminClient::new(&loaded.config.admin.socket)?;
    let answer = runtime()?.block_on(async {
        match client.get(&["v1", "explain"], &query).await {
            Err(failure) if failure.exit == Exit::Unavailable => {
                check_files(loaded)
                    .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
                Ok(alone::walk(&loaded.config, question).await?)
            }
            answer => answer,
        }
    })?;
    let mut out = stdout().lock();
    if command.json.json { output::json(&mut out, &answer) } else { show(&mut out, &answer) }?;
    let waits = matches!(answer.get("verdict").and_then(Value::as_str), Some("defer" | "reject"));
    Ok(if waits { Exit::No } else { Exit::Ok })
}

/// The verdict first, then the evidence: policy, hosts, steps.
fn show(out: &mut dyn Write, answer: &Value) -> io::Result<()> {
    let of = |pointer: &str| answer.pointer(pointer).map_or_else(|| "-".to_owned(), cell);
    let reason = match of("/reason") {
        reason if reason == "-" => String::new(),
        reason => format!(" ({reason})"),
    };
    writeln!(out, "{}: {}{reason}\n", of("/address"), of("/verdict"))?;
    writeln!(out, "next hop  {}", of("/next_hop"))?;
    show_pauses(out, answer)?;
    writeln!(
        out,
        "MTA-STS   record {}, policy from {}",
        of("/mta_sts/record"),
        of("/mta_sts/source")
    )?;
    if answer.pointer("/mta_sts/policy").is_some_and(Value::is_object) {
        writeln!(
            out,
            "          mode {}, max_age {} s, mx {}, until {}",
            of("/mta_sts/policy/mode"),
            of("/mta_sts/policy/max_age"),
            of("/mta_sts/policy/mx"),
            of("/mta_sts/expires_at")
        )?;
    }
    if of("/mta_sts/error") != "-" {
        writeln!(out, "          error: {}", of("/mta_sts/error"))?;
    }
    let list =
        |name: &str| answer.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for mx in list("mx") {
        let of = |pointer: &str| mx.pointer(pointer).map_or_else(|| "-".to_owned(), cell);
        writeln!(out, "\nMX {} {}  {}", of("/preference"), of("/host"), of("/addresses"))?;
        writeln!(out, "   listed {}, requirement {}", of("/listed"), of("/requirement"))?;
        let reason = match of("/reason") {
            reason if reason == "-" => String::new(),
            reason => format!(" ({reason})"),
        };
        writeln!(out, "   {}{reason}", of("/outcome"))?;
        if mx.pointer("/tls").is_some_and(Value::is_object) {
            writeln!(out, "   TLS {} {}", of("/tls/version"), of("/tls/group"))?;
            let certificate = |name: &str| of(&format!("/tls/certificate/{name}"));
            writeln!(
                out,
                "   certificate for {}, by {}, until {}",
                certificate("names"),
                certificate("issuer"),
                certificate("not_after")
            )?;
        }
    }
    if !list("steps").is_empty() {
        writeln!(out, "\nsteps")?;
    }
    for step in list("steps") {
        let of = |name: &str| step.get(name).map_or_else(|| "-".to_owned(), cell);
        writeln!(out, "  {:>6} ms  {}: {}", of("took_ms"), of("step"), of("result"))?;
    }
    Ok(())
}

/// The verdict is about mail that is tried: none is while this holds.
fn show_pauses(out: &mut dyn Write, answer: &Value) -> io::Result<()> {
    let of = |value: &Value, name: &str| value.get(name).map_or_else(|| "-".to_owned(), cell);
    if let Some(all) = answer.get("paused").filter(|since| since.is_string()) {
        writeln!(out, "paused    since {}: nothing is sent; staunch resume", cell(all))?;
    }
    for hop in answer.get("paused_hops").and_then(Value::as_array).into_iter().flatten() {
        let (domain, since) = (of(hop, "domain"), of(hop, "since"));
        writeln!(out, "paused    since {since}: nothing is sent there; staunch resume {domain}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_verdict_comes_first_and_every_line_has_its_evidence() {
        let answer = json!({
            "address": "b@example.com", "domain": "example.com", "next_hop": "example.com",
            "verdict": "defer", "reason": "mx_not_listed",
            "paused": "2026-01-01T00:00:00Z",
            "paused_hops": [{"domain": "example.com", "since": "2026-01-01T01:00:00Z"}],
            "mta_sts": {
                "record": "v=STSv1; id=1;", "source": "cache",
                "policy": {"mode": "enforce", "max_age": 86400, "mx": ["mx.example.com"], "id": "1"},
                "fetched_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z",
                "error": null,
            },
            "mx": [{
                "host": "evil.example.net", "preference": 10, "addresses": [], "listed": false,
                "requirement": "verified by PKIX", "outcome": "refused", "reason": "mx_not_listed",
                "tls": null,
            }],
            "steps": [{"step": "mx", "took_ms": 12, "result": "1 host"}],
        });
        let mut out = Vec::new();
        show(&mut out, &answer).unwrap();
        let want = "\
b@example.com: defer (mx_not_listed)

next hop  example.com
paused    since 2026-01-01 00:00:00Z: nothing is sent; staunch resume
paused    since 2026-01-01 01:00:00Z: nothing is sent there; staunch resume example.com
MTA-STS   record v=STSv1; id=1;, policy from cache
          mode enforce, max_age 86400 s, mx mx.example.com, until 2026-01-02 00:00:00Z

MX 10 evil.example.net  -
   listed false, requirement verified by PKIX
   refused (mx_not_listed)

steps
      12 ms  mx: 1 host
";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}

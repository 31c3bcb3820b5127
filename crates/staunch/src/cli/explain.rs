//! `staunch explain`: the walk itself is `crate::control::explain`; here it is asked for, and
//! shown.
//!
//! A running daemon walks with what it knows. Without one the walk is made here, with what is kept
//! in the data directory.

mod alone;

use std::io::{self, Write, stderr, stdout};
use std::time::Duration;

use super::arguments::ExplainCommand;
use super::exit::{Exit, Failure};
use super::output::{self, text_cell, time_cell};
use crate::cli::admin_client::{AdminClient, read, runtime};
use crate::config::Loaded;
use crate::control::api::{
    BackOffState, DeliveryVerdict, ExplainStep, Explanation, FetchedPolicy, HostOutcome,
    NextHopQueue, PolicyOrigin, ShownMx, ShownPolicy,
};
use crate::control::explain::ExplainQuestion;
use crate::daemon::check_files::check_trust;

/// Our choice: so long nobody asks whether anything happens.
const SILENCE: Duration = Duration::from_secs(2);

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
    let ask = async {
        match client.get(&["v1", "explain"], &query).await {
            Err(failure) if matches!(failure.exit, Exit::Unavailable | Exit::NoPermission) => {
                writeln!(stderr(), "the daemon was not asked: {}", failure.text)?;
                check_trust(loaded)
                    .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
                let walked = alone::walk(&loaded.config, question).await?;
                Ok(serde_json::to_value(walked).map_err(io::Error::other)?)
            }
            answer => answer,
        }
    };
    let answer = runtime()?.block_on(async {
        let ask = Box::pin(ask);
        if command.json.json { ask.await } else { with_patience(ask).await }
    })?;
    let explained: Explanation = read(&answer)?;
    let mut out = stdout().lock();
    if command.json.json { output::json(&mut out, &answer) } else { show(&mut out, &explained) }?;
    Ok(match explained.verdict {
        DeliveryVerdict::Verified | DeliveryVerdict::Encrypted | DeliveryVerdict::Opportunistic => {
            Exit::Ok
        }
        DeliveryVerdict::Defer | DeliveryVerdict::Reject => Exit::No,
    })
}

/// Waits for the answer, and says so on stderr if that takes long.
async fn with_patience<T>(mut ask: impl Future<Output = T> + Unpin) -> T {
    if let Ok(answer) = tokio::time::timeout(SILENCE, &mut ask).await {
        return answer;
    }
    // With stderr gone there is nobody to tell.
    let _ = writeln!(stderr(), "waiting for DNS and other hosts; each may take some seconds ...");
    ask.await
}

/// The verdict first, then the evidence: policy, hosts, steps.
fn show(out: &mut dyn Write, answer: &Explanation) -> io::Result<()> {
    let (address, verdict) = (text_cell(&answer.address), answer.verdict.as_str());
    let reason = in_brackets(answer.reason.as_deref());
    let is_plan = answer.mx.iter().any(|mx| mx.outcome == HostOutcome::WouldConnect);
    let plan = if is_plan { " (not tried: --connect tries the hosts)" } else { "" };
    writeln!(out, "{address}: {verdict}{reason}{plan}\n")?;
    writeln!(out, "next hop  {}", text_cell(&answer.next_hop))?;
    show_pauses(out, answer)?;
    if let Some(BackOffState { until, failures, reason, text, .. }) = &answer.back_off {
        let (until, reason, text) = (time_cell(*until), text_cell(reason), text_cell(text));
        let times = if *failures == 1 { "failure" } else { "failures" };
        writeln!(out, "waits     until {until}, after {failures} {times}: {reason}, {text}")?;
        writeln!(out, "          now: staunch queue retry --domain {}", text_cell(&answer.domain))?;
    }
    show_queue(out, answer)?;
    show_policy(out, answer)?;
    answer.mx.iter().try_for_each(|mx| show_mx(out, mx))?;
    if !answer.steps.is_empty() {
        writeln!(out, "\nsteps")?;
    }
    for ExplainStep { step, took_ms, result } in &answer.steps {
        writeln!(out, "  {took_ms:>6} ms  {}: {}", text_cell(step), text_cell(result))?;
    }
    Ok(())
}

/// What goes first, and what does not go.
fn show_queue(out: &mut dyn Write, answer: &Explanation) -> io::Result<()> {
    let Some(NextHopQueue { queued, held, counted_to }) = answer.queue else { return Ok(()) };
    let in_words = |count: u64| {
        let over = if count >= counted_to { "at least " } else { "" };
        let noun = if count == 1 { "recipient" } else { "recipients" };
        format!("{over}{count} {noun}")
    };
    if queued > 0 {
        writeln!(out, "queue     {} of this next hop in front", in_words(queued))?;
    }
    if held > 0 {
        let domain = text_cell(&answer.domain);
        writeln!(out, "held      {}; staunch queue release --domain {domain}", in_words(held))?;
    }
    Ok(())
}

fn show_policy(out: &mut dyn Write, answer: &Explanation) -> io::Result<()> {
    let known = &answer.mta_sts;
    writeln!(out, "MTA-STS   {}", policy_in_words(answer))?;
    if let Some(FetchedPolicy { mode, max_age, mx, .. }) = &known.policy {
        let (mode, mx) = (text_cell(mode), text_cell(&mx.join(" ")));
        let until = known.expires_at.map_or_else(|| "-".to_owned(), time_cell);
        writeln!(out, "          mode {mode}, max_age {max_age} s, mx {mx}, until {until}")?;
    }
    if let Some(error) = &known.error {
        writeln!(out, "          error: {}", text_cell(error))?;
    }
    Ok(())
}

/// Where the policy is from, or why there is none.
fn policy_in_words(answer: &Explanation) -> String {
    let ShownPolicy { record, policy, source, error, .. } = &answer.mta_sts;
    let domain = text_cell(&answer.domain);
    let record = record.as_deref().map(text_cell);
    let from = match source {
        PolicyOrigin::Cache => "from the cache",
        PolicyOrigin::Fetch => "fetched now",
        PolicyOrigin::None => "not stored",
    };
    match (policy, record, error) {
        (Some(_), Some(record), _) => format!("policy {from}, record {record}"),
        (Some(_), None, _) => format!("policy {from}; the record was not read"),
        (None, Some(record), _) => format!("record {record}, but no policy"),
        (None, None, Some(_)) => "not known whether there is a policy".to_owned(),
        (None, None, None) if answer.steps.iter().any(|step| step.step == "mta_sts") => {
            format!("no policy: {domain} publishes no record for it")
        }
        (None, None, None) => "not asked: a route says where mail goes".to_owned(),
    }
}

fn show_mx(out: &mut dyn Write, mx: &ShownMx) -> io::Result<()> {
    let named = |address: &&String| mx.host != format!("[{address}]");
    let addresses: Vec<&str> = mx.addresses.iter().filter(named).map(String::as_str).collect();
    let line = format!(
        "MX {} {}  {}",
        mx.preference,
        text_cell(&mx.host),
        text_cell(&addresses.join(" "))
    );
    writeln!(out, "\n{}", line.trim_end())?;
    let listed = match mx.listed {
        Some(true) => "listed in the policy, ",
        Some(false) => "not listed in the policy, ",
        None => "",
    };
    writeln!(out, "   {listed}requirement {}", mx.requirement.as_str())?;
    let manner = if mx.clear_text { ", in clear text" } else { "" };
    let reason = in_brackets(mx.reason.as_deref());
    writeln!(out, "   {}{reason}{manner}", mx.outcome.as_str())?;
    if mx.eightbitmime == Some(false) {
        writeln!(out, "   no 8BITMIME: a message with eight bits goes to the other hosts first")?;
    }
    let Some(tls) = &mx.tls else { return Ok(()) };
    let group = tls.group.as_deref().unwrap_or_default();
    writeln!(out, "   TLS {} {}", text_cell(&tls.version), text_cell(group))?;
    if let Some(certificate) = &tls.certificate {
        let names = certificate.names.as_deref().unwrap_or_default().join(" ");
        let until = certificate.not_after.map_or_else(|| "-".to_owned(), time_cell);
        let (names, issuer) = (text_cell(&names), text_cell(&certificate.issuer));
        writeln!(out, "   certificate for {names}, by {issuer}, until {until}")?;
    }
    Ok(())
}

fn in_brackets(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(" ({})", text_cell(reason)))
}

/// The verdict is about mail that is tried: none is while this holds.
fn show_pauses(out: &mut dyn Write, answer: &Explanation) -> io::Result<()> {
    if let Some(since) = answer.paused.map(time_cell) {
        writeln!(out, "paused    since {since}: nothing is sent; staunch resume")?;
    }
    for hop in &answer.paused_hops {
        let (domain, since) = (text_cell(&hop.domain), time_cell(hop.since));
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
            "address": "b@example.com", "domain": "example.com", "sender": null, "next_hop": "example.com",
            "verdict": "defer", "reason": "mx_not_listed",
            "paused": "2026-01-01T00:00:00Z",
            "back_off": {
                "until": "2026-01-01T02:00:00Z", "since": "2026-01-01T00:00:00Z", "failures": 2,
                "reason": "connect_failed", "text": "refused",
            },
            "paused_hops": [{"domain": "example.com", "since": "2026-01-01T01:00:00Z"}],
            "queue": {"queued": 10000, "held": 1, "counted_to": 10000},
            "mta_sts": {
                "record": "v=STSv1; id=1;", "source": "cache",
                "policy": {"mode": "enforce", "max_age": 86400, "mx": ["mx.example.com"], "id": "1"},
                "fetched_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z",
                "error": null,
            },
            "mx": [{
                "host": "evil.example.net", "preference": 10, "addresses": [], "listed": false,
                "requirement": "verify", "outcome": "refused", "reason": "mx_not_listed",
                "tls": null,
            }, {
                "host": "old.example.net", "preference": 20, "addresses": ["192.0.2.1"],
                "listed": null, "requirement": "opportunistic", "outcome": "admitted",
                "reason": null, "clear_text": true, "eightbitmime": false, "tls": null,
            }],
            "steps": [{"step": "mx", "took_ms": 12, "result": "1 host"}],
        });
        let mut out = Vec::new();
        show(&mut out, &read(&answer).unwrap()).unwrap();
        let want = "\
b@example.com: defer (mx_not_listed)

next hop  example.com
paused    since 2026-01-01 00:00:00Z: nothing is sent; staunch resume
paused    since 2026-01-01 01:00:00Z: nothing is sent there; staunch resume example.com
waits     until 2026-01-01 02:00:00Z, after 2 failures: connect_failed, refused
          now: staunch queue retry --domain example.com
queue     at least 10000 recipients of this next hop in front
held      1 recipient; staunch queue release --domain example.com
MTA-STS   policy from the cache, record v=STSv1; id=1;
          mode enforce, max_age 86400 s, mx mx.example.com, until 2026-01-02 00:00:00Z

MX 10 evil.example.net  -
   not listed in the policy, requirement verify
   refused (mx_not_listed)

MX 20 old.example.net  192.0.2.1
   requirement opportunistic
   admitted, in clear text
   no 8BITMIME: a message with eight bits goes to the other hosts first

steps
      12 ms  mx: 1 host
";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}

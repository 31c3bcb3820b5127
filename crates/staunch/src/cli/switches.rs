//! `staunch pause`, `resume` and `drain`: they say what is switched off then, and how to undo it.

use std::io::{Write as _, stderr, stdout};

use reqwest::Method;
use serde_json::Value;

use super::arguments::{Drain, Json, OneHop};
use super::exit::{Exit, Failure};
use super::output::{self, text_cell, time_cell};
use crate::cli::admin_client::{read, with_client};
use crate::config::Loaded;
use crate::control::api::{PauseDone, PausedHop, SwitchStates, WhichHop};

pub(super) fn pause(command: &OneHop, loaded: &Loaded) -> Result<Exit, Failure> {
    let done = turn("pause", command, loaded)?;
    let PauseDone { unmatched, .. } = read(&done)?;
    let exit = show(&done, command.json)?;
    if let (Some(unmatched), Some(domain)) = (&unmatched, &command.domain) {
        let (domain, hint) = (text_cell(domain), output::did_you_mean(unmatched));
        // Paused it is: mail may come.
        writeln!(stderr(), "no mail waits for {domain} now{hint}")?;
    }
    Ok(exit)
}

pub(super) fn resume(command: &OneHop, loaded: &Loaded) -> Result<Exit, Failure> {
    show(&turn("resume", command, loaded)?, command.json)
}

fn turn(verb: &str, command: &OneHop, loaded: &Loaded) -> Result<Value, Failure> {
    let which = WhichHop { domain: command.domain.clone() };
    with_client(&loaded.config.admin.socket, async |client| {
        client.post(&["v1", verb], &which).await
    })
}

pub(super) fn drain(command: &Drain, loaded: &Loaded) -> Result<Exit, Failure> {
    let method = if command.off { Method::DELETE } else { Method::POST };
    let state = with_client(&loaded.config.admin.socket, async |client| {
        client.act(method, &["v1", "drain"]).await
    })?;
    show(&state, command.json)
}

/// What is off now, also what was off before; and how to end it.
fn show(state: &Value, format: Json) -> Result<Exit, Failure> {
    let mut out = stdout().lock();
    if format.json {
        output::json(&mut out, state)?;
    } else {
        in_words(&read(state)?).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(Exit::Ok)
}

/// A sentence for each thing that is off, or for that nothing is.
fn in_words(state: &SwitchStates) -> Vec<String> {
    let mut lines = what_is_off(state);
    if lines.is_empty() {
        lines.push("Nothing is paused, and new mail is taken.".to_owned());
    }
    lines
}

/// A sentence for each thing that is off.
pub(super) fn what_is_off(state: &SwitchStates) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(state.paused.map(|since| {
        format!("Paused since {}: nothing is sent. Undo: staunch resume", time_cell(since))
    }));
    for PausedHop { domain, since, next_hops } in &state.paused_hops {
        let domain = text_cell(domain);
        let hops = match next_hops.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => " (no mail goes there now)".to_owned(),
            [only] if *only == domain => String::new(),
            hops => format!(" ({})", text_cell(&hops.join(", "))),
        };
        lines.push(format!(
            "Paused for {domain}{hops} since {}. Undo: staunch resume {domain}",
            time_cell(*since)
        ));
    }
    lines.extend(state.draining.map(|since| {
        let since = time_cell(since);
        format!("Draining since {since}: no new mail is taken. Undo: staunch drain --off")
    }));
    lines
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_is_off_is_a_sentence_with_its_way_back() {
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let on = SwitchStates::default();
        assert_eq!(in_words(&on), ["Nothing is paused, and new mail is taken."]);
        let hop = |hops: &[&str]| PausedHop {
            domain: "a.test".to_owned(),
            since,
            next_hops: hops.iter().map(|hop| (*hop).to_owned()).collect(),
        };
        let off = SwitchStates {
            paused: Some(since),
            paused_hops: vec![hop(&["a.test"]), hop(&["relay.test:25"]), hop(&[])],
            draining: Some(since),
        };
        let want = [
            "Paused since 2026-01-01 00:00:00Z: nothing is sent. Undo: staunch resume",
            "Paused for a.test since 2026-01-01 00:00:00Z. Undo: staunch resume a.test",
            "Paused for a.test (relay.test:25) since 2026-01-01 00:00:00Z. Undo: staunch resume a.test",
            "Paused for a.test (no mail goes there now) since 2026-01-01 00:00:00Z. Undo: staunch resume a.test",
            "Draining since 2026-01-01 00:00:00Z: no new mail is taken. Undo: staunch drain --off",
        ];
        assert_eq!(in_words(&off), want);
    }
}

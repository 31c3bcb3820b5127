//! `staunch debug`: everything about a name into the log, for a while.

use std::io::{Write as _, stdout};
use std::time::Duration;

use super::arguments::DebugCommand;
use super::exit::{Exit, Failure};
use super::output::{self, text_cell, time_cell};
use crate::cli::admin_client::{read, with_client};
use crate::config::Loaded;
use crate::control::api::{DebugOrder, Debugged};

pub(super) fn run(command: &DebugCommand, loaded: &Loaded) -> Result<Exit, Failure> {
    let order = DebugOrder { name: command.name.clone(), seconds: whole_seconds(command.length) };
    let answer = with_client(&loaded.config.admin.socket, async |client| {
        client.post(&["v1", "debug"], &order).await
    })?;
    let mut out = stdout().lock();
    if command.json.json {
        output::json(&mut out, &answer)?;
    } else {
        writeln!(out, "{}", in_words(&read(&answer)?))?;
    }
    Ok(Exit::Ok)
}

/// Rounded up: only 0 ends it.
fn whole_seconds(length: Duration) -> u64 {
    length.as_secs() + u64::from(length.subsec_nanos() > 0)
}

fn in_words(debugged: &Debugged) -> String {
    let name = text_cell(&debugged.name);
    let Some(until) = debugged.until else { return format!("{name} is not debugged any more.") };
    let hosts = match debugged.hosts.as_slice() {
        [] => String::new(),
        hosts => format!(" (hosts: {})", text_cell(&hosts.join(", "))),
    };
    format!(
        "Everything about {name}{hosts} is in the log until {}. End: staunch debug {name} --for 0s",
        time_cell(until)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_sentence_with_its_end() {
        let until = Some("2026-01-01T00:15:00Z".parse().unwrap());
        let of = |hosts: &[&str], until| {
            let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            in_words(&Debugged { name: "far.test".to_owned(), hosts, until })
        };
        assert_eq!(
            of(&["mx1.far.test", "mx2.far.test"], until),
            "Everything about far.test (hosts: mx1.far.test, mx2.far.test) is in the log until \
             2026-01-01 00:15:00Z. End: staunch debug far.test --for 0s"
        );
        assert_eq!(
            of(&[], until),
            "Everything about far.test is in the log until 2026-01-01 00:15:00Z. \
             End: staunch debug far.test --for 0s"
        );
        assert_eq!(of(&[], None), "far.test is not debugged any more.");
    }
}

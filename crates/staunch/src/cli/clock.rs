//! `staunch clock trust`: the operator says that the wall clock is right.

use std::io::{Write as _, stdout};

use reqwest::Method;

use super::arguments::{ClockCommand, Json};
use super::exit::{Exit, Failure};
use super::output;
use crate::cli::admin_client::{read, with_client};
use crate::config::Loaded;
use crate::control::api::ClockTrusted;

pub(super) fn run(command: &ClockCommand, loaded: &Loaded) -> Result<Exit, Failure> {
    let ClockCommand::Trust(format) = command;
    trust(*format, loaded)
}

fn trust(format: Json, loaded: &Loaded) -> Result<Exit, Failure> {
    let answer = with_client(&loaded.config.admin.socket, async |client| {
        client.act(Method::POST, &["v1", "clock", "trust"]).await
    })?;
    let mut out = stdout().lock();
    if format.json {
        output::json(&mut out, &answer)?;
    } else {
        writeln!(out, "{}", in_words(read(&answer)?))?;
    }
    Ok(Exit::Ok)
}

fn in_words(answer: ClockTrusted) -> String {
    match answer.clock_suspect.map(|suspect| suspect.offset_seconds) {
        Some(seconds) if seconds < 0 => {
            format!("trusted again, {} s behind where it was expected", seconds.unsigned_abs())
        }
        Some(seconds) => format!("trusted again, {seconds} s ahead of where it was expected"),
        None => "it was not in doubt".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::ClockSuspect;

    #[test]
    fn after_clock_trust_one_reads_what_was_wrong() {
        let cases = [
            (Some(7200), "trusted again, 7200 s ahead of where it was expected"),
            (Some(-7200), "trusted again, 7200 s behind where it was expected"),
            (None, "it was not in doubt"),
        ];
        for (offset, want) in cases {
            let suspect = |offset_seconds| ClockSuspect { offset_seconds, seconds_left: 60 };
            let answer = ClockTrusted { clock_suspect: offset.map(suspect) };
            assert_eq!(in_words(answer), want);
        }
    }
}

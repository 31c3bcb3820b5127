//! `staunch clock trust`: the operator says that the wall clock is right.

use std::io::{Write as _, stdout};

use reqwest::Method;
use serde_json::Value;

use super::arguments::{ClockCommand, Json};
use super::exit::{Exit, Failure};
use super::output;
use crate::cli::admin_client::with_door;
use crate::config::Loaded;

pub(super) fn run(command: &ClockCommand, loaded: &Loaded) -> Result<Exit, Failure> {
    let ClockCommand::Trust(format) = command;
    trust(*format, loaded)
}

fn trust(format: Json, loaded: &Loaded) -> Result<Exit, Failure> {
    let answer = with_door(&loaded.config.admin.socket, async |client| {
        client.act(Method::POST, &["v1", "clock", "trust"]).await
    })?;
    let mut out = stdout().lock();
    if format.json {
        output::json(&mut out, &answer)?;
    } else {
        writeln!(out, "{}", in_words(&answer))?;
    }
    Ok(Exit::Ok)
}

fn in_words(answer: &Value) -> String {
    let offset = answer.get("clock_suspect").and_then(|suspect| suspect.get("offset_seconds"));
    match offset.and_then(Value::as_i64) {
        Some(seconds) if seconds < 0 => {
            format!("trusted again, {} s behind where it was expected", -seconds)
        }
        Some(seconds) => {
            format!("trusted again, {seconds} s ahead of where it was expected")
        }
        None => "it was not in doubt".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_trusts_the_clock_hears_what_was_wrong_with_it() {
        let suspect = |seconds: i64| json!({ "clock_suspect": { "offset_seconds": seconds, "seconds_left": 60 } });
        let cases = [
            (suspect(7200), "trusted again, 7200 s ahead of where it was expected"),
            (suspect(-7200), "trusted again, 7200 s behind where it was expected"),
            (json!({ "clock_suspect": null }), "it was not in doubt"),
        ];
        for (answer, want) in cases {
            assert_eq!(in_words(&answer), want);
        }
    }
}

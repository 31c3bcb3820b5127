//! `staunch reload`: the daemon reads its configuration again.

use std::io::{self, Write, stdout};

use reqwest::Method;

use super::arguments::Json;
use super::exit::{Exit, Failure};
use super::output::{self, text_cell};
use crate::cli::admin_client::{read, with_client};
use crate::config::Loaded;
use crate::control::api::{ListenerEffect, Reloaded};

pub(super) fn run(format: Json, loaded: &Loaded) -> Result<Exit, Failure> {
    let answer = with_client(&loaded.config.admin.socket, async |client| {
        client.act(Method::POST, &["v1", "reload"]).await
    })?;
    let mut out = stdout().lock();
    if format.json {
        output::json(&mut out, &answer)?;
    } else {
        show(&mut out, &read(&answer)?)?;
    }
    Ok(Exit::Ok)
}

/// A line for each key, for each listener or other table, and for each file.
fn show(out: &mut dyn Write, done: &Reloaded) -> io::Result<()> {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for key in &done.changed {
        let (table, inner) = match key.split_once("].") {
            Some((table, _)) if table.starts_with("listener[") => continue,
            Some((table, inner)) => (format!("{table}]"), Some(inner)),
            None => (key.clone(), None),
        };
        match lines.last_mut() {
            Some((last, keys)) if *last == table => keys.extend(inner),
            Some(_) | None => lines.push((table, inner.into_iter().collect())),
        }
    }
    for (key, inner) in &lines {
        let named: Vec<String> = [key.clone(), inner.join(", ")].into();
        let named: Vec<String> = named.into_iter().filter(|part| !part.is_empty()).collect();
        writeln!(out, "changed: {}", text_cell(&named.join(": ")))?;
    }
    for listener in &done.listeners {
        let address = text_cell(&listener.address);
        match listener.effect {
            ListenerEffect::Opened => writeln!(out, "opened: listener {address}")?,
            ListenerEffect::Closed => writeln!(out, "closed: listener {address}")?,
            ListenerEffect::Changed => {
                let keys = text_cell(&listener.keys.join(", "));
                writeln!(out, "changed: listener {address}: {keys}")?;
            }
        }
    }
    for file in &done.read_again {
        let (path, key) = (text_cell(&file.path), text_cell(&file.key));
        writeln!(out, "read again: {path} ({key})")?;
    }
    if lines.is_empty() && done.listeners.is_empty() && done.read_again.is_empty() {
        writeln!(out, "nothing has changed")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_listener_table_and_file_has_one_line() {
        let said = |answer: serde_json::Value| {
            let mut out = Vec::new();
            show(&mut out, &read(&answer).unwrap()).unwrap();
            String::from_utf8(out).unwrap()
        };
        let answer = json!({
            "changed": [
                "delivery.tls", "listener[0].mode", "listener[1].address", "listener[1].mode",
                "route[0].domains", "route[0].via", "route[1].tls",
            ],
            "listeners": [
                {"address": "127.0.0.1:25", "effect": "changed", "keys": ["mode", "tls_key"]},
                {"address": "unix:/run/a", "effect": "opened", "keys": []},
                {"address": "systemd:smtp", "effect": "closed", "keys": []},
            ],
            "read_again": [{"key": "access.users_file", "path": "/etc/staunch/users"}],
        });
        let want = "\
changed: delivery.tls
changed: route[0]: domains, via
changed: route[1]: tls
changed: listener 127.0.0.1:25: mode, tls_key
opened: listener unix:/run/a
closed: listener systemd:smtp
read again: /etc/staunch/users (access.users_file)
";
        assert_eq!(said(answer), want);
        // As a daemon of an earlier release says it.
        assert_eq!(said(json!({"changed": []})), "nothing has changed\n");
    }
}

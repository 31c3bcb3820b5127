//! `staunch reload`: the daemon reads its configuration again.

use std::io::{Write as _, stdout};

use reqwest::Method;

use super::arguments::Json;
use super::exit::{Exit, Failure};
use super::output;
use crate::cli::admin_client::{read, with_client};
use crate::config::Loaded;
use crate::control::api::Reloaded;

pub(super) fn run(format: Json, loaded: &Loaded) -> Result<Exit, Failure> {
    let answer = with_client(&loaded.config.admin.socket, async |client| {
        client.act(Method::POST, &["v1", "reload"]).await
    })?;
    let mut out = stdout().lock();
    if format.json {
        output::json(&mut out, &answer)?;
        return Ok(Exit::Ok);
    }
    let Reloaded { changed } = read(&answer)?;
    for key in &changed {
        writeln!(out, "changed: {key}")?;
    }
    if changed.is_empty() {
        writeln!(out, "nothing has changed")?;
    }
    Ok(Exit::Ok)
}

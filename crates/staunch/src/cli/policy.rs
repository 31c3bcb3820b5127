//! `staunch policy list`, `show`, `refresh`, `forget`: the daemon's policies.

use std::io::{Write, stdout};

use reqwest::Method;
use serde_json::Value;

use super::arguments::{CacheCommand, Forget, Json, OneDomain};
use super::exit::{Exit, Failure};
use super::output::{self, cell};
use super::queue::print;
use super::table::TextTable;
use crate::cli::admin_client::{AdminClient, with_door};
use crate::config::Loaded;

/// Members of a row, which are the headings too.
const COLUMNS: [&str; 6] = ["domain", "mode", "id", "fetched_at", "expires_at", "mx"];

pub(super) fn run(command: &CacheCommand, loaded: &Loaded) -> Result<Exit, Failure> {
    with_door(&loaded.config.admin.socket, async |client| match command {
        CacheCommand::List(format) => list(&client, *format).await,
        CacheCommand::Show(OneDomain { domain, json }) => {
            print(&client.get(&["v1", "policies", domain], &[]).await?, *json)
        }
        CacheCommand::Refresh(command) => refresh(&client, command).await,
        CacheCommand::Forget(command) => forget(&client, command).await,
    })
}

async fn list(client: &AdminClient, format: Json) -> Result<Exit, Failure> {
    let mut rows = client.stream(&["v1", "policies"], &[]).await?;
    let mut out = stdout().lock();
    let headings = COLUMNS.map(|column| column.trim_end_matches("_at").to_ascii_uppercase());
    let mut table = TextTable::new(&headings.each_ref().map(String::as_str));
    while let Some(row) = rows.line().await? {
        if format.json {
            output::json(&mut out, &row)?;
        } else {
            let of = |column| row.get(column).map_or_else(|| "-".to_owned(), cell);
            table.row(&mut out, COLUMNS.map(of).into())?;
        }
    }
    table.finish(&mut out)?;
    Ok(Exit::Ok)
}

/// Not being able to fetch what a record announces is a "no", whatever holds in the meantime.
async fn refresh(client: &AdminClient, command: &OneDomain) -> Result<Exit, Failure> {
    let path = ["v1", "policies", &command.domain, "refresh"];
    let answer = client.act(Method::POST, &path).await?;
    print(&answer, command.json)?;
    Ok(Exit::from(answer.get("error").is_none_or(Value::is_null)))
}

async fn forget(client: &AdminClient, command: &Forget) -> Result<Exit, Failure> {
    let Forget { domain, host, json } = command;
    let (kind, name) = match (domain, host) {
        (Some(domain), None) => ("policies", domain),
        (None, Some(host)) => ("hosts", host),
        // The arguments are a group of which one is required.
        (Some(_), Some(_)) | (None, None) => {
            return Err(Failure::new(Exit::Usage, "either a domain or --host is needed"));
        }
    };
    let answer = client.act(Method::DELETE, &["v1", kind, name]).await?;
    let mut out = stdout().lock();
    if json.json {
        output::json(&mut out, &answer)?;
    } else {
        writeln!(out, "forgotten: {name}")?;
    }
    Ok(Exit::Ok)
}

//! `staunch policy list`, `show`, `refresh`, `forget`: the daemon's policies.

use std::io::{Write, stdout};

use reqwest::Method;

use super::arguments::{CacheCommand, Forget, Json, OneDomain};
use super::exit::{Exit, Failure};
use super::output::{self, text_cell, time_cell};
use super::queue::print;
use super::table::TextTable;
use crate::cli::admin_client::{AdminClient, read, with_client};
use crate::config::Loaded;
use crate::control::api::{PolicySummary, RefreshResult};

const HEADINGS: [&str; 6] = ["DOMAIN", "MODE", "ID", "FETCHED", "EXPIRES", "MX"];

pub(super) fn run(command: &CacheCommand, loaded: &Loaded) -> Result<Exit, Failure> {
    with_client(&loaded.config.admin.socket, async |client| match command {
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
    let mut table = TextTable::new(&HEADINGS);
    while let Some(row) = rows.line().await? {
        if format.json {
            output::json(&mut out, &row)?;
        } else {
            let policy: PolicySummary = read(&row)?;
            let cells = [
                text_cell(&policy.domain),
                text_cell(&policy.mode),
                text_cell(&policy.id),
                time_cell(policy.fetched_at),
                time_cell(policy.expires_at),
                text_cell(&policy.mx.join(" ")),
            ];
            table.row(&mut out, cells.into())?;
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
    let RefreshResult { error, .. } = read(&answer)?;
    Ok(Exit::from(error.is_none()))
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

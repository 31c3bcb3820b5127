//! What was named and is nowhere in the queue: perhaps a slip of the pen.

use std::sync::Arc;

use axum::Json;
use smtp::HostName;
use spool::{Filter, ListCursor, ListPage, QueueRow, Selection};

use super::answer::{AdminRefused, ask_store};
use super::chosen::ChosenMail;
use crate::config::Config;
use crate::control::Control;
use crate::control::api::{ActionDone, Unmatched};
use crate::delivery::route;
use crate::likeness::Nearest;

/// Recipients read at once.
const PAGE: usize = 1_000;
/// Our choice: pages in which a similar name is looked for, some second.
const PAGES_MAX: usize = 200;

/// What an order did; where it was for nobody, whether its selection means anything.
pub(super) async fn told(
    control: &Arc<Control>,
    chosen: ChosenMail,
    done: ActionDone,
) -> Result<Json<ActionDone>, AdminRefused> {
    let ChosenMail { selection, missing, .. } = chosen;
    let done = ActionDone { missing, ..done };
    if done.count > 0 || done.being_sent.is_some_and(|count| count > 0) {
        return Ok(Json(done));
    }
    Ok(Json(ActionDone { unmatched: selected(control, &selection).await?, ..done }))
}

/// Is there nothing in the queue that `selection` means? `None`: there is.
async fn selected(
    control: &Arc<Control>,
    selection: &Selection,
) -> Result<Option<Unmatched>, AdminRefused> {
    let filter = match selection {
        Selection::Messages(ids) => {
            let ids = ids.clone();
            let is_any = ask_store(control, move |control| {
                for id in ids {
                    if !control.queue.spool.places(id, None)?.is_empty() {
                        return Ok(true);
                    }
                }
                Ok(false)
            });
            return Ok((!is_any.await?).then_some(Unmatched { did_you_mean: None }));
        }
        Selection::Matching(filter) => filter,
    };
    let mut after = None;
    loop {
        let page = page(control, filter, after, 1).await?;
        if !page.rows.is_empty() || !page.damaged.is_empty() {
            return Ok(None);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let did_you_mean = match &filter.domain {
        Some(domain) => nearest(control, domain, |row| domains(row, None)).await?,
        None => None,
    };
    Ok(Some(Unmatched { did_you_mean }))
}

/// Does no mail wait for the next hop of this name? `None`: some does.
pub(super) async fn next_hop(
    control: &Arc<Control>,
    name: &HostName,
) -> Result<Option<Unmatched>, AdminRefused> {
    let config = control.queue.config();
    let lanes = route::lanes_towards(&config, name);
    let is_any = ask_store(control, move |control| {
        for lane in &lanes {
            if control.queue.spool.next_due(lane, jiff::Timestamp::MIN)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    });
    if is_any.await? {
        return Ok(None);
    }
    let names = |row: &QueueRow| domains(row, Some(&config));
    Ok(Some(Unmatched { did_you_mean: nearest(control, name, names).await? }))
}

async fn page(
    control: &Arc<Control>,
    filter: &Filter,
    after: Option<ListCursor>,
    limit: usize,
) -> Result<ListPage, AdminRefused> {
    let filter = filter.clone();
    ask_store(control, move |control| control.queue.spool.list(&filter, after, limit)).await
}

/// What mail is named by: its domain, and the smarthosts of the route that it takes.
fn domains(row: &QueueRow, config: Option<&Config>) -> Vec<String> {
    let hosts = config.map(|config| route::names_of(config, &row.lane)).unwrap_or_default();
    let hosts = hosts.iter().map(HostName::to_string);
    [row.recipient.domain().to_string()].into_iter().chain(hosts).collect()
}

/// The most similar of the names that there is mail for.
async fn nearest(
    control: &Arc<Control>,
    name: &HostName,
    names: impl Fn(&QueueRow) -> Vec<String>,
) -> Result<Option<String>, AdminRefused> {
    let (mut nearest, mut after) = (Nearest::to(name.as_str()), None);
    for _ in 0..PAGES_MAX {
        let page = page(control, &Filter::default(), after, PAGE).await?;
        let mut last = None;
        for row in &page.rows {
            // Recipients of one domain often follow each other.
            let place = Some((row.recipient.domain(), &row.lane));
            if last == place {
                continue;
            }
            last = place;
            names(row).iter().for_each(|other| nearest.look_at(other));
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(nearest.found())
}

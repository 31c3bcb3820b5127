//! The queue, looked at and acted upon.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use jiff::Timestamp;
use smtp::RemoteText;
use smtp::params::ByMode;
use spool::{
    Acted, ActedRow, DamagedRecipient, Deadline, Filter, LaneKey, LaneTrouble, ListCursor,
    MessageId, MessageOptions, QueueRow, RecipientState, Selection, StoreError, StoredProblem,
};

use super::answer::{AdminPeer, AdminRefused, ask_store};
use super::chosen::{self, Cause};
use super::header;
use super::ranking::Ranking;
use super::unmatched;
use crate::control::Control;
use crate::control::api::{
    ActionDone, Chosen, DeadlineEffect, FailureOf, HoldOrder, LastProblem, ListedMessage,
    ListedRecipient, MailState, ShownDeadline, ShownOptions, SortBy, WantedPage,
};
use crate::control::facts::ControlFact;
use crate::queue::events::Event;
use crate::queue::handle::Counted;
use crate::queue::stop::{self, TakenOut, Verb};
use crate::telemetry::Reason;

/// Recipients read at once.
const PAGE: usize = 500;
/// Why mail is held, in bytes. Our choice: a sentence with a link, which a log line has room for.
const WHY_BYTES_MAX: usize = 400;
/// Octets of a body sent at once.
const PIECE: usize = 64 * 1024;

/// Where a listing stands.
struct Listing {
    control: Arc<Control>,
    filter: Filter,
    wanted: WantedPage,
    /// Lanes that wait: their cause and time hold for all who wait in them.
    troubles: HashMap<LaneKey, LaneTrouble>,
    left: u64,
    at: ListPosition,
}

enum ListPosition {
    Start,
    After(ListCursor),
    End,
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Query(wanted): Query<WantedPage>,
) -> Result<Response, AdminRefused> {
    let state = match wanted.state {
        None | Some(MailState::Sending) => None,
        Some(MailState::Queued) => Some(RecipientState::Queued),
        Some(MailState::Held) => Some(RecipientState::Held),
    };
    let domain = wanted.domain.as_deref().map(chosen::parse_domain).transpose()?;
    let cause = wanted.reason.as_deref().map(Cause::parse).transpose()?;
    let (state, wanted) = match cause {
        Some(Cause::Held) => (Some(RecipientState::Held), WantedPage { reason: None, ..wanted }),
        Some(Cause::Reason(_)) | None => (state, wanted),
    };
    let troubles = ask_store(&control, troubles).await?;
    let filter = Filter { domain, state, ..Filter::default() };
    let (sort, limit) = (wanted.sort, wanted.limit);
    let left = limit.unwrap_or(u64::MAX);
    let at = ListPosition::Start;
    let mut listing = Listing { control, filter, wanted, troubles, left, at };
    let mut ranking = match sort {
        None | Some(SortBy::Age) => {
            return Ok(Body::from_stream(stream::try_unfold(listing, next_lines)).into_response());
        }
        Some(by) => Ranking::new(by, limit)?,
    };
    listing.left = u64::MAX;
    while let Some(rows) = next_rows(&mut listing).await? {
        rows.into_iter().for_each(|row| ranking.add(row));
    }
    Ok(lines(ranking.rows()).map_err(AdminRefused::failed)?.into_response())
}

pub(super) fn troubles(control: &Control) -> Result<HashMap<LaneKey, LaneTrouble>, StoreError> {
    Ok(control.queue.spool.troubles()?.into_iter().collect())
}

async fn next_lines(mut listing: Listing) -> Result<Option<(Bytes, Listing)>, String> {
    let rows = next_rows(&mut listing).await.map_err(|refused| refused.text)?;
    rows.map(|rows| Ok((lines(rows)?, listing))).transpose()
}

/// One object a line.
fn lines(rows: impl IntoIterator<Item = ListedRecipient>) -> Result<Bytes, String> {
    let mut lines = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut lines, &row).map_err(|error| error.to_string())?;
        lines.push(b'\n');
    }
    Ok(Bytes::from(lines))
}

/// The next rows that fit, possibly none; `None` at the end.
async fn next_rows(listing: &mut Listing) -> Result<Option<Vec<ListedRecipient>>, AdminRefused> {
    let after = match listing.at {
        ListPosition::Start => None,
        ListPosition::After(cursor) => Some(cursor),
        ListPosition::End => return Ok(None),
    };
    let filter = listing.filter.clone();
    let found = ask_store(&listing.control, move |control| {
        let page = control.queue.spool.list(&filter, after, PAGE)?;
        Ok((hold_reasons(control, &page.rows), page))
    });
    let (reasons, page) = found.await?;
    let (mut fitting, now) = (Vec::new(), listing.control.queue.now());
    let (control, troubles) = (&listing.control, &listing.troubles);
    let rows = page.rows.iter().map(|row| ListedRecipient {
        held_why: why(row, &reasons),
        ..shown(control, row, troubles.get(&row.lane))
    });
    for one in rows.chain(page.damaged.iter().map(shown_damaged)) {
        if listing.left > 0 && fits(&listing.wanted, &one, now) {
            listing.left -= 1;
            fitting.push(one);
        }
    }
    listing.at = match page.next {
        Some(cursor) if listing.left > 0 => ListPosition::After(cursor),
        Some(_) | None => ListPosition::End,
    };
    Ok(Some(fitting))
}

/// Why messages are held. What is damaged there is not shown.
fn hold_reasons(control: &Control, rows: &[QueueRow]) -> HashMap<MessageId, String> {
    let held = rows.iter().filter(|row| row.state == RecipientState::Held);
    let mut messages: Vec<MessageId> = held.map(|row| row.message).collect();
    messages.dedup();
    control.queue.spool.hold_reasons(&messages).unwrap_or_default()
}

fn why(row: &QueueRow, reasons: &HashMap<MessageId, String>) -> Option<String> {
    (row.state == RecipientState::Held).then(|| reasons.get(&row.message).cloned()).flatten()
}

fn fits(wanted: &WantedPage, one: &ListedRecipient, now: Timestamp) -> bool {
    let is = |wanted: &Option<String>, text: Option<&str>| {
        let fits = |wanted: &str| text.is_some_and(|text| text.eq_ignore_ascii_case(wanted));
        wanted.as_deref().is_none_or(fits)
    };
    let last = one.last.as_ref();
    let is_old = |seconds: u64| {
        let age = one.arrived_at.map(|came| now.duration_since(came).as_secs());
        age.is_some_and(|age| u64::try_from(age).unwrap_or_default() >= seconds)
    };
    wanted.state.is_none_or(|state| state == one.state)
        && is(&wanted.reason, last.map(|last| last.reason.as_str()))
        && is(&wanted.host, last.and_then(|last| last.mx.as_deref()))
        && is(&wanted.sender, one.sender.as_deref())
        && is(&wanted.recipient, Some(&one.recipient))
        && wanted.older_than.is_none_or(is_old)
}

/// A recipient as `queue list --json` has it. In a lane that waits, the lane's cause is the reason
/// for who was not tried yet, and nobody is tried before the lane is.
fn shown(control: &Control, row: &QueueRow, trouble: Option<&LaneTrouble>) -> ListedRecipient {
    let state = match row.state {
        RecipientState::Held => MailState::Held,
        RecipientState::Queued if control.queue.underway.is_sending(row.message, row.no) => {
            MailState::Sending
        }
        RecipientState::Queued => MailState::Queued,
    };
    let next = trouble.map_or(row.next_attempt_at, |t| t.next_probe_at.max(row.next_attempt_at));
    let own = row.last.as_ref().map(|problem| last_problem(problem, FailureOf::Message));
    let hops = || trouble.map(|trouble| last_problem(&trouble.problem, FailureOf::NextHop));
    ListedRecipient {
        id: Some(row.message.to_string()),
        sender: Some(row.sender.as_str().to_owned()),
        recipient: row.recipient.as_str().to_owned(),
        domain: Some(row.recipient.domain().to_string()),
        state,
        attempts: Some(row.attempts),
        size: Some(row.size),
        arrived_at: Some(row.arrived_at),
        not_before: row.not_before,
        next_attempt_at: Some(next),
        expires_at: Some(row.expires_at),
        last: own.or_else(hops),
        held_why: None,
        notify: row.options.notify.map(|notify| notify.to_string()),
        original_recipient: row.options.originals.first().map(ToString::to_string),
    }
}

/// A recipient of which something cannot be read: what can be is shown.
fn shown_damaged(damaged: &DamagedRecipient) -> ListedRecipient {
    ListedRecipient {
        id: damaged.message.map(|message| message.to_string()),
        sender: None,
        recipient: damaged.address.to_string(),
        domain: damaged.address.rsplit_once('@').map(|(_, domain)| domain.to_owned()),
        state: MailState::Held,
        attempts: None,
        size: None,
        arrived_at: None,
        not_before: None,
        next_attempt_at: None,
        expires_at: None,
        last: Some(LastProblem {
            of: FailureOf::Message,
            at: None,
            status: Reason::MessageDamaged.status().to_string(),
            reason: Reason::MessageDamaged.as_str().to_owned(),
            mx: None,
            text: damaged.damage.to_string(),
        }),
        held_why: None,
        notify: None,
        original_recipient: None,
    }
}

fn last_problem(problem: &StoredProblem, of: FailureOf) -> LastProblem {
    LastProblem {
        of,
        at: Some(problem.at),
        status: problem.status.to_string(),
        reason: problem.reason.to_string(),
        mx: problem.mx.as_ref().map(ToString::to_string),
        text: problem.text.as_str().to_owned(),
    }
}

pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
) -> Result<Json<ListedMessage>, AdminRefused> {
    let id = chosen::id(&control, &id).await?;
    let troubles = ask_store(&control, troubles).await?;
    let found = ask_store(&control, move |control| {
        let found = control.queue.spool.show(id)?;
        Ok(found.map(|message| {
            let header = header::of_message(control, id, message.facts.header_len);
            let reasons = hold_reasons(control, &message.recipients);
            (message, header, reasons)
        }))
    });
    let Some((message, header, reasons)) = found.await? else {
        return Err(AdminRefused::missing(chosen::no_such(id)));
    };
    let recipient = |row: &QueueRow| ListedRecipient {
        held_why: why(row, &reasons),
        ..shown(&control, row, troubles.get(&row.lane))
    };
    let recipients = message.recipients.iter().map(recipient).collect();
    Ok(Json(ListedMessage {
        id: message.message.to_string(),
        sender: message.sender.as_str().to_owned(),
        client: message.client.to_string(),
        arrived_at: message.arrived_at,
        size: message.facts.size,
        has_8bit: message.facts.has_8bit,
        longest_line: message.facts.longest_line,
        received_count: message.facts.received_count,
        header,
        options: shown_options(&message.options),
        recipients,
    }))
}

fn shown_options(options: &MessageOptions) -> ShownOptions {
    let by = |deadline: &Deadline| ShownDeadline {
        at: deadline.at,
        mode: match deadline.mode {
            ByMode::Return => DeadlineEffect::Return,
            ByMode::Notify => DeadlineEffect::Notify,
        },
        trace: deadline.trace,
    };
    ShownOptions {
        ret: options.ret.map(|ret| ret.to_string()),
        envelope_id: options.envelope_id.as_ref().map(|id| id.decoded().to_string()),
        smtp_utf8: options.smtp_utf8,
        require_tls: options.require_tls,
        deliver_by: options.deliver_by.as_ref().map(by),
        priority: options.priority.get(),
        not_before: options.not_before,
        user: options.user.as_deref().map(str::to_owned),
    }
}

pub(super) async fn body(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
) -> Result<Response, AdminRefused> {
    let id = chosen::id(&control, &id).await?;
    match ask_store(&control, move |control| control.queue.spool.body(id)).await? {
        spool::StoredBody::Memory(bytes) => Ok(bytes.to_vec().into_response()),
        spool::StoredBody::File { file, .. } => {
            let pieces = stream::try_unfold(tokio::fs::File::from_std(file), next_piece);
            Ok(Body::from_stream(pieces).into_response())
        }
    }
}

async fn next_piece(
    mut file: tokio::fs::File,
) -> Result<Option<(Bytes, tokio::fs::File)>, std::io::Error> {
    use tokio::io::AsyncReadExt as _;
    let mut piece = Vec::with_capacity(PIECE);
    let limit = u64::try_from(PIECE).unwrap_or(u64::MAX);
    (&mut file).take(limit).read_to_end(&mut piece).await?;
    Ok((!piece.is_empty()).then(|| (Bytes::from(piece), file)))
}

pub(super) async fn retry(
    State(control): State<Arc<Control>>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<ActionDone>, AdminRefused> {
    let chosen = chosen::mail(&control, chosen).await?;
    control.queue.outbound.pool.ask_down_hosts();
    let again = |control: &Control, what: &Selection, from| {
        control.queue.spool.retry(what, control.queue.now(), from)
    };
    let tell = |lanes: Vec<LaneKey>| lanes.into_iter().map(Event::RetryNow).collect();
    let count = in_batches(&control, chosen.selection.clone(), again, tell).await?;
    unmatched::told(&control, chosen, ActionDone { count, ..ActionDone::default() }).await
}

pub(super) async fn release(
    State(control): State<Arc<Control>>,
    ConnectInfo(AdminPeer { uid }): ConnectInfo<AdminPeer>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<ActionDone>, AdminRefused> {
    let free = move |control: &Control, what: &Selection, from| {
        let released = control.queue.spool.release(what, control.queue.now(), from)?;
        released.rows.iter().for_each(|row| ControlFact::Released { row, uid }.tell());
        Ok(released)
    };
    let tell = |lanes: Vec<LaneKey>| vec![Event::Due(lanes)];
    let chosen = chosen::mail(&control, chosen).await?;
    let meant = match chosen.selection.clone() {
        Selection::Matching(filter) => Selection::Matching(
            stop::up_to_now(&control.queue, filter).await.map_err(AdminRefused::failed)?,
        ),
        messages @ Selection::Messages(_) => messages,
    };
    let count = in_batches(&control, meant, free, tell).await?;
    let (order, why) = ("release", None);
    let selection = chosen.words.as_str();
    ControlFact::Ordered { order, selection, why, recipients: count, uid }.tell();
    unmatched::told(&control, chosen, ActionDone { count, ..ActionDone::default() }).await
}

pub(super) async fn hold(
    State(control): State<Arc<Control>>,
    ConnectInfo(AdminPeer { uid }): ConnectInfo<AdminPeer>,
    Json(HoldOrder { chosen, why }): Json<HoldOrder>,
) -> Result<Json<ActionDone>, AdminRefused> {
    if why.as_ref().is_some_and(|why| why.len() > WHY_BYTES_MAX) {
        return Err(AdminRefused::bad(format!("why: over {WHY_BYTES_MAX} bytes")));
    }
    let why = why.map(|why| RemoteText::new(&why)).filter(|why| !why.is_empty());
    let why = why.as_ref().map(RemoteText::as_str);
    let told = |row: &ActedRow| ControlFact::Held { row, why, uid }.tell();
    take_out(&control, ("hold", Verb::Hold { why }), chosen, uid, &told).await
}

pub(super) async fn bounce(
    State(control): State<Arc<Control>>,
    ConnectInfo(AdminPeer { uid }): ConnectInfo<AdminPeer>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<ActionDone>, AdminRefused> {
    take_out(&control, ("bounce", Verb::Bounce), chosen, uid, &|_| ()).await
}

pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    ConnectInfo(AdminPeer { uid }): ConnectInfo<AdminPeer>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<ActionDone>, AdminRefused> {
    let told = |row: &ActedRow| ControlFact::Deleted { row, uid }.tell();
    let done = take_out(&control, ("delete", Verb::Delete), chosen, uid, &told).await?;
    let left = ask_store(&control, |control| control.queue.spool.count()).await?.messages;
    control.queue.count_messages(Counted::Anew(left));
    Ok(done)
}

async fn take_out(
    control: &Arc<Control>,
    (order, verb): (&'static str, Verb<'_>),
    chosen: Chosen,
    uid: Option<u32>,
    told: stop::RowTeller<'_>,
) -> Result<Json<ActionDone>, AdminRefused> {
    let chosen = chosen::mail(control, chosen).await?;
    let taken = stop::take_out(&control.queue, verb, chosen.selection.clone(), told).await;
    let TakenOut { count, being_sent } = taken.map_err(AdminRefused::failed)?;
    let why = match verb {
        Verb::Hold { why } => why,
        Verb::Delete | Verb::Bounce => None,
    };
    let selection = chosen.words.as_str();
    ControlFact::Ordered { order, selection, why, recipients: count, uid }.tell();
    let done = ActionDone { count, being_sent: Some(being_sent), ..ActionDone::default() };
    unmatched::told(control, chosen, done).await
}

/// Does `step` batch by batch, and tells the queue after each. Returns how many recipients it was.
async fn in_batches(
    control: &Arc<Control>,
    selection: Selection,
    step: impl Fn(&Control, &Selection, Option<ListCursor>) -> Result<Acted, StoreError>
    + Copy
    + Send
    + 'static,
    tell: impl Fn(Vec<LaneKey>) -> Vec<Event>,
) -> Result<u64, AdminRefused> {
    let mut count = 0;
    let mut after = None;
    loop {
        let (what, from) = (selection.clone(), after);
        let done = ask_store(control, move |control| step(control, &what, from)).await?;
        count += done.recipients;
        for event in tell(done.lanes) {
            control.queue.tell(event).await;
        }
        after = done.next;
        if after.is_none() {
            return Ok(count);
        }
    }
}

//! The queue, looked at and acted upon.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use smtp::HostName;
use smtp::params::ByMode;
use spool::{
    Acted, DamagedRecipient, Deadline, Filter, LaneKey, LaneTrouble, ListCursor, MessageId,
    MessageOptions, QueueRow, RecipientState, Selection, StoreError, StoredProblem,
};

use super::answer::{AdminRefused, ask_store};
use super::header;
use crate::control::Control;
use crate::control::facts::ControlFact;
use crate::queue::events::Event;
use crate::queue::handle::Counted;
use crate::queue::stop::{self, TakenOut, Verb};
use crate::telemetry::Reason;

/// Recipients read at once.
const PAGE: usize = 500;
/// Octets of a body sent at once.
const PIECE: usize = 64 * 1024;

/// Which recipients to list.
#[derive(Debug, Deserialize)]
pub(super) struct WantedPage {
    domain: Option<String>,
    state: Option<String>,
    reason: Option<String>,
    limit: Option<u64>,
}

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
    let state = match wanted.state.as_deref() {
        None | Some("sending") => None,
        Some("queued") => Some(RecipientState::Queued),
        Some(HELD) => Some(RecipientState::Held),
        Some(other) => return Err(AdminRefused::bad(format!("state: {other:?} is not a state"))),
    };
    let domain = wanted.domain.as_deref().map(parse_domain).transpose()?;
    let cause = wanted.reason.as_deref().map(Cause::parse).transpose()?;
    let (state, wanted) = match cause {
        Some(Cause::Held) => (Some(RecipientState::Held), WantedPage { reason: None, ..wanted }),
        Some(Cause::Reason(_)) | None => (state, wanted),
    };
    let troubles = ask_store(&control, troubles).await?;
    let filter = Filter { domain, state, ..Filter::default() };
    let left = wanted.limit.unwrap_or(u64::MAX);
    let listing = Listing { control, filter, wanted, troubles, left, at: ListPosition::Start };
    Ok(Body::from_stream(stream::try_unfold(listing, next_lines)).into_response())
}

pub(super) fn troubles(control: &Control) -> Result<HashMap<LaneKey, LaneTrouble>, StoreError> {
    Ok(control.queue.spool.troubles()?.into_iter().collect())
}

async fn next_lines(mut listing: Listing) -> Result<Option<(Bytes, Listing)>, String> {
    let after = match listing.at {
        ListPosition::Start => None,
        ListPosition::After(cursor) => Some(cursor),
        ListPosition::End => return Ok(None),
    };
    let filter = listing.filter.clone();
    let page =
        ask_store(&listing.control, move |control| control.queue.spool.list(&filter, after, PAGE))
            .await
            .map_err(|refused| refused.text)?;
    let mut lines = Vec::new();
    let (control, troubles) = (&listing.control, &listing.troubles);
    let rows = page.rows.iter().map(|row| shown(control, row, troubles.get(&row.lane)));
    for line in rows.chain(page.damaged.iter().map(shown_damaged)) {
        if listing.left > 0 && listing.wanted.fits(&line) {
            listing.left -= 1;
            lines.extend_from_slice(line.to_string().as_bytes());
            lines.push(b'\n');
        }
    }
    listing.at = match page.next {
        Some(cursor) if listing.left > 0 => ListPosition::After(cursor),
        Some(_) | None => ListPosition::End,
    };
    Ok(Some((Bytes::from(lines), listing)))
}

impl WantedPage {
    fn fits(&self, line: &Value) -> bool {
        let is = |key: &str, want: &Option<String>| {
            want.as_deref()
                .is_none_or(|want| line.pointer(key).and_then(Value::as_str) == Some(want))
        };
        is("/state", &self.state) && is("/last/reason", &self.reason)
    }
}

/// A recipient as `queue list --json` has it. In a lane that waits, the lane's cause is the reason
/// for who was not tried yet, and nobody is tried before the lane is.
fn shown(control: &Control, row: &QueueRow, trouble: Option<&LaneTrouble>) -> Value {
    let state = match row.state {
        RecipientState::Held => HELD,
        RecipientState::Queued if control.queue.underway.is_sending(row.message, row.no) => {
            "sending"
        }
        RecipientState::Queued => "queued",
    };
    let next = trouble.map_or(row.next_attempt_at, |t| t.next_probe_at.max(row.next_attempt_at));
    let last = row.last.as_ref().or_else(|| trouble.map(|trouble| &trouble.problem));
    json!({
        "id": row.message.to_string(),
        "sender": row.sender.as_str(),
        "recipient": row.recipient.as_str(),
        "domain": row.recipient.domain().to_string(),
        "state": state,
        "attempts": row.attempts,
        "size": row.size,
        "arrived_at": row.arrived_at.to_string(),
        "not_before": row.not_before.map(|time| time.to_string()),
        "next_attempt_at": next.to_string(),
        "expires_at": row.expires_at.to_string(),
        "last": last.map(last_problem),
        "notify": row.options.notify.map(|notify| notify.to_string()),
        "original_recipient": row.options.originals.first().map(ToString::to_string),
    })
}

/// A recipient of whom something cannot be read: what can be is shown, the rest is null.
fn shown_damaged(damaged: &DamagedRecipient) -> Value {
    let domain = damaged.address.rsplit_once('@').map(|(_, domain)| domain);
    json!({
        "id": damaged.message.map(|message| message.to_string()),
        "sender": null,
        "recipient": damaged.address,
        "domain": domain,
        "state": HELD,
        "attempts": null,
        "size": null,
        "arrived_at": null,
        "not_before": null,
        "next_attempt_at": null,
        "expires_at": null,
        "last": {
            "at": null,
            "status": Reason::MessageDamaged.status().to_string(),
            "reason": Reason::MessageDamaged.as_str(),
            "mx": null,
            "text": damaged.damage.to_string(),
        },
        "notify": null,
        "original_recipient": null,
    })
}

fn last_problem(problem: &StoredProblem) -> Value {
    json!({
        "at": problem.at.to_string(),
        "status": &*problem.status,
        "reason": &*problem.reason,
        "mx": problem.mx.as_ref().map(ToString::to_string),
        "text": problem.text.as_str(),
    })
}

pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, AdminRefused> {
    let id = parse_id(&id)?;
    let troubles = ask_store(&control, troubles).await?;
    let found = ask_store(&control, move |control| {
        let found = control.queue.spool.show(id)?;
        Ok(found.map(|message| {
            let header = header::of_message(control, id, message.facts.header_len);
            (message, header)
        }))
    });
    let Some((message, header)) = found.await? else {
        return Err(AdminRefused::missing(no_such(id)));
    };
    let recipients: Vec<Value> = message
        .recipients
        .iter()
        .map(|row| shown(&control, row, troubles.get(&row.lane)))
        .collect();
    Ok(Json(json!({
        "id": message.message.to_string(),
        "sender": message.sender.as_str(),
        "client": &*message.client,
        "arrived_at": message.arrived_at.to_string(),
        "size": message.facts.size,
        "has_8bit": message.facts.has_8bit,
        "longest_line": message.facts.longest_line,
        "received_count": message.facts.received_count,
        "header": header,
        "options": options(&message.options),
        "recipients": recipients,
    })))
}

/// What the client asked for with MAIL.
fn options(options: &MessageOptions) -> Value {
    let by = |deadline: &Deadline| {
        json!({
            "at": deadline.at.to_string(),
            "mode": match deadline.mode {
                ByMode::Return => "return",
                ByMode::Notify => "notify",
            },
            "trace": deadline.trace,
        })
    };
    json!({
        "ret": options.ret.map(|ret| ret.to_string()),
        "envelope_id": options.envelope_id.as_ref().map(|id| id.decoded().to_string()),
        "smtp_utf8": options.smtp_utf8,
        "require_tls": options.require_tls,
        "deliver_by": options.deliver_by.as_ref().map(by),
        "priority": options.priority.get(),
        "not_before": options.not_before.map(|time| time.to_string()),
        "user": options.user.as_deref(),
    })
}

pub(super) async fn body(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
) -> Result<Response, AdminRefused> {
    let id = parse_id(&id)?;
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

/// Whom an action is about: exactly one of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Chosen {
    ids: Vec<String>,
    domain: Option<String>,
    reason: Option<String>,
    all: bool,
}

impl Chosen {
    fn selection(self) -> Result<Selection, AdminRefused> {
        let filter = match (&*self.ids, self.domain, self.reason, self.all) {
            ([], None, None, true) => Filter::default(),
            ([], Some(domain), None, false) => {
                Filter { domain: Some(parse_domain(&domain)?), ..Filter::default() }
            }
            ([], None, Some(reason), false) => Cause::parse(&reason)?.filter(),
            ([_, ..], None, None, false) => {
                let ids: Result<_, _> = self.ids.iter().map(|id| parse_id(id)).collect();
                return Ok(Selection::Messages(ids?));
            }
            _ => return Err(AdminRefused::bad("one of ids, domain, reason and all is needed")),
        };
        Ok(Selection::Matching(filter))
    }
}

pub(super) async fn retry(
    State(control): State<Arc<Control>>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<Value>, AdminRefused> {
    control.queue.outbound.pool.ask_down_hosts();
    let again = |control: &Control, what: &Selection, from| {
        control.queue.spool.retry(what, control.queue.now(), from)
    };
    let tell = |lanes: Vec<LaneKey>| lanes.into_iter().map(Event::RetryNow).collect();
    let count = in_batches(&control, chosen.selection()?, again, tell).await?;
    Ok(Json(json!({ "count": count })))
}

pub(super) async fn release(
    State(control): State<Arc<Control>>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<Value>, AdminRefused> {
    let free = |control: &Control, what: &Selection, from| {
        control.queue.spool.release(what, control.queue.now(), from)
    };
    let tell = |lanes: Vec<LaneKey>| vec![Event::Due(lanes)];
    let selection = match chosen.selection()? {
        Selection::Matching(filter) => Selection::Matching(
            stop::up_to_now(&control.queue, filter).await.map_err(AdminRefused::failed)?,
        ),
        messages @ Selection::Messages(_) => messages,
    };
    let count = in_batches(&control, selection, free, tell).await?;
    ControlFact::Released { recipients: count }.tell();
    Ok(Json(json!({ "count": count })))
}

pub(super) async fn hold(
    State(control): State<Arc<Control>>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<Value>, AdminRefused> {
    let taken = take_out(&control, Verb::Hold, chosen).await?;
    ControlFact::Held { recipients: taken.count }.tell();
    Ok(shown_taken(taken))
}

pub(super) async fn bounce(
    State(control): State<Arc<Control>>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<Value>, AdminRefused> {
    Ok(shown_taken(take_out(&control, Verb::Bounce, chosen).await?))
}

pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<Value>, AdminRefused> {
    let taken = take_out(&control, Verb::Delete, chosen).await?;
    let left = ask_store(&control, |control| control.queue.spool.count()).await?.messages;
    control.queue.count_messages(Counted::Anew(left));
    ControlFact::Deleted { recipients: taken.count }.tell();
    Ok(shown_taken(taken))
}

async fn take_out(
    control: &Arc<Control>,
    verb: Verb,
    chosen: Chosen,
) -> Result<TakenOut, AdminRefused> {
    stop::take_out(&control.queue, verb, chosen.selection()?).await.map_err(AdminRefused::failed)
}

fn shown_taken(taken: TakenOut) -> Json<Value> {
    Json(json!({ "count": taken.count, "being_sent": taken.being_sent }))
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

fn parse_domain(text: &str) -> Result<HostName, AdminRefused> {
    HostName::parse(text).map_err(|error| AdminRefused::bad(format!("{text:?}: {error}")))
}

/// The word for mail that the operator or a limit keeps back; no attempt ends with it.
pub(super) const HELD: &str = "held";

/// Why mail waits: what an operator selects by.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// The last attempt ended with it.
    Reason(Reason),
    /// It is kept back, whatever became of attempts before.
    Held,
}

impl Cause {
    /// A word that no reason has is a mistake, not a selection of nothing.
    fn parse(word: &str) -> Result<Self, AdminRefused> {
        let unknown = || AdminRefused::bad(format!("reason: {word:?} is not a reason"));
        match word {
            HELD => Ok(Self::Held),
            _ => Reason::parse(word).map(Self::Reason).ok_or_else(unknown),
        }
    }

    fn filter(self) -> Filter {
        match self {
            Self::Reason(reason) => {
                Filter { reason: Some(reason.as_str().into()), ..Filter::default() }
            }
            Self::Held => Filter { state: Some(RecipientState::Held), ..Filter::default() },
        }
    }
}

fn parse_id(text: &str) -> Result<MessageId, AdminRefused> {
    text.parse().map_err(|_| AdminRefused::bad(format!("{text:?} is not a message id")))
}

fn no_such(id: MessageId) -> String {
    format!("no message {id} in the queue")
}

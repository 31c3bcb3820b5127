//! A message that comes from another queue: its line, then its body, in one request.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use bytes::Bytes;
use futures_util::StreamExt as _;
use spool::{BodyFacts, Draft, MessageId, StoreError};

use super::answer::{AdminRefused, ask_store};
use crate::budget::Borrower;
use crate::control::Control;
use crate::control::api::Imported;
use crate::control::facts::ControlFact;
use crate::control::transfer::{EnvelopeLine, LINE_MAX};
use crate::message::Facts;
use crate::place::ClientPlace;
use crate::queue::intake::{Intake, MailOrigin};

/// Takes it, unless it is here, or was here in the last month: who imports a file a second time
/// imports what is missing.
pub(super) async fn import(
    State(control): State<Arc<Control>>,
    body: Body,
) -> Result<Json<Imported>, AdminRefused> {
    let mut pieces = body.into_data_stream();
    let taken = take(&control, &mut pieces).await;
    // Whoever is still sending would hear a broken pipe instead of the answer.
    while let Some(Ok(_)) = pieces.next().await {}
    taken
}

async fn take(
    control: &Arc<Control>,
    pieces: &mut BodyDataStream,
) -> Result<Json<Imported>, AdminRefused> {
    let mut next = async || match pieces.next().await {
        Some(piece) => piece.map(Some).map_err(AdminRefused::bad),
        None => Ok(None),
    };
    let (mut line, mut rest) = (Vec::new(), Bytes::new());
    while let Some(piece) = next().await? {
        if let Some(end) = memchr::memchr(b'\n', &piece) {
            line.extend_from_slice(piece.get(..end).unwrap_or_default());
            rest = piece.slice(end + 1..);
            break;
        }
        line.extend_from_slice(&piece);
        if line.len() > LINE_MAX {
            return Err(AdminRefused::bad("the line of a message is too long"));
        }
    }
    let envelope_line: EnvelopeLine = serde_json::from_slice(&line).map_err(AdminRefused::bad)?;
    let id = envelope_line.id().map_err(AdminRefused::bad)?;
    let begun = ask_store(control, move |control| control.queue.spool.begin_import(id)).await?;
    let Some((import, draft)) = begun else { return Ok(answer(id, ImportFound::Known)) };
    let intake = Intake::new(Arc::clone(&control.queue));
    let operator = Borrower::Place(ClientPlace::Local(rustix::process::getuid().as_raw()));
    let room = intake.room_for(operator, envelope_line.size);
    let room = room.map_err(|full| AdminRefused::failed(full.reply.text()))?;
    let mut arriving = ArrivingMessage::new(draft);
    arriving = arriving.take(rest).await?;
    while let Some(piece) = next().await? {
        arriving = arriving.take(piece).await?;
    }
    let (draft, facts) = arriving.end().await?;
    if facts.size != envelope_line.size {
        let text = format!("message {id}: {} octets, not {}", facts.size, envelope_line.size);
        return Err(AdminRefused::bad(text));
    }
    let config = control.queue.config();
    let envelope = envelope_line.envelope(&config, facts).map_err(AdminRefused::bad)?;
    // What was begun is done, also when whoever asked goes away.
    let (sender, recipients) = (envelope.sender.clone(), envelope.recipients.len());
    let size = envelope_line.size;
    let told = move |message| {
        ControlFact::Imported { message, sender: &sender, recipients, size }.tell();
    };
    let commit = async move {
        let origin = MailOrigin::OtherQueue(import);
        intake.commit_from(&config, origin, (draft, envelope), told).await
    };
    let committed = control.queue.tracker.spawn(commit).await.map_err(AdminRefused::failed)?;
    committed.map_err(|refused| AdminRefused::failed(refused.reply.text()))?;
    room.kept(envelope_line.size);
    Ok(answer(id, ImportFound::New))
}

/// Was it new here?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ImportFound {
    New,
    Known,
}

fn answer(id: MessageId, found: ImportFound) -> Json<Imported> {
    Json(Imported { id: id.to_string(), imported: found == ImportFound::New })
}

/// A body that comes in pieces of any length.
struct ArrivingMessage {
    draft: Draft,
    facts: Facts,
    /// The last piece ended with CR, which is kept back: nothing is cut between CR and LF.
    has_cr: bool,
}

impl ArrivingMessage {
    fn new(draft: Draft) -> Self {
        Self { draft, facts: Facts::new(), has_cr: false }
    }

    /// A large body goes to the disk here.
    async fn take(self, piece: Bytes) -> Result<Self, AdminRefused> {
        let write = move || {
            let Self { mut draft, mut facts, has_cr } = self;
            let mut content = Vec::with_capacity(piece.len() + 1);
            content.extend(has_cr.then_some(b'\r'));
            content.extend_from_slice(&piece);
            let has_cr = content.last() == Some(&b'\r');
            if has_cr {
                content.pop();
            }
            facts.update(&content);
            draft.write(&content)?;
            Ok::<_, StoreError>(Self { draft, facts, has_cr })
        };
        let written = tokio::task::spawn_blocking(write).await.map_err(AdminRefused::failed)?;
        written.map_err(AdminRefused::failed)
    }

    async fn end(mut self) -> Result<(Draft, BodyFacts), AdminRefused> {
        if std::mem::take(&mut self.has_cr) {
            self.facts.update(b"\r");
            self.draft.write(b"\r").map_err(AdminRefused::failed)?;
        }
        Ok((self.draft, self.facts.finish()))
    }
}

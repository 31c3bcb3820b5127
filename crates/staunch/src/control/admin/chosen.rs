//! Which mail a request is about: messages by id, or all that match.

use std::fmt::Display;
use std::sync::Arc;

use smtp::HostName;
use spool::{Filter, IdPrefix, MessageId, RecipientState, Selection, StoreError};

use super::answer::{AdminRefused, ask_store};
use crate::control::Control;
use crate::control::api::Chosen;
use crate::likeness::nearest;
use crate::telemetry::Reason;

/// Our choice: ids that are named where several begin alike.
const IDS_NAMED: usize = 5;

/// The mail that an order is about.
#[derive(Debug)]
pub(super) struct ChosenMail {
    pub(super) selection: Selection,
    /// As on the command line.
    pub(super) words: String,
    /// Ids that no message in the queue has.
    pub(super) missing: Vec<String>,
}

/// Messages, by ids.
#[derive(Debug, Default)]
struct NamedMessages {
    found: Vec<MessageId>,
    missing: Vec<String>,
}

/// Finds out what is meant.
pub(super) async fn mail(
    control: &Arc<Control>,
    chosen: Chosen,
) -> Result<ChosenMail, AdminRefused> {
    let filter = match (&*chosen.ids, &chosen.domain, &chosen.reason, chosen.all) {
        ([], None, None, true) => Filter::default(),
        ([], Some(domain), None, false) => {
            Filter { domain: Some(parse_domain(domain)?), ..Filter::default() }
        }
        ([], None, Some(reason), false) => Cause::parse(reason)?.filter(),
        ([_, ..], None, None, false) => {
            let NamedMessages { found, missing } = ids(control, chosen.ids).await?;
            let named = match &*found {
                [] => missing.clone(),
                found => found.iter().map(MessageId::to_string).collect(),
            };
            let words = in_words(&Chosen { ids: named, ..Chosen::default() });
            return Ok(ChosenMail { selection: Selection::Messages(found), words, missing });
        }
        _ => return Err(AdminRefused::bad("one of ids, domain, reason and all is needed")),
    };
    let words = in_words(&chosen);
    Ok(ChosenMail { selection: Selection::Matching(filter), words, missing: Vec::new() })
}

/// The message with this id, or the only one in the queue whose id begins so.
pub(super) async fn id(control: &Arc<Control>, text: &str) -> Result<MessageId, AdminRefused> {
    let NamedMessages { found, .. } = ids(control, vec![text.to_owned()]).await?;
    found.first().copied().ok_or_else(|| AdminRefused::missing(no_such(text)))
}

/// The messages in the queue with these ids, each once. A whole id is its own prefix.
async fn ids(control: &Arc<Control>, texts: Vec<String>) -> Result<NamedMessages, AdminRefused> {
    let prefixes = texts.iter().map(|text| parse_prefix(text)).collect::<Result<Vec<_>, _>>()?;
    let looked_up = ask_store(control, move |control| {
        let begin = |prefix| control.queue.spool.ids(prefix, IDS_NAMED + 1);
        prefixes.into_iter().map(begin).collect::<Result<Vec<_>, StoreError>>()
    });
    let mut named = NamedMessages::default();
    for (text, found) in texts.into_iter().zip(looked_up.await?) {
        match &*found {
            [] => named.missing.push(text),
            [only] => named.found.push(*only),
            several => return Err(AdminRefused::bad(ambiguous(&text, several))),
        }
    }
    named.found.sort_unstable();
    named.found.dedup();
    Ok(named)
}

fn parse_prefix(text: &str) -> Result<IdPrefix, AdminRefused> {
    text.parse().map_err(|error| match error {
        error @ spool::BadIdPrefix::TooShort => AdminRefused::bad(format!("{text:?}: {error}")),
        error @ spool::BadIdPrefix::NotAnId => AdminRefused::bad(format!("{text:?} is {error}")),
    })
}

fn ambiguous(text: &str, several: &[MessageId]) -> String {
    let named: Vec<String> = several.iter().take(IDS_NAMED).map(MessageId::to_string).collect();
    let more = if several.len() > IDS_NAMED { " and more" } else { "" };
    format!("{text:?} begins the ids of several messages: {}{more}", named.join(", "))
}

/// There is no such message.
pub(super) fn no_such(id: impl Display) -> String {
    format!("no message {id} in the queue")
}

/// What was chosen, as on the command line.
fn in_words(chosen: &Chosen) -> String {
    let Chosen { ids, domain, reason, all } = chosen;
    match (&**ids, domain, reason, all) {
        ([only], _, _, _) => only.clone(),
        ([_, ..], _, _, _) => format!("{} messages by id", ids.len()),
        ([], Some(domain), _, _) => format!("--domain {domain}"),
        ([], None, Some(reason), _) => format!("--reason {reason}"),
        ([], None, None, _) => "--all".to_owned(),
    }
}

/// A domain, as an operator writes it.
pub(super) fn parse_domain(text: &str) -> Result<HostName, AdminRefused> {
    HostName::parse(text).map_err(|error| AdminRefused::bad(format!("{text:?}: {error}")))
}

/// The word for mail that the operator or a limit keeps back; no attempt ends with it.
pub(super) const HELD: &str = "held";

fn unknown(word: &str) -> AdminRefused {
    let known = Reason::ALL.iter().map(|reason| reason.as_str()).chain([HELD]);
    let hint = nearest(word, known).map_or_else(
        || "`staunch queue summary --by reason` shows those in the queue".to_owned(),
        |known| format!("did you mean {known}?"),
    );
    AdminRefused::bad(format!("reason: {word:?} is not a reason; {hint}"))
}

/// Why mail waits: what an operator selects by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause {
    /// The last attempt ended with it.
    Reason(Reason),
    /// It is kept back, whatever became of attempts before.
    Held,
}

impl Cause {
    /// A word that no reason has is a mistake, not a selection of nothing.
    pub(super) fn parse(word: &str) -> Result<Self, AdminRefused> {
        match word {
            HELD => Ok(Self::Held),
            _ => Reason::parse(word).map(Self::Reason).ok_or_else(|| unknown(word)),
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

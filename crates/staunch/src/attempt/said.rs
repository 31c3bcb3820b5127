//! What a transaction, or its absence, says beyond itself.

use policy::{AuthorizedMx, Observed, Origin, PatternSet};
use smtp::RemoteText;
use smtp::client::{Fate, Stage};

use crate::connect::is_about_us;
use crate::outcome::{Answered, Cut, Finality, HostError, Reason, SERVICE_CLOSING, TlsShown};
use crate::pool::Idle;
use crate::transmit::Trouble;

/// What is said of a host that offers CHUNKING and refuses BDAT.
const NO_BDAT: &str = "the host offers CHUNKING and does not know BDAT";
/// What is said of a session that takes nobody else.
const USED_UP: &str = "the host takes no more in this session";

/// A fate for each recipient, and why not everybody has one, if so.
pub(super) type Said = (Vec<Option<Fate>>, Option<Cut>);

/// What a transaction came to. If it was cut off before anybody can have got the message, the next host
/// may still be tried; else what is known stands.
pub(super) fn said(fates: Vec<Option<Fate>>, trouble: Option<Trouble>) -> Result<Said, HostError> {
    let Some(trouble) = trouble else { return Ok((fates, None)) };
    let is_open = fates.iter().all(Option::is_none) && !trouble.is_outcome_unknown();
    let (stage, reason, text) = match trouble {
        Trouble::Body { text } if is_open => return Err(HostError::Body(text)),
        Trouble::NoChunking if is_open => return Err(HostError::NoChunking),
        Trouble::Body { text } => (Stage::Body, Reason::LocalError, RemoteText::new(&text)),
        Trouble::NoChunking => (Stage::Body, Reason::ProtocolError, RemoteText::new(NO_BDAT)),
        Trouble::UsedUp => (Stage::Mail, Reason::ConnectionLost, RemoteText::new(USED_UP)),
        Trouble::Lost { stage, text } => (stage, Reason::ConnectionLost, text),
        Trouble::Protocol { stage, text } => (stage, Reason::ProtocolError, text),
    };
    if is_open {
        return Err(HostError::Interrupted { stage, reason, text });
    }
    Ok((fates, Some(Cut { stage, reason, text })))
}

/// The session of a transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Session {
    /// It carried mail before.
    Kept,
    /// It was just made.
    Fresh,
}

/// Did the peer end the connection at the first word? If it was kept, that only says that it was kept for
/// too long.
pub(super) fn is_goodbye(result: &Result<Option<Answered>, HostError>) -> bool {
    match result {
        Err(HostError::Interrupted { stage: Stage::Mail, .. }) => true,
        Ok(Some(answered)) => answered
            .all_refused(|stage, reply| stage == Stage::Mail && reply.code == SERVICE_CLOSING),
        Ok(None) | Err(_) => false,
    }
}

/// Does the host mind our IPv6 address? Many know better what to think of our IPv4 address (CL-35).
pub(super) fn minds_our_v6(answered: &Answered) -> bool {
    answered.address.is_ipv6()
        && answered.all_refused(|stage, reply| {
            matches!(stage, Stage::Mail | Stage::Rcpt) && is_about_us(reply)
        })
}

/// Would the host be asked in vain again?
pub(super) fn is_no_way(error: &HostError) -> bool {
    let has_no_way = matches!(error, HostError::Connect(failure) if failure.has_no_way());
    has_no_way || error.finality() != Finality::Open
}

pub(super) fn tls_shown(idle: &Idle) -> Option<TlsShown> {
    match &*idle.observed {
        Observed::Plain => None,
        Observed::Tls(tls) => Some(TlsShown { version: tls.version, group: tls.group }),
    }
}

/// Whose word was binding, for the log.
pub(super) fn binding(mx: &AuthorizedMx) -> &'static str {
    let binding = &mx.asked().binding;
    let by_sts = |list: &PatternSet| matches!(list.origin, Origin::Sts { .. });
    if binding.listings().any(by_sts) {
        "sts"
    } else if binding.needs_tls() {
        "rule"
    } else {
        "none"
    }
}

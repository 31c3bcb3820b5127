//! What a transaction, or its absence, says beyond itself.

use policy::{AuthorizedMx, NamedBy, Observed, Origin, PatternSet};
use smtp::RemoteText;
use smtp::client::{RecipientReply, Stage};

use crate::connect::login::LoginError;
use crate::connect::pool::Idle;
use crate::connect::{Endpoint, is_about_us};
use crate::delivery::outcome::{
    Cut, HostError, Permanence, SERVICE_CLOSING, TlsShown, TransactionResult,
};
use crate::delivery::transmit::TransactionError;
use crate::telemetry::Reason;

/// RFC 4954 §6: authentication required.
const LOGIN_WANTED: u16 = 530;

/// A fate for each recipient, and why not everybody has one, if so.
pub(super) type Said = (Vec<Option<RecipientReply>>, Option<Cut>);

/// What a transaction came to. If it was cut off before anybody can have got the message, the next
/// host may still be tried; else what is known stands.
pub(super) fn said(
    fates: Vec<Option<RecipientReply>>,
    trouble: Option<TransactionError>,
) -> Result<Said, HostError> {
    let Some(trouble) = trouble else { return Ok((fates, None)) };
    let is_open = fates.iter().all(Option::is_none) && !trouble.is_outcome_unknown();
    let text = RemoteText::new(&trouble.to_string());
    let (stage, reason) = match trouble {
        TransactionError::Body { text } if is_open => return Err(HostError::Body(text)),
        TransactionError::NoChunking if is_open => return Err(HostError::NoChunking),
        TransactionError::Body { .. } => (Stage::Body, Reason::LocalError),
        TransactionError::NoChunking => (Stage::Body, Reason::ProtocolError),
        TransactionError::UsedUp => (Stage::Mail, Reason::ConnectionLost),
        TransactionError::Lost { stage, .. } => (stage, Reason::ConnectionLost),
        TransactionError::Protocol { stage, .. } => (stage, Reason::ProtocolError),
    };
    if is_open {
        return Err(HostError::Interrupted { stage, reason, text });
    }
    Ok((fates, Some(Cut { stage, reason, text })))
}

/// The session of a transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SessionKind {
    /// It carried mail before.
    Kept,
    /// It was just made.
    Fresh,
}

/// Did the peer end the connection at the first word? If it was kept, that only says that it was
/// kept for too long.
pub(super) fn is_goodbye(result: &Result<Option<TransactionResult>, HostError>) -> bool {
    match result {
        Err(HostError::Interrupted { stage: Stage::Mail, .. }) => true,
        Ok(Some(answered)) => answered
            .all_refused(|stage, reply| stage == Stage::Mail && reply.code == SERVICE_CLOSING),
        Ok(None) | Err(_) => false,
    }
}

/// A route's server that takes mail of users only (RFC 4954 §6), where the route has nobody to log
/// in as. It says nothing about the mail.
pub(super) fn wants_login(
    answered: &TransactionResult,
    mx: &AuthorizedMx,
    endpoint: &Endpoint,
) -> Option<LoginError> {
    let is_route = mx.named_by() == NamedBy::Route && endpoint.login.is_none();
    let reply = answered.first_refusal(|_, reply| reply.code == LOGIN_WANTED)?;
    is_route.then(|| LoginError::Wanted { reply: reply.clone() })
}

/// Does the host mind our IPv6 address? Many know better what to think of our IPv4 address (CL-35).
pub(super) fn minds_our_v6(answered: &TransactionResult) -> bool {
    answered.address.is_ipv6()
        && answered.all_refused(|stage, reply| {
            matches!(stage, Stage::Mail | Stage::Rcpt) && is_about_us(reply)
        })
}

/// Would the host be asked in vain again?
pub(super) fn is_no_way(error: &HostError) -> bool {
    let has_no_way = matches!(error, HostError::Connect(failure) if failure.has_no_way());
    has_no_way || error.permanence() != Permanence::Transient
}

pub(super) fn tls_shown(idle: &Idle) -> Option<TlsShown> {
    match &*idle.observed {
        Observed::Plain => None,
        Observed::Tls(tls) => Some(TlsShown { version: tls.version, group: tls.group }),
    }
}

/// Whose word was binding, for the log.
pub(super) fn binding(mx: &AuthorizedMx) -> &'static str {
    let binding = &mx.asked().enforced;
    let by_sts = |list: &PatternSet| matches!(list.origin, Origin::Sts { .. });
    if binding.listings().any(by_sts) {
        "sts"
    } else if binding.needs_tls() {
        "rule"
    } else {
        "none"
    }
}

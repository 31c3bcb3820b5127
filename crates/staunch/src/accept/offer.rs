//! What a session is offered, by what is known of the client and its connection.

use jiff::{SignedDuration, Timestamp};
use smtp::Extension;
use smtp::command::{FutureRelease, Offer, OfferedLimits, SessionChannel};
use smtp::data::Newlines;
use smtp::server::{SessionAccess, SessionSettings};

use super::arrival::ClientArrival;
use super::envelope::{DELIVER_BY_SECONDS_MIN, HOLD_SECONDS_MAX};
use super::login;
use super::rules::recipients_max;
use crate::accept::listener_view::ListenerView;
use crate::auth::Auth;
use crate::config::{BareNewlines, Config, ListenerMode};

/// For a session that begins at `now`, or begins anew under TLS.
pub(super) fn settings(
    config: &Config,
    view: &ListenerView,
    arrival: &ClientArrival,
    auth: &Auth,
    now: Timestamp,
) -> SessionSettings {
    let newlines = match view.listener.bare_newline {
        BareNewlines::Normalize if arrival.peer.is_trusted(config) => Newlines::Normalize,
        BareNewlines::Normalize | BareNewlines::Reject => Newlines::Strict,
    };
    let access =
        if arrival.mode.is_for_users() { SessionAccess::Users } else { SessionAccess::Anyone };
    SessionSettings {
        hostname: config.hostname.domain().clone(),
        offer: offer(config, view, arrival, auth, now),
        channel: if arrival.tls.is_some() { SessionChannel::Tls } else { SessionChannel::Clear },
        access,
        errors_max: u32::try_from(config.limits.errors_per_session).unwrap_or(u32::MAX),
        newlines,
    }
}

/// What needs TLS is left out by the session where there is none, and STARTTLS where there is.
fn offer(
    config: &Config,
    view: &ListenerView,
    arrival: &ClientArrival,
    auth: &Auth,
    now: Timestamp,
) -> Offer {
    let limits =
        OfferedLimits { rcpt_max: u32::try_from(recipients_max(config)).ok(), mail_max: None };
    let mut offer = Offer::new(config.limits.message_size)
        .with(Extension::Pipelining)
        .with(Extension::EightBitMime)
        .with(Extension::EnhancedStatusCodes)
        .with(Extension::Chunking)
        .with(Extension::SmtpUtf8)
        .with(Extension::Dsn)
        .with_limits(limits)
        .with_deliver_by(DELIVER_BY_SECONDS_MIN);
    if view.certificate.is_some() {
        offer = offer.with(Extension::Starttls);
    }
    if view.listener.require_tls {
        offer = offer.with(Extension::RequireTls);
    }
    match arrival.mode {
        // Who decides what goes first must be somebody whom the operator knows (RFC 6710); a user
        // is not.
        ListenerMode::Relay if arrival.peer.is_trusted(config) => offer.with(Extension::MtPriority),
        ListenerMode::Relay => offer,
        ListenerMode::Submission | ListenerMode::Submissions => {
            let offer = offer.with_auth(login::mechanisms(auth, arrival));
            // RFC 4865: for submission only.
            future_release(now).map_or(offer, |reach| offer.with_future_release(reach))
        }
    }
}

/// `None` where that time has no date.
fn future_release(now: Timestamp) -> Option<FutureRelease> {
    let reach = SignedDuration::from_secs(i64::try_from(HOLD_SECONDS_MAX).ok()?);
    let latest = now.checked_add(reach).ok()?.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    FutureRelease::new(HOLD_SECONDS_MAX, &latest)
}

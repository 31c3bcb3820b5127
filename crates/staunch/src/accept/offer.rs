//! What a session is offered, by what is known of the client and its connection.

use smtp::command::{Capability, Channel, Offer};
use smtp::data::Newlines;
use smtp::server::{Access, Settings};

use super::arrival::Arrival;
use super::doors::Entrance;
use super::login;
use crate::auth::Auth;
use crate::config::{BareNewline, Config, ListenerMode};

/// For a session that begins, or begins anew under TLS.
pub(super) fn settings(
    config: &Config,
    entrance: &Entrance,
    arrival: &Arrival,
    auth: &Auth,
) -> Settings {
    let newlines = match entrance.listener.bare_newline {
        BareNewline::Normalize if arrival.peer.is_trusted(config) => Newlines::Normalize,
        BareNewline::Normalize | BareNewline::Reject => Newlines::Strict,
    };
    let mut offer = Offer::new(config.limits.message_size)
        .with(Capability::Pipelining)
        .with(Capability::EightBitMime)
        .with(Capability::EnhancedStatusCodes);
    if entrance.certificate.is_some() {
        offer = offer.with(Capability::StartTls);
    }
    if entrance.listener.require_tls {
        offer = offer.with(Capability::RequireTls);
    }
    let access = match arrival.mode {
        ListenerMode::Relay => Access::Anyone,
        ListenerMode::Submission | ListenerMode::Submissions => {
            offer = offer.with_auth(login::mechanisms(auth, arrival));
            Access::Users
        }
    };
    Settings {
        hostname: config.hostname.domain().clone(),
        offer,
        channel: if arrival.tls.is_some() { Channel::Tls } else { Channel::Clear },
        access,
        errors_max: u32::try_from(config.limits.errors_per_session).unwrap_or(u32::MAX),
        newlines,
    }
}

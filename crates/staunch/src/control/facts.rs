//! What operators order, and what becomes of the way they do it.

use std::io;

use smtp::HostName;

use crate::facts::facts;

facts! {
    /// A fact about operators' orders.
    pub(super) enum ControlFact<'a> {
        /// Sending stops: to one next hop, else to all.
        Paused { domain: Option<&'a HostName> } => warn!(
            event = "paused",
            domain = domain.map(HostName::as_str),
            "delivery paused by operator"
        ),

        /// Sending goes on: to one next hop, else to all that are not paused by themselves.
        Resumed { domain: Option<&'a HostName> } => info!(
            event = "resumed",
            domain = domain.map(HostName::as_str),
            "delivery resumed by operator"
        ),

        /// No new mail is taken.
        Draining => warn!(event = "draining", "not accepting mail (drain) by operator"),

        /// New mail is taken again.
        Accepting => info!(event = "accepting", "accepting mail by operator"),

        /// Held mail is tried again.
        Released { recipients: u64 } => info!(event = "released", recipients, "by the operator"),

        /// Mail is not tried until it is released.
        Held { recipients: u64 } => info!(
            event = "held",
            recipients,
            "by the operator, until released"
        ),

        /// Mail is gone.
        Deleted { recipients: u64 } => info!(
            event = "deleted",
            recipients,
            "by the operator, without notice to anybody"
        ),

        /// More connections to the admin socket than it has places for.
        AdminCrowded { uid: Option<u32> } => warn!(
            event = "admin_refused",
            uid,
            "too many connections to the admin socket at a time"
        ),

        /// The admin socket is of no use any more.
        AdminFailed { error: &'a io::Error } => error!(
            event = "admin_failed",
            %error,
            "the command line cannot reach the daemon"
        ),
    }
}

//! What operators order, and what becomes of the way they do it.

use std::io;

use jiff::Timestamp;
use smtp::{HostName, ReversePath};
use spool::{ActedRow, MessageId};

use crate::facts::{facts, milliseconds};

facts! {
    /// A fact about operators' orders.
    pub(super) enum ControlFact<'a> {
        /// Sending stops: to one next hop, else to all.
        Paused { domain: Option<&'a HostName>, uid: Option<u32> } => warn!(
            event = "paused",
            domain = domain.map(HostName::as_str),
            uid,
            "delivery paused by operator"
        ),

        /// Sending goes on: to one next hop, else to all that are not paused by themselves.
        Resumed { domain: Option<&'a HostName>, uid: Option<u32> } => info!(
            event = "resumed",
            domain = domain.map(HostName::as_str),
            uid,
            "delivery resumed by operator"
        ),

        /// No new mail is taken.
        Draining { uid: Option<u32> } => warn!(event = "draining", uid, "not accepting mail (drain) by operator"),

        /// New mail is taken again.
        Accepting { uid: Option<u32> } => info!(event = "accepting", uid, "accepting mail by operator"),

        /// A message came from another queue.
        Imported {
            message: MessageId, sender: &'a ReversePath, recipients: usize, size: u64,
        } => info!(
            event = "imported",
            message_id = %message,
            sender = sender.as_str(),
            recipients,
            size,
            "from another queue"
        ),

        /// A held recipient is tried again.
        Released { row: &'a ActedRow, uid: Option<u32> } => info!(
            event = "released",
            message_id = %row.message,
            sender = &*row.sender,
            recipient = &*row.recipient,
            uid,
            "by the operator"
        ),

        /// A recipient is not tried until it is released.
        Held { row: &'a ActedRow, why: Option<&'a str>, uid: Option<u32> } => info!(
            event = "held",
            message_id = %row.message,
            reason = "held",
            sender = &*row.sender,
            recipient = &*row.recipient,
            why,
            uid,
            "by the operator, until released"
        ),

        /// A recipient is gone.
        Deleted { row: &'a ActedRow, uid: Option<u32> } => info!(
            event = "deleted",
            message_id = %row.message,
            sender = &*row.sender,
            recipient = &*row.recipient,
            uid,
            "by the operator, without notice to anybody"
        ),

        /// What the operator wanted done to mail, once it is done.
        Ordered {
            order: &'static str, selection: &'a str, why: Option<&'a str>, recipients: u64,
            uid: Option<u32>,
        } => info!(
            event = "queue_order",
            order,
            selection,
            why,
            recipients,
            uid,
            "by the operator"
        ),

        /// All about a name is logged from now on.
        Debugging { name: &'a str, hosts: &'a str, until: Timestamp, uid: Option<u32> } => info!(
            event = "debugging",
            name,
            hosts,
            until = %milliseconds(until),
            uid,
            "by the operator"
        ),

        /// It is not any more.
        DebugEnded { name: &'a str, uid: Option<u32> } => info!(
            event = "debug_ended",
            name,
            uid,
            "only what log.level says is logged about this name"
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

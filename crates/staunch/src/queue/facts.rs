//! What happens in the queue itself: what could not be read or written, what is damaged, what
//! moves.

use std::fmt::Display;

use smtp::ReversePath;
use spool::{DamagedRecipient, LaneKey, MessageId, StoreError};

use crate::facts::facts;
use crate::telemetry::{Problem, Reason};

/// What an operator can do about mail that is damaged.
const CURE: &str = "it is held; put queue.db and bodies/ back from a backup with the daemon stopped, \
                    or `staunch queue delete` it; after a repair `staunch queue release` tries it";

facts! {
    /// A fact about the queue.
    pub(super) enum QueueFact<'a> {
        /// The store did not do something; `what` says what follows.
        StoreFailed { error: &'a StoreError, what: &'static str } => error!(
            event = "store_failed",
            %error,
            "{what}"
        ),

        /// The store did not do something for one message.
        StoreFailedFor { message: MessageId, error: &'a StoreError, what: &'static str } => error!(
            event = "store_failed",
            message_id = %message,
            %error,
            "{what}"
        ),

        /// A lane's mail cannot be read.
        LaneUnreadable { lane: &'a LaneKey, error: &'a StoreError } => error!(
            event = "store_failed",
            %lane,
            %error,
            "the queue cannot be read"
        ),

        /// A switch of another version, or a damaged one.
        UnknownSwitch { name: &'a str } => warn!(
            event = "store_failed",
            name,
            "an unknown switch is left alone"
        ),

        /// A recipient's row or body is damaged.
        RecipientDamaged { one: &'a DamagedRecipient } => error!(
            event = "alarm",
            reason = %Reason::MessageDamaged,
            message_id = one.message.map_or_else(|| "unknown".to_owned(), |id| id.to_string()),
            recipient = %one.address,
            "{}: {CURE}", one.damage
        ),

        /// An attempt has shown that its message is damaged.
        MessageDamaged { message: MessageId, problem: &'a Problem } => error!(
            event = "alarm",
            reason = %problem.reason,
            message_id = %message,
            "{}: {CURE}", problem.text
        ),

        /// What became of a message cannot be written down.
        Unrecorded { message: MessageId } => error!(
            event = "alarm",
            reason = %Reason::MessageDamaged,
            message_id = %message,
            "queue.db is damaged where the result of an attempt belongs: the message is not tried \
             again; stop the daemon and put queue.db back from a backup, or `staunch queue delete` \
             it"
        ),

        /// Names of lanes are damaged.
        LaneNamesDamaged { next_hops: usize } => error!(
            event = "alarm",
            reason = %Reason::MessageDamaged,
            next_hops,
            "queue.db, table lanes: names are damaged; the mail there is sorted by its recipients \
             anew"
        ),

        /// A place in the journal cannot be read.
        JournalDamaged { place: &'a dyn Display } => error!(
            event = "alarm",
            reason = "journal_damaged",
            "{place}: damaged; mail that was accepted may be lost there, and mail that was \
             delivered be sent again; look for both in a backup and in the log"
        ),

        /// Damaged indexes were made anew.
        IndexesMended { mended: usize } => error!(
            event = "alarm",
            reason = "queue_damaged",
            mended,
            "queue.db was damaged; its indexes were made anew from its tables"
        ),

        /// A damaged index could not be made anew.
        IndexNotMended { index: &'a str, error: &'a dyn Display } => error!(
            event = "alarm",
            reason = "queue_damaged",
            %index,
            %error,
            "queue.db: the index could not be made anew, since its table is damaged, too; what \
             else can be read is sent; stop the daemon and put queue.db back from a backup"
        ),

        /// What was paused cannot be read, so all is.
        SwitchesDamaged => error!(
            event = "alarm",
            reason = "switches_damaged",
            "what was paused cannot be read from queue.db, so nothing is sent: `staunch pause` \
             what shall wait, then `staunch resume`"
        ),

        /// A DSN would go to a local name that leads nowhere.
        NoRootAlias { message: MessageId, sender: &'a ReversePath } => error!(
            event = "alarm",
            reason = "no_root_alias",
            message_id = %message,
            %sender,
            "a DSN to a name of this machine that has no alias is dropped: set aliases.root"
        ),

        /// A DSN has no address to go to.
        DsnUndeliverable { message: MessageId, sender: &'a ReversePath } => warn!(
            event = "dsn_undeliverable",
            message_id = %message,
            %sender,
            "a DSN has no address that it could go to: dropped"
        ),

        /// Waiting mail has another next hop since the configuration changed.
        Rerouted { to: &'a LaneKey, recipients: usize } => info!(
            event = "rerouted",
            next_hop = %to,
            recipients,
            "mail follows the configuration"
        ),

        /// An attempt ended in a bug of ours; its mail is tried again.
        AttemptPanicked { message: MessageId } => error!(
            event = "bug",
            message_id = %message,
            "an attempt panicked"
        ),

        /// Moving mail to other next hops ended in a bug of ours.
        MovePanicked => error!(event = "bug", "moving mail panicked; it is tried again"),
    }
}

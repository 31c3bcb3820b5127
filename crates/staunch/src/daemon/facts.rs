//! What the daemon says of itself: its start and end, its configuration, its data directory.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::config::{Config, ConfigProblem};
use crate::facts::facts;

facts! {
    /// A fact about the daemon.
    pub(crate) enum DaemonFact<'a> {
        /// It accepts and sends.
        Ready { config: &'a Config, files: String, queued_messages: u64 } => info!(
            event = "ready",
            version = env!("CARGO_PKG_VERSION"),
            hostname = %config.hostname,
            files,
            data_dir = %config.data_dir.display(),
            queued_messages,
            "accepting and sending mail"
        ),

        /// It begins to end.
        Stopping { grace: Duration } => info!(event = "stopping", ?grace, "shutting down"),

        /// It has ended: no file of its data directory is open any more.
        Stopped { queued_messages: u64, unfinished: usize } => info!(
            event = "stopped",
            queued_messages,
            unfinished,
            "what is queued is tried after the next start"
        ),

        /// A configuration that works, and that its author should look at.
        ConfigComplaint { complaint: &'a ConfigProblem } => warn!(
            event = "config_complaint",
            key = complaint.key.as_str(),
            "{complaint}"
        ),

        /// A changed configuration holds from now on.
        ConfigReloaded { changed: String, keys: usize, read_again: String } => info!(
            event = "config_reloaded",
            changed,
            keys,
            read_again,
            "configuration reloaded"
        ),

        /// A changed configuration does not hold.
        ReloadRefused { key: &'a str, text: &'a dyn Display } => error!(
            event = "reload_refused",
            key,
            "{text}; everything stays as it was"
        ),

        /// The system gives fewer descriptors than may be needed.
        FewDescriptors { have: u64, wanted: u64 } => warn!(
            event = "few_descriptors",
            have,
            wanted,
            "fewer file descriptors than the configured connections may need"
        ),

        /// systemd does not know how we are.
        SystemdUnreachable { error: &'a io::Error, what: &'static str } => warn!(
            event = "systemd_unreachable",
            %error,
            "{what}"
        ),

        /// The queue's task ended in a bug of ours.
        QueuePanicked => error!(event = "bug", "the queue panicked; a restart reads it anew"),

        /// The store did not do something; `what` says what follows.
        StoreFailed { error: &'a dyn Display, what: &'static str } => error!(
            event = "store_failed",
            %error,
            "{what}"
        ),

        /// Mail is on a disk that may forget it.
        NetworkFileSystem { kind: &'a str } => warn!(
            event = "alarm",
            reason = "network_file_system",
            kind,
            "data_dir is on a network file system, where locks and syncs may not hold"
        ),

        /// The lock of the data directory was gone.
        LockRenewed => warn!(
            event = "lock_renewed",
            "data_dir/lock was removed, and is made anew"
        ),

        /// The queue's file is not at its place.
        DataDirReplaced => error!(
            event = "alarm",
            reason = "data_dir_replaced",
            "queue.db was moved, removed or replaced: no new mail is taken, what was taken is sent \
             from the file that is open; put it back, or stop the daemon"
        ),

        /// The data directory cannot be written.
        DataDirReadOnly => error!(
            event = "alarm",
            reason = "data_dir_read_only",
            "data_dir cannot be written, as when its file system turns read-only after an error of \
             the disk: nothing is taken or sent; look at the kernel's log"
        ),

        /// The data directory is as it was.
        DataDirBack => info!(
            event = "data_dir_back",
            "queue.db is back at its place and can be written, and mail is taken again"
        ),

        /// Bodies without a message were put aside.
        BodiesLost { count: u64 } => warn!(
            event = "bodies_lost",
            count,
            "a crash, or damage, left bodies that no message names; they are in bodies/lost for a \
             week"
        ),

        /// Mail that a wrong clock made wait for years is due.
        WaitsCut { count: usize } => info!(
            event = "waits_cut",
            count,
            "a clock that was ahead had set their times"
        ),

        /// Another program keeps the queue's log from being cut.
        QueueLogPinned { readers: String, log_bytes: u64 } => error!(
            event = "alarm",
            reason = "queue_log_pinned",
            readers,
            log_bytes,
            "somebody has been reading queue.db for a minute: mail goes on, but \
             data_dir/queue.db-wal grows until that process ends; end it, and copy the queue with \
             `staunch queue backup`"
        ),

        /// The queue's log is cut again.
        QueueLogFree => info!(
            event = "queue_log_free",
            "nobody reads queue.db for long any more, and its log is cut"
        ),

        /// The queue's file was made anew although there was mail.
        QueueReplaced { bodies: u64 } => error!(
            event = "alarm",
            reason = "queue_replaced",
            bodies,
            "queue.db was missing or empty and was made anew, but there are bodies of messages; \
             stop the daemon and put queue.db back, the next start moves the bodies to bodies/lost"
        ),

        /// A write-ahead log was damaged.
        LogDamaged { kept: &'a Path } => error!(
            event = "alarm",
            reason = "log_damaged",
            kept = %kept.display(),
            "a write-ahead log of the data directory was damaged and was made whole, at this start \
             or an earlier one; messages that are damaged by that are held and named; remove the \
             file when it is of no use any more"
        ),

        /// The policies' file was made anew.
        PoliciesReplaced { how: &'static str, moved_to: Option<String> } => error!(
            event = "alarm",
            reason = "policies_replaced",
            how,
            moved_to,
            "policies.db was made anew; mail for domains with an enforce policy waits until theirs \
             are fetched"
        ),
    }
}

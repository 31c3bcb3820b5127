//! Questions, orders and answers of the admin socket, as types: what the daemon writes and what the
//! command line reads is the same. As JSON they are a contract with scripts (`docs/operations.md`).
//!
//! Members may be added; a reader passes over those that it does not know.

mod explain;
mod queue;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smtp::HostName;

use crate::config::Config;
use crate::delivery::route;

pub(crate) use crate::policies::{PolicyDetail, PolicySummary, RefreshResult};
use crate::queue::switches::Off;
pub(crate) use explain::{
    AskedProtection, BackOffState, DeliveryVerdict, ExplainStep, Explanation, FetchedPolicy,
    HostOutcome, NextHopQueue, PeerCertificate, PolicyOrigin, ShownMx, ShownPolicy, ShownTls,
};
pub(crate) use queue::{
    ActionDone, AgeTable, Chosen, DeadlineEffect, FailureOf, GroupBy, GroupCount, HoldOrder,
    HopAges, LastProblem, ListedMessage, ListedRecipient, MailState, PauseDone, QueueCounts,
    QueueOrder, SORTED_ROWS_MAX, ShownDeadline, ShownHeader, ShownOptions, SortBy, Unmatched,
    WantedPage, WantedSummary,
};

/// Why a request has no answer, beside the status of HTTP.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ErrorAnswer {
    /// One line.
    pub(crate) error: String,
}

/// `/readyz`: is everything there that is needed to take mail?
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    /// What keeps new mail out; nothing while it is ready.
    #[serde(default)]
    pub(crate) not_ready: Vec<NotReady>,
    pub(crate) store: StoreState,
    /// Octets that the file system of `data_dir` has left.
    pub(crate) free_bytes: u64,
    pub(crate) memory: MemoryUse,
    pub(crate) queued_messages: u64,
    pub(crate) hostname: String,
    pub(crate) clock_suspect: Option<ClockSuspect>,
    /// What is odd about the host name, in words.
    pub(crate) complaints: Vec<String>,
    pub(crate) resolvers: Vec<ResolverState>,
    #[serde(flatten)]
    pub(crate) switches: SwitchStates,
}

/// Something that keeps new mail out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NotReady {
    /// [`Readiness::store`] says why.
    Store,
    /// The queue ended in a bug, and the daemon is about to end.
    Queue,
    /// Less is free than `limits.disk_free_min`.
    DiskSpace,
    /// The operator wants no new mail.
    Draining,
}

/// Can the store write?
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreState {
    /// Yes.
    Good,
    /// There is no room for the results of deliveries.
    DiskFull,
    /// queue.db is not at its place any more.
    Detached,
    /// `data_dir` cannot be written.
    ReadOnly,
    /// Not before a restart.
    Poisoned,
}

/// Octets of `limits.memory`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct MemoryUse {
    /// In use.
    pub(crate) lent: u64,
    /// The most that was in use since the start.
    pub(crate) peak: u64,
    pub(crate) limit: u64,
}

/// One name server.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ResolverState {
    pub(crate) address: String,
    /// `up`, `out`, …
    pub(crate) state: String,
    /// Does it know EDNS(0)?
    pub(crate) edns: bool,
    /// Why it is not asked.
    pub(crate) fault: Option<String>,
}

/// What the operator has switched off.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct SwitchStates {
    /// Since when nothing is sent.
    pub(crate) paused: Option<Timestamp>,
    /// Where nothing is sent to.
    pub(crate) paused_hops: Vec<PausedHop>,
    /// Since when nothing is accepted.
    pub(crate) draining: Option<Timestamp>,
}

impl SwitchStates {
    /// What is off, and what that stands for under `config`.
    pub(crate) fn of(off: &Off, config: &Config) -> Self {
        let hop = |(domain, since): (&HostName, &Timestamp)| PausedHop {
            domain: domain.to_string(),
            since: *since,
            next_hops: route::hops_towards(config, domain),
        };
        Self {
            paused: off.sending,
            paused_hops: off.hops.iter().map(hop).collect(),
            draining: off.accepting,
        }
    }
}

/// A paused next hop.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct PausedHop {
    /// As the operator named it.
    pub(crate) domain: String,
    pub(crate) since: Timestamp,
    /// What that stands for under the current configuration.
    #[serde(default)]
    pub(crate) next_hops: BTreeSet<String>,
}

/// Which next hop is paused or resumed.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct WhichHop {
    /// That of this domain; without one, all.
    pub(crate) domain: Option<String>,
}

/// A doubt about the wall clock.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct ClockSuspect {
    /// How far ahead of the expected time the clock is; below 0: behind it.
    pub(crate) offset_seconds: i64,
    /// When the doubt ends by itself.
    pub(crate) seconds_left: u64,
}

/// `clock trust`: the doubt that it ended.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ClockTrusted {
    /// None: there was no doubt.
    pub(crate) clock_suspect: Option<ClockSuspect>,
}

/// `debug`: all about a name is to be logged.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct DebugOrder {
    /// A domain, a host, or the address of a host or client.
    pub(crate) name: String,
    /// For how long; 0 ends it.
    pub(crate) seconds: u64,
}

/// All about a name is logged, or is not any more.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Debugged {
    /// The name, as it is compared.
    pub(crate) name: String,
    /// The domain's hosts, whose dialogues are logged, too.
    pub(crate) hosts: Vec<String>,
    /// When that ends; none: it has ended.
    pub(crate) until: Option<Timestamp>,
}

/// Where the daemon listens, with the ports that the system chose and the sockets of systemd.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct OpenAddresses {
    /// The TCP ones.
    pub(crate) listening: Vec<SocketAddr>,
}

/// `reload` was done.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Reloaded {
    /// The keys whose values are new.
    pub(crate) changed: Vec<String>,
    /// The listeners that are opened, closed or others than before.
    #[serde(default)]
    pub(crate) listeners: Vec<ListenerChange>,
    /// Files named by the same key as before, in which something else stands now.
    #[serde(default)]
    pub(crate) read_again: Vec<ReadFile>,
}

/// What a reload does to a listener.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ListenerChange {
    /// As it is written.
    pub(crate) address: String,
    pub(crate) effect: ListenerEffect,
    /// The keys that differ, of one that stays.
    pub(crate) keys: Vec<String>,
}

/// What becomes of a listener.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ListenerEffect {
    Opened,
    Closed,
    Changed,
}

/// A file that a key names.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ReadFile {
    pub(crate) key: String,
    pub(crate) path: String,
}

/// `policy forget` was done.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Forgotten {
    /// The domain, or the mail host.
    pub(crate) forgotten: String,
}

/// One message of `queue import`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Imported {
    /// Its id, here as there.
    pub(crate) id: String,
    /// Else it is in the queue already, or was in the last month.
    pub(crate) imported: bool,
}

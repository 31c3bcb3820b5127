//! Which policy holds for a domain now, and is it time to fetch one? (RFC 8461 §3.3, §5.1)
//!
//! A policy that was obtained once holds until it expires, whatever DNS and HTTPS say in the
//! meantime: only a newer policy replaces it. A domain without one is a *first contact*: trouble
//! then delays mail for a bounded time, because an attacker who can cause trouble must not be able
//! to choose "no policy" at once.
//!
//! These are the rules alone, over plain data. Not here: DNS, HTTPS and the store
//! (`staunch::policies`).
//!
//! This file has the words, `state.rs` the rules, `look_up.rs` the order in which things are asked,
//! written and answered, `room.rs` which are evicted when the cache is full, `line.rs` lists as
//! text for the store.

mod line;
mod look_up;
mod room;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use smtp::RemoteText;

use super::document::{self, Invalid, Mode, Policy};
use super::mx_pattern::MxPattern;
use super::record::{Id, RecordError};

pub use crate::clock::{ClockTrust, Moment};
pub use look_up::{LookUp, LookUpEffect, Room, Stored, Write, Written};
pub use room::{Surplus, Tenant, Use, surplus};
pub use state::{FETCH_BACKOFF, FETCHES_PER_HOUR, FailedFetch, RecentFetch, State};

/// What times in the store are counted in.
const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A policy as its host served it: read once, whatever becomes of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyFile {
    policy: Policy,
    body: Arc<str>,
}

impl PolicyFile {
    /// Reads what was served.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is no policy.
    pub fn read(body: &[u8]) -> Result<Self, Invalid> {
        let policy = Policy::parse(body)?;
        // A policy that parses is valid UTF-8, so nothing is lost here.
        Ok(Self { policy, body: String::from_utf8_lossy(body).into() })
    }
}

/// A policy that was fetched, with what is needed to apply, report and refresh it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CachedPolicy {
    id: Id,
    policy: Policy,
    body: Arc<str>,
    fetched_at: Timestamp,
    expires_at: Timestamp,
}

impl CachedPolicy {
    /// The policy in `body`, fetched at `fetched_at` because the record named `id`.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is no policy.
    pub fn new(id: Id, body: &[u8], fetched_at: Timestamp) -> Result<Self, Invalid> {
        Ok(Self::of(id, PolicyFile::read(body)?, fetched_at))
    }

    fn of(id: Id, PolicyFile { policy, body }: PolicyFile, fetched_at: Timestamp) -> Self {
        let expires_at = later(fetched_at, policy.max_age());
        Self { id, policy, body, fetched_at, expires_at }
    }

    /// The same, but it holds until `end` at least: for what was fetched by a clock in doubt, and
    /// for reading it back from a store.
    #[must_use]
    pub fn until_at_least(self, end: Timestamp) -> Self {
        Self { expires_at: self.expires_at.max(end), ..self }
    }

    /// The same, fetched after another one that was fetched at `other`, whatever the clock said:
    /// what is stored of that one must be older.
    #[must_use]
    pub(super) fn newer_than(self, other: Timestamp) -> Self {
        let fetched_at = self.fetched_at.max(later(other, MILLISECOND));
        Self { fetched_at, ..self }
    }

    /// The id that the record had when it was fetched.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// What it asks for.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The file as it was fetched.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The file's lines as reports quote them.
    pub fn report_lines(&self) -> Vec<RemoteText> {
        document::report_lines(&self.body)
    }

    /// When it was last fetched.
    pub fn fetched_at(&self) -> Timestamp {
        self.fetched_at
    }

    /// When it stops holding: `max_age` after the last fetch. Nothing but a fetch moves it, least
    /// of all an unchanged id, which anybody who can forge DNS can serve for ever. A fetch by a
    /// clock in doubt does not move it back.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Must an MX meet it?
    pub fn is_enforced(&self) -> bool {
        self.policy.mode() == Mode::Enforce
    }

    /// The names that an MX must have, if it must.
    pub fn requirement(&self) -> Option<&Arc<[MxPattern]>> {
        self.is_enforced().then(|| self.policy.mx())
    }

    /// Bytes of memory, about.
    pub fn weight(&self) -> usize {
        let patterns = self.policy.mx();
        let names: usize = patterns.iter().map(|pattern| pattern.weight()).sum();
        size_of::<Self>() + self.body.len() + names
    }

    fn binds(&self) -> bool {
        match self.policy.mode() {
            Mode::Enforce | Mode::Testing => true,
            Mode::None => false,
        }
    }
}

/// What is remembered beside the mail about a domain with a stored `enforce` policy. While it
/// holds, and no such policy can be read, the policy was lost: the domain's mail waits for a new
/// one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listed {
    /// When that policy was fetched.
    pub fetched_at: Timestamp,
    /// When it stops holding.
    pub expires_at: Timestamp,
}

impl Listed {
    /// What cannot be read: for as long as no policy is fetched and the operator does not forget
    /// it.
    pub const UNREADABLE: Self = Self { fetched_at: Timestamp::MAX, expires_at: Timestamp::MAX };
}

/// What the TXT query gave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TxtAnswer {
    /// One usable record, with this id.
    Usable(Id),
    /// A conclusive answer without one.
    Unusable(RecordError),
    /// No conclusive answer: SERVFAIL, time-out, bogus.
    Failed(RemoteText),
}

impl From<Result<Id, RecordError>> for TxtAnswer {
    fn from(parsed: Result<Id, RecordError>) -> Self {
        match parsed {
            Ok(id) => Self::Usable(id),
            Err(error) => Self::Unusable(error),
        }
    }
}

/// Why there is no new policy although a record names one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{kind}: {text}")]
pub struct FetchFailure {
    /// Which step of the fetch failed, as TLSRPT tells them apart.
    pub kind: FetchFailureKind,
    /// What happened, as one inert line.
    pub text: RemoteText,
}

/// The steps of a fetch that can fail, as RFC 8460 §4.3.2 tells them apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FetchFailureKind {
    /// Address, connection, status, type, size or time.
    #[error("the policy could not be fetched")]
    Fetch,
    /// The policy host's certificate.
    #[error("the policy host's certificate is not valid")]
    Certificate,
    /// The file is no policy.
    #[error("the policy is invalid")]
    Invalid,
}

impl FetchFailure {
    /// The word for logs, metrics and JSON.
    pub fn reason(&self) -> &'static str {
        match self.kind {
            FetchFailureKind::Fetch | FetchFailureKind::Certificate => "policy_fetch_failed",
            FetchFailureKind::Invalid => "policy_invalid",
        }
    }
}

impl From<Invalid> for FetchFailure {
    fn from(invalid: Invalid) -> Self {
        let text = invalid.errors.first().map_or("", |problem| problem.text.as_str());
        Self { kind: FetchFailureKind::Invalid, text: RemoteText::new(text) }
    }
}

/// What a first contact's trouble does to the mail.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFailure {
    /// The mail waits until the trouble is over.
    #[default]
    Defer,
    /// It goes, as if there were no policy.
    Deliver,
}

/// What the operator chose (`[mta_sts]`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeepSettings {
    /// First contact, and the TXT query fails.
    pub dns_failure: OnFailure,
    /// The longest that `Defer` lasts then, per domain.
    pub dns_failure_cap: Duration,
    /// First contact, and the fetch failed twice.
    pub fetch_failure: OnFailure,
    /// How old a policy gets before the background fetches it again.
    pub refresh_every: Duration,
}

impl Default for KeepSettings {
    fn default() -> Self {
        Self {
            dns_failure: OnFailure::Defer,
            dns_failure_cap: 4 * HOUR,
            fetch_failure: OnFailure::Deliver,
            refresh_every: DAY,
        }
    }
}

/// What to do with a domain's mail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// This policy holds. Its mode may be `none`.
    Use(Arc<CachedPolicy>),
    /// No policy holds, for this reason.
    NoPolicy(NoPolicy),
    /// It cannot be known yet.
    Defer(Deferral),
}

/// Why no policy holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NoPolicy {
    /// The domain says so.
    Record(RecordError),
    /// The TXT query has failed for as long as we wait.
    Dns(RemoteText),
    /// The fetch failed as often as we try; `None` between tries.
    Fetch(Option<FetchFailure>),
}

/// A wait with a named cause.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Deferral {
    /// When it is worth another look.
    pub until: Timestamp,
    /// What is waited for.
    pub cause: DeferCause,
}

/// What a first contact waits for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DeferCause {
    /// A conclusive answer to the TXT query.
    Dns(RemoteText),
    /// A policy; `None` while no fetch is allowed.
    Fetch(Option<FetchFailure>),
    /// A policy in the place of one that was stored and cannot be read; with why it was not fetched
    /// just now.
    Lost(Option<FetchFailure>),
    /// Its turn to fetch: too many fetches are running.
    OwnLimit,
    /// Room on the disk for what was learnt.
    Store,
}

impl DeferCause {
    /// The word for logs, metrics and JSON.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Dns(_) => "policy_dns_failure",
            Self::Fetch(Some(failure)) => failure.reason(),
            Self::Fetch(None) => "policy_fetch_failed",
            Self::Lost(_) => "policy_lost",
            Self::OwnLimit => "own_limit",
            Self::Store => "local_error",
        }
    }
}

/// The next step for a domain's mail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Plan {
    /// Fetch the policy, then [`State::after_fetch`] with the same id.
    Fetch {
        /// What the record names.
        id: Id,
    },
    /// Nothing is to be fetched.
    Decided(Verdict),
}

/// What the operator should know about a domain's policy. Each is raised once and stays until its
/// cause ends.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Alarm {
    /// A policy is kept, and the record that announces it is gone or unusable.
    RecordGone,
    /// A record names a policy that cannot be fetched.
    FetchFailing,
    /// The kept policy could not be refreshed several times in a row.
    RefreshFailing,
    /// The TXT query fails for so long that mail goes without a policy.
    DnsFailing,
    /// What was stored could not be read, so a policy may have been lost.
    PolicyLost,
}

impl Alarm {
    const ALL: [Self; 5] = [
        Self::RecordGone,
        Self::FetchFailing,
        Self::RefreshFailing,
        Self::DnsFailing,
        Self::PolicyLost,
    ];

    /// The word for logs, metrics and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RecordGone => "policy_record_gone",
            Self::FetchFailing => "policy_fetch_failing",
            Self::RefreshFailing => "policy_refresh_failing",
            Self::DnsFailing => "policy_dns_failing",
            Self::PolicyLost => "policy_lost",
        }
    }
}

/// A decision, and the alarm that it raises now for the first time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step<T> {
    /// What was decided, with or without an alarm.
    pub decision: T,
    /// The alarm to raise; `None` if there is none, or it was raised before.
    pub alarm: Option<Alarm>,
}

impl<T> Step<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Step<U> {
        Step { decision: f(self.decision), alarm: self.alarm }
    }
}

fn quiet<T>(decision: T) -> Step<T> {
    Step { decision, alarm: None }
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

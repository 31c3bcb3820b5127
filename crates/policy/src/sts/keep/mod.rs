//! Which policy holds for a domain now, and is it time to fetch one? (RFC 8461 §3.3, §5.1)
//!
//! A policy that was obtained once holds until it expires, whatever DNS and HTTPS say in the
//! meantime: only a newer policy replaces it. A domain without one is a *first contact*: trouble
//! then delays mail for a bounded time, because an attacker who can cause trouble must not be able
//! to choose "no policy" at once.
//!
//! These are the rules alone, over plain data. Not here: DNS, HTTPS and the store
//! (`staunch::policy_store`).
//!
//! This file has the words, `state.rs` the rules.

mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use smtp::RemoteText;

use super::document::{self, Invalid, Mode, Policy};
use super::record::{Id, RecordError};

pub use crate::clock::{ClockTrust, Moment};
pub use state::{FETCH_BACKOFF, FETCHES_PER_HOUR, FailedFetch, RecentFetch, State};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A policy that was fetched, with what is needed to apply, report and refresh it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kept {
    id: Id,
    policy: Policy,
    body: Arc<str>,
    fetched_at: Timestamp,
}

impl Kept {
    /// The policy in `body`, fetched because the record named `id`. Also reads it back from a store.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is no policy.
    pub fn new(id: Id, body: &[u8], fetched_at: Timestamp) -> Result<Self, Invalid> {
        let policy = Policy::parse(body)?;
        // A policy that parses is valid UTF-8, so nothing is lost here.
        Ok(Self { id, policy, body: String::from_utf8_lossy(body).into(), fetched_at })
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

    /// When it stops holding: `max_age` after the last fetch. Nothing but a fetch moves it, least of
    /// all an unchanged id, which anybody who can forge DNS can serve for ever.
    pub fn expires_at(&self) -> Timestamp {
        later(self.fetched_at, self.policy.max_age())
    }

    fn binds(&self) -> bool {
        match self.policy.mode() {
            Mode::Enforce | Mode::Testing => true,
            Mode::None => false,
        }
    }
}

/// What the TXT query gave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TxtAnswer {
    /// One usable record.
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
    /// Which step failed.
    pub kind: FetchFailureKind,
    /// What happened.
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
    /// It waits.
    #[default]
    Defer,
    /// It goes, as if there were no policy.
    Deliver,
}

/// What the operator chose (`[mta_sts]`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// First contact, and the TXT query fails.
    pub dns_failure: OnFailure,
    /// The longest that `Defer` lasts then, per domain.
    pub dns_failure_cap: Duration,
    /// First contact, and the fetch failed twice.
    pub fetch_failure: OnFailure,
    /// How old a policy gets before the background fetches it again.
    pub refresh_every: Duration,
}

impl Default for Settings {
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
    Use(Arc<Kept>),
    /// None does.
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
}

impl DeferCause {
    /// The word for logs, metrics and JSON.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Dns(_) => "policy_dns_failure",
            Self::Fetch(Some(failure)) => failure.reason(),
            Self::Fetch(None) => "policy_fetch_failed",
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
    /// The decision.
    pub decision: T,
    /// The alarm.
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

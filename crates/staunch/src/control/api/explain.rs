//! What would happen to mail for an address, with the evidence.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::PausedHop;

/// `explain`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Explanation {
    /// As it was asked.
    pub(crate) address: String,
    pub(crate) domain: String,
    pub(crate) sender: Option<String>,
    /// The lane that its mail waits in.
    pub(crate) next_hop: String,
    /// Since when nothing is sent.
    pub(crate) paused: Option<Timestamp>,
    /// Of those that are paused, which it would go to.
    pub(crate) paused_hops: Vec<PausedHop>,
    /// The wait of the next hop after a failure: mail for it is not tried before it ends.
    #[serde(default)]
    pub(crate) back_off: Option<BackOffState>,
    /// What waits for the same next hop already; none where the queue could not be read.
    #[serde(default)]
    pub(crate) queue: Option<NextHopQueue>,
    pub(crate) verdict: DeliveryVerdict,
    /// Why it is deferred or rejected.
    pub(crate) reason: Option<String>,
    pub(crate) mta_sts: ShownPolicy,
    /// Not looked at yet.
    #[serde(default)]
    pub(crate) dane: Value,
    /// There are none yet.
    #[serde(default)]
    pub(crate) rules: Vec<Value>,
    pub(crate) mx: Vec<ShownMx>,
    pub(crate) steps: Vec<ExplainStep>,
}

/// The queue of a next hop. A message that comes now is tried behind what is queued there.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct NextHopQueue {
    /// Recipients that wait, counted up to `counted_to`.
    pub(crate) queued: u64,
    /// Recipients that are held until they are released, counted likewise.
    pub(crate) held: u64,
    pub(crate) counted_to: u64,
}

/// A next hop that waits.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct BackOffState {
    pub(crate) until: Timestamp,
    /// Since when it fails.
    pub(crate) since: Timestamp,
    /// Attempts that failed in a row.
    pub(crate) failures: u32,
    pub(crate) reason: String,
    /// One line for people.
    pub(crate) text: String,
}

/// What becomes of mail.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DeliveryVerdict {
    /// It goes to a host that proves who it is.
    Verified,
    /// It goes encrypted, to whoever answers at the host's address.
    Encrypted,
    /// It goes, perhaps in clear text.
    Opportunistic,
    /// It waits.
    Defer,
    /// The sender gets it back.
    Reject,
}

impl DeliveryVerdict {
    /// As in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Encrypted => "encrypted",
            Self::Opportunistic => "opportunistic",
            Self::Defer => "defer",
            Self::Reject => "reject",
        }
    }
}

/// What is known of the domain's policy; the members are the same whatever was found.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ShownPolicy {
    /// The TXT record.
    pub(crate) record: Option<String>,
    pub(crate) policy: Option<FetchedPolicy>,
    pub(crate) source: PolicyOrigin,
    pub(crate) fetched_at: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
    /// Why there is none though a record exists, or what went wrong with a new one.
    pub(crate) error: Option<String>,
}

/// A policy.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct FetchedPolicy {
    /// `enforce`, `testing` or `none`.
    pub(crate) mode: String,
    /// In seconds.
    pub(crate) max_age: u64,
    /// The usable patterns.
    pub(crate) mx: Vec<String>,
    /// What the record named when it was fetched.
    pub(crate) id: String,
}

/// Where a policy came from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PolicyOrigin {
    /// It was known.
    Cache,
    /// It was fetched for this answer.
    Fetch,
    /// There is none.
    None,
}

/// One host.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ShownMx {
    pub(crate) host: String,
    pub(crate) preference: u16,
    pub(crate) addresses: Vec<String>,
    /// Does the policy list it? Null where there is no policy.
    pub(crate) listed: Option<bool>,
    pub(crate) requirement: AskedProtection,
    pub(crate) outcome: HostOutcome,
    /// Why it would not be used.
    pub(crate) reason: Option<String>,
    /// Would mail go to it in clear text, since TLS failed and nothing asks for it?
    #[serde(default)]
    pub(crate) clear_text: bool,
    /// Does it take eight bits (RFC 6152)? Those that do not are tried last for a message with
    /// eight bits. Null where it was not asked.
    #[serde(default)]
    pub(crate) eightbitmime: Option<bool>,
    /// Null where there was no TLS, or no connection.
    pub(crate) tls: Option<ShownTls>,
}

/// What is asked of a connection.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AskedProtection {
    /// TLS, and a host that proves who it is.
    Verify,
    /// TLS.
    Encrypt,
    /// Nothing; TLS where it is offered.
    Opportunistic,
}

impl AskedProtection {
    /// As in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Encrypt => "encrypt",
            Self::Opportunistic => "opportunistic",
        }
    }
}

/// What became of the look at a host.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HostOutcome {
    /// The connection may carry mail.
    Admitted,
    /// It may be used, and no connection was asked for.
    WouldConnect,
    /// It may not be used.
    Refused,
    /// It could not be used.
    Failed,
}

impl HostOutcome {
    /// As in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::WouldConnect => "would_connect",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// A TLS connection.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ShownTls {
    /// `TLSv1.3`, …
    pub(crate) version: String,
    /// The key exchange.
    pub(crate) group: Option<String>,
    /// Null where it cannot be read.
    pub(crate) certificate: Option<PeerCertificate>,
}

/// A host's certificate.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct PeerCertificate {
    /// Its subject alternative names, some twenty at most; null where it has none.
    pub(crate) names: Option<Vec<String>>,
    pub(crate) issuer: String,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) not_after: Option<Timestamp>,
}

/// A step of the walk.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ExplainStep {
    /// Its name, with what it is about.
    pub(crate) step: String,
    /// Since the step before.
    pub(crate) took_ms: u64,
    /// What it found.
    pub(crate) result: String,
}

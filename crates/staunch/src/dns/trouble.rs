//! Why one server, or several, had no answer.

use std::fmt;

use hickory_net::{DnsError, NetError};
use hickory_proto::op::ResponseCode;

use super::failure::DnsFailureKind;

/// Why there is no conclusive answer.
#[derive(Clone, Debug)]
pub(super) enum LookUpError {
    /// There was no answer.
    Net(NetError),
    /// A response code that says neither yes nor no.
    Code(ResponseCode),
    /// There was an answer, but it says nothing.
    Answer(String),
    /// What several servers said, one after the other.
    All(DnsFailureKind, String),
}

impl LookUpError {
    pub(super) fn of(error: NetError) -> Self {
        if let NetError::Dns(DnsError::ResponseCode(code)) = error {
            Self::Code(code)
        } else {
            Self::Net(error)
        }
    }

    /// What it comes to that each of these servers had trouble.
    pub(super) fn of_all(mut told: Vec<(String, Self)>) -> Self {
        if told.len() == 1
            && let Some((_, trouble)) = told.pop()
        {
            return trouble;
        }
        let kinds = told.iter().map(|(_, trouble)| trouble.kind());
        let kind = kinds.max_by_key(|kind| weight(*kind));
        let said: Vec<String> =
            told.iter().map(|(server, trouble)| format!("{server}: {trouble}")).collect();
        Self::All(kind.unwrap_or(DnsFailureKind::Unreachable), said.join("; "))
    }

    /// The same where there are servers that answer other questions.
    pub(super) fn of_this_name(self) -> Self {
        Self::All(DnsFailureKind::Other, self.to_string())
    }

    pub(super) fn kind(&self) -> DnsFailureKind {
        match self {
            Self::Net(NetError::Timeout) => DnsFailureKind::Timeout,
            Self::Net(NetError::Io(_) | NetError::NoConnections) => DnsFailureKind::Unreachable,
            Self::Net(NetError::Dns(DnsError::DnssecBogus)) => DnsFailureKind::Bogus,
            Self::Code(ResponseCode::ServFail) => DnsFailureKind::ServFail,
            Self::Code(ResponseCode::Refused) => DnsFailureKind::Refused,
            Self::Net(_) | Self::Code(_) | Self::Answer(_) => DnsFailureKind::Other,
            Self::All(kind, _) => *kind,
        }
    }
}

/// Which of several kinds is told: whoever spoke knows more than who was silent.
fn weight(kind: DnsFailureKind) -> u8 {
    match kind {
        DnsFailureKind::Bogus => 5,
        DnsFailureKind::ServFail => 4,
        DnsFailureKind::Other => 3,
        DnsFailureKind::Refused => 2,
        DnsFailureKind::Timeout => 1,
        DnsFailureKind::Unreachable => 0,
    }
}

impl fmt::Display for LookUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(error) => error.fmt(f),
            Self::Code(code) => write!(f, "response code {code}"),
            Self::Answer(text) | Self::All(_, text) => f.write_str(text),
        }
    }
}

//! A host that did TLS with us lately, and now does not.

use std::fmt;

use smtp::Domain;

use crate::connect::ConnectFailure;
use crate::policies::STARTTLS_GONE;
use crate::telemetry::{Problem, Reason};

/// How TLS did not come about with a host that did it lately, where nothing requires it.
#[derive(Debug)]
pub(crate) enum StarttlsGone {
    /// It is not offered, or EHLO is not known.
    NotOffered,
    /// It is refused, or the handshake fails.
    Failed(ConnectFailure),
}

impl fmt::Display for StarttlsGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered => f.write_str("STARTTLS is not offered"),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl StarttlsGone {
    /// In words.
    pub(super) fn problem(&self, mx: &Domain) -> Problem {
        let reason = match self {
            Self::NotOffered => Reason::StarttlsNotOffered,
            Self::Failed(failure) => failure.problem().reason,
        };
        let text = format!(
            "{mx} did STARTTLS lately, and now not ({STARTTLS_GONE}): {self}; nothing goes to it in clear text"
        );
        Problem::new(reason, &text)
    }
}

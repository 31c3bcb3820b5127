//! Where the body of a message is.

use std::sync::Arc;

use spool::BodyBytes;

use crate::budget::{Budget, Loan};

/// Where the body is.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// Still in memory since it was accepted.
    Hot(HotBody),
    /// In the store only.
    Stored,
}

/// A body that stays in memory between commit and first attempt. Dropping the last clone gives the
/// memory back.
#[derive(Clone, Debug)]
pub(crate) struct HotBody {
    /// Header and body, as they stand in the store.
    pub(crate) bytes: BodyBytes,
    _loan: Arc<Loan>,
}

impl HotBody {
    /// Keeps `bytes` if there is memory for them.
    pub(crate) fn keep(bytes: BodyBytes, budget: &Arc<Budget>) -> Option<Self> {
        let octets = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        budget.body(octets).map(|loan| Self { bytes, _loan: Arc::new(loan) })
    }
}

//! Writes down who took mail, so that nobody is a stranger again after a restart.

use jiff::Timestamp;
use policy::registrable_domain;
use smtp::HostName;
use spool::{LaneKey, Proven, StoreError};

use super::lanes::{Group, Lanes, PROOF_COUNTS, PROVEN_MAX};
use crate::delivery::route;
use crate::message::Work;
use crate::queue::facts::QueueFact;
use crate::queue::handle::QueueHandle;

/// So many are written at once.
const WRITTEN_AT_ONCE: usize = 256;

/// What is still to be written.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    news: Vec<Proven>,
    /// Of whom it was noted last: nearly always the same again.
    last: Option<(LaneKey, HostName)>,
}

impl Proofs {
    /// What was written down before, for `lanes`.
    pub(super) fn restore(handle: &QueueHandle, lanes: &mut Lanes<Work>) {
        let since = handle.now().saturating_sub(PROOF_COUNTS).unwrap_or(Timestamp::MIN);
        match handle.spool.policies().proven(since, PROVEN_MAX) {
            Ok(proven) => {
                for Proven { domain, at } in proven {
                    lanes.restore_proof(Group::of_name(domain.as_str()), at);
                }
            }
            // Everybody is a stranger for a message.
            Err(error) => failed(&error),
        }
    }

    /// `host` took mail of `lane`.
    pub(super) fn note(
        &mut self,
        handle: &QueueHandle,
        lanes: &mut Lanes<Work>,
        (lane, host): (&LaneKey, &HostName),
    ) {
        let now = handle.now();
        let is_same = self.last.as_ref().is_some_and(|(known, mx)| known == lane && mx == host);
        if is_same && lanes.is_proven(lane, now) {
            return;
        }
        self.last = Some((lane.clone(), host.clone()));
        for name in [route::domain_of(lane).as_ref(), Some(host)].into_iter().flatten() {
            let domain = registrable_domain(name);
            if lanes.prove(Group::of_name(domain.as_str()), now) {
                self.news.push(Proven { domain, at: now });
            }
        }
        if self.news.len() >= WRITTEN_AT_ONCE {
            self.write(handle);
        }
    }

    /// Writes what is not written yet.
    pub(super) fn write(&mut self, handle: &QueueHandle) {
        // Tomorrow it is news again.
        self.last = None;
        if self.news.is_empty() {
            return;
        }
        handle.spool.policies().put_proven(std::mem::take(&mut self.news), |written| {
            if let Err(error) = written {
                failed(&error);
            }
        });
    }
}

/// Forgets what counts for nothing any more.
pub(super) fn tidy(handle: &QueueHandle) {
    let now = handle.now();
    let (Ok(before), Ok(until)) = (now.checked_sub(PROOF_COUNTS), now.checked_add(PROOF_COUNTS))
    else {
        return;
    };
    handle.spool.policies().forget_proven(before, until, |forgotten| {
        if let Err(error) = forgotten {
            failed(&error);
        }
    });
}

fn failed(error: &StoreError) {
    QueueFact::StoreFailed {
        error,
        what: "which hosts took mail lately could not be read or written: their next message \
               waits among those of strangers",
    }
    .tell();
}

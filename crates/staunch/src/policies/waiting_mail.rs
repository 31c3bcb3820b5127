//! What the policy cache asks about the queue.

use std::collections::HashSet;

use smtp::HostName;
use spool::StoreError;

/// For which policy domains does mail wait? All of it blocks for reads.
pub(crate) trait WaitingMail: Send + Sync {
    /// Every domain that mail waits for, and every next hop that it waits for under a name: any of
    /// them can have a policy that counts for this mail, today or under another configuration.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read: then all have mail.
    fn domains(&self) -> Result<HashSet<HostName>, StoreError>;

    /// Does mail wait in the lanes of `domain` or of the next hops of this name?
    fn is_for(&self, domain: &HostName) -> bool;
}

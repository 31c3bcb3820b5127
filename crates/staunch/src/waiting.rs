//! For which policy domains does mail wait? What cannot be ruled out counts as waiting.

use std::collections::HashSet;
use std::sync::Arc;

use smtp::HostName;
use spool::{LaneKey, Spool, StoreError};
use tokio::sync::watch;

use crate::config::Config;
use crate::route;

/// Recipients looked at in one read: some 20 ms.
const PAGE: usize = 10_000;

/// Asks the queue. All of it blocks for reads.
#[derive(Clone, Debug)]
pub(crate) struct WaitingMail {
    spool: Spool,
    config: watch::Receiver<Arc<Config>>,
}

impl WaitingMail {
    /// About the mail in `spool`, which goes where `config` says.
    pub(crate) fn new(spool: Spool, config: watch::Receiver<Arc<Config>>) -> Self {
        Self { spool, config }
    }

    /// Every domain that mail waits for, and every next hop that it waits for under a name: any of them can have
    /// a policy that counts for this mail, today or under another configuration.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the queue cannot be read: then all have mail.
    pub(crate) fn domains(&self) -> Result<HashSet<HostName>, StoreError> {
        let config = Arc::clone(&self.config.borrow());
        let mut domains = HashSet::new();
        for lane in self.spool.lanes_with_mail()? {
            match route::domain_of(&lane) {
                Some(domain) => {
                    domains.insert(domain);
                }
                None => {
                    domains.extend(route::names_of(&config, &lane));
                    self.add_recipients(&lane, &mut domains)?;
                }
            }
        }
        Ok(domains)
    }

    /// The lane of a route has recipients of any domain.
    fn add_recipients(
        &self,
        lane: &LaneKey,
        domains: &mut HashSet<HostName>,
    ) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let (found, next) = self.spool.domains_in(lane, after, PAGE)?;
            domains.extend(found);
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Does mail wait in the lanes of `domain` or of the next hops of this name?
    pub(crate) fn is_for(&self, domain: &HostName) -> bool {
        let config = Arc::clone(&self.config.borrow());
        let mut lanes = route::lanes_towards(&config, domain);
        lanes.extend(route::own_lanes(domain));
        self.spool.has_mail(&lanes).unwrap_or(true)
    }
}

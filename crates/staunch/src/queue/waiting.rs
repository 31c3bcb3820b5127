//! For which policy domains does mail wait? What cannot be ruled out counts as waiting.

use std::collections::HashSet;
use std::sync::Arc;

use smtp::HostName;
use spool::{LaneKey, Spool, StoreError};
use tokio::sync::watch;

use crate::config::Config;
use crate::delivery::route;
use crate::policies::WaitingMail;

/// Recipients looked at in one read: some 20 ms.
const PAGE: usize = 10_000;

/// Asks the queue. All of it blocks for reads.
#[derive(Clone, Debug)]
pub(crate) struct QueuedMail {
    spool: Spool,
    config: watch::Receiver<Arc<Config>>,
}

impl QueuedMail {
    /// About the mail in `spool`, which goes where `config` says.
    pub(crate) fn new(spool: Spool, config: watch::Receiver<Arc<Config>>) -> Self {
        Self { spool, config }
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
}

impl WaitingMail for QueuedMail {
    fn domains(&self) -> Result<HashSet<HostName>, StoreError> {
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

    fn is_for(&self, domain: &HostName) -> bool {
        let config = Arc::clone(&self.config.borrow());
        let mut lanes = route::lanes_towards(&config, domain);
        lanes.extend(route::own_lanes(domain));
        self.spool.has_mail(&lanes).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use policy::RequireTls;
    use smtp::{Mailbox, ReversePath};
    use spool::{
        MessageOptions, NewRecipient, Options, RecipientOptions, RecipientState, StoredEnvelope,
    };

    use super::*;
    use crate::config::{Surroundings, load};
    use crate::message::facts_of;

    const BODY: &[u8] = b"Subject: x\r\n\r\nx\r\n";

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    /// A message for `count` recipients at `domain`, held or not.
    fn commit(spool: &Spool, config: &Config, count: usize, domain: &str, state: RecipientState) {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let recipient = |n| NewRecipient {
            mailbox: Mailbox::parse(&format!("u{n}@{domain}")).unwrap(),
            lane: route::lane(config, &name(domain), RequireTls::No),
            options: RecipientOptions::default(),
            state,
        };
        let envelope = StoredEnvelope {
            sender: ReversePath::Null,
            recipients: (0..count).map(recipient).collect(),
            arrived_at: at,
            expires_at: at,
            client: "test".into(),
            facts: facts_of(BODY),
            options: MessageOptions::default(),
        };
        let mut draft = spool.draft(spool.new_id(at));
        draft.write(BODY).unwrap();
        let (done, committed) = std::sync::mpsc::channel();
        spool.commit(draft.seal().unwrap(), envelope, move |result| done.send(result).unwrap());
        committed.recv().unwrap().unwrap();
    }

    /// However much mail for others stands before it.
    #[test]
    fn mail_is_found_wherever_it_waits() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("staunch.toml");
        let text = "hostname = 'relay.test'\ndata_dir = '/nonexistent'\n\
                    [[route]]\ndomains = ['routed.test']\nvia = ['smtp://smart.test']\n";
        std::fs::write(&file, text).unwrap();
        let config = Arc::new(load(Some(&file), &Surroundings::default()).unwrap().config);
        let spool = Spool::open(&dir.path().join("spool"), Options::default()).unwrap();
        for _ in 0..25 {
            commit(&spool, &config, 1000, "other.test", RecipientState::Queued);
        }
        commit(&spool, &config, 1, "queued.test", RecipientState::Queued);
        commit(&spool, &config, 1, "held.test", RecipientState::Held);
        commit(&spool, &config, 1, "routed.test", RecipientState::Queued);
        let (_sender, receiver) = watch::channel(config);
        let waiting = QueuedMail::new(spool, receiver);
        let all = ["held.test", "other.test", "queued.test", "routed.test", "smart.test"];
        let mut found: Vec<_> = waiting.domains().unwrap().into_iter().collect();
        found.sort_unstable();
        assert_eq!(found, all.map(name));
        for domain in all {
            assert!(waiting.is_for(&name(domain)), "{domain}");
        }
        assert!(!waiting.is_for(&name("nobody.test")));
    }
}

//! Does what an attempt goes by still hold?

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use smtp::{Domain, HostName};

use crate::config::Config;
use crate::delivery::open::Asker;
use crate::delivery::outbound::Outbound;
use crate::delivery::underway::Sending;
use crate::delivery::yielding::Yielding;
use crate::policies::PolicyWatch;

/// Is told with which host an attempt has a session.
pub(crate) trait Sessions: Sync {
    /// With this one; `None`: with none.
    fn tell<'a>(&'a self, host: Option<&'a HostName>) -> BoxFuture<'a, ()>;
}

/// What an attempt goes by.
pub(super) struct Rules<'a> {
    pub(super) outbound: &'a Outbound,
    pub(super) config: &'a Config,
    /// Who wants sessions.
    pub(super) asker: Asker<'a>,
    /// Its mail is still wanted.
    pub(super) sending: &'a Sending,
    /// Other mail may need its place.
    pub(super) yielding: &'a Yielding,
    /// Who wants to know with which host there is a session.
    pub(super) sessions: Option<&'a dyn Sessions>,
    /// It was told of one.
    pub(super) told: AtomicBool,
    /// On the policies that were looked up.
    pub(super) watches: Vec<PolicyWatch>,
}

/// What does not hold any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RuleChange {
    /// The operator took the mail out of the queue.
    Withdrawn,
    /// The configuration is another one.
    Configuration,
    /// A policy asks for something else.
    Policy,
}

impl Rules<'_> {
    pub(super) fn change(&self) -> Option<RuleChange> {
        if self.sending.is_withdrawn() {
            Some(RuleChange::Withdrawn)
        } else if !self.outbound.is_current(self.config) {
            Some(RuleChange::Configuration)
        } else if self.watches.iter().any(PolicyWatch::has_changed) {
            Some(RuleChange::Policy)
        } else {
            None
        }
    }

    /// There is a session with `host`, which may be known better than the next hop; or with nobody.
    /// Anybody may name the hosts of others in DNS, so a name alone says nothing.
    pub(super) async fn tell_host(&self, host: Option<&Domain>) {
        let Some(sessions) = self.sessions else { return };
        let name = host.and_then(Domain::name);
        if self.told.swap(name.is_some(), Ordering::Relaxed) || name.is_some() {
            sessions.tell(name).await;
        }
    }

    /// The last look before MAIL. `false`: nothing may be said. Else a host may be taking the mail
    /// from here on.
    pub(super) fn hand_over(&self) -> bool {
        self.change().is_none() && self.sending.hand_over()
    }
}

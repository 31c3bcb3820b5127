//! Does what an attempt goes by still hold?

use std::sync::atomic::{AtomicBool, Ordering};

use smtp::Domain;

use crate::config::Config;
use crate::open::Asker;
use crate::policy_store::PolicyWatch;
use crate::queue::Event;
use crate::queue::lanes::{Group, Ticket};
use crate::queue::underway::Sending;
use crate::queue::yielding::Yielding;
use crate::relay::Relay;

/// What an attempt goes by.
pub(super) struct Rules<'a> {
    pub(super) relay: &'a Relay,
    pub(super) config: &'a Config,
    /// Who wants sessions.
    pub(super) asker: Asker<'a>,
    /// Its mail is still wanted.
    pub(super) sending: &'a Sending,
    /// Other mail may need its place.
    pub(super) yielding: &'a Yielding,
    /// The attempt, if nothing is known of the next hop.
    pub(super) stranger: Option<Ticket>,
    /// The queue was told which host it has a session with.
    pub(super) told: AtomicBool,
    /// On the policies that were looked up.
    pub(super) watches: Vec<PolicyWatch>,
}

/// What does not hold any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// The operator took the mail out of the queue.
    Withdrawn,
    /// The configuration is another one.
    Configuration,
    /// A policy asks for something else.
    Policy,
}

impl Rules<'_> {
    pub(super) fn change(&self) -> Option<Change> {
        if self.sending.is_withdrawn() {
            Some(Change::Withdrawn)
        } else if !self.relay.is_of_today(self.config) {
            Some(Change::Configuration)
        } else if self.watches.iter().any(PolicyWatch::has_changed) {
            Some(Change::Policy)
        } else {
            None
        }
    }

    /// There is a session with `host`, which may be known better than the next hop; or with nobody. Anybody may name
    /// the hosts of others in DNS, so a name alone says nothing.
    pub(super) async fn tell_host(&self, host: Option<&Domain>) {
        let Some(ticket) = self.stranger else { return };
        let name = host.and_then(Domain::name);
        if self.told.swap(name.is_some(), Ordering::Relaxed) || name.is_some() {
            self.relay.tell_queue(Event::Session(ticket, name.map(Group::of_host))).await;
        }
    }

    /// The last look before MAIL. `false`: nothing may be said. Else a host may be taking the mail from here on.
    pub(super) fn hand_over(&self) -> bool {
        self.change().is_none() && self.sending.hand_over()
    }
}

//! What the operator has switched off: sending, all of it or to one next hop, and accepting. Kept
//! across restarts, since a machine that comes back must not do what it was told not to.

use std::collections::BTreeMap;

use jiff::Timestamp;
use smtp::HostName;
use spool::{LaneKey, Spool, StoreError};
use tokio::sync::Mutex;

use crate::config::Config;
use crate::delivery::route;
use crate::queue::facts::QueueFact;
use crate::queue::shaping::Pause;
use crate::reloadable::Reloadable;

/// What the marks are called in the store.
const MARKS: &str = "switched_off.";
const SENDING: &str = "switched_off.sending";
const ACCEPTING: &str = "switched_off.accepting";
/// Before the name of a next hop.
const HOP: &str = "switched_off.hop.";
/// Next hops that can be paused one by one. Our choice: whoever wants more means all of them.
const HOPS_MAX: usize = 1_000;

/// Something that can be switched off.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Switch {
    /// Sending, whatever the next hop.
    Sending,
    /// Sending to the next hop of this domain, or to the smarthost of this name.
    Hop(HostName),
    /// Accepting mail: off while draining.
    Accepting,
}

/// Is it on, or off since when?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SwitchPosition {
    /// On: mail is sent or accepted as usual.
    On,
    /// Not since this time, unless it was off already.
    Off(Timestamp),
}

/// What is switched off, and since when.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Off {
    pub(crate) sending: Option<Timestamp>,
    /// Next hops that are paused by name, since when.
    pub(crate) hops: BTreeMap<HostName, Timestamp>,
    pub(crate) accepting: Option<Timestamp>,
}

/// Why a switch stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SwitchError {
    /// It could not be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// More than [`HOPS_MAX`] would be paused one by one.
    #[error("{HOPS_MAX} next hops are paused already")]
    TooMany,
    /// It was not paused.
    #[error("{0} is not paused")]
    NotPaused(HostName),
}

#[derive(Debug)]
pub(crate) struct Switches {
    off: Reloadable<Off>,
    store: Spool,
    /// One change at a time.
    turn: Mutex<()>,
}

/// Nobody knows what was paused: so nothing is sent until the operator says so.
fn pause_for_safety(store: &Spool, off: &mut Off) -> Result<(), StoreError> {
    QueueFact::SwitchesDamaged.tell();
    let since = *off.sending.get_or_insert(Timestamp::UNIX_EPOCH);
    store.set_mark(SENDING, Some(&since.as_millisecond().to_string()))?;
    store.forget_damaged_marks(MARKS)
}

impl Switches {
    /// As they were left. Blocks for a read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when that cannot be read.
    pub(crate) fn open(store: Spool) -> Result<Self, StoreError> {
        let mut off = Off::default();
        let marks = store.marks(MARKS)?;
        for (name, value) in marks.values {
            // That it is off matters, not since when.
            let since = value.parse().ok().and_then(|at| Timestamp::from_millisecond(at).ok());
            let since = since.unwrap_or(Timestamp::UNIX_EPOCH);
            match name.strip_prefix(HOP).map(HostName::parse) {
                Some(Ok(hop)) => {
                    off.hops.insert(hop, since);
                }
                None if name == SENDING => off.sending = Some(since),
                None if name == ACCEPTING => off.accepting = Some(since),
                Some(Err(_)) | None => {
                    QueueFact::UnknownSwitch { name: &name }.tell();
                }
            }
        }
        if marks.may_lack_some {
            pause_for_safety(&store, &mut off)?;
        }
        Ok(Self { off: Reloadable::new(off), store, turn: Mutex::new(()) })
    }

    /// What is off now.
    pub(crate) fn off(&self) -> std::sync::Arc<Off> {
        self.off.now()
    }

    /// Turns a switch; what it says now is on disk when this returns.
    ///
    /// # Errors
    ///
    /// [`SwitchError`]; then it is as before.
    pub(crate) async fn turn(&self, switch: Switch, to: SwitchPosition) -> Result<(), SwitchError> {
        let _alone = self.turn.lock().await;
        let mut off = Off::clone(&self.off.now());
        let name = match &switch {
            Switch::Sending => SENDING.to_owned(),
            Switch::Accepting => ACCEPTING.to_owned(),
            Switch::Hop(hop) => format!("{HOP}{hop}"),
        };
        let since = off.turned(switch, to)?;
        let store = self.store.clone();
        let value = since.map(|at| at.as_millisecond().to_string());
        let write = tokio::task::spawn_blocking(move || store.set_mark(&name, value.as_deref()));
        write.await.unwrap_or(Err(StoreError::Closed))?;
        self.off.replace(off);
        Ok(())
    }

    /// What of it concerns the lanes of today.
    pub(crate) fn pause(&self, config: &Config) -> Pause {
        let off = self.off.now();
        if off.sending.is_some() {
            return Pause::All;
        }
        if off.hops.is_empty() {
            return Pause::None;
        }
        Pause::Lanes(off.hops.keys().flat_map(|hop| route::lanes_towards(config, hop)).collect())
    }
}

impl Off {
    /// Only what keeps the mail of `lane` from being sent.
    pub(crate) fn towards(&self, config: &Config, lane: &LaneKey) -> Self {
        let is_its = |hop: &HostName| route::lanes_towards(config, hop).contains(lane);
        let hops = self.hops.iter().filter(|(hop, _)| is_its(hop));
        let hops = hops.map(|(hop, since)| (hop.clone(), *since)).collect();
        Self { sending: self.sending, hops, accepting: None }
    }

    /// Since when `switch` is off after it was turned.
    fn turned(
        &mut self,
        switch: Switch,
        to: SwitchPosition,
    ) -> Result<Option<Timestamp>, SwitchError> {
        let slot = match switch {
            Switch::Sending => &mut self.sending,
            Switch::Accepting => &mut self.accepting,
            Switch::Hop(hop) => return self.turned_hop(hop, to),
        };
        *slot = match to {
            SwitchPosition::On => None,
            SwitchPosition::Off(now) => Some(slot.unwrap_or(now)),
        };
        Ok(*slot)
    }

    fn turned_hop(
        &mut self,
        hop: HostName,
        to: SwitchPosition,
    ) -> Result<Option<Timestamp>, SwitchError> {
        match to {
            SwitchPosition::On => match self.hops.remove(&hop) {
                Some(_) => Ok(None),
                None => Err(SwitchError::NotPaused(hop)),
            },
            SwitchPosition::Off(_)
                if self.hops.len() >= HOPS_MAX && !self.hops.contains_key(&hop) =>
            {
                Err(SwitchError::TooMany)
            }
            SwitchPosition::Off(now) => Ok(Some(*self.hops.entry(hop).or_insert(now))),
        }
    }
}

#[cfg(test)]
mod tests {
    use policy::RequireTls;

    use super::*;
    use crate::config::{Surroundings, load};

    fn hop(name: &str) -> Switch {
        Switch::Hop(HostName::parse(name).unwrap())
    }

    #[tokio::test]
    async fn what_is_off_stays_off_after_a_restart_and_keeps_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Spool::open(dir.path(), spool::Options::default()).unwrap();
        let early = Timestamp::from_second(1_000).unwrap();
        let late = Timestamp::from_second(2_000).unwrap();
        let spool = open();
        let switches = Switches::open(spool.clone()).unwrap();
        for switch in [Switch::Sending, hop("a.test"), hop("b.test"), Switch::Accepting] {
            switches.turn(switch.clone(), SwitchPosition::Off(early)).await.unwrap();
            switches.turn(switch, SwitchPosition::Off(late)).await.unwrap();
        }
        switches.turn(Switch::Sending, SwitchPosition::On).await.unwrap();
        switches.turn(hop("b.test"), SwitchPosition::On).await.unwrap();
        let again = switches.turn(hop("b.test"), SwitchPosition::On).await;
        assert_eq!(again.unwrap_err().to_string(), "b.test is not paused");
        let left = switches.off();
        drop((switches, spool));

        let spool = open();
        let off = Switches::open(spool).unwrap().off();
        assert_eq!(off, left);
        assert_eq!((off.sending, off.accepting), (None, Some(early)));
        let hops: Vec<&str> = off.hops.keys().map(HostName::as_str).collect();
        assert_eq!(hops, ["a.test"]);
    }

    #[test]
    fn what_holds_mail_up_is_the_pause_of_its_domain_or_of_its_smarthost() {
        let text = "hostname = \"relay.test\"\ndata_dir = \"/tmp\"\n[[route]]\n\
            domains = [\"c.test\"]\nvia = [\"smtp://[smart.test]\"]\n";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = load(Some(file.path()), &Surroundings::default()).unwrap().config;
        let name = |name| HostName::parse(name).unwrap();
        let mut off = Off { accepting: Some(Timestamp::UNIX_EPOCH), ..Off::default() };
        for hop in ["a.test", "smart.test"] {
            off.hops.insert(name(hop), Timestamp::UNIX_EPOCH);
        }
        for (domain, want) in [("a.test", "a.test"), ("b.test", ""), ("c.test", "smart.test")] {
            for require_tls in [RequireTls::No, RequireTls::Yes] {
                let towards =
                    off.towards(&config, &route::lane(&config, &name(domain), require_tls));
                let hops: Vec<&str> = towards.hops.keys().map(HostName::as_str).collect();
                assert_eq!((hops.concat().as_str(), towards.accepting), (want, None), "{domain}");
            }
        }
    }
}

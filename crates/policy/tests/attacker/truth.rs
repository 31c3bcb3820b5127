//! What is true, whatever the program thinks: every policy that it got from a host that proved its
//! name, in true time.

use std::collections::BTreeMap;

use policy::sts::{Mode, Policy};

use crate::world::Dom;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// One policy, and when it was got.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) at: i64,
    pub(crate) policy: Policy,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    newest: BTreeMap<Dom, Got>,
}

impl Truth {
    pub(crate) fn got(&mut self, domain: &Dom, at: i64, body: &str) {
        let policy = Policy::parse(body.as_bytes()).unwrap();
        self.newest.insert(domain.clone(), Got { at, policy });
    }

    /// The operator may forget it, or a full cache may evict it.
    pub(crate) fn forget(&mut self, domain: &Dom) {
        self.newest.remove(domain);
    }

    /// The clock was believed although it was wrong, as it may be after a day of doubt or on the
    /// operator's word: ends go by it from here on.
    pub(crate) fn excuse(&mut self) {
        self.newest.clear();
    }

    /// The policy that must hold at `now`. The clock may be wrong unseen by an hour, by one more a
    /// day, and by a day in all over reboots.
    pub(crate) fn binding(&self, domain: &Dom, now: i64) -> Option<&Got> {
        let got = self.newest.get(domain)?;
        let max_age = i64::try_from(got.policy.max_age().as_secs()).unwrap();
        let slack = 2 * HOUR + (now - got.at) / DAY * HOUR + DAY;
        let holds = got.policy.mode() == Mode::Enforce && now < got.at + max_age - slack;
        holds.then_some(got)
    }
}

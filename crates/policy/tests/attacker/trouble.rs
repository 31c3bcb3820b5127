//! What happens to the program as a whole: crashes, floods, tidying, an operator who forgets.

use std::sync::Arc;

use jiff::Timestamp;
use policy::clock::{Judge, LastMark, Moment};
use policy::registrable_domain;
use policy::sts::CachedPolicy;
use policy::sts::cache::{ClockTrust, LookUpEffect, State, Tenant, Use, Write, surplus};

use crate::core::{Core, Looking, POLICIES_MAX, boot_id, ends_late_enough};
use crate::disk::Change;
use crate::world::{Dom, name};

/// What follows a crash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum After {
    /// The program is started again.
    Restart,
    /// The machine is.
    Reboot,
}

impl Core {
    /// The power goes; `keep` of what was on its way to the disk came there.
    pub(crate) fn crash(&mut self, keep: usize, after: After) {
        let looking = std::mem::take(&mut self.looking);
        self.disk.crash(keep);
        for (domain, Looking { look_up, effect, got, is_syncing, .. }) in looking {
            let is_in_replace =
                matches!(effect, LookUpEffect::Write(Write::Replace | Write::Unlist))
                    || (is_syncing && matches!(effect, LookUpEffect::Write(Write::List(_))));
            self.coverage.crash_in_replace += u64::from(is_in_replace && got.is_some());
            let files = &self.disk.synced;
            let row = files.rows.get(&domain).and_then(|row| row.kept.clone());
            // What has no row may be remembered by the list alone.
            let state = look_up.state();
            let is_listed = look_up.is_unstored()
                && state.listed.is_some()
                && files.list.get(&domain) == state.listed.as_ref();
            let known = if is_listed { state.kept.clone() } else { row };
            if let (Some((at, body)), Some(kept)) = (got, known)
                && kept.body() == body
            {
                if ends_late_enough(&kept, at) {
                    self.truth.got(&domain, at, &body);
                } else {
                    self.truth.forget(&domain);
                }
            }
        }
        self.verdicts.clear();
        self.fleeting.clear();
        self.unstored.clear();
        self.census = None;
        self.epochs.clear();
        self.tries.clear();
        if after == After::Reboot {
            self.boot += 1;
            self.booted_at = self.true_now - 5;
        }
        let last = self.disk.synced.mark.clone().map_or(LastMark::Never, LastMark::Whole);
        self.judge = Judge::start(self.reading(), boot_id(self.boot), last);
        self.moment();
    }

    /// Strangers make us learn their policies.
    pub(crate) fn flood(&mut self, count: usize) {
        let moment = self.moment();
        for n in 0..count {
            if !self.has_room() {
                return;
            }
            let domain = name(&format!("d{n}.flood.test"));
            let body = format!("version: STSv1\nmode: enforce\nmx: mx.{domain}\nmax_age: 604800\n");
            let id = policy::sts::Id::parse("1").unwrap();
            let kept = CachedPolicy::new(id, body.as_bytes(), moment.now).unwrap();
            let (first_used_at, last_used_at) = (Some(moment.now), Some(moment.now));
            let kept = Some(Arc::new(kept));
            let state = State { kept, first_used_at, last_used_at, ..State::default() };
            if let Some(entry) = state.to_list(moment) {
                self.disk.begin(Change::List(domain.clone(), entry));
            }
            self.disk.begin(Change::Row(domain, Box::new(state)));
        }
        self.disk.sync();
    }

    /// Looks at all rows, or, if that was done, lets go what is too much or says nothing any more:
    /// much may have happened in between.
    pub(crate) fn tidy(&mut self) -> Result<(), String> {
        let moment = self.moment();
        if moment.clock == ClockTrust::Suspect || self.disk.is_full {
            return Ok(());
        }
        match self.census.take() {
            Some((spent, tenants)) => self.let_go(&spent, tenants, moment),
            None => {
                self.census = Some(self.look_at_all(moment));
                Ok(())
            }
        }
    }

    fn look_at_all(&self, moment: Moment) -> (Vec<Dom>, Vec<Tenant>) {
        let damaged = &self.disk.synced.damaged;
        let rows = self.disk.synced.rows.keys().filter(|domain| !damaged.contains(*domain));
        let (mut spent, mut tenants) = (Vec::new(), Vec::new());
        for domain in rows.cloned() {
            let state = self.state(&domain);
            if state.is_spent(moment) {
                spent.push(domain);
                continue;
            }
            let (registrable, usage) = (registrable_domain(&domain), state.use_of(moment));
            let last_used_at = state.last_used_at.unwrap_or(Timestamp::MIN);
            tenants.push(Tenant { domain, registrable, usage, last_used_at });
        }
        (spent, tenants)
    }

    fn let_go(
        &mut self,
        spent: &[Dom],
        tenants: Vec<Tenant>,
        moment: Moment,
    ) -> Result<(), String> {
        for domain in spent {
            if self.state(domain).is_spent(moment) && !self.looking.contains_key(domain) {
                self.drop_row(domain);
            }
        }
        let queue = &self.queue;
        let gone = surplus(tenants, POLICIES_MAX, |domain| queue.contains(domain)).go;
        self.coverage.evicted_beside_mail += u64::from(!gone.is_empty() && !queue.is_empty());
        for (domain, counted) in gone {
            let state = self.state(&domain);
            if self.looking.contains_key(&domain) {
                continue;
            }
            if !state.may_still_go(counted, moment) {
                self.coverage.counts_for_more += 1;
                continue;
            }
            let has_mail = self.queue.contains(&domain);
            if has_mail || state.is_lost(moment) || state.use_of(moment) == Use::Regular {
                return Err(format!("{domain} was evicted although mail hangs on it: {state:?}"));
            }
            self.drop_row(&domain);
            // Who is known from one day may be forgotten; who binds nobody, or nothing, has nothing
            // to lose.
            if counted == Use::Once {
                self.truth.forget(&domain);
            }
        }
        Ok(())
    }

    fn drop_row(&mut self, domain: &Dom) {
        self.disk.begin(Change::Unlist(domain.clone()));
        self.disk.begin(Change::Delete(domain.clone()));
        self.disk.sync();
        self.unstored.remove(domain);
        self.fleeting.remove(domain);
        self.bump(domain);
    }

    /// The operator forgets it.
    pub(crate) fn forget(&mut self, domain: &Dom) {
        if !self.looking.contains_key(domain) && !self.disk.is_full {
            self.drop_row(domain);
            self.truth.forget(domain);
        }
    }
}

//! What is remembered about a domain, and what follows from it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use smtp::RemoteText;

use super::{
    Alarm, CachedPolicy, ClockTrust, DAY, DeferCause, Deferral, FetchFailure, HOUR, KeepSettings,
    Listed, Moment, NoPolicy, OnFailure, Plan, PolicyFile, Step, TxtAnswer, Use, Verdict, later,
    quiet,
};
use crate::sts::record::{Id, RecordError};

/// RFC 8461 §3.3: at least five minutes before a failed fetch is tried again.
pub const FETCH_BACKOFF: Duration = Duration::from_secs(5 * 60);
/// Our choice: a domain whose id changes all the time costs us this many fetches an hour, no more.
pub const FETCHES_PER_HOUR: usize = 4;
/// Our choice: a first contact's fetch is tried this often before mail goes without a policy.
const FIRST_CONTACT_TRIES: u32 = 2;
/// Our choice: a domain that had no record this recently is not suspected for long when DNS fails.
const NONE_REMEMBERED: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Our choice: how long it is suspected.
const DNS_FAILURE_CAP_AFTER_NONE: Duration = Duration::from_secs(15 * 60);
/// Our choice: when a deferral for DNS is looked at again.
pub(super) const DNS_RETRY: Duration = Duration::from_secs(5 * 60);
/// Our choice: policies that no mail asked for in this time are left to expire.
const REFRESHED_AFTER_USE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Our choice: a short-lived policy is refreshed no more often than this, which leaves fetches for
/// mail.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_secs(30 * 60);
/// Our choice: failed refreshes before the operator is told (RFC 8461 §10.2).
const REFRESH_FAILURES_TOLD: u32 = 3;
/// Our choice: who gets mail on two days, so far apart, is no stranger.
const REGULAR_AFTER: Duration = DAY;
/// Our choice: an expired row outlives its policy, because the clock may have been wrong.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// One fetch of the last hour.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecentFetch {
    /// When the fetch ended, well or not.
    pub at: Timestamp,
    /// The id of the record that the policy was fetched for.
    pub id: Id,
    /// Did the fetch fail, at any of its steps?
    pub failed: bool,
}

/// The fetches that failed since the last one that did not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FailedFetch {
    /// The id of the record that the policy was fetched for.
    pub id: Id,
    /// When the last of them ended.
    pub at: Timestamp,
    /// How many in a row with this id.
    pub count: u32,
}

/// All that is remembered about a domain: a row of the store.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct State {
    /// The last policy, also when it has expired.
    pub kept: Option<Arc<CachedPolicy>>,
    /// The last policy if its `max_age` was 0; not for the store.
    pub fleeting: Option<Arc<CachedPolicy>>,
    /// The last fetches, oldest first, at most [`FETCHES_PER_HOUR`].
    pub recent: Vec<RecentFetch>,
    /// Failures since the last success.
    pub failed: Option<FailedFetch>,
    /// Failed fetches since there is no policy.
    pub first_fetch_failures: u32,
    /// Since when the TXT query fails without a policy to fall back on.
    pub dns_failing_since: Option<Timestamp>,
    /// When the domain last said that it has no record, to the day.
    pub none_seen_at: Option<Timestamp>,
    /// When mail first asked.
    pub first_used_at: Option<Timestamp>,
    /// When mail last asked, to the hour.
    pub last_used_at: Option<Timestamp>,
    /// Since when there was a policy without a break.
    pub known_since: Option<Timestamp>,
    /// Alarms that were raised and whose cause has not ended.
    pub alarms: BTreeSet<Alarm>,
    /// What is remembered beside the mail; not part of the row.
    pub listed: Option<Listed>,
}

impl State {
    /// Decides what holds, given what DNS says now.
    pub fn plan(
        &mut self,
        answer: &TxtAnswer,
        moment: Moment,
        settings: &KeepSettings,
    ) -> Step<Plan> {
        if self.kept.is_some() || matches!(answer, TxtAnswer::Usable(_)) {
            self.first_used_at.get_or_insert(moment.now);
            note(&mut self.last_used_at, moment.now, HOUR);
        }
        if self.is_lost(moment) {
            return self.plan_lost(answer, moment);
        }
        self.alarms.remove(&Alarm::PolicyLost);
        match (answer, self.live(moment)) {
            (TxtAnswer::Usable(id), live) => self.plan_usable(id, live, moment, settings),
            (TxtAnswer::Unusable(why), live) => self.plan_unusable(why, live, moment),
            (TxtAnswer::Failed(_), Some(live)) => quiet(Plan::Decided(Verdict::Use(live))),
            (TxtAnswer::Failed(text), None) => self.plan_failed(text, moment, settings),
        }
    }

    /// Whatever DNS says, which anybody can forge: only a policy ends it, or the old one's end.
    fn plan_lost(&mut self, answer: &TxtAnswer, moment: Moment) -> Step<Plan> {
        let alarm = self.raise(Alarm::PolicyLost);
        let id = match answer {
            TxtAnswer::Usable(id) => id.clone(),
            TxtAnswer::Unusable(_) | TxtAnswer::Failed(_) => Id::unknown(),
        };
        let decision = if self.may_fetch(&id, moment.now) {
            Plan::Fetch { id }
        } else {
            Plan::Decided(self.still_lost(&id, None, moment))
        };
        Step { decision, alarm }
    }

    fn still_lost(&self, id: &Id, failure: Option<FetchFailure>, moment: Moment) -> Verdict {
        let until = self.next_fetch_at(id, moment.now);
        Verdict::Defer(Deferral { until, cause: DeferCause::Lost(failure) })
    }

    /// Was an `enforce` policy stored that holds, and cannot be read any more? A row that was
    /// written later counts in its place, an earlier one is of a file that somebody put back.
    pub fn is_lost(&self, moment: Moment) -> bool {
        let Some(listed) = self.listed else { return false };
        let is_found = self.kept.as_ref().is_some_and(|kept| {
            kept.fetched_at >= listed.fetched_at
                || (listed == Listed::UNREADABLE && kept.is_enforced() && self.holds(kept, moment))
        });
        !is_found && !self.is_over(listed.fetched_at, listed.expires_at, moment)
    }

    fn plan_usable(
        &mut self,
        id: &Id,
        live: Option<Arc<CachedPolicy>>,
        moment: Moment,
        settings: &KeepSettings,
    ) -> Step<Plan> {
        self.dns_failing_since = None;
        self.none_seen_at = None;
        self.alarms.remove(&Alarm::DnsFailing);
        self.alarms.remove(&Alarm::RecordGone);
        let current = |kept: &CachedPolicy| kept.id == *id && moment.now < kept.expires_at();
        match live {
            Some(kept) if current(&kept) => {
                self.alarms.remove(&Alarm::FetchFailing);
                quiet(Plan::Decided(Verdict::Use(kept)))
            }
            _ if self.may_fetch(id, moment.now) => quiet(Plan::Fetch { id: id.clone() }),
            // RFC 8461 §5.1: the old policy under its old id.
            Some(kept) => quiet(Plan::Decided(Verdict::Use(kept))),
            None => match self.hardly_expired(id, moment.now) {
                Some(kept) => quiet(Plan::Decided(Verdict::Use(kept))),
                None => {
                    let until = self.next_fetch_at(id, moment.now);
                    self.without_policy(until, None, settings).map(Plan::Decided)
                }
            },
        }
    }

    /// The policy of a domain whose `max_age` is so short that mail uses up the fetches of an hour.
    /// Mail need not wait for the next hour, as long as the record still names the same policy.
    fn hardly_expired(&self, id: &Id, now: Timestamp) -> Option<Arc<CachedPolicy>> {
        let recent =
            |kept: &&Arc<CachedPolicy>| kept.id == *id && is_within(now, kept.fetched_at, HOUR);
        let kept = self.fleeting.iter().chain(&self.kept).find(recent);
        kept.filter(|_| self.first_fetch_failures == 0).map(Arc::clone)
    }

    fn plan_unusable(
        &mut self,
        why: &RecordError,
        live: Option<Arc<CachedPolicy>>,
        moment: Moment,
    ) -> Step<Plan> {
        self.dns_failing_since = None;
        self.first_fetch_failures = 0;
        self.alarms.remove(&Alarm::DnsFailing);
        match why {
            RecordError::NoRecord => note(&mut self.none_seen_at, moment.now, DAY),
            // Somebody there means to have a policy.
            RecordError::Several { .. } | RecordError::Malformed(_) => {}
        }
        match live {
            Some(kept) => {
                // RFC 8461 §8.3: a record that goes after `none` was published goes in order.
                let alarm = kept.binds().then(|| self.raise(Alarm::RecordGone)).flatten();
                Step { decision: Plan::Decided(Verdict::Use(kept)), alarm }
            }
            None => {
                self.alarms.remove(&Alarm::RecordGone);
                self.alarms.remove(&Alarm::FetchFailing);
                quiet(Plan::Decided(Verdict::NoPolicy(NoPolicy::Record(why.clone()))))
            }
        }
    }

    fn plan_failed(
        &mut self,
        text: &RemoteText,
        moment: Moment,
        settings: &KeepSettings,
    ) -> Step<Plan> {
        let now = moment.now;
        // A time to come was written by a clock that was ahead.
        let since = self.dns_failing_since.filter(|since| *since <= now).unwrap_or(now);
        // What passed while the clock was set is no time that was waited.
        let since = since.max(moment.trusted_since.min(now));
        self.dns_failing_since = Some(since);
        let none_lately = self.none_seen_at.is_some_and(|at| is_within(now, at, NONE_REMEMBERED));
        let cap = if none_lately {
            settings.dns_failure_cap.min(DNS_FAILURE_CAP_AFTER_NONE)
        } else {
            settings.dns_failure_cap
        };
        let end = later(since, cap);
        let waits = settings.dns_failure == OnFailure::Defer;
        if waits && now < end {
            let until = end.min(later(now, DNS_RETRY));
            let deferral = Deferral { until, cause: DeferCause::Dns(text.clone()) };
            return quiet(Plan::Decided(Verdict::Defer(deferral)));
        }
        let alarm = waits.then(|| self.raise(Alarm::DnsFailing)).flatten();
        let verdict = Verdict::NoPolicy(NoPolicy::Dns(text.clone()));
        Step { decision: Plan::Decided(verdict), alarm }
    }

    /// Takes in what a fetch gave: the file, or why there is none. `id` is what the record named;
    /// for a refresh without a usable record, the kept policy's.
    pub fn after_fetch(
        &mut self,
        id: Id,
        fetched: Result<PolicyFile, FetchFailure>,
        moment: Moment,
        settings: &KeepSettings,
    ) -> Step<Verdict> {
        let new = fetched.map(|file| CachedPolicy::of(id.clone(), file, moment.now));
        self.recent.push(RecentFetch { at: moment.now, id: id.clone(), failed: new.is_err() });
        let surplus = self.recent.len().saturating_sub(FETCHES_PER_HOUR);
        self.recent.drain(..surplus);
        match new {
            Ok(kept) => quiet(Verdict::Use(self.keep(kept, moment))),
            Err(failure) => self.after_failure(id, failure, moment, settings),
        }
    }

    fn keep(&mut self, kept: CachedPolicy, moment: Moment) -> Arc<CachedPolicy> {
        let before = self.live(moment);
        self.known_since = match &before {
            Some(before) => self.known_since.or(Some(before.fetched_at)),
            None => Some(moment.now),
        };
        let kept = match moment.clock {
            ClockTrust::Trusted => kept,
            // What a clock in doubt calls today must not end what holds sooner.
            ClockTrust::Suspect => {
                let ends = before.map(|before| before.expires_at);
                // Of an entry that cannot be read no end is known.
                let known = self.listed.filter(|listed| *listed != Listed::UNREADABLE);
                let lost = known.filter(|_| self.is_lost(moment)).map(|l| l.expires_at);
                let max_age = kept.policy.max_age();
                let by_either = (!max_age.is_zero()).then(|| later(moment.latest, max_age));
                ends.into_iter()
                    .chain(lost)
                    .chain(by_either)
                    .fold(kept, CachedPolicy::until_at_least)
            }
        };
        // Whatever the clock says, of two it must be told which is newer: somebody may put back the
        // other one.
        let former = self.kept.as_ref().map(|old| old.fetched_at);
        let lost = self.listed.filter(|l| *l != Listed::UNREADABLE).map(|l| l.fetched_at);
        let kept = former.into_iter().chain(lost).fold(kept, CachedPolicy::newer_than);
        // It is in the place of whatever was lost.
        self.listed = None;
        let kept = Arc::new(kept);
        // RFC 8461 §3.2: `max_age` 0 holds for the mail that asked, and not afterwards.
        // `fetched_at` says nothing here: it is later than that of what was lost, which a wrong
        // clock may have put into a time to come.
        let lasting = moment.now < kept.expires_at;
        self.kept = lasting.then(|| Arc::clone(&kept));
        self.fleeting = (!lasting).then(|| Arc::clone(&kept));
        self.failed = None;
        self.first_fetch_failures = 0;
        for ended in [Alarm::FetchFailing, Alarm::RefreshFailing, Alarm::PolicyLost] {
            self.alarms.remove(&ended);
        }
        kept
    }

    fn after_failure(
        &mut self,
        id: Id,
        failure: FetchFailure,
        moment: Moment,
        settings: &KeepSettings,
    ) -> Step<Verdict> {
        let before = self.failed.take().filter(|failed| failed.id == id).map_or(0, |f| f.count);
        let count = before.saturating_add(1);
        let until = self.next_fetch_at(&id, moment.now);
        let live = self.live(moment);
        let refresh = live.as_ref().is_some_and(|kept| kept.id == id);
        let lost =
            self.is_lost(moment).then(|| self.still_lost(&id, Some(failure.clone()), moment));
        self.failed = Some(FailedFetch { id, at: moment.now, count });
        if let Some(still_lost) = lost {
            return quiet(still_lost);
        }
        let Some(kept) = live else {
            self.first_fetch_failures = self.first_fetch_failures.saturating_add(1);
            return self.without_policy(until, Some(failure), settings);
        };
        let told = if refresh {
            (count >= REFRESH_FAILURES_TOLD).then_some(Alarm::RefreshFailing)
        } else {
            Some(Alarm::FetchFailing)
        };
        let alarm = told.filter(|_| kept.binds()).and_then(|alarm| self.raise(alarm));
        Step { decision: Verdict::Use(kept), alarm }
    }

    /// A record names a policy, and there is none: one retry, then RFC 8461 §3.3 wants the mail to
    /// go.
    fn without_policy(
        &mut self,
        until: Timestamp,
        failure: Option<FetchFailure>,
        settings: &KeepSettings,
    ) -> Step<Verdict> {
        let strict = settings.fetch_failure == OnFailure::Defer;
        if strict || self.first_fetch_failures < FIRST_CONTACT_TRIES {
            return quiet(Verdict::Defer(Deferral { until, cause: DeferCause::Fetch(failure) }));
        }
        let alarm = self.raise(Alarm::FetchFailing);
        Step { decision: Verdict::NoPolicy(NoPolicy::Fetch(failure)), alarm }
    }

    /// The policy that holds now, whatever DNS says.
    pub fn live(&self, moment: Moment) -> Option<Arc<CachedPolicy>> {
        let kept = self.kept.as_ref().filter(|kept| self.holds(kept, moment))?;
        (!self.is_lost(moment)).then(|| Arc::clone(kept))
    }

    fn holds(&self, kept: &CachedPolicy, moment: Moment) -> bool {
        !self.is_over(kept.fetched_at, kept.expires_at, moment)
    }

    /// Is what was fetched then and ends then over? Not by a clock in doubt; and by one that was in
    /// doubt only when a fetch has failed since it is believed again, for what was fetched before,
    /// or in a time to come, which another clock wrote.
    fn is_over(&self, fetched_at: Timestamp, expires_at: Timestamp, moment: Moment) -> bool {
        let is_since = |at: Timestamp| (moment.trusted_since..=moment.now).contains(&at);
        let was_tried = || self.failed.as_ref().is_some_and(|failed| is_since(failed.at));
        match moment.clock {
            ClockTrust::Suspect => false,
            ClockTrust::Trusted => {
                moment.now >= expires_at && (is_since(fetched_at) || was_tried())
            }
        }
    }

    /// May the policy with this id be fetched now?
    pub fn may_fetch(&self, id: &Id, now: Timestamp) -> bool {
        self.next_fetch_at(id, now) <= now
    }

    /// The first moment at which it may.
    fn next_fetch_at(&self, id: &Id, now: Timestamp) -> Timestamp {
        let of_this_hour = || self.recent.iter().filter(|fetch| is_within(now, fetch.at, HOUR));
        let backed_off = of_this_hour()
            .filter(|fetch| fetch.failed && fetch.id == *id)
            .filter(|fetch| is_within(now, fetch.at, FETCH_BACKOFF))
            .map(|fetch| later(fetch.at, FETCH_BACKOFF));
        let crowded = (of_this_hour().count() >= FETCHES_PER_HOUR)
            .then(|| of_this_hour().map(|fetch| later(fetch.at, HOUR)).min())
            .flatten();
        backed_off.chain(crowded).max().unwrap_or(now)
    }

    /// When the background is to fetch the kept policy again (RFC 8461 §3.3), whatever the record
    /// says: now or later; `None` if it is not to. `jitter` is a random byte that spreads the load:
    /// the refresh comes up to an eighth early.
    pub fn refresh_at(
        &self,
        moment: Moment,
        jitter: u8,
        settings: &KeepSettings,
    ) -> Option<Timestamp> {
        let kept = self.live(moment)?;
        let now = moment.now;
        let half_life = (kept.policy.max_age() / 2).max(REFRESH_INTERVAL_MIN);
        let interval = settings.refresh_every.min(half_life);
        let early = interval / 8 * u32::from(jitter) / u32::from(u8::MAX);
        // A fetch to come was written by a clock that was ahead: the expiry is wrong too. What was
        // fetched since says when, but is marked as newer than that.
        let ahead = kept.fetched_at > later(now, HOUR);
        let last = self.recent.iter().rfind(|fetch| !fetch.failed).map(|fetch| fetch.at);
        let fetched_at = if ahead { last.filter(|at| *at <= now) } else { Some(kept.fetched_at) };
        let regular = fetched_at.map_or(now, |at| later(at, interval - early));
        // Failed refreshes slow down, from five minutes to the regular interval.
        let retry = self.failed.as_ref().map_or(now, |failed| {
            let doublings = failed.count.saturating_sub(1).min(16);
            let wait = FETCH_BACKOFF.saturating_mul(1 << doublings);
            let wait = wait.min(settings.refresh_every.max(FETCH_BACKOFF));
            if is_within(now, failed.at, wait) { later(failed.at, wait) } else { now }
        });
        let at = regular.max(retry).max(self.next_fetch_at(&kept.id, now));
        let last_used = self.last_used_at.unwrap_or(kept.fetched_at);
        // What is over by the clock and holds all the same waits for nothing but a try.
        let waits_for_a_try = kept.expires_at <= now;
        (waits_for_a_try || at <= later(last_used, REFRESHED_AFTER_USE)).then_some(at)
    }

    /// May the row be deleted? Not while it says anything about today or a clock that is corrected
    /// tomorrow.
    pub fn is_spent(&self, moment: Moment) -> bool {
        let kept_until = self.kept.as_ref().map(|kept| kept.expires_at());
        let recent = self.recent.iter().map(|fetch| fetch.at);
        let last = [self.dns_failing_since, self.none_seen_at, self.last_used_at, kept_until]
            .into_iter()
            .flatten()
            .chain(recent)
            .chain(self.failed.as_ref().map(|failed| failed.at))
            .max();
        let old = last.is_none_or(|at| later(at, FORGOTTEN_AFTER) < moment.now);
        let holds = self.kept.as_ref().is_some_and(|kept| self.holds(kept, moment));
        old && moment.clock == ClockTrust::Trusted && !holds && !self.is_lost(moment)
    }

    /// For how much does the policy of this domain count, when there is no room for all? One that
    /// was lost is waited for.
    pub fn use_of(&self, moment: Moment) -> Use {
        if self.is_lost(moment) {
            return Use::Regular;
        }
        let is_regular = match (self.first_used_at, self.last_used_at) {
            (Some(first), Some(last)) => later(first, REGULAR_AFTER) <= last,
            _ => false,
        };
        match self.live(moment) {
            None => Use::Nothing,
            Some(_) if is_regular => Use::Regular,
            Some(kept) if kept.is_enforced() => Use::Once,
            Some(_) => Use::Watched,
        }
    }

    /// May it still go, when it counted for so much a while ago?
    pub fn may_still_go(&self, counted: Use, moment: Moment) -> bool {
        counted < Use::Regular && self.use_of(moment) <= counted
    }

    /// What is to be remembered beside the mail when this is stored.
    pub fn to_list(&self, moment: Moment) -> Option<Listed> {
        // An older row, which somebody put back, is nothing to go by.
        if self.is_lost(moment) {
            return self.listed;
        }
        let kept = self.kept.as_ref().filter(|kept| kept.is_enforced() && self.holds(kept, moment));
        kept.map(|kept| Listed { fetched_at: kept.fetched_at, expires_at: kept.expires_at })
    }

    fn raise(&mut self, alarm: Alarm) -> Option<Alarm> {
        self.alarms.insert(alarm).then_some(alarm)
    }
}

/// Less than `window` apart, in either direction: what a clock that was ahead wrote expires too.
fn is_within(now: Timestamp, at: Timestamp, window: Duration) -> bool {
    now.duration_since(at).unsigned_abs() < window
}

/// Moves a time mark only when it is older than `grain`, so that a busy domain is not written on
/// every message.
fn note(mark: &mut Option<Timestamp>, now: Timestamp, grain: Duration) {
    if !mark.is_some_and(|at| is_within(now, at, grain)) {
        *mark = Some(now);
    }
}

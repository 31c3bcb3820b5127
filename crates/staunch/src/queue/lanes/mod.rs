//! Which mail is tried next? The order, without disk, network or clock.
//!
//! A *lane* is everything for one next hop. It is the unit of patience: when its hosts fail, the
//! lane waits, and one message probes it when the wait is over, however many are queued behind. So
//! a failing host is asked once and not once per message.
//!
//! An attempt needs a place out of the account of its [`LaneClass`], and what strangers may hold
//! leaves a part to those who take mail: a dead, slow or hostile domain costs others nothing.
//! `docs/scheduling.md` says who may hold what.
//!
//! Memory holds lanes, not messages: a lane keeps a few jobs ready, the store has the rest.

mod accounts;
mod group;
mod proven;
mod ring;
mod rows;
mod running;
#[cfg(test)]
mod simulation;
mod sites;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use spool::{LaneKey, MessageId};

pub(crate) use super::lane::BackOff;
use super::lane::{Hop, Lane, LaneJob, LanePace, Memory, Precedence, Stand, Wish};
use super::shaping::{Gate, Pause, ShapingLimits};
use crate::connect::pool::Bottleneck;
use crate::delivery::outcome::{FailureRun, LaneEffect};
use crate::delivery::route;
pub(crate) use crate::message::Submitter;
use crate::schedule::after;
use crate::telemetry::Reason;
use accounts::Accounts;
pub(crate) use accounts::{Charge, LaneClass, Shares};
pub(crate) use group::Group;
use proven::ProvenGroups;
pub(crate) use proven::{PROOF_COUNTS, PROVEN_MAX};
use rows::LaneRows;
pub(super) use rows::Spot;
pub(crate) use running::Ticket;
use running::{Need, Running, Uptime};
use sites::Sites;

/// The longest pause that trouble of our own can ask for. Our choice: it is seconds.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Lanes that are read from the store at once. Our choice: reads are short, and the disk is one.
const READS_MAX: u32 = 4;
/// Of those, lanes of strangers.
const READS_UNPROVEN: u32 = 2;
/// Of those, lanes in trouble.
const READS_TROUBLED: u32 = 1;
/// Between two looks at how long attempts have run. Our choice.
const REVIEW_EVERY: Duration = Duration::from_millis(500);

/// Is an attempt the only one of its lane?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Company {
    /// It is, and stays so until it has ended.
    Alone,
    /// Others run too, or may begin to.
    Others,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum LaneAction<J> {
    /// Start this job, then call [`Lanes::finished`] with the ticket.
    Start {
        lane: LaneKey,
        /// The number of the attempt that begins.
        ticket: Ticket,
        /// What is known of the next hop.
        class: LaneClass,
        /// The lane's failures in a row so far, if this is a probe.
        trouble: Option<FailureRun>,
        /// Does anything else of the lane run?
        company: Company,
        /// The mail that is tried.
        job: J,
    },
    /// Read what is due from the store, then call [`Lanes::fetched`].
    Fetch {
        lane: LaneKey,
        /// Without these, which are in memory already.
        known: HashSet<MessageId>,
        /// So many jobs are of use.
        most: usize,
    },
    /// Other mail needs the place of this attempt. If its host has the content already, call
    /// [`Lanes::asked_in_vain`].
    GiveWay(Ticket),
}

#[derive(Debug)]
pub(crate) struct Lanes<J> {
    /// Boxed, since most of them rest, and the map is up to twice as large as what is in it.
    lanes: HashMap<LaneKey, Box<Lane<J>>>,
    /// Lanes that something has happened to.
    changed: VecDeque<LaneKey>,
    /// Lanes in which something can begin.
    rows: LaneRows,
    /// Lanes that want to be read, by [`LaneClass::index`]; with the place that they hold, if what
    /// is read begins at once.
    to_read: [VecDeque<(LaneKey, Option<Charge>)>; 3],
    /// Lanes that are being read, with what is charged for those of which nothing else runs.
    reads: HashMap<LaneKey, (LaneClass, Option<Charge>)>,
    /// Lanes that wait for a connection.
    sites: Sites,
    /// Lanes that wait, by time; each once.
    waiting: BTreeSet<(Timestamp, LaneKey)>,
    limits: ShapingLimits,
    accounts: Accounts,
    running: Running,
    /// Registrable domains that took mail lately.
    proven: ProvenGroups,
    uptime: Uptime,
    reviewed: Duration,
    /// Attempts that are to be asked to make room.
    to_ask: VecDeque<Ticket>,
    /// Octets of jobs that are ready.
    ready: u64,
    pause: Pause,
    /// Trouble of our own (disk, DNS, descriptors): nothing starts before this time.
    paused_until: Option<Timestamp>,
}

impl<J: LaneJob> Lanes<J> {
    /// Without a lane: each comes with its first mail.
    pub(crate) fn new(limits: ShapingLimits) -> Self {
        Self {
            lanes: HashMap::new(),
            changed: VecDeque::new(),
            rows: LaneRows::default(),
            to_read: Default::default(),
            reads: HashMap::new(),
            sites: Sites::default(),
            waiting: BTreeSet::new(),
            accounts: Accounts::new(limits.shares()),
            limits,
            running: Running::default(),
            proven: ProvenGroups::default(),
            uptime: Uptime::default(),
            reviewed: Duration::ZERO,
            to_ask: VecDeque::new(),
            ready: 0,
            pause: Pause::None,
            paused_until: None,
        }
    }

    /// As many attempts at once from now on. Those that run end by themselves.
    pub(crate) fn set_limits(&mut self, limits: ShapingLimits) {
        self.limits = limits;
        self.accounts.set_shares(self.limits.shares());
        self.rows.unpark_all();
        for (key, lane) in &mut self.lanes {
            lane.set_shape(self.limits.of(key));
        }
        self.all_changed();
    }

    /// Stops what `pause` names and lets everything else go on. What runs ends by itself.
    pub(crate) fn set_pause(&mut self, pause: Pause) {
        self.pause = pause;
        for (key, lane) in &mut self.lanes {
            let gate = self.pause.gate(key);
            lane.set_gate(gate);
            if gate == Gate::Closed {
                // Bodies in memory are for mail that goes soon.
                self.ready = self.ready.saturating_sub(lane.unload());
            }
        }
        self.all_changed();
    }

    /// Nothing starts in the lane until [`Lanes::thaw`]: its mail is to be moved. Returns what is
    /// under way there.
    pub(crate) fn freeze(&mut self, key: &LaneKey) -> HashSet<MessageId> {
        self.lane(key).freeze();
        self.removed(key);
        self.lanes.get(key).map(|lane| lane.messages().collect()).unwrap_or_default()
    }

    /// The lane goes on with what was not moved.
    pub(crate) fn thaw(&mut self, key: &LaneKey, now: Timestamp) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.thaw();
            lane.stored(now);
        }
        self.changed(key);
    }

    /// There may be something in the store that is due in the lane at `at`.
    pub(crate) fn due(&mut self, key: &LaneKey, at: Timestamp) {
        self.lane(key).stored(at);
        self.changed(key);
    }

    fn lane(&mut self, key: &LaneKey) -> &mut Lane<J> {
        let (limits, pause) = (&self.limits, &self.pause);
        let new = || {
            let hop = route::domain_of(key).map_or(Hop::OfRoute, |_| Hop::OfDomain);
            Box::new(Lane::new(Group::of(key), hop, limits.of(key), pause.gate(key)))
        };
        self.lanes.entry(key.clone()).or_insert_with(new)
    }

    /// A lane as the store remembers it: its back-off and the earliest due recipient.
    pub(crate) fn restore(
        &mut self,
        key: &LaneKey,
        back_off: Option<BackOff>,
        due: Option<Timestamp>,
    ) {
        self.lane(key).restore(back_off, due);
        self.changed(key);
    }

    /// A job that was just accepted. It is kept in memory only if it can be tried soon.
    pub(crate) fn arrive(&mut self, key: &LaneKey, job: J, now: Timestamp) {
        self.lane(key);
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let class = class_of(&self.proven, lane, now);
        // Behind older mail in the store, or in a waiting lane, it takes its turn from the store.
        let is_next = lane.is_read_up(now) && !lane.waits(now) && !lane.knows(job.message());
        let memory = Memory::of(self.ready, self.limits.ready);
        if is_next && lane.ready() < lane.room(class, memory) {
            self.ready += lane.take(job);
        } else {
            lane.hear_of(job.submitter());
            lane.stored(now);
        }
        self.changed(key);
    }

    /// The store's answer to [`LaneAction::Fetch`]: what is due, and when the next is due that is
    /// not in it.
    pub(crate) fn fetched(
        &mut self,
        key: &LaneKey,
        jobs: Vec<J>,
        next_due: Option<Timestamp>,
        now: Timestamp,
    ) {
        if let Some((_, Some(charge))) = self.reads.remove(key) {
            self.give_back(charge);
        }
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let class = class_of(&self.proven, lane, now);
        let (is_of_use, was_known) = (lane.end_read(now), lane.submitter != Submitter::UNKNOWN);
        if let Some(due) = next_due {
            lane.stored(due);
        }
        for job in jobs {
            if lane.knows(job.message()) {
                continue;
            }
            // The first one begins at once, however full the memory is.
            let memory = Memory::of(self.ready, self.limits.ready);
            let has_room = lane.ready() < lane.room(class, memory).max(1);
            if is_of_use && has_room {
                self.ready += lane.take(job);
            } else {
                lane.stored(Timestamp::MIN);
            }
        }
        lane.see_submitter();
        // Its turn was not that of this sender, who may have to wait, and so would many.
        if !was_known && Memory::of(self.ready, self.limits.ready) != Memory::Plenty {
            self.ready = self.ready.saturating_sub(lane.unload());
        }
        self.changed_first(key, Precedence::Once);
    }

    /// Until when the lane waits for its hosts, and why, if it does.
    pub(crate) fn back_off(&self, key: &LaneKey, now: Timestamp) -> Option<(Timestamp, Reason)> {
        self.lanes.get(key)?.back_off(now)
    }

    /// An attempt is over and settled. `due` is when the soonest of its recipients comes again.
    /// Returns until when the lane waits because of it, if that is news.
    pub(crate) fn finished(
        &mut self,
        key: &LaneKey,
        message: MessageId,
        (effect, cause): (LaneEffect, Option<Reason>),
        due: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let lane = self.lanes.get_mut(key)?;
        let ticket = lane.finish(message)?;
        if let Some(due) = due {
            lane.stored(due);
        }
        let (news, group) = (lane.learn(effect, cause), lane.group);
        match effect {
            LaneEffect::Works | LaneEffect::Answers | LaneEffect::Neutral => {}
            LaneEffect::Failed { .. } | LaneEffect::Throttled { .. } => {
                self.ready = self.ready.saturating_sub(lane.unload());
            }
            LaneEffect::Yielded { .. } => {
                lane.pace = LanePace::Slow;
                self.ready = self.ready.saturating_sub(lane.unload());
            }
        }
        if effect == LaneEffect::Works {
            self.running.took_mail(group, &self.uptime);
        }
        self.end(ticket);
        self.changed(key);
        news
    }

    /// An attempt came to nothing, since others have all connections to `site`: `job` goes on when
    /// there is room, see [`Lanes::room`].
    pub(crate) fn sent_back(
        &mut self,
        key: &LaneKey,
        message: MessageId,
        (site, job): (Bottleneck, J),
        now: Timestamp,
    ) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let Some(ticket) = lane.finish(message) else { return };
        if lane.waits(now) {
            lane.stored(Timestamp::MIN);
        } else {
            self.ready += lane.take(job);
        }
        lane.set_site(site.clone());
        lane.precedence = Precedence::None;
        self.end(ticket);
        // Whatever row it stands in else: there it would only begin in vain.
        self.wait_at(key, &site);
    }

    /// There is room for `count` attempts at `site`.
    pub(crate) fn room(&mut self, site: &Bottleneck, count: usize, now: Timestamp) {
        let mut left = count;
        while left > 0 {
            let Some(key) = self.sites.pop(site) else { return };
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            if lane.stand != Stand::AtSite {
                continue;
            }
            lane.stand = Stand::Nowhere;
            if lane.wish(now) == Wish::Begin {
                left -= 1;
                self.changed_first(&key, Precedence::Called);
            } else {
                self.changed(&key);
            }
        }
    }

    /// What lanes wait for, of which [`Lanes::room`] should be told.
    pub(crate) fn waited_for(&self) -> impl Iterator<Item = &Bottleneck> {
        self.sites.waited_for()
    }

    /// Does a lane wait for `site`?
    pub(crate) fn is_waited_for(&self, site: &Bottleneck) -> bool {
        self.sites.is_waited_for(site)
    }

    /// The lane waits for its time because `host` lets nobody in.
    pub(crate) fn shut_out(&mut self, key: &LaneKey, host: &Bottleneck, now: Timestamp) {
        if self.lanes.get(key).is_some_and(|lane| lane.waits(now)) {
            self.sites.shut_out(host, key.clone());
        }
    }

    /// Does any lane wait because `host` lets nobody in?
    pub(crate) fn is_shut(&self, host: &Bottleneck) -> bool {
        self.sites.is_shut(host)
    }

    /// The host lets somebody in again: those that still wait because it did not, see
    /// [`Lanes::retry_now`].
    pub(crate) fn let_in(&mut self, host: &Bottleneck, now: Timestamp) -> Vec<LaneKey> {
        let shut_out = self.sites.let_in(host).into_iter();
        shut_out.filter(|key| self.lanes.get(key).is_some_and(|lane| lane.waits(now))).collect()
    }

    /// The attempt of a stranger has a session with a host of this registrable domain, or with
    /// none. As long as it has one with hosts that took mail before, nothing more has to be known
    /// of the next hop.
    pub(crate) fn session(&mut self, ticket: Ticket, host: Option<Group>, now: Timestamp) {
        let is_proven = host.is_some_and(|host| self.proven.has(host, now));
        let class = if is_proven { LaneClass::Proven } else { LaneClass::New };
        // One that is slow stays charged so.
        match self.running.charge_mut(ticket).map(|charge| charge.class) {
            Some(LaneClass::New | LaneClass::Proven) => self.recharge(ticket, class),
            Some(LaneClass::Troubled) | None => {}
        }
    }

    /// It has content out, so it cannot make room.
    pub(crate) fn asked_in_vain(&mut self, ticket: Ticket) {
        self.running.asked_in_vain(ticket);
        self.reviewed = Duration::ZERO;
    }

    /// `group` took mail. Is that news, so that it should be written down?
    pub(crate) fn prove(&mut self, group: Group, now: Timestamp) -> bool {
        self.proven.note(group, now)
    }

    /// Is the next hop of this lane known to take mail?
    pub(crate) fn is_proven(&self, key: &LaneKey, now: Timestamp) -> bool {
        self.lanes.get(key).is_some_and(|lane| self.proven.has(lane.group, now))
    }

    /// `group` took mail then, as was written down.
    pub(crate) fn restore_proof(&mut self, group: Group, at: Timestamp) {
        self.proven.restore(group, at);
    }

    /// Nothing starts before `until`: the trouble is ours.
    pub(crate) fn pause(&mut self, until: Timestamp) {
        self.paused_until = Some(self.paused_until.map_or(until, |earlier| earlier.max(until)));
    }

    /// The operator wants `key` tried now; what is due there stands in the store.
    pub(crate) fn retry_now(&mut self, key: &LaneKey, now: Timestamp) {
        let lane = self.lane(key);
        lane.end_wait();
        lane.stored(now);
        self.changed(key);
    }

    /// Nothing waits longer than until `latest`: a clock that was ahead has set such times. The
    /// others stay.
    pub(crate) fn cut_waits(&mut self, now: Timestamp, latest: Timestamp) {
        let lanes = self.lanes.iter_mut();
        let cut = lanes.filter_map(|(key, lane)| lane.cut_waits(now, latest).then(|| key.clone()));
        cut.collect::<Vec<_>>().iter().for_each(|key| self.changed(key));
    }

    /// The operator took mail of the lane out of the store: what is in memory, or comes there, may
    /// be gone.
    pub(crate) fn removed(&mut self, key: &LaneKey) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.outdate();
        self.ready = self.ready.saturating_sub(lane.unload());
        self.changed(key);
    }

    /// The next thing to do now, if there is one.
    pub(crate) fn next(&mut self, now: Timestamp) -> Option<LaneAction<J>> {
        self.uptime.advance(now);
        self.wake(now);
        // A clock that was ahead may have set it.
        if self.paused_until.is_some_and(|at| at > now && at <= after(now, PAUSE_MAX)) {
            return None;
        }
        self.paused_until = None;
        loop {
            while let Some(key) = self.changed.pop_front() {
                self.assess(&key, now);
            }
            if let Some(action) = self.next_read(now).or_else(|| self.next_start(now)) {
                return Some(action);
            }
            // Whoever turned out to be of another class has its turn there.
            if self.changed.is_empty() {
                break;
            }
        }
        self.review();
        self.to_ask.pop_front().map(LaneAction::GiveWay)
    }

    /// When [`Lanes::next`] may have something again without a further event.
    pub(crate) fn next_wake(&self) -> Option<Timestamp> {
        let lane = self.waiting.first().map(|(at, _)| *at);
        match (self.paused_until, lane) {
            (Some(pause), _) => Some(pause),
            (None, lane) => lane,
        }
    }

    /// Does time count for what runs? Then [`Lanes::next`] is asked again after so long, whatever
    /// else happens.
    pub(crate) fn review_in(&self) -> Option<Duration> {
        (!self.running.is_empty()).then_some(REVIEW_EVERY)
    }

    /// Attempts that run now, in all lanes.
    pub(crate) fn in_flight(&self) -> usize {
        self.running.len()
    }

    /// Puts a lane that something has happened to where it belongs.
    fn assess(&mut self, key: &LaneKey, now: Timestamp) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.stand != Stand::Changed {
            return;
        }
        lane.stand = Stand::Nowhere;
        let class = class_of(&self.proven, lane, now);
        match lane.wish(now) {
            Wish::Rest => self.rest(key, now),
            Wish::Begin => {
                let precedence = lane.precedence;
                let site = lane.site().filter(|_| precedence != Precedence::Called);
                if let Some(site) = site.filter(|site| self.sites.is_waited_for(site)).cloned() {
                    return self.wait_at(key, &site);
                }
                lane.see_submitter();
                (lane.stand, lane.stands_as) = (Stand::InRow, class);
                if precedence == Precedence::Once {
                    lane.precedence = Precedence::None;
                }
                let spot = lane.spot();
                let Some(row) = self.rows.of_mut(class) else { return };
                match precedence {
                    Precedence::None => row.push_back(spot, key.clone()),
                    Precedence::Once | Precedence::Called => row.push_front(spot, key.clone()),
                }
            }
            // What comes after a probe depends on what it comes to.
            Wish::ReadAhead if class == LaneClass::Troubled => self.rest(key, now),
            Wish::ReadAhead => self.line_up_to_read(key, class, None),
        }
    }

    fn wait_at(&mut self, key: &LaneKey, site: &Bottleneck) {
        if let Some(lane) = self.lanes.get_mut(key) {
            if lane.stand == Stand::InRow
                && let Some(row) = self.rows.of_mut(lane.stands_as)
            {
                row.remove(lane.spot(), key);
            }
            lane.stand = Stand::AtSite;
            self.sites.push(site, key.clone());
        }
    }

    /// The lane is read in its turn; with a `charge` it holds a place from now on. So no more of
    /// them wait than could begin.
    fn line_up_to_read(&mut self, key: &LaneKey, class: LaneClass, charge: Option<Charge>) {
        if let Some(charge) = charge {
            self.take(charge);
        }
        if let Some(lane) = self.lanes.get_mut(key) {
            (lane.stand, lane.stands_as) = (Stand::ToRead, class);
        }
        if let Some(row) = self.to_read.get_mut(class.index()) {
            row.push_back((key.clone(), charge));
        }
    }

    /// The next read of a lane that waits for nothing else.
    fn next_read(&mut self, now: Timestamp) -> Option<LaneAction<J>> {
        for class in LaneClass::ALL {
            while self.may_read(class) {
                let Some((key, charge)) = self.to_read.get_mut(class.index())?.pop_front() else {
                    break;
                };
                if let Some(lane) = self.lanes.get_mut(&key) {
                    lane.stand = Stand::Nowhere;
                    if lane.wish(now) != Wish::Rest && lane.wants_read(now) {
                        return self.fetch(&key, class, charge);
                    }
                }
                if let Some(charge) = charge {
                    self.give_back(charge);
                }
                self.changed(&key);
            }
        }
        None
    }

    /// The next attempt that can begin, or the read that it needs.
    fn next_start(&mut self, now: Timestamp) -> Option<LaneAction<J>> {
        for class in LaneClass::ALL {
            while let Some(key) = self.next_in_row(class) {
                if let Some(action) = self.serve(&key, class, now) {
                    return Some(action);
                }
            }
        }
        None
    }

    /// The next lane of `class` that has a place.
    fn next_in_row(&mut self, class: LaneClass) -> Option<LaneKey> {
        let accounts = &self.accounts;
        if !accounts.has_room(class) {
            return None;
        }
        let row = self.rows.of_mut(class)?;
        row.pop(accounts.most(class), |group| accounts.holds(class, group))
    }

    /// Begins something in a lane that has a place.
    fn serve(&mut self, key: &LaneKey, class: LaneClass, now: Timestamp) -> Option<LaneAction<J>> {
        let may_read = self.may_read(class);
        let lane = self.lanes.get_mut(key)?;
        if lane.stand != Stand::InRow || lane.stands_as != class {
            return None;
        }
        lane.stand = Stand::Nowhere;
        if class_of(&self.proven, lane, now) != class {
            self.changed(key);
            return None;
        }
        let (wants_read, can_start) = (lane.wants_read(now), lane.can_start(now));
        let needs_place = lane.is_still() && !can_start;
        let charge = needs_place.then_some(lane.charge(class));
        if lane.wish(now) != Wish::Begin {
            self.rest(key, now);
            None
        } else if wants_read && may_read {
            // What is ready begins while that is read; else what is read does, in this place.
            if let Some(charge) = charge {
                self.take(charge);
            }
            let action = self.fetch(key, class, charge);
            if can_start {
                self.changed_first(key, Precedence::Once);
            }
            action
        } else if can_start {
            self.start(key, class, now)
        } else {
            self.line_up_to_read(key, class, charge);
            None
        }
    }

    fn start(&mut self, key: &LaneKey, class: LaneClass, now: Timestamp) -> Option<LaneAction<J>> {
        let lane = self.lanes.get_mut(key)?;
        let charge = lane.charge(class);
        let ticket = self.running.begin(key.clone(), charge, &self.uptime);
        let Some((job, octets)) = lane.start(ticket, now) else {
            self.running.end(ticket);
            return None;
        };
        self.ready = self.ready.saturating_sub(octets);
        lane.precedence = Precedence::None;
        let trouble = lane.trouble();
        let company = if lane.is_alone() { Company::Alone } else { Company::Others };
        self.take(charge);
        self.changed(key);
        Some(LaneAction::Start { lane: key.clone(), ticket, class, trouble, company, job })
    }

    /// Reads the lane; with a `charge` it holds a place meanwhile, so that what comes can begin.
    fn fetch(
        &mut self,
        key: &LaneKey,
        class: LaneClass,
        charge: Option<Charge>,
    ) -> Option<LaneAction<J>> {
        let lane = self.lanes.get_mut(key)?;
        lane.begin_read();
        self.reads.insert(key.clone(), (class, charge));
        let memory = Memory::of(self.ready, self.limits.ready);
        let (known, most) = (lane.messages().collect(), lane.room(class, memory).max(1));
        Some(LaneAction::Fetch { lane: key.clone(), known, most })
    }

    fn may_read(&self, class: LaneClass) -> bool {
        let count = |of: fn(LaneClass) -> bool| {
            let its = self.reads.values().filter(|(class, _)| of(*class));
            u32::try_from(its.count()).unwrap_or(u32::MAX)
        };
        let in_all = count(|_| true) < READS_MAX;
        let in_unproven = count(LaneClass::is_unproven) < READS_UNPROVEN;
        match class {
            LaneClass::Proven => in_all,
            LaneClass::New => in_all && in_unproven,
            LaneClass::Troubled => {
                in_all
                    && in_unproven
                    && count(|class| class == LaneClass::Troubled) < READS_TROUBLED
            }
        }
    }

    /// The place of `ticket` is free again.
    fn end(&mut self, ticket: Ticket) {
        if let Some(attempt) = self.running.end(ticket) {
            self.give_back(attempt.charge);
        }
    }

    fn take(&mut self, charge: Charge) {
        self.accounts.take(charge);
        self.rows.hold(charge);
    }

    fn give_back(&mut self, charge: Charge) {
        self.accounts.give_back(charge);
        self.rows.release(charge);
    }

    /// Charges the place of `ticket` to `class` from now on, whether there is room or not.
    fn recharge(&mut self, ticket: Ticket, class: LaneClass) {
        let Some(charge) = self.running.charge_mut(ticket) else { return };
        let before = *charge;
        charge.class = class;
        let after = *charge;
        self.take(after);
        self.give_back(before);
    }

    /// Looks at how long attempts have run: who is slow, and who should make room.
    fn review(&mut self) {
        let passed = self.uptime.passed();
        if passed < self.reviewed + REVIEW_EVERY && self.reviewed > Duration::ZERO {
            return;
        }
        self.reviewed = passed.max(Duration::from_nanos(1));
        for (ticket, key) in self.running.newly_slow(&self.uptime) {
            self.recharge(ticket, LaneClass::Troubled);
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.pace = LanePace::Slow;
            }
        }
        for group in self.running.disproven(&self.uptime) {
            self.proven.lose(group);
        }
        self.running.forget_takings(&self.uptime);
        for (need, wanted) in self.needs() {
            self.to_ask.extend(self.running.ask_to_give_way(need, wanted, &self.uptime));
        }
    }

    /// Which accounts are full while lanes wait for them, and how many.
    fn needs(&self) -> Vec<(Need, usize)> {
        let waiting = |class: LaneClass| {
            let most = self.accounts.most(class);
            self.rows.of(class).map_or(0, |row| row.unparked(most))
        };
        let (proven, new, troubled) =
            (waiting(LaneClass::Proven), waiting(LaneClass::New), waiting(LaneClass::Troubled));
        let is_full = |class| !self.accounts.has_room(class);
        let mut needs = Vec::new();
        // A proven one waits for its own mail, which nobody hurries.
        for class in [LaneClass::New, LaneClass::Troubled] {
            let Some(row) = self.rows.of(class) else { continue };
            needs.extend(row.parked().map(|(group, lanes)| (Need::Group(group), lanes)));
            let limited = row.limited(self.accounts.most(class));
            needs.extend(limited.map(|(limited, lanes)| (Need::Limited(class, limited), lanes)));
        }
        if troubled > 0 && is_full(LaneClass::Troubled) {
            needs.push((Need::Troubled, troubled));
        }
        if new > 0 && is_full(LaneClass::New) {
            needs.push((Need::Unproven, new));
        }
        if proven > 0 && is_full(LaneClass::Proven) {
            needs.push((Need::Any, proven));
        }
        needs
    }

    /// Something happened to the lane: it is looked at in its turn.
    fn changed(&mut self, key: &LaneKey) {
        if self.mark_changed(key) {
            self.changed.push_back(key.clone());
        }
    }

    /// As [`Lanes::changed`], before all others.
    fn changed_first(&mut self, key: &LaneKey, precedence: Precedence) {
        if let Some(lane) = self.lanes.get_mut(key)
            && lane.precedence != Precedence::Called
        {
            lane.precedence = precedence;
        }
        if self.mark_changed(key) {
            self.changed.push_front(key.clone());
        }
    }

    fn mark_changed(&mut self, key: &LaneKey) -> bool {
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        match lane.stand {
            Stand::Nowhere => {
                lane.stand = Stand::Changed;
                true
            }
            // It is looked at anyway.
            Stand::Changed | Stand::InRow | Stand::ToRead | Stand::AtSite => false,
        }
    }

    fn all_changed(&mut self) {
        let keys: Vec<LaneKey> = self.lanes.keys().cloned().collect();
        keys.iter().for_each(|key| self.changed(key));
    }

    /// Nothing can be done in the lane now: note when it can, or forget the lane.
    fn rest(&mut self, key: &LaneKey, now: Timestamp) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let at = lane.wakes_at(now);
        let before = lane.alarm();
        lane.set_alarm(at);
        // As it is remembered: to the microsecond.
        let at = lane.alarm();
        if before != at {
            if let Some(old) = before {
                self.waiting.remove(&(old, key.clone()));
            }
            if let Some(at) = at {
                self.waiting.insert((at, key.clone()));
            }
        }
        if lane.is_idle(now) {
            self.lanes.remove(key);
        } else {
            lane.release_memory();
        }
    }

    /// Looks at the lanes whose time has come.
    fn wake(&mut self, now: Timestamp) {
        while self.waiting.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.waiting.pop_first() else { return };
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.set_alarm(None);
                self.changed(&key);
            }
        }
    }
}

/// What is known of the next hop of `lane`.
fn class_of<J>(proven: &ProvenGroups, lane: &Lane<J>, now: Timestamp) -> LaneClass {
    if lane.trouble().is_some() || lane.pace == LanePace::Slow {
        LaneClass::Troubled
    } else if lane.hop == Hop::OfRoute || proven.has(lane.group, now) {
        LaneClass::Proven
    } else {
        LaneClass::New
    }
}

//! The program's core, driven as the daemon drives it, one effect at a time: so that anything can
//! happen in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use policy::clock::{BootId, ClockChange, ClockReading, Judge, LastMark, TrustedBy, Witness};
use policy::sts::CachedPolicy;
use policy::sts::cache::{
    ClockTrust, DeferCause, KeepSettings, LookUp, LookUpEffect, Moment, PolicyFile, Room, State,
    Stored, Tenant, Verdict, Write, Written,
};
use policy::{Asked, Located, NamedBy, Published, Requirement, authorize};
use smtp::{Domain, HostName};

use crate::certificates::Certificates;
use crate::coverage::Coverage;
use crate::disk::{Change, Disk};
use crate::truth::Truth;
use crate::world::{Dom, Mx, Shown, World, address};

/// The cache is small, so that it overflows.
pub(crate) const POLICIES_MAX: usize = 12;
/// Our choice: an attempt begins anew so often at most.
const RESTARTS_MAX: u32 = 3;
/// Seconds that a clock may be wrong unseen: an hour by a step, a day over reboots.
const UNSEEN_MAX: i64 = 26 * 3600;
/// A verdict is believed for a minute.
const VERDICT_LIFE: Duration = Duration::from_secs(60);

/// How far a try has come.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Stage {
    Policy,
    Mx,
    Host,
    Connected,
    BeforeMail(Shown),
}

/// One attempt to deliver.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    domain: Dom,
    epoch: u64,
    restarts: u32,
    stage: Stage,
    asked: Asked,
    hosts: Vec<HostName>,
}

/// A look-up under way.
pub(crate) struct Looking {
    pub(crate) look_up: LookUp,
    pub(crate) effect: LookUpEffect,
    pub(crate) is_syncing: bool,
    /// The row was written.
    pub(crate) is_replaced: bool,
    pub(crate) got: Option<(i64, String)>,
}

/// What the program is, and the world around it.
pub(crate) struct Core {
    pub(crate) world: World,
    pub(crate) disk: Disk,
    pub(crate) truth: Truth,
    pub(crate) coverage: Coverage,
    /// Seconds.
    pub(crate) true_now: i64,
    pub(crate) wall: i64,
    pub(crate) booted_at: i64,
    pub(crate) boot: u64,
    pub(crate) judge: Judge,
    pub(crate) looking: BTreeMap<Dom, Looking>,
    pub(crate) verdicts: BTreeMap<Dom, (Verdict, Duration)>,
    pub(crate) fleeting: BTreeMap<Dom, Arc<CachedPolicy>>,
    /// What could not be stored.
    pub(crate) unstored: BTreeMap<Dom, State>,
    /// What the last look at all rows found: spent ones, and policies.
    pub(crate) census: Option<(Vec<Dom>, Vec<Tenant>)>,
    pub(crate) epochs: BTreeMap<Dom, u64>,
    pub(crate) tries: Vec<Try>,
    pub(crate) queue: BTreeSet<Dom>,
    settings: KeepSettings,
}

impl Core {
    pub(crate) fn new() -> Self {
        let now = 1_800_000_000;
        let reading = ClockReading { wall: stamp(now), boottime: Duration::from_secs(100) };
        Self {
            world: World::default(),
            disk: Disk::default(),
            truth: Truth::default(),
            coverage: Coverage::default(),
            true_now: now,
            wall: now,
            booted_at: now - 100,
            boot: 1,
            judge: Judge::start(reading, boot_id(1), LastMark::Never),
            looking: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            fleeting: BTreeMap::new(),
            unstored: BTreeMap::new(),
            census: None,
            epochs: BTreeMap::new(),
            tries: Vec::new(),
            queue: BTreeSet::new(),
            settings: KeepSettings::default(),
        }
    }

    pub(crate) fn reading(&self) -> ClockReading {
        let boottime = Duration::from_secs(u64::try_from(self.true_now - self.booted_at).unwrap());
        ClockReading { wall: stamp(self.wall), boottime }
    }

    pub(crate) fn moment(&mut self) -> Moment {
        let reading = self.reading();
        let change = self.judge.look(reading);
        self.clock_changed(change);
        if let Some(mark) = self.judge.due_mark(reading) {
            self.disk.begin(Change::Mark(Box::new(mark)));
        }
        self.judge.moment(reading)
    }

    fn clock_changed(&mut self, change: ClockChange) {
        match change {
            ClockChange::None => {}
            ClockChange::BecameSuspect(_) => self.coverage.suspect += 1,
            ClockChange::BecameTrusted(by) => {
                self.coverage.trusted_again += 1;
                let is_wrong = (self.wall - self.true_now).abs() > 3600;
                match by {
                    TrustedBy::Time | TrustedBy::Operator if is_wrong => self.truth.excuse(),
                    TrustedBy::Time
                    | TrustedBy::Operator
                    | TrustedBy::Agreement
                    | TrustedBy::Witnesses => {}
                }
            }
        }
    }

    pub(crate) fn trust_clock(&mut self) {
        let reading = self.reading();
        let change = self.judge.trust_by_operator(reading);
        self.clock_changed(change);
    }

    /// Mail for `domain` comes.
    pub(crate) fn mail(&mut self, domain: &Dom) {
        self.queue.insert(domain.clone());
        let asked = Asked::default();
        let hosts = Vec::new();
        let stage = Stage::Policy;
        let epoch = self.epoch(domain);
        let domain = domain.clone();
        self.tries.push(Try { domain, epoch, restarts: 0, stage, asked, hosts });
    }

    pub(crate) fn tries(&self) -> usize {
        self.tries.len()
    }

    pub(crate) fn looking(&self) -> Vec<Dom> {
        self.looking.keys().cloned().collect()
    }

    fn epoch(&self, domain: &Dom) -> u64 {
        self.epochs.get(domain).copied().unwrap_or_default()
    }

    pub(crate) fn bump(&mut self, domain: &Dom) {
        self.verdicts.remove(domain);
        *self.epochs.entry(domain.clone()).or_default() += 1;
        for of in self.tries.iter().filter(|of| of.domain == *domain) {
            let seen = match of.stage {
                Stage::Policy => &mut self.coverage.learnt_at_policy,
                Stage::Mx => &mut self.coverage.learnt_at_mx,
                Stage::Host => &mut self.coverage.learnt_at_host,
                Stage::Connected => &mut self.coverage.learnt_at_connected,
                Stage::BeforeMail(_) => &mut self.coverage.learnt_before_mail,
            };
            *seen += 1;
        }
    }

    /// Moves one try on by one stage. An error is a way through.
    pub(crate) fn advance(
        &mut self,
        index: usize,
        certificates: &mut Certificates,
    ) -> Result<(), String> {
        let mut of = self.tries.remove(index);
        let is_done = match of.stage.clone() {
            Stage::Policy => return self.consult(of),
            Stage::Mx => self.look_for_hosts(&mut of)?,
            Stage::Host if self.is_outdated(&of) => begin_anew(&mut of),
            Stage::Host => self.next_host(&mut of),
            Stage::Connected => self.connect(&mut of, certificates),
            Stage::BeforeMail(_) if self.is_outdated(&of) => begin_anew(&mut of),
            Stage::BeforeMail(shown) => {
                self.mail_from(&of, shown)?;
                self.queue.remove(&of.domain);
                true
            }
        };
        if !is_done {
            self.tries.insert(index, of);
        }
        Ok(())
    }

    fn is_outdated(&self, of: &Try) -> bool {
        self.epoch(&of.domain) != of.epoch
    }

    fn consult(&mut self, mut of: Try) -> Result<(), String> {
        of.epoch = self.epoch(&of.domain);
        let now = self.reading().boottime;
        if let Some((verdict, until)) = self.verdicts.get(&of.domain)
            && now < *until
        {
            let verdict = verdict.clone();
            self.take_verdict(of, &verdict);
        } else if self.looking.contains_key(&of.domain) {
            let domain = of.domain.clone();
            self.tries.push(of);
            self.look(&domain)?;
        } else {
            self.begin(&of.domain, LookUp::for_mail);
            self.tries.push(of);
        }
        Ok(())
    }

    fn take_verdict(&mut self, mut of: Try, verdict: &Verdict) {
        of.asked = match verdict {
            Verdict::Use(kept) => {
                let effect = policy::Effect::Enforced;
                let published = Published { domain: &of.domain, policy: kept.policy(), effect };
                Asked::new(Requirement::default(), Some(published))
            }
            Verdict::NoPolicy(_) => Asked::default(),
            // It stays in the queue.
            Verdict::Defer(_) => return,
        };
        of.stage = Stage::Mx;
        self.tries.push(of);
    }

    fn begin(
        &mut self,
        domain: &Dom,
        make: fn(Stored, Option<policy::sts::cache::Listed>, KeepSettings) -> LookUp,
    ) {
        let files = &self.disk.synced;
        let (stored, listed) = (files.stored(domain), files.list.get(domain).copied());
        let mut look_up = make(stored, listed, self.settings.clone());
        if let Some(state) = self.unstored.get(domain) {
            look_up.remember_unstored(state.clone());
        }
        look_up.remember_fleeting(self.fleeting.get(domain).cloned());
        let (effect, got) = (LookUpEffect::Ask, None);
        let looking = Looking { look_up, effect, is_syncing: false, is_replaced: false, got };
        self.looking.insert(domain.clone(), looking);
    }

    /// The background looks at a policy.
    pub(crate) fn refresh(&mut self, domain: &Dom) {
        let moment = self.moment();
        let state = self.state(domain);
        let due = state.refresh_at(moment, 0, &self.settings).is_some_and(|at| at <= moment.now);
        if (due || state.is_lost(moment)) && !self.looking.contains_key(domain) {
            self.begin(domain, LookUp::for_refresh);
        }
    }

    /// Moves a look-up on by one effect.
    pub(crate) fn look(&mut self, domain: &Dom) -> Result<(), String> {
        let moment = self.moment();
        let Some(mut looking) = self.looking.remove(domain) else { return Ok(()) };
        looking.effect = match looking.effect.clone() {
            LookUpEffect::Ask => {
                let answer = self.world.txt(domain);
                let is_lost = looking.look_up.state().is_lost(moment);
                let denies = matches!(answer, policy::sts::cache::TxtAnswer::Unusable(_));
                self.coverage.lost_no_record += u64::from(is_lost && denies);
                looking.look_up.answered(&answer, moment)
            }
            LookUpEffect::Fetch => self.fetch(domain, &mut looking, moment),
            LookUpEffect::Write(write) => match self.write(domain, &mut looking, write, moment) {
                Some(effect) => effect,
                None => LookUpEffect::Write(write),
            },
            LookUpEffect::Answer(verdict) => {
                self.answered(domain, looking, verdict, moment);
                return Ok(());
            }
        };
        self.looking.insert(domain.clone(), looking);
        Ok(())
    }

    fn fetch(&mut self, domain: &Dom, looking: &mut Looking, moment: Moment) -> LookUpEffect {
        let fetched = self.world.fetch(domain);
        let known_since = looking.look_up.before().known_since;
        if let Ok(body) = &fetched {
            looking.got = Some((self.true_now, body.clone()));
            self.coverage.suspect_fetch += u64::from(moment.clock == ClockTrust::Suspect);
            if let Some(known_since) = known_since {
                let (address, date) = (address(domain), stamp(self.true_now));
                let witness = Witness { domain: domain.clone(), address, known_since, date };
                let reading = self.reading();
                let change = self.judge.hear(reading, &witness);
                self.clock_changed(change);
            }
        }
        let moment = self.moment();
        let file = fetched.and_then(|body| Ok(PolicyFile::read(body.as_bytes())?));
        let room = if self.has_room() { Room::Free } else { Room::None };
        looking.look_up.fetched(file, room, moment)
    }

    /// All that is known about it.
    pub(crate) fn state(&self, domain: &Dom) -> State {
        let stored = self.disk.synced.state(domain);
        match self.unstored.get(domain) {
            Some(state) => State { listed: stored.listed, ..state.clone() },
            None => stored,
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.disk.synced.rows.len() < POLICIES_MAX + 3
    }

    /// `None` while the disk has it.
    fn write(
        &mut self,
        domain: &Dom,
        looking: &mut Looking,
        write: Write,
        moment: Moment,
    ) -> Option<LookUpEffect> {
        if !looking.is_syncing {
            let row = || Change::Row(domain.clone(), Box::new(looking.look_up.state().clone()));
            self.disk.begin(match write {
                Write::List(entry) => Change::List(domain.clone(), entry),
                Write::Replace | Write::Note => row(),
                Write::Unlist => Change::Unlist(domain.clone()),
            });
            if write == Write::Note {
                return Some(looking.look_up.written(Written::Synced, moment));
            }
            looking.is_syncing = true;
            return None;
        }
        looking.is_syncing = false;
        let is_stored = self.disk.sync();
        self.coverage.disk_full += u64::from(!is_stored);
        looking.is_replaced |= is_stored && write == Write::Replace;
        let written = if is_stored { Written::Synced } else { Written::Failed };
        Some(looking.look_up.written(written, moment))
    }

    fn answered(&mut self, domain: &Dom, looking: Looking, verdict: Verdict, moment: Moment) {
        let Looking { look_up, got, is_replaced, .. } = looking;
        let is_stored = !matches!(
            &verdict,
            Verdict::Defer(deferral) if deferral.cause == DeferCause::Store
        );
        let state = look_up.state();
        match &state.fleeting {
            Some(kept) => self.fleeting.insert(domain.clone(), Arc::clone(kept)),
            None => self.fleeting.remove(domain),
        };
        if look_up.is_unstored() {
            self.coverage.unstored += 1;
            self.unstored.insert(domain.clone(), state.clone());
        } else if is_replaced {
            self.unstored.remove(domain);
        }
        let is_kept = |body: &str| state.kept.as_ref().is_some_and(|kept| kept.body() == body);
        if let Some((at, body)) = got
            && is_stored
            && (is_kept(&body) || body.contains("max_age: 0\n"))
        {
            if state.kept.as_ref().is_none_or(|kept| ends_late_enough(kept, at)) {
                self.truth.got(domain, at, &body);
            } else {
                // A wrong clock was believed, so its end is where that clock says.
                self.truth.forget(domain);
            }
        }
        let until = self.reading().boottime + VERDICT_LIFE;
        self.verdicts.remove(domain);
        if look_up.changes_the_requirement(moment) {
            self.bump(domain);
        }
        if !matches!(verdict, Verdict::Defer(_)) {
            self.verdicts.insert(domain.clone(), (verdict.clone(), until));
        }
        let tries = std::mem::take(&mut self.tries);
        for mut of in tries {
            if of.domain == *domain && of.stage == Stage::Policy {
                of.epoch = self.epoch(domain);
                self.take_verdict(of, &verdict);
            } else {
                self.tries.push(of);
            }
        }
    }

    /// `true` if the try is over.
    fn look_for_hosts(&mut self, of: &mut Try) -> Result<bool, String> {
        match self.world.at(&of.domain).mx {
            Mx::Fail => return Ok(true),
            Mx::Null | Mx::NxDomain => return self.dead_end(of).map(|()| true),
            Mx::Honest | Mx::Forged | Mx::Both => {}
        }
        of.hosts = self.world.hosts(&of.domain);
        of.stage = Stage::Host;
        Ok(false)
    }

    /// DNS says that there is nobody to send to: is it believed?
    fn dead_end(&mut self, of: &Try) -> Result<(), String> {
        let moment = self.moment();
        let state = self.state(&of.domain);
        let enforced = state.live(moment).is_some_and(|kept| kept.is_enforced());
        if enforced || state.is_lost(moment) {
            self.coverage.contested_dead_ends += 1;
            return Ok(());
        }
        self.queue.remove(&of.domain);
        self.coverage.bounces += 1;
        match self.truth.binding(&of.domain, self.true_now) {
            Some(got) => Err(format!(
                "{}: returned on DNS's word under {got:?}; true time {}, wall {}, {moment:?}, state {state:?}",
                of.domain, self.true_now, self.wall,
            )),
            None => Ok(()),
        }
    }

    fn next_host(&mut self, of: &mut Try) -> bool {
        while let Some(host) = of.hosts.first().cloned() {
            if authorize(located(&of.domain, &host), &of.asked).is_ok() {
                of.stage = Stage::Connected;
                return false;
            }
            self.coverage.refused_hosts += 1;
            of.hosts.remove(0);
        }
        true
    }

    fn connect(&mut self, of: &mut Try, certificates: &mut Certificates) -> bool {
        let Some(host) = of.hosts.first().cloned() else { return true };
        let shown = self.world.shown(&of.domain, &host);
        let now = self.moment().now;
        let Ok(mx) = authorize(located(&of.domain, &host), &of.asked) else { return true };
        if certificates.admits(mx, (&host, shown), &of.asked, now) {
            of.stage = Stage::BeforeMail(shown);
        } else {
            self.coverage.refused_hosts += 1;
            of.hosts.remove(0);
            of.stage = Stage::Host;
        }
        false
    }

    fn mail_from(&mut self, of: &Try, shown: Shown) -> Result<(), String> {
        self.coverage.mails += 1;
        let Some(host) = of.hosts.first() else { return Ok(()) };
        let Some(got) = self.truth.binding(&of.domain, self.true_now) else { return Ok(()) };
        self.coverage.mails_under_policy += 1;
        let is_listed = got.policy.mx().iter().any(|pattern| pattern.matches(host));
        if is_listed && shown == Shown::Good {
            return Ok(());
        }
        Err(format!(
            "{}: MAIL FROM to {host} ({shown:?}) under {got:?}; true time {}, wall {}, state {:?}",
            of.domain,
            self.true_now,
            self.wall,
            self.disk.synced.state(&of.domain),
        ))
    }

    /// The operator holds or deletes the mail.
    pub(crate) fn withdraw(&mut self, domain: &Dom) {
        self.tries.retain(|of| of.domain != *domain);
        self.queue.remove(domain);
    }
}

/// Something else is asked now. `true` if it is given up.
fn begin_anew(of: &mut Try) -> bool {
    (of.restarts, of.stage) = (of.restarts + 1, Stage::Policy);
    of.restarts > RESTARTS_MAX
}

/// By true time, or so little before that the clock was not seen to be wrong?
pub(crate) fn ends_late_enough(kept: &CachedPolicy, got_at: i64) -> bool {
    let max_age = i64::try_from(kept.policy().max_age().as_secs()).unwrap();
    kept.expires_at().as_second() >= got_at + max_age - UNSEEN_MAX
}

fn located(domain: &Dom, host: &HostName) -> Located {
    Located {
        mx: Domain::Name(host.clone()),
        next_hop: Domain::Name(domain.clone()),
        named_by: NamedBy::MxRecords,
    }
}

fn stamp(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn boot_id(boot: u64) -> Option<BootId> {
    BootId::parse(&format!("00000000-0000-4000-8000-{boot:012x}"))
}

//! The program's core, driven as the daemon drives it, one effect at a time: so that anything can happen in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use policy::clock::{BootId, Change as ClockChange, Judge, LastMark, Reading, TrustedBy, Witness};
use policy::sts::Kept;
use policy::sts::keep::{
    ClockTrust, DeferCause, Effect, LookUp, Moment, Settings, State, Stored, Tenant, Use, Verdict,
    Write, surplus,
};
use policy::{Asked, Located, NamedBy, Published, Requirement, authorize, registrable_domain};
use smtp::{Domain, HostName};

use crate::certificates::Certificates;
use crate::disk::{Change, Disk};
use crate::truth::Truth;
use crate::world::{Dom, Mx, Shown, World, address, name};

/// The cache is small, so that it overflows.
pub(crate) const POLICIES_MAX: usize = 12;
/// architecture.md: an attempt begins anew so often at most.
const RESTARTS_MAX: u32 = 3;
/// A verdict is believed for a minute.
const VERDICT_LIFE: Duration = Duration::from_secs(60);

macro_rules! coverage {
    ($($field:ident: $text:literal,)*) => {
        /// How often what has to come up came up.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Coverage { $(pub(crate) $field: u64,)* }

        impl Coverage {
            pub(crate) fn add(&mut self, other: &Self) { $(self.$field += other.$field;)* }

            /// Returns how many came up too rarely.
            pub(crate) fn print(&self, sequences: u64, min: u64) -> u64 {
                let mut missing = 0;
                $(
                    let is_missing = self.$field * 100_000 < min * sequences;
                    missing += u64::from(is_missing);
                    let mark = if is_missing { "  TOO FEW" } else { "" };
                    println!("{:>9}  {}{mark}", self.$field, $text);
                )*
                missing
            }
        }
    };
}

coverage! {
    mails: "mails sent",
    mails_under_policy: "of them while a policy that was got had to hold",
    refused_hosts: "hosts refused",
    learnt_at_policy: "requirement changed while a try was at: policy",
    learnt_at_mx: "requirement changed while a try was at: MX",
    learnt_at_host: "requirement changed while a try was at: host",
    learnt_at_connected: "requirement changed while a try was at: connected",
    learnt_before_mail: "requirement changed while a try was at: before MAIL",
    crash_in_replace: "crash between the writes of a replacement",
    evicted_beside_mail: "eviction with mail queued",
    suspect_fetch: "policy fetched by a clock in doubt",
    suspect: "clock became suspect",
    trusted_again: "clock trusted again",
    lost_no_record: "lost policy, and the record says that there is none",
    contested_dead_ends: "dead ends that a policy contradicts",
    bounces: "mails returned",
    disk_full: "writes that failed",
}

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
struct Try {
    domain: Dom,
    epoch: u64,
    restarts: u32,
    stage: Stage,
    asked: Asked,
    hosts: Vec<HostName>,
}

/// A look-up under way.
struct Looking {
    look_up: LookUp,
    effect: Effect,
    is_syncing: bool,
    got: Option<(i64, String)>,
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
    booted_at: i64,
    boot: u64,
    judge: Judge,
    looking: BTreeMap<Dom, Looking>,
    verdicts: BTreeMap<Dom, (Verdict, Duration)>,
    fleeting: BTreeMap<Dom, Arc<Kept>>,
    epochs: BTreeMap<Dom, u64>,
    tries: Vec<Try>,
    queue: BTreeSet<Dom>,
    settings: Settings,
}

impl Core {
    pub(crate) fn new() -> Self {
        let now = 1_800_000_000;
        let reading = Reading { wall: stamp(now), boottime: Duration::from_secs(100) };
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
            epochs: BTreeMap::new(),
            tries: Vec::new(),
            queue: BTreeSet::new(),
            settings: Settings::default(),
        }
    }

    fn reading(&self) -> Reading {
        let boottime = Duration::from_secs(u64::try_from(self.true_now - self.booted_at).unwrap());
        Reading { wall: stamp(self.wall), boottime }
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

    fn bump(&mut self, domain: &Dom) {
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
        make: fn(Stored, Option<policy::sts::keep::Listed>, Settings) -> LookUp,
    ) {
        let files = &self.disk.synced;
        let (stored, listed) = (files.stored(domain), files.list.get(domain).copied());
        let mut look_up = make(stored, listed, self.settings.clone());
        look_up.remember_fleeting(self.fleeting.get(domain).cloned());
        let looking = Looking { look_up, effect: Effect::Ask, is_syncing: false, got: None };
        self.looking.insert(domain.clone(), looking);
    }

    /// The background looks at a policy.
    pub(crate) fn refresh(&mut self, domain: &Dom) {
        let moment = self.moment();
        let state = self.disk.synced.state(domain);
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
            Effect::Ask => {
                let answer = self.world.txt(domain);
                let is_lost = looking.look_up.state().is_lost(moment);
                let denies = matches!(answer, policy::sts::keep::TxtAnswer::Unusable(_));
                self.coverage.lost_no_record += u64::from(is_lost && denies);
                looking.look_up.answered(&answer, moment)
            }
            Effect::Fetch => self.fetch(domain, &mut looking, moment),
            Effect::Write(write) => match self.write(domain, &mut looking, write, moment) {
                Some(effect) => effect,
                None => Effect::Write(write),
            },
            Effect::Answer(verdict) => {
                self.answered(domain, looking, verdict, moment);
                return Ok(());
            }
        };
        self.looking.insert(domain.clone(), looking);
        Ok(())
    }

    fn fetch(&mut self, domain: &Dom, looking: &mut Looking, moment: Moment) -> Effect {
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
        let body = fetched.as_ref().map(|body| body.as_bytes()).map_err(Clone::clone);
        looking.look_up.fetched(body, self.has_room(), moment)
    }

    fn has_room(&self) -> bool {
        self.disk.synced.rows.len() < POLICIES_MAX + 3
    }

    /// `None` while the disk has it.
    fn write(
        &mut self,
        domain: &Dom,
        looking: &mut Looking,
        write: Write,
        moment: Moment,
    ) -> Option<Effect> {
        if !looking.is_syncing {
            let row = || Change::Row(domain.clone(), Box::new(looking.look_up.state().clone()));
            self.disk.begin(match write {
                Write::List(entry) => Change::List(domain.clone(), entry),
                Write::Replace | Write::Note => row(),
                Write::Unlist => Change::Unlist(domain.clone()),
            });
            if write == Write::Note {
                return Some(looking.look_up.written(true, moment));
            }
            looking.is_syncing = true;
            return None;
        }
        looking.is_syncing = false;
        let is_stored = self.disk.sync();
        self.coverage.disk_full += u64::from(!is_stored);
        Some(looking.look_up.written(is_stored, moment))
    }

    fn answered(&mut self, domain: &Dom, looking: Looking, verdict: Verdict, moment: Moment) {
        let Looking { look_up, got, .. } = looking;
        let is_stored = !matches!(
            &verdict,
            Verdict::Defer(deferral) if deferral.cause == DeferCause::Store
        );
        let state = look_up.state();
        if let Some(kept) = &state.fleeting {
            self.fleeting.insert(domain.clone(), Arc::clone(kept));
        }
        let is_kept = |body: &str| state.kept.as_ref().is_some_and(|kept| kept.body() == body);
        if let Some((at, body)) = got
            && is_stored
            && (is_kept(&body) || body.contains("max_age: 0\n"))
        {
            self.truth.got(domain, at, &body);
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
        let state = self.disk.synced.state(&of.domain);
        let enforced = state.live(moment).is_some_and(|kept| kept.is_enforced());
        if enforced || state.is_lost(moment) {
            self.coverage.contested_dead_ends += 1;
            return Ok(());
        }
        self.queue.remove(&of.domain);
        self.coverage.bounces += 1;
        match self.truth.binding(&of.domain, self.true_now) {
            Some(got) => Err(format!("{}: returned on DNS's word under {got:?}", of.domain)),
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
        if certificates.admits(mx, &host, shown, &of.asked, now) {
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

    /// The power goes; `keep` of what was on its way to the disk came there.
    pub(crate) fn crash(&mut self, keep: usize, reboots: bool) {
        let looking = std::mem::take(&mut self.looking);
        self.disk.crash(keep);
        for (domain, Looking { look_up: _, effect, got, is_syncing }) in looking {
            let is_in_replace = matches!(effect, Effect::Write(Write::Replace | Write::Unlist))
                || (is_syncing && matches!(effect, Effect::Write(Write::List(_))));
            self.coverage.crash_in_replace += u64::from(is_in_replace && got.is_some());
            let row = self.disk.synced.rows.get(&domain).and_then(|row| row.kept.clone());
            if let (Some((at, body)), Some(kept)) = (got, row)
                && kept.body() == body
            {
                self.truth.got(&domain, at, &body);
            }
        }
        self.verdicts.clear();
        self.fleeting.clear();
        self.epochs.clear();
        self.tries.clear();
        if reboots {
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
            let kept = Kept::new(id, body.as_bytes(), moment.now).unwrap();
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

    /// What is too much goes.
    pub(crate) fn tidy(&mut self) -> Result<(), String> {
        let moment = self.moment();
        if moment.clock == ClockTrust::Suspect || self.disk.is_full {
            return Ok(());
        }
        let damaged = &self.disk.synced.damaged;
        let rows = self.disk.synced.rows.keys().filter(|domain| !damaged.contains(*domain));
        let (mut tenants, mut regulars) = (Vec::new(), BTreeSet::new());
        for domain in rows.cloned().collect::<Vec<_>>() {
            let state = self.disk.synced.state(&domain);
            if state.is_spent(moment) && !self.looking.contains_key(&domain) {
                self.drop_row(&domain);
                continue;
            }
            let usage = state.use_of(moment);
            if usage == Use::Regular {
                regulars.insert(domain.clone());
            }
            let registrable = registrable_domain(&domain);
            let last_used_at = state.last_used_at.unwrap_or(Timestamp::MIN);
            tenants.push(Tenant { domain, registrable, usage, last_used_at });
        }
        let queue = &self.queue;
        let gone = surplus(tenants, POLICIES_MAX, |domain| queue.contains(domain)).go;
        self.coverage.evicted_beside_mail += u64::from(!gone.is_empty() && !queue.is_empty());
        for domain in gone {
            if self.queue.contains(&domain) || regulars.contains(&domain) {
                return Err(format!("{domain} was evicted although it has mail or is no stranger"));
            }
            if !self.looking.contains_key(&domain) {
                self.drop_row(&domain);
                self.truth.forget(&domain);
            }
        }
        Ok(())
    }

    fn drop_row(&mut self, domain: &Dom) {
        self.disk.begin(Change::Unlist(domain.clone()));
        self.disk.begin(Change::Delete(domain.clone()));
        self.disk.sync();
        self.bump(domain);
    }

    /// The operator forgets it.
    pub(crate) fn forget(&mut self, domain: &Dom) {
        if !self.looking.contains_key(domain) && !self.disk.is_full {
            self.drop_row(domain);
            self.fleeting.remove(domain);
            self.truth.forget(domain);
        }
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

fn boot_id(boot: u64) -> Option<BootId> {
    BootId::parse(&format!("00000000-0000-4000-8000-{boot:012x}"))
}

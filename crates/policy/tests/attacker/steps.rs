//! What can happen, and how an attacker who knows the program chooses.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::certificates::Certificates;
use crate::core::Core;
use crate::coverage::Coverage;
use crate::random::Random;
use crate::trouble::After;
use crate::world::{Body, Dom, HONEST, Mx, Shown, Site, Txt, name};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Txt(Dom, Txt),
    Mx(Dom, Mx),
    Site(Dom, Site),
    Publish(Dom, Body),
    Tls(Dom, Shown, Shown),
    /// The wall clock is set.
    Wall(i64),
    /// Time passes.
    Pass(i64),
    /// The clock is right again.
    ClockRight,
    Crash {
        keep: usize,
        after: After,
    },
    Flood(usize),
    Damage(Dom),
    LoseFile,
    /// policies.db as it was when it was copied.
    CopyFile,
    RestoreFile,
    DiskFull(bool),
    Mail(Dom),
    /// One try goes on by a stage.
    Advance(usize),
    /// One look-up goes on by an effect.
    Look(usize),
    /// A mail from its arrival to its end, if nothing comes in between.
    Through(Dom),
    Refresh(Dom),
    Tidy,
    TrustClock,
    Forget(Dom),
    Withdraw(Dom),
}

pub(crate) struct Run {
    core: Core,
    random: Random,
    /// Made once: what they show does not hang on the sequence.
    certificates: Rc<RefCell<Certificates>>,
    victim: Dom,
    copied: BTreeMap<Dom, policy::sts::cache::State>,
    /// Steps that an attack consists of, the next one last.
    script: Vec<Step>,
}

impl Run {
    pub(crate) fn new(seed: u64, certificates: Rc<RefCell<Certificates>>) -> Self {
        let mut random = Random::new(seed);
        let victim = name(random.of(&HONEST));
        let mut script = Vec::new();
        // Most begin with policies that are known.
        if !random.one_in(5) {
            script.extend(HONEST.iter().rev().map(|domain| Step::Through(name(domain))));
        }
        let core = Core::new();
        Self { core, random, certificates, victim, copied: BTreeMap::new(), script }
    }

    pub(crate) fn coverage(&self) -> Coverage {
        self.core.coverage.clone()
    }

    /// Seven in ten are aimed at the victim.
    pub(crate) fn choose(&mut self) -> Step {
        if let Some(next) = self.script.pop() {
            return next;
        }
        if self.random.below(10) < 7 { self.aimed() } else { self.random_step() }
    }

    fn aimed(&mut self) -> Step {
        let victim = self.victim.clone();
        let random = &mut self.random;
        match random.below(15) {
            0 => {
                let txt = [Txt::None, Txt::None, Txt::Several, Txt::Fail, Txt::Other];
                Step::Txt(victim, random.of(&txt))
            }
            1 => Step::Mx(victim, random.of(&[Mx::Forged, Mx::Both, Mx::Null, Mx::NxDomain])),
            2 => Step::Site(victim, Site::Withhold),
            3 => {
                let all = [Shown::Good, Shown::Plain, Shown::Untrusted, Shown::OtherName];
                let shown = random.of(&all);
                Step::Tls(victim, shown, random.of(&[Shown::Plain, Shown::Good]))
            }
            4 => self.learn_in_a_try(victim),
            5 => self.crash_in_a_write(victim),
            6 => self.fetch_in_doubt(victim),
            7 => {
                self.soon([
                    Step::Crash { keep: 0, after: After::Restart },
                    Step::Txt(victim.clone(), Txt::None),
                    Step::Through(victim.clone()),
                ]);
                self.random.of(&[Step::Damage(victim), Step::LoseFile, Step::RestoreFile])
            }
            8 => self.flood_beside(victim),
            9 => Step::Mail(victim),
            10 | 11 => self.go_on(),
            12 => Step::Refresh(victim),
            13 => self.learn_after_a_fleeting_one(victim),
            _ => Step::Through(victim),
        }
    }

    /// These are next, the first one first.
    fn soon(&mut self, steps: impl IntoIterator<Item = Step, IntoIter: DoubleEndedIterator>) {
        self.script.extend(steps.into_iter().rev());
    }

    fn learn_in_a_try(&mut self, victim: Dom) -> Step {
        let days = self.random.of(&[7, 30]);
        let bodies = [Body::Enforce { days }, Body::EnforceOther { days }];
        let learnt = self.random.of(&bodies);
        let stages = self.random.of(&[0, 1, 2, 3, 3, 3, 4]);
        self.soon(
            [
                Step::Publish(victim.clone(), Body::Testing { days: 1 }),
                Step::Through(victim.clone()),
                Step::Mx(victim.clone(), Mx::Forged),
                Step::Mail(victim.clone()),
            ]
            .into_iter()
            .chain(vec![Step::Advance(0); stages])
            .chain([
                Step::Publish(victim.clone(), learnt),
                Step::Pass(5 * HOUR),
                Step::Refresh(victim.clone()),
            ])
            .chain(vec![Step::Look(0); 7])
            .chain(vec![Step::Advance(0); 3])
            .collect::<Vec<_>>(),
        );
        Step::Forget(victim)
    }

    /// Who fetched a policy that does not last knows it; mail that was told of no record does not.
    fn learn_after_a_fleeting_one(&mut self, victim: Dom) -> Step {
        let days = self.random.of(&[7, 30]);
        let looks = self.random.of(&[3, 3, 4, 5, 6]);
        self.soon(
            [
                Step::Publish(victim.clone(), Body::Fleeting),
                Step::Through(victim.clone()),
                Step::Pass(2 * 60),
                Step::Txt(victim.clone(), Txt::None),
                Step::Mx(victim.clone(), Mx::Forged),
                Step::Mail(victim.clone()),
            ]
            .into_iter()
            .chain(vec![Step::Advance(0); looks])
            .chain([
                Step::Pass(2 * 60),
                Step::Publish(victim.clone(), Body::Enforce { days }),
                Step::Through(victim.clone()),
            ])
            .chain(vec![Step::Advance(0); 4])
            .collect::<Vec<_>>(),
        );
        Step::Forget(victim)
    }

    fn crash_in_a_write(&mut self, victim: Dom) -> Step {
        let after = self.random.of(&[After::Restart, After::Reboot]);
        let crash = Step::Crash { keep: self.random.below(3), after };
        let looks = 2 + self.random.below(4);
        self.soon(
            [Step::Pass(13 * HOUR), Step::Refresh(victim.clone())]
                .into_iter()
                .chain(vec![Step::Look(0); looks])
                .chain([crash, Step::Through(victim.clone())])
                .collect::<Vec<_>>(),
        );
        let days = self.random.of(&[1, 7]);
        let bodies = [Body::EnforceOther { days }, Body::Enforce { days }, Body::Testing { days }];
        Step::Publish(victim, self.random.of(&bodies))
    }

    /// What is to go may count for more when it does.
    fn flood_beside(&mut self, victim: Dom) -> Step {
        let days = self.random.of(&[7, 30]);
        let body = self.random.of(&[Body::Testing { days }, Body::Enforce { days }]);
        let learnt = Body::EnforceOther { days };
        self.soon([
            Step::Through(victim.clone()),
            Step::Flood(15),
            Step::Tidy,
            Step::Publish(victim.clone(), learnt),
            Step::Pass(60),
            Step::Through(victim.clone()),
            Step::Tidy,
            Step::Through(victim.clone()),
        ]);
        Step::Publish(victim, body)
    }

    fn fetch_in_doubt(&mut self, victim: Dom) -> Step {
        self.soon(
            [Step::Pass(13 * HOUR), Step::Refresh(victim.clone())]
                .into_iter()
                .chain(vec![Step::Look(0); 5])
                .chain([
                    Step::ClockRight,
                    Step::Site(victim.clone(), Site::Withhold),
                    Step::Through(victim),
                ])
                .collect::<Vec<_>>(),
        );
        Step::Wall(self.random.of(&[-40 * DAY, -3 * HOUR, 3 * HOUR, 40 * DAY]))
    }

    fn go_on(&mut self) -> Step {
        let (tries, looking) = (self.core.tries(), self.core.looking().len());
        match (tries, looking) {
            (0, 0) => Step::Through(self.victim.clone()),
            (_, 0) => Step::Advance(self.random.below(tries)),
            (0, _) => Step::Look(self.random.below(looking)),
            _ if self.random.one_in(2) => Step::Advance(self.random.below(tries)),
            _ => Step::Look(self.random.below(looking)),
        }
    }

    fn random_step(&mut self) -> Step {
        let random = &mut self.random;
        let any = name(random.of(&HONEST));
        let days = random.of(&[1, 7, 30]);
        match random.below(22) {
            0 => Step::Txt(
                any,
                random.of(&[Txt::Honest, Txt::None, Txt::Several, Txt::Fail, Txt::Other]),
            ),
            1 => Step::Mx(
                any,
                random.of(&[Mx::Honest, Mx::Forged, Mx::Both, Mx::Null, Mx::NxDomain, Mx::Fail]),
            ),
            2 => Step::Site(any, random.of(&[Site::Serve, Site::Withhold])),
            3 => Step::Publish(
                any,
                random.of(&[
                    Body::Enforce { days },
                    Body::EnforceOther { days },
                    Body::Testing { days },
                    Body::None { days },
                    Body::Fleeting,
                ]),
            ),
            4 => Step::Wall(random.of(&[
                -40 * DAY,
                -DAY,
                -50 * 60,
                50 * 60,
                2 * HOUR,
                DAY,
                40 * DAY,
            ])),
            5 | 6 => Step::Pass(random.of(&[60, 10 * 60, HOUR, 6 * HOUR, DAY, 3 * DAY])),
            7 => Step::ClockRight,
            8 => {
                let after = random.of(&[After::Restart, After::Reboot]);
                Step::Crash { keep: random.below(4), after }
            }
            9 => Step::Flood(random.below(20)),
            10 => Step::Damage(any),
            11 => random.of(&[Step::LoseFile, Step::CopyFile, Step::RestoreFile]),
            12 => Step::DiskFull(random.one_in(3)),
            13 => Step::Mail(any),
            14 => Step::Through(any),
            15 => Step::Refresh(any),
            16 => Step::Tidy,
            17 => {
                if random.one_in(4) {
                    Step::TrustClock
                } else {
                    Step::Tidy
                }
            }
            18 => {
                if random.one_in(3) {
                    Step::Forget(any)
                } else {
                    Step::Withdraw(any)
                }
            }
            _ => self.go_on(),
        }
    }

    /// Lets it happen.
    pub(crate) fn take(&mut self, step: &Step) -> Result<(), String> {
        let core = &mut self.core;
        match step {
            Step::Txt(domain, txt) => core.world.at(domain).txt = *txt,
            Step::Mx(domain, mx) => core.world.at(domain).mx = *mx,
            Step::Site(domain, site) => core.world.at(domain).site = *site,
            Step::Publish(domain, body) => {
                let place = core.world.at(domain);
                (place.body, place.version, place.site) = (*body, place.version + 1, Site::Serve);
                place.txt = Txt::Honest;
            }
            Step::Tls(domain, shown, forged) => {
                let place = core.world.at(domain);
                (place.shown, place.forged_shown) = (*shown, *forged);
            }
            Step::Wall(by) => {
                core.wall += by;
                core.moment();
            }
            Step::Pass(by) => self.pass(*by),
            Step::ClockRight => {
                core.wall = core.true_now;
                core.moment();
            }
            Step::Crash { keep, after } => core.crash(*keep, *after),
            Step::Flood(count) => core.flood(*count),
            Step::Damage(domain) => {
                if core.disk.synced.rows.contains_key(domain) {
                    core.disk.synced.damaged.insert(domain.clone());
                }
            }
            Step::LoseFile => {
                core.crash(0, After::Restart);
                core.disk.synced.rows.clear();
                core.disk.synced.damaged.clear();
                core.crash(0, After::Restart);
            }
            Step::CopyFile => self.copied = core.disk.synced.rows.clone(),
            Step::RestoreFile => {
                core.crash(0, After::Restart);
                core.disk.synced.rows = self.copied.clone();
                core.disk.synced.damaged.clear();
                core.crash(0, After::Restart);
            }
            Step::DiskFull(is_full) => core.disk.is_full = *is_full,
            Step::Mail(domain) => core.mail(domain),
            Step::Advance(index) if *index < core.tries() => {
                core.advance(*index, &mut self.certificates.borrow_mut())?;
            }
            Step::Look(index) => {
                if let Some(domain) = core.looking().get(*index).cloned() {
                    core.look(&domain)?;
                }
            }
            Step::Advance(_) => {}
            Step::Through(domain) => self.through(domain)?,
            Step::Refresh(domain) => core.refresh(domain),
            Step::Tidy => core.tidy()?,
            Step::TrustClock => core.trust_clock(),
            Step::Forget(domain) => core.forget(domain),
            Step::Withdraw(domain) => core.withdraw(domain),
        }
        Ok(())
    }

    /// The daemon looks at its clocks every minute; an hour is often enough here.
    fn pass(&mut self, by: i64) {
        let mut left = by;
        while left > 0 {
            let some = left.min(HOUR);
            (self.core.true_now, self.core.wall) =
                (self.core.true_now + some, self.core.wall + some);
            self.core.moment();
            left -= some;
        }
    }

    fn through(&mut self, domain: &Dom) -> Result<(), String> {
        let before = self.core.tries();
        self.core.mail(domain);
        for _ in 0..40 {
            let last = self.core.tries();
            if last <= before {
                return Ok(());
            }
            self.core.advance(last - 1, &mut self.certificates.borrow_mut())?;
        }
        Ok(())
    }
}

//! Drives one look-up: does what the rules say, in their order, and tells them what came of it.

use std::sync::Arc;
use std::time::Duration;

use policy::sts::cache::{
    FetchFailure, FetchFailureKind, Listed, LookUp, LookUpEffect, PolicyFile, State, Stored,
    TxtAnswer, Verdict, Write, Written,
};
use smtp::{HostName, RemoteText};
use spool::{Enforced, Policies, StoreError};
use tokio::time::Instant;

use super::settings::settings;
use super::synced::synced;
use super::tell::{tell_fetched, tell_kept};
use super::verdict::{
    Consulted, DeferExtent, LookUpPurpose, PolicyDefer, PolicySource, PolicyVerdict, failure_text,
    rest, verdict_of,
};
use super::{CacheState, rows};
use crate::dns::{Freshness, StsRecord};
use crate::policies::facts::PolicyFact;
use crate::policies::fetch::{FetchError, Fetched, KnownToAnswer};
use crate::schedule::after;
use crate::telemetry::Reason;

/// Our choice: mail waits this long when the trouble is ours: the store, or too many fetches.
const LOCAL_REST: Duration = Duration::from_secs(60);

/// What a look-up came to.
#[derive(Debug)]
pub(super) struct LookedUp {
    /// The verdict, with the evidence.
    pub(super) consulted: Consulted,
    /// How long it may be believed.
    pub(super) ttl: Duration,
    /// All that is known now.
    pub(super) state: State,
    /// Does it ask something else of the domain's hosts than what was known before?
    pub(super) is_changed: bool,
}

/// What a look-up has seen so far.
#[derive(Debug)]
struct LookUpSeen {
    begun: Instant,
    record: Option<StsRecord>,
    failure: Option<RemoteText>,
    is_fetched: bool,
    /// The row was written.
    is_replaced: bool,
}

/// A look-up under way.
#[derive(Debug)]
pub(super) struct Looking {
    look_up: LookUp,
    freshness: Freshness,
    /// What is to be done next.
    effect: LookUpEffect,
    seen: LookUpSeen,
}

impl CacheState {
    /// Looks `domain` up. Whoever asks holds its turn.
    pub(super) async fn ask(
        &self,
        domain: &HostName,
        purpose: LookUpPurpose,
        freshness: Freshness,
    ) -> LookedUp {
        let looking = Box::pin(self.learn(domain, purpose, freshness)).await;
        self.conclude(domain, looking).await
    }

    /// What a look-up came to that was not for mail: what memory says is out of date.
    pub(super) async fn asked_apart(&self, domain: &HostName, asked: &LookedUp) {
        self.verdicts.invalidate(domain).await;
        if asked.is_changed {
            self.epochs.bump(domain);
        }
    }

    /// Something else binds for `domain` from now on, and that is stored.
    pub(super) async fn asks_anew(&self, domain: &HostName) {
        self.verdicts.invalidate(domain).await;
        self.epochs.bump(domain);
    }

    /// Asks and fetches, and writes nothing: it may be broken off. Whoever asks holds the domain's
    /// turn until [`CacheState::conclude`] is through. The error is that of our store.
    pub(super) async fn learn(
        &self,
        domain: &HostName,
        purpose: LookUpPurpose,
        freshness: Freshness,
    ) -> Result<Looking, String> {
        let look_up = self.load(domain, purpose).await?;
        let (begun, effect) = (Instant::now(), LookUpEffect::Ask);
        let (record, failure) = (None, None);
        let seen = LookUpSeen { begun, record, failure, is_fetched: false, is_replaced: false };
        let mut looking = Looking { look_up, freshness, effect, seen };
        while matches!(looking.effect, LookUpEffect::Ask | LookUpEffect::Fetch) {
            self.step(domain, &mut looking).await;
        }
        Ok(looking)
    }

    /// Writes what was learnt; to be brought to its end, or neither memory nor attempts know what
    /// is on the disk.
    pub(super) async fn conclude(
        &self,
        domain: &HostName,
        looking: Result<Looking, String>,
    ) -> LookedUp {
        let mut looking = match looking {
            Ok(looking) => looking,
            Err(text) => return self.local_trouble(domain, &text),
        };
        loop {
            match looking.effect {
                LookUpEffect::Ask | LookUpEffect::Fetch | LookUpEffect::Write(_) => {
                    self.step(domain, &mut looking).await;
                }
                LookUpEffect::Answer(verdict) => {
                    return self.asked(domain, &looking.look_up, verdict, looking.seen).await;
                }
            }
        }
    }

    /// Does what is wanted next, unless that is to answer.
    async fn step(&self, domain: &HostName, looking: &mut Looking) {
        let Looking { look_up, freshness, effect, seen } = looking;
        *effect = match effect {
            LookUpEffect::Ask => {
                let record = self.dns.sts_record(domain, *freshness).await;
                let effect = look_up.answered(&record.answer, self.clock.moment());
                seen.record = Some(record);
                effect
            }
            LookUpEffect::Fetch => Box::pin(self.fetch(domain, look_up, seen)).await,
            LookUpEffect::Write(write) => {
                let written = self.write(domain, *write, look_up.state()).await;
                seen.is_replaced |= (*write, written) == (Write::Replace, Written::Synced);
                look_up.written(written, self.clock.moment())
            }
            LookUpEffect::Answer(_) => return,
        };
        look_up
            .take_alarms()
            .into_iter()
            .for_each(|alarm| PolicyFact::Raised { domain, alarm }.tell());
    }

    async fn asked(
        &self,
        domain: &HostName,
        look_up: &LookUp,
        verdict: Verdict,
        seen: LookUpSeen,
    ) -> LookedUp {
        let state = look_up.state();
        self.remember_fleeting(domain, look_up).await;
        if look_up.is_unstored() {
            self.unstored.insert(domain.clone(), Arc::new(state.clone()));
        } else if seen.is_replaced {
            self.unstored.invalidate(domain);
        }
        let LookUpSeen { begun, record, failure, is_fetched, is_replaced: _ } = seen;
        if let Some(record) = &record {
            tell_kept(domain, &verdict, &record.answer, failure.as_ref());
        }
        PolicyFact::LookedUp {
            domain,
            record: record.as_ref().map_or_else(String::new, |record| in_words(&record.answer)),
            verdict: match &verdict {
                Verdict::Use(kept) => {
                    format!("policy {}, mode {}", kept.id(), kept.policy().mode())
                }
                Verdict::NoPolicy(_) => "no policy".to_owned(),
                Verdict::Defer(_) => "not known yet".to_owned(),
            },
        }
        .tell();
        let moment = self.clock.moment();
        let ttl = record
            .as_ref()
            .map_or(Duration::ZERO, |record| rest(&verdict, record, moment, begun.elapsed()));
        let source = match (&verdict, is_fetched) {
            (Verdict::Use(_), true) => PolicySource::Fetch,
            (Verdict::Use(_), false) => PolicySource::Cache,
            (Verdict::NoPolicy(_) | Verdict::Defer(_), _) => PolicySource::None,
        };
        let dns = record.as_ref().and_then(|record| record.failure.clone()).map(Box::new);
        let consulted = Consulted {
            verdict: verdict_of(domain, verdict, dns),
            record: record.map(|record| record.answer),
            source,
            failure,
        };
        let is_changed = look_up.changes_the_requirement(moment);
        LookedUp { consulted, ttl, state: state.clone(), is_changed }
    }

    /// Its life counts from the fetch, and ends with the next policy.
    async fn remember_fleeting(&self, domain: &HostName, look_up: &LookUp) {
        match (&look_up.before().fleeting, &look_up.state().fleeting) {
            (Some(before), Some(kept)) if Arc::ptr_eq(before, kept) => {}
            (_, Some(kept)) => self.fleeting.insert(domain.clone(), Arc::clone(kept)).await,
            (Some(_), None) => self.fleeting.invalidate(domain).await,
            (None, None) => {}
        }
    }

    /// Fetches the policy and takes in what came of it.
    async fn fetch(
        &self,
        domain: &HostName,
        look_up: &mut LookUp,
        seen: &mut LookUpSeen,
    ) -> LookUpEffect {
        let old = look_up.state().live(self.clock.moment());
        let class = if old.is_some() && look_up.state().failed.is_none() {
            KnownToAnswer::Lately
        } else {
            KnownToAnswer::Unknown
        };
        let fetched = match self.fetcher.now().fetch(domain, class).await {
            Ok(fetched) => match PolicyFile::read(&fetched.body) {
                Ok(file) => Ok((fetched, file)),
                Err(invalid) => Err(FetchFailure::from(invalid)),
            },
            Err(FetchError::Busy) => {
                let moment = self.clock.moment();
                return look_up.not_fetched(after(moment.now, LOCAL_REST), moment);
            }
            Err(error) => Err(failure_of(&error)),
        };
        if let Ok((fetched, _)) = &fetched {
            self.hear(domain, look_up.before(), fetched);
        }
        if let Err(failure) = &fetched {
            let (reason, text) = (failure.reason(), failure_text(domain, failure));
            let id = look_up.fetching().map_or("", |id| id.as_str());
            PolicyFact::FetchFailed { reason, domain, id, error: &text }.tell();
            seen.failure = Some(text);
        }
        seen.is_fetched = fetched.is_ok();
        let file = fetched.map(|(_, file)| file);
        let effect = look_up.fetched(file, self.room.for_one_more(), self.clock.moment());
        let state = look_up.state();
        if let (true, Some(kept)) =
            (seen.is_fetched, state.kept.as_ref().or(state.fleeting.as_ref()))
        {
            tell_fetched(domain, old.as_deref(), kept);
            self.room.note(look_up.before(), state, domain);
        }
        effect
    }

    /// The policy host proved its name and said what time it is, which may speak for our clock.
    fn hear(&self, domain: &HostName, before: &State, fetched: &Fetched) {
        let kept = before.kept.as_ref();
        let since = kept.map(|kept| before.known_since.unwrap_or_else(|| kept.fetched_at()));
        if let (Some(since), Some(address), Some(date)) = (since, fetched.address, fetched.date) {
            self.clock.hear(domain, address, since, date);
        }
    }

    /// Does what is wanted of the store.
    async fn write(&self, domain: &HostName, write: Write, state: &State) -> Written {
        let stored = match write {
            Write::List(Listed { fetched_at, expires_at }) => {
                let entry = Enforced { fetched_at, expires_at };
                synced(|done| self.store.put_enforced(domain.clone(), entry, done)).await
            }
            Write::Replace => {
                synced(|done| self.store.put(rows::row_of(domain, state), done)).await
            }
            Write::Note => {
                self.store.put(rows::row_of(domain, state), |stored| {
                    if let Err(error) = stored {
                        PolicyFact::UseNotNoted { error: &error }.tell();
                    }
                });
                Ok(())
            }
            Write::Unlist => synced(|done| self.store.remove_enforced(domain.clone(), done)).await,
        };
        let Err(error) = stored else {
            return Written::Synced;
        };
        PolicyFact::NotStored { domain, error: &error }.tell();
        Written::Failed
    }

    async fn load(&self, domain: &HostName, purpose: LookUpPurpose) -> Result<LookUp, String> {
        let (store, name) = (self.store.clone(), domain.clone());
        let found = tokio::task::spawn_blocking(move || {
            Ok::<_, StoreError>((store.get(&name)?, store.enforced(&name)?))
        });
        let found = found.await.map_err(|error| error.to_string())?;
        let (row, listed) = found.map_err(|error| error.to_string())?;
        let (stored, listed) = (rows::stored(row), rows::listed(listed));
        if stored == Stored::Damaged {
            PolicyFact::Damaged { domain, is_listed: listed.is_some() }.tell();
        }
        let settings = settings(&self.config.borrow().mta_sts);
        let mut look_up = match purpose {
            LookUpPurpose::Mail => LookUp::for_mail(stored, listed, settings),
            LookUpPurpose::Refresh => LookUp::for_refresh(stored, listed, settings),
            LookUpPurpose::Order => LookUp::for_order(stored, listed, settings),
        };
        if let Some(state) = self.unstored.get(domain) {
            look_up.remember_unstored(State::clone(&state));
        }
        look_up.remember_fleeting(self.fleeting.get(domain).await);
        Ok(look_up)
    }

    /// All that is known about `domain`. Blocks for a read.
    pub(super) fn read(&self, domain: &HostName) -> Result<State, StoreError> {
        let state = read(&self.store, domain)?;
        Ok(match self.unstored.get(domain) {
            Some(unstored) => State { listed: state.listed, ..State::clone(&unstored) },
            None => state,
        })
    }

    fn local_trouble(&self, domain: &HostName, text: &str) -> LookedUp {
        PolicyFact::StoreFailedFor {
            domain,
            error: &text,
            what: "a policy could not be looked up",
        }
        .tell();
        let until = after(self.clock.moment().now, LOCAL_REST);
        let text = RemoteText::new(text);
        let extent = DeferExtent::Everybody;
        let defer = PolicyDefer { reason: Reason::LocalError, until, text, extent, dns: None };
        let consulted = Consulted {
            verdict: PolicyVerdict::Defer(defer),
            record: None,
            source: PolicySource::None,
            failure: None,
        };
        // What holds is not known now, and whoever goes by what held goes on by that.
        LookedUp { consulted, ttl: Duration::ZERO, state: State::default(), is_changed: false }
    }
}

/// What the store has about `domain`. Blocks for a read.
pub(super) fn read(store: &Policies, domain: &HostName) -> Result<State, StoreError> {
    let (row, listed) = (store.get(domain)?, store.enforced(domain)?);
    let state = match rows::stored(row) {
        Stored::Row(state) => *state,
        Stored::Absent | Stored::Damaged => State::default(),
    };
    Ok(State { listed: rows::listed(listed), ..state })
}

/// How the rules call a failure of the fetch.
fn failure_of(error: &FetchError) -> FetchFailure {
    let kind = match error {
        FetchError::Certificate(_) => FetchFailureKind::Certificate,
        FetchError::Busy
        | FetchError::Dns(_)
        | FetchError::NoAddress(_)
        | FetchError::Forbidden { .. }
        | FetchError::Connect(_)
        | FetchError::Tls(_)
        | FetchError::Status(_)
        | FetchError::ContentType(_)
        | FetchError::TooLarge
        | FetchError::Timeout
        | FetchError::Truncated
        | FetchError::Http(_) => FetchFailureKind::Fetch,
    };
    FetchFailure { kind, text: RemoteText::new(&error.to_string()) }
}

fn in_words(answer: &TxtAnswer) -> String {
    match answer {
        TxtAnswer::Usable(id) => format!("v=STSv1; id={id}"),
        TxtAnswer::Unusable(error) => error.to_string(),
        TxtAnswer::Failed(text) => text.to_string(),
    }
}

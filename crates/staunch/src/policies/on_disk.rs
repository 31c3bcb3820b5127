//! A thousand sequences of look-ups on the real files, each broken off after any of its writes:
//! what is read back is what was written, and an `enforce` policy that was answered is either read
//! or missed.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use jiff::{SignedDuration, Timestamp};
use policy::clock::{ClockTrust, Moment};
use policy::sts::cache::{
    FetchFailure, FetchFailureKind, KeepSettings, LookUp, LookUpEffect, PolicyFile, Room, State,
    Stored, TxtAnswer, Verdict, Write, Written,
};
use policy::sts::{Id, RecordError};
use smtp::{HostName, RemoteText};
use spool::{Enforced, Options, Spool, StoreError};

use super::rows;

const SEQUENCES: u64 = 1_000;
const LOOK_UPS: u64 = 3;
/// Sequences between two restarts.
const LIFE: u64 = 100;

/// The same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = BuildHasherDefault::<DefaultHasher>::default().hash_one(self.0);
        self.0 % count
    }
}

/// What one domain's files and memory should be.
#[derive(Default)]
struct Model {
    row: Option<State>,
    state: State,
    /// The last answer was an enforced policy that ends then.
    answered_until: Option<Timestamp>,
}

fn wait<T: Send + 'static>(begin: impl FnOnce(Box<dyn FnOnce(Result<T, StoreError>) + Send>)) -> T {
    let (done, answer) = std::sync::mpsc::channel();
    begin(Box::new(move |result| done.send(result).unwrap()));
    answer.recv().unwrap().unwrap()
}

fn read(spool: &Spool, domain: &HostName) -> State {
    let stored = rows::stored(spool.policies().get(domain).unwrap());
    let listed = rows::listed(spool.policies().enforced(domain).unwrap());
    let row = match stored {
        Stored::Row(state) => *state,
        Stored::Absent => State::default(),
        Stored::Damaged => panic!("{domain}: nobody damaged it"),
    };
    State { listed, ..row }
}

fn write(spool: &Spool, domain: &HostName, write: Write, state: &State) {
    let policies = spool.policies();
    match write {
        Write::List(entry) => {
            let entry = Enforced { fetched_at: entry.fetched_at, expires_at: entry.expires_at };
            wait(|done| policies.put_enforced(domain.clone(), entry, done));
        }
        Write::Replace | Write::Note => {
            wait(|done| policies.put(rows::row_of(domain, state), done));
        }
        Write::Unlist => wait(|done| policies.remove_enforced(domain.clone(), done)),
    }
}

fn body(random: &mut Random) -> String {
    let mode = ["enforce", "enforce", "testing", "none"][usize::try_from(random.below(4)).unwrap()];
    let days = random.below(3) * 7;
    format!(
        "version: STSv1\nmode: {mode}\nmx: mx{}.test\nmax_age: {}\n",
        random.below(2),
        days * 86_400
    )
}

fn answer(random: &mut Random) -> TxtAnswer {
    match random.below(4) {
        0 => TxtAnswer::Unusable(RecordError::NoRecord),
        1 => TxtAnswer::Failed(RemoteText::new("SERVFAIL")),
        _ => TxtAnswer::Usable(Id::parse(&format!("v{}", random.below(3))).unwrap()),
    }
}

/// One look-up, broken off after any of its writes.
fn look_up(
    spool: &Spool,
    domain: &HostName,
    model: &mut Model,
    moment: Moment,
    random: &mut Random,
) {
    let stored = model.row.clone().map_or(Stored::Absent, |row| Stored::Row(Box::new(row)));
    let mut look_up = LookUp::for_mail(stored, model.state.listed, KeepSettings::default());
    let mut left = random.below(6);
    let mut effect = LookUpEffect::Ask;
    loop {
        effect = match effect {
            LookUpEffect::Ask => look_up.answered(&answer(random), moment),
            LookUpEffect::Fetch if random.below(3) > 0 => {
                let file = PolicyFile::read(body(random).as_bytes()).unwrap();
                look_up.fetched(Ok(file), Room::Free, moment)
            }
            LookUpEffect::Fetch => {
                let (kind, text) = (FetchFailureKind::Fetch, RemoteText::new("timed out"));
                look_up.fetched(Err(FetchFailure { kind, text }), Room::Free, moment)
            }
            LookUpEffect::Write(_) if left == 0 => break,
            LookUpEffect::Write(what) => {
                left -= 1;
                write(spool, domain, what, look_up.state());
                let state = look_up.state().clone();
                match what {
                    Write::List(entry) => model.state.listed = Some(entry),
                    Write::Unlist => model.state.listed = None,
                    Write::Replace | Write::Note => {
                        model.row = Some(State { fleeting: None, listed: None, ..state });
                    }
                }
                look_up.written(Written::Synced, moment)
            }
            LookUpEffect::Answer(verdict) => {
                model.answered_until = match verdict {
                    Verdict::Use(kept) if kept.is_enforced() => Some(kept.expires_at()),
                    Verdict::Use(_) => None,
                    Verdict::NoPolicy(_) | Verdict::Defer(_) => model.answered_until,
                };
                break;
            }
        };
    }
    let listed = model.state.listed;
    model.state = State { listed, ..model.row.clone().unwrap_or_default() };
}

#[test]
fn a_thousand_sequences_on_real_files_read_back_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Spool::open(dir.path(), Options::default()).unwrap();
    let mut spool = open();
    for seed in 0..SEQUENCES {
        if seed % LIFE == 0 {
            drop(spool);
            spool = open();
        }
        let mut random = Random(seed);
        let domain = HostName::parse(&format!("d{seed}.test")).unwrap();
        let mut model = Model::default();
        let mut now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        for _ in 0..LOOK_UPS {
            now += SignedDuration::from_hours(i64::try_from(1 + random.below(80)).unwrap());
            let clock =
                if random.below(4) == 0 { ClockTrust::Suspect } else { ClockTrust::Trusted };
            let moment = Moment { clock, ..Moment::undoubted(now) };
            look_up(&spool, &domain, &mut model, moment, &mut random);
            let state = read(&spool, &domain);
            assert_eq!(state, model.state, "seed {seed}");
            if model.answered_until.is_some_and(|end| now < end) {
                let is_read = state.live(moment).is_some_and(|kept| kept.is_enforced());
                let replaced = state.kept.as_ref().is_some_and(|kept| !kept.is_enforced());
                assert!(is_read || replaced || state.is_lost(moment), "seed {seed}: {state:?}");
            }
        }
    }
}

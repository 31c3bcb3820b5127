//! The rules of keeping, as stories about one domain: what DNS says, what HTTPS gives, what holds.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::state::DNS_RETRY;
use super::*;
use crate::vectors::{self, VectorRow};

const MINUTE: Duration = Duration::from_secs(60);

const V1: &str = "version: STSv1\nmode: enforce\nmx: mx1.example\nmax_age: 604800\n";
const V1_FOR_A_YEAR: &str = "version: STSv1\nmode: enforce\nmx: mx1.example\nmax_age: 31557600\n";
const V2: &str = "version: STSv1\nmode: enforce\nmx: mx2.example\nmax_age: 604800\n";
const NONE: &str = "version: STSv1\nmode: none\nmax_age: 86400\n";
const FLEETING: &str = "version: STSv1\nmode: enforce\nmx: mx0.example\nmax_age: 0\n";

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// One domain, our clock, and how often its policy host was asked.
struct Domain {
    state: State,
    moment: Moment,
    settings: KeepSettings,
    txt: TxtAnswer,
    https: Result<&'static str, FetchFailure>,
    gets: usize,
    alarms: Vec<Alarm>,
}

fn http_500() -> Result<&'static str, FetchFailure> {
    let text = RemoteText::new("status 500");
    Err(FetchFailure { kind: FetchFailureKind::Fetch, text })
}

fn no_record() -> TxtAnswer {
    TxtAnswer::Unusable(RecordError::NoRecord)
}

fn servfail() -> TxtAnswer {
    TxtAnswer::Failed(RemoteText::new("SERVFAIL"))
}

impl Domain {
    fn unknown() -> Self {
        Self {
            state: State::default(),
            moment: Moment::undoubted(start()),
            settings: KeepSettings::default(),
            txt: no_record(),
            https: http_500(),
            gets: 0,
            alarms: Vec::new(),
        }
    }

    /// With `body` fetched as `v1` an hour ago and still announced.
    fn with(body: &'static str) -> Self {
        let mut domain = Self::unknown().txt("v1").https(body);
        assert!(matches!(domain.mail(), Verdict::Use(_)));
        domain.gets = 0;
        domain.wait(HOUR);
        domain.https = http_500();
        domain
    }

    fn txt(mut self, name: &str) -> Self {
        self.txt = TxtAnswer::Usable(id(name));
        self
    }

    fn answer(mut self, answer: TxtAnswer) -> Self {
        self.txt = answer;
        self
    }

    fn https(mut self, body: &'static str) -> Self {
        self.https = Ok(body);
        self
    }

    fn expired(mut self) -> Self {
        self.wait(30 * DAY);
        self
    }

    fn wait(&mut self, by: Duration) {
        self.moment.now = later(self.moment.now, by);
    }

    fn mail(&mut self) -> Verdict {
        let step = self.state.plan(&self.txt, self.moment, &self.settings);
        self.alarms.extend(step.alarm);
        match step.decision {
            Plan::Decided(verdict) => verdict,
            Plan::Fetch { id } => self.fetch(id),
        }
    }

    fn fetch(&mut self, id: Id) -> Verdict {
        self.gets += 1;
        let fetched = self.https.clone();
        let fetched = fetched.and_then(|body| Ok(PolicyFile::read(body.as_bytes())?));
        let step = self.state.after_fetch(id, fetched, self.moment, &self.settings);
        self.alarms.extend(step.alarm);
        step.decision
    }

    fn refresh(&mut self) -> Verdict {
        let kept = self.state.kept.clone().expect("a policy to refresh");
        self.fetch(kept.id().clone())
    }

    fn kept(&self) -> (&str, &str) {
        let kept = self.state.kept.as_ref().expect("a kept policy");
        (kept.id().as_str(), kept.body())
    }

    /// Saves and loads as the store does, and forgets what it does not save.
    fn restart(&mut self) {
        let kept = self.state.kept.take().map(|kept| {
            let read =
                CachedPolicy::new(kept.id().clone(), kept.body().as_bytes(), kept.fetched_at());
            read.unwrap().until_at_least(kept.expires_at()).into()
        });
        self.state = State {
            kept,
            fleeting: None,
            recent: State::recent_from_text(&self.state.recent_to_text()),
            alarms: State::alarms_from_text(&self.state.alarms_to_text()),
            ..self.state.clone()
        };
    }
}

#[track_caller]
fn assert_uses(verdict: &Verdict, body: &str) {
    let Verdict::Use(kept) = verdict else { panic!("no policy is used: {verdict:?}") };
    assert_eq!(kept.body(), body);
}

#[track_caller]
fn assert_none(verdict: &Verdict) {
    assert!(matches!(verdict, Verdict::NoPolicy(_)), "{verdict:?}");
}

#[track_caller]
fn assert_deferred(verdict: &Verdict, until: Timestamp, reason: &str) {
    let Verdict::Defer(deferral) = verdict else { panic!("not deferred: {verdict:?}") };
    assert_eq!((deferral.until, deferral.cause.reason()), (until, reason));
}

/// A live v1, and something wrong with every way to a newer one: v1 stays, under its own id.
fn keeps_v1(mut domain: Domain, gets: usize, alarm: Option<Alarm>) {
    for _ in 0..6 {
        assert_uses(&domain.mail(), V1);
        domain.wait(Duration::from_secs(10));
    }
    assert_eq!(domain.gets, gets);
    assert_eq!(domain.kept(), ("v1", V1));
    assert_eq!(domain.alarms, Vec::from_iter(alarm), "raised once");
}

/// Rows that are about connections and routes, not about the rules of keeping: shown by the tests
/// of `admit`, and end to end.
const ELSEWHERE: [&str; 4] = ["S037", "S038", "S039", "S043"];

#[test]
fn every_cache_vector_holds() {
    for VectorRow { id, cells } in vectors::rows("cache.tsv") {
        if !ELSEWHERE.contains(&id.as_str()) {
            vector(&id, &cells.join(", "));
        }
    }
}

fn vector(row: &str, text: &str) {
    match row {
        "S002" | "S004" | "S005" | "S006" => first_contact(row),
        "S008" => {
            let mut domain = Domain::with(V1).txt("v1").https(V2);
            let expires = domain.state.kept.as_ref().unwrap().expires_at();
            assert_uses(&domain.mail(), V1);
            assert_eq!(domain.gets, 0);
            assert_eq!(domain.state.kept.unwrap().expires_at(), expires);
        }
        "S012" => keeps_v1(Domain::with(V1).answer(servfail()), 0, None),
        "S013" => {
            let two = TxtAnswer::Unusable(RecordError::Several { count: 2 });
            keeps_v1(Domain::with(V1).answer(two), 0, Some(Alarm::RecordGone));
        }
        "S014" => {
            let bad = crate::sts::parse_txt(&[b"v=STSv1; ext=1".to_vec()]).into();
            keeps_v1(Domain::with(V1).answer(bad), 0, Some(Alarm::RecordGone));
        }
        "S015" | "S017" => keeps_v1(Domain::with(V1).txt("v2"), 1, Some(Alarm::FetchFailing)),
        "S018" => {
            let mut domain = Domain::with(V1).txt("v2");
            assert_uses(&domain.mail(), V1);
            let mut domain = domain.txt("v3").https(V2);
            assert_uses(&domain.mail(), V2);
            assert_eq!((domain.gets, domain.kept().0), (2, "v3"));
        }
        "S019" => {
            let body = "version: STSv1\nmx: mx2.example\nmax_age: 604800\n";
            let mut domain = Domain::with(V1).txt("v2").https(body);
            assert_uses(&domain.mail(), V1);
            assert_eq!(domain.kept(), ("v1", V1));
            assert_eq!(domain.alarms, [Alarm::FetchFailing]);
        }
        "S022" | "S023" | "S027" | "S028" => replacement(row),
        "S024" => {
            let mut domain = Domain::with(V1).expired().txt("v1").https(V2);
            assert_uses(&domain.mail(), V2);
            assert_eq!((domain.gets, domain.kept()), (1, ("v1", V2)));
        }
        "S026" => {
            let mut domain = Domain::with(V1).expired().answer(no_record());
            assert_none(&domain.mail());
            assert_eq!(domain.gets, 0);
        }
        "S029" | "S030" | "S031" | "S034" => stored(row),
        "S035" => {
            let mut domain = Domain::with(V1).txt("v2").https(NONE);
            assert_uses(&domain.mail(), NONE);
        }
        "S040" => {
            let dotted = smtp::HostName::parse("good.loc.");
            assert_eq!(dotted, smtp::HostName::parse("good.loc"), "the key of a domain");
        }
        "S041" => assert!(smtp::HostName::parse(".good.loc").is_err(), "asks for no domain"),
        "S036" => keeps_v1(Domain::with(V1).txt("v1"), 0, None),
        other => panic!("no test for {other}: {text}"),
    }
}

/// Where the row says "no policy" at once, the decision is one retry after five minutes first.
fn first_contact(row: &str) {
    let mut domain = Domain::unknown();
    if row == "S002" {
        assert_none(&domain.mail());
        assert_eq!(domain.gets, 0);
        return;
    }
    domain = domain.txt("v1");
    let retry = later(start(), FETCH_BACKOFF);
    assert_deferred(&domain.mail(), retry, "policy_fetch_failed");
    domain.wait(Duration::from_secs(299));
    assert_deferred(&domain.mail(), retry, "policy_fetch_failed");
    assert_eq!(domain.gets, 1, "backed off for at least five minutes");
    if row == "S006" {
        domain = domain.txt("v2").https(V2);
        assert_uses(&domain.mail(), V2);
        assert_eq!(domain.gets, 2, "another id is fetched at once");
        return;
    }
    domain.wait(Duration::from_secs(1));
    assert_none(&domain.mail());
    assert_eq!((domain.gets, &*domain.alarms), (2, &[Alarm::FetchFailing][..]));
    assert_none(&domain.mail());
    assert_eq!(domain.gets, 2, "still backed off, and mail goes");
}

fn stored(row: &str) {
    match row {
        "S029" => {
            let mut domain = Domain::with(V1).answer(servfail());
            domain.restart();
            assert_uses(&domain.mail(), V1);
        }
        "S030" | "S031" => {
            assert!(CachedPolicy::new(id("v1"), b"{", start()).is_err());
            assert!(
                CachedPolicy::new(id("v1"), V1.replace("enforce", "on").as_bytes(), start())
                    .is_err()
            );
            let mut domain = Domain { state: lost(), ..Domain::unknown().txt("v1").https(V1) };
            assert_uses(&domain.mail(), V1);
            assert_eq!(domain.gets, 1);
        }
        _ => {
            let body = V1.replace("604800", "31557600");
            let kept = CachedPolicy::new(id("v1"), body.as_bytes(), start()).unwrap();
            assert_eq!(kept.expires_at().as_second() - start().as_second(), 31_557_600);
        }
    }
}

fn replacement(row: &str) {
    match row {
        "S022" => {
            let mut domain = Domain::with(V1).txt("v2").https(NONE);
            assert_uses(&domain.mail(), NONE);
            assert_eq!(domain.kept(), ("v2", NONE));
        }
        "S023" => {
            let twice = "version: STSv1\nmode: enforce\nmx: mx1.example\nmax_age: 60\nmode: none\n";
            let mut domain = Domain::with(V1).txt("v2").https(twice);
            let Verdict::Use(kept) = domain.mail() else { panic!() };
            assert_eq!(kept.policy().mode(), Mode::Enforce);
        }
        "S027" => {
            let mut domain = Domain::with(NONE).answer(no_record());
            assert_uses(&domain.mail(), NONE);
            domain.wait(DAY);
            assert_none(&domain.mail());
            assert_eq!(domain.alarms, [], "a removal in good order is no alarm");
        }
        _ => {
            let mut domain = Domain::with(V1).https(V2);
            assert_uses(&domain.refresh(), V2);
            assert_uses(&domain.mail(), V2);
            assert_eq!(domain.kept(), ("v1", V2));
            let expires = domain.state.kept.as_ref().unwrap().expires_at();
            assert_eq!(expires, later(domain.moment.now, 7 * DAY), "counted from this fetch");
        }
    }
}

#[test]
fn a_policy_ends_at_its_last_second_and_not_while_the_clock_is_suspect() {
    let mut domain = Domain::with(V1).answer(servfail());
    let end = domain.state.kept.as_ref().unwrap().expires_at();
    let at = |seconds: i64| Timestamp::from_second(end.as_second() + seconds).unwrap();
    for (now, clock, live) in [
        (at(-1), ClockTrust::Trusted, true),
        (at(0), ClockTrust::Trusted, false),
        (at(0), ClockTrust::Suspect, true),
        (at(30 * 86_400), ClockTrust::Suspect, true),
        (at(-30 * 86_400), ClockTrust::Trusted, true), // the clock was set back
    ] {
        let moment = Moment { clock, ..Moment::undoubted(now) };
        assert_eq!(domain.state.live(moment).is_some(), live, "{moment:?}");
        domain.moment = moment;
        assert_eq!(matches!(domain.mail(), Verdict::Use(_)), live, "{moment:?}");
    }
}

#[test]
fn a_suspect_clock_fetches_but_forgets_nothing() {
    let mut domain = Domain::with(V1).txt("v1");
    domain.moment.now = domain.state.kept.as_ref().unwrap().expires_at();
    domain.moment.clock = ClockTrust::Suspect;
    assert_uses(&domain.mail(), V1);
    assert_eq!(domain.gets, 1);
    domain = domain.answer(no_record());
    assert_uses(&domain.mail(), V1);
    domain = domain.answer(servfail());
    assert_uses(&domain.mail(), V1);
    assert!(!domain.state.is_spent(domain.moment));
}

#[test]
fn dns_trouble_at_first_contact_delays_mail_for_a_bounded_time() {
    let mut domain = Domain::unknown().answer(servfail());
    let end = later(start(), 4 * HOUR);
    assert_deferred(&domain.mail(), later(start(), DNS_RETRY), "policy_dns_failure");
    domain.moment.now = later(end, Duration::ZERO).checked_sub(MINUTE).unwrap();
    assert_deferred(&domain.mail(), end, "policy_dns_failure");
    domain.restart();
    domain.moment.now = end;
    assert_none(&domain.mail());
    assert_none(&domain.mail());
    assert_eq!(std::mem::take(&mut domain.alarms), [Alarm::DnsFailing], "raised once");
    // Any conclusive answer ends it: the next failure begins anew, also as an alarm.
    let two = TxtAnswer::Unusable(RecordError::Several { count: 2 });
    for conclusive in [TxtAnswer::Usable(id("v1")), two] {
        domain = domain.answer(conclusive);
        domain.mail();
        assert_eq!(domain.state.dns_failing_since, None);
        assert!(domain.state.alarms.is_empty());
        domain = domain.answer(servfail());
        assert!(matches!(domain.mail(), Verdict::Defer(_)));
        domain.wait(4 * HOUR);
        assert_none(&domain.mail());
        assert_eq!(std::mem::take(&mut domain.alarms), [Alarm::DnsFailing]);
    }
}

#[test]
fn dns_trouble_is_short_where_there_was_no_record_lately() {
    for (age, cap) in [(6 * DAY, 15 * MINUTE), (8 * DAY, 4 * HOUR)] {
        let mut domain = Domain::unknown();
        assert_none(&domain.mail());
        domain.wait(age);
        domain = domain.answer(servfail());
        assert!(matches!(domain.mail(), Verdict::Defer(_)));
        domain.wait(cap.checked_sub(Duration::from_secs(1)).unwrap());
        assert!(matches!(domain.mail(), Verdict::Defer(_)), "{age:?}");
        domain.wait(Duration::from_secs(1));
        assert_none(&domain.mail());
    }
    // A malformed record is not "no record".
    let mut domain =
        Domain::unknown().answer(TxtAnswer::Unusable(RecordError::Several { count: 2 }));
    assert_none(&domain.mail());
    domain = domain.answer(servfail());
    domain.mail();
    domain.wait(HOUR);
    assert!(matches!(domain.mail(), Verdict::Defer(_)));
}

#[test]
fn the_operator_chooses_what_trouble_at_first_contact_does() {
    let mut lax = Domain::unknown().answer(servfail());
    lax.settings.dns_failure = OnFailure::Deliver;
    assert_none(&lax.mail());
    let mut strict = Domain::unknown().txt("v1");
    strict.settings.fetch_failure = OnFailure::Defer;
    for _ in 0..4 {
        let next = later(strict.moment.now, FETCH_BACKOFF);
        let Verdict::Defer(deferral) = strict.mail() else { panic!("the mail went") };
        assert!(deferral.until >= next);
        strict.wait(FETCH_BACKOFF);
    }
    assert_eq!(strict.gets, 4);
}

/// An `enforce` policy for a week was stored at the start, and cannot be read.
fn lost() -> State {
    let listed = Listed { fetched_at: start(), expires_at: later(start(), 7 * DAY) };
    State { listed: Some(listed), ..State::default() }
}

#[test]
fn mail_of_a_lost_policy_waits_whatever_dns_says_and_the_operator_chose() {
    let lax = KeepSettings {
        dns_failure: OnFailure::Deliver,
        fetch_failure: OnFailure::Deliver,
        ..KeepSettings::default()
    };
    let two = TxtAnswer::Unusable(RecordError::Several { count: 2 });
    for answer in [no_record(), two, servfail(), TxtAnswer::Usable(id("v1"))] {
        let unknown = Domain { state: lost(), settings: lax.clone(), ..Domain::unknown() };
        let mut domain = unknown.answer(answer);
        for _ in 0..30 {
            let Verdict::Defer(deferral) = domain.mail() else { panic!("{:?}", domain.txt) };
            assert_eq!(deferral.cause.reason(), "policy_lost");
            assert!(deferral.until > domain.moment.now);
            domain.wait(5 * HOUR);
        }
        assert!(domain.gets >= 30, "it is asked for all the same");
        assert_eq!(domain.alarms, [Alarm::PolicyLost], "raised once");
        assert!(!domain.state.is_spent(domain.moment));
        let mut found = Domain { state: domain.state.clone(), ..domain.https(V1) };
        assert_uses(&found.mail(), V1);
        assert!(found.state.alarms.is_empty());
    }
}

#[test]
fn a_lost_policy_ends_when_the_old_one_would_have_and_not_by_a_clock_in_doubt() {
    let end = later(start(), 7 * DAY);
    let at = |now, clock| Moment { clock, ..Moment::undoubted(now) };
    let mut domain = Domain { state: lost(), ..Domain::unknown() };
    domain.moment = at(end.checked_sub(MINUTE).unwrap(), ClockTrust::Trusted);
    assert!(matches!(domain.mail(), Verdict::Defer(_)));
    domain.moment = at(later(end, DAY), ClockTrust::Suspect);
    assert!(matches!(domain.mail(), Verdict::Defer(_)));
    domain.moment = at(end, ClockTrust::Trusted);
    assert_none(&domain.mail());
    assert!(domain.state.alarms.is_empty());
    let unreadable = State { listed: Some(Listed::UNREADABLE), ..State::default() };
    let mut domain = Domain { state: unreadable, ..Domain::unknown() };
    domain.wait(400 * DAY);
    assert!(matches!(domain.mail(), Verdict::Defer(_)), "until the operator forgets it");
}

#[test]
fn a_row_counts_in_place_of_a_lost_policy_only_if_it_is_as_new() {
    let listed = lost().listed;
    let kept = |body: &str, fetched_at| {
        Some(Arc::new(CachedPolicy::new(id("v1"), body.as_bytes(), fetched_at).unwrap()))
    };
    let before = start().checked_sub(DAY).unwrap();
    let moment = Moment::undoubted(later(start(), HOUR));
    for (kept, want) in [
        (kept(NONE, before), true),
        (kept(NONE, start()), false),
        (kept(V1, before), true),
        (kept(V1, start()), false),
        (kept(V1, start().checked_sub(8 * DAY).unwrap()), true),
        (None, true),
    ] {
        let state = State { kept, listed, ..State::default() };
        assert_eq!(state.is_lost(moment), want, "{:?}", state.kept);
        if want {
            assert_eq!(state.to_list(moment), listed, "an older row takes no place on the list");
        }
        assert_eq!(state.live(moment).is_none(), want);
    }
}

#[test]
fn a_fetch_by_a_clock_in_doubt_never_moves_the_end_back() {
    let brief = "version: STSv1\nmode: enforce\nmx: mx2.example\nmax_age: 60\n";
    for body in [brief, FLEETING, V2] {
        let mut domain = Domain::with(V1).https(body);
        let end = domain.state.kept.as_ref().unwrap().expires_at();
        domain.moment.clock = ClockTrust::Suspect;
        domain.refresh();
        let kept = domain.state.kept.clone().unwrap();
        assert_eq!(kept.body(), body);
        assert_eq!(kept.expires_at(), end.max(later(domain.moment.now, kept.policy().max_age())));
        domain.restart();
        assert_eq!(domain.state.kept.as_ref().unwrap().expires_at(), kept.expires_at());
        domain.moment.clock = ClockTrust::Trusted;
        domain.refresh();
        let ends = domain.state.kept.as_ref().map(|kept| kept.expires_at());
        let want = later(domain.moment.now, kept.policy().max_age());
        assert_eq!(ends, (body != FLEETING).then_some(want), "by a clock that is right it may");
    }
}

#[test]
fn a_policy_in_place_of_an_unreadable_entry_ends_as_it_says_by_a_clock_in_doubt_too() {
    let state = State { listed: Some(Listed::UNREADABLE), ..State::default() };
    let mut domain = Domain { state, ..Domain::unknown().txt("v1").https(V1) };
    domain.moment.clock = ClockTrust::Suspect;
    assert_uses(&domain.mail(), V1);
    assert_eq!(domain.state.kept.unwrap().expires_at(), later(start(), 7 * DAY));
}

#[test]
fn of_two_policies_fetched_at_the_same_time_it_is_known_which_is_newer() {
    let mut domain = Domain::with(V1).https(V1);
    domain.refresh();
    let first = domain.state.kept.clone().unwrap();
    domain.https = Ok(V2);
    domain.refresh();
    assert!(domain.state.kept.unwrap().fetched_at() > first.fetched_at());
}

#[test]
fn a_policy_in_place_of_one_lost_in_a_time_to_come_is_kept() {
    let ahead = later(start(), 40 * DAY);
    let listed = Some(Listed { fetched_at: ahead, expires_at: later(ahead, 7 * DAY) });
    let state = State { listed, ..State::default() };
    let mut domain = Domain { state, ..Domain::unknown().txt("v1").https(V1) };
    assert_uses(&domain.mail(), V1);
    let kept = domain.state.kept.clone().unwrap();
    assert!(kept.fetched_at() > ahead);
    assert_eq!(kept.expires_at(), later(start(), 7 * DAY));
    let due = domain.state.refresh_at(domain.moment, 0, &domain.settings);
    assert!(
        due.is_some_and(|at| at > later(start(), HOUR)),
        "it is asked for no more often than others"
    );
}

#[test]
fn a_policy_fetched_after_one_of_a_time_to_come_is_newer_and_refreshed_as_any() {
    let ahead = later(start(), 40 * DAY);
    let mut domain = Domain::with(V1).https(V1);
    domain.moment = Moment::undoubted(ahead);
    domain.refresh();
    let former = domain.state.kept.clone().unwrap();
    domain.moment = Moment::undoubted(later(start(), DAY));
    let due = domain.state.refresh_at(domain.moment, 0, &domain.settings);
    assert!(due.is_some_and(|at| at <= domain.moment.now), "its time is wrong");
    domain.https = Ok(V2);
    domain.refresh();
    let kept = domain.state.kept.clone().unwrap();
    assert_eq!(kept.body(), V2);
    assert!(kept.fetched_at() > former.fetched_at());
    let due = domain.state.refresh_at(domain.moment, 0, &domain.settings);
    assert!(due.is_some_and(|at| at > later(domain.moment.now, HOUR)), "no more often than others");
}

#[test]
fn what_is_marked_as_fetched_in_a_time_to_come_ends_by_a_failed_try_alone() {
    let ahead = later(start(), 40 * DAY);
    let listed = Some(Listed { fetched_at: ahead, expires_at: later(ahead, 7 * DAY) });
    let state = State { listed, ..State::default() };
    let mut domain = Domain { state, ..Domain::unknown().txt("v1").https(V1) };
    assert_uses(&domain.mail(), V1);
    domain.wait(8 * DAY);
    let mut domain = domain.answer(no_record());
    domain.https = http_500();
    assert_uses(&domain.mail(), V1);
    let due = domain.state.refresh_at(domain.moment, 0, &domain.settings);
    assert!(due.is_some_and(|at| at <= domain.moment.now), "it is tried at once");
    domain.refresh();
    assert_none(&domain.mail());
}

#[test]
fn in_doubt_a_policy_holds_as_long_as_by_either_clock() {
    let mut domain = Domain::with(V1).https(V2);
    let latest = later(domain.moment.now, 3 * DAY);
    domain.moment = Moment { clock: ClockTrust::Suspect, latest, ..domain.moment };
    domain.refresh();
    assert_eq!(domain.state.kept.unwrap().expires_at(), later(latest, 7 * DAY));
}

#[test]
fn nothing_lapses_when_trust_returns_before_a_fetch_has_failed_since() {
    let trusted = later(start(), 40 * DAY);
    let now = Moment { trusted_since: trusted, ..Moment::undoubted(later(trusted, HOUR)) };
    let mut domain = Domain::with(V1).answer(no_record());
    domain.refresh();
    domain.moment = now;
    assert_uses(&domain.mail(), V1);
    let due = domain.state.refresh_at(now, 0, &domain.settings);
    assert!(due.is_some_and(|at| at <= now.now), "it is asked for, used lately or not");
    assert!(!domain.state.is_spent(now));
    domain.refresh();
    assert_none(&domain.mail());
    // What was fetched since goes by the clock alone.
    let mut domain = Domain { moment: now, ..Domain::unknown().txt("v1").https(V1) };
    domain.mail();
    domain = domain.expired().answer(no_record());
    assert_none(&domain.mail());
    let mut gone = Domain { state: lost(), moment: now, ..Domain::unknown() };
    assert!(matches!(gone.mail(), Verdict::Defer(_)), "so does what was lost");
    assert_none(&gone.mail());
    let mut dns = Domain::unknown().answer(servfail());
    dns.mail();
    dns.moment = now;
    assert!(matches!(dns.mail(), Verdict::Defer(_)), "and the time that DNS has failed");
    dns.wait(4 * HOUR);
    assert_none(&dns.mail());
}

#[test]
fn who_gets_mail_on_two_days_is_no_stranger() {
    let mut domain = Domain::with(V1).txt("v1");
    let usage = |domain: &Domain| domain.state.use_of(domain.moment);
    assert_eq!(usage(&domain), Use::Once);
    domain.wait(22 * HOUR);
    domain.mail();
    assert_eq!(usage(&domain), Use::Once);
    domain.wait(HOUR);
    domain.mail();
    assert_eq!(usage(&domain), Use::Regular);
    assert_eq!(usage(&Domain::with(NONE)), Use::Watched);
    assert_eq!(usage(&domain.expired()), Use::Nothing);
    assert_eq!(usage(&Domain::unknown()), Use::Nothing);
}

#[test]
fn a_domain_costs_four_fetches_an_hour_whatever_it_names() {
    let mut domain = Domain::with(V1);
    let names = ["a", "b", "c", "d", "e", "a", "f"];
    for name in names {
        domain = domain.txt(name);
        assert_uses(&domain.mail(), V1);
        domain.wait(Duration::from_secs(1));
    }
    assert_eq!(domain.gets, FETCHES_PER_HOUR);
    // The first of the four leaves the hour.
    domain.wait(HOUR - Duration::from_secs(7));
    assert_uses(&domain.mail(), V1);
    assert_eq!(domain.gets, FETCHES_PER_HOUR + 1);
    assert_uses(&domain.mail(), V1);
    assert_eq!(domain.gets, FETCHES_PER_HOUR + 1);
}

#[test]
fn a_wait_lasts_until_a_fetch_is_really_allowed() {
    let mut domain = Domain::unknown();
    domain.settings.fetch_failure = OnFailure::Defer;
    for name in ["a", "b", "c"] {
        domain = domain.txt(name);
        assert_deferred(&domain.mail(), later(start(), FETCH_BACKOFF), "policy_fetch_failed");
    }
    // The fourth uses up the hour, and its own back-off ends long before.
    domain = domain.txt("d");
    assert_deferred(&domain.mail(), later(start(), HOUR), "policy_fetch_failed");
    assert_deferred(&domain.mail(), later(start(), HOUR), "policy_fetch_failed");
    assert_eq!(domain.gets, 4);
}

#[test]
fn a_success_ends_the_count_of_failures() {
    let mut domain = Domain::unknown().txt("v1");
    domain.mail();
    domain.wait(FETCH_BACKOFF);
    domain = domain.https(V1);
    assert_uses(&domain.mail(), V1);
    domain = domain.expired();
    domain.https = http_500();
    assert!(matches!(domain.mail(), Verdict::Defer(_)), "a first contact with its retry");
}

#[test]
fn failures_are_remembered_for_each_id() {
    let mut domain = Domain::with(V1);
    for (name, gets) in [("a", 1), ("b", 2), ("a", 2), ("b", 2)] {
        domain = domain.txt(name);
        domain.mail();
        assert_eq!(domain.gets, gets, "{name}");
    }
    domain.restart();
    domain.mail();
    assert_eq!(domain.gets, 2, "also after a restart");
    domain.wait(FETCH_BACKOFF);
    domain.mail();
    assert_eq!(domain.gets, 3);
}

#[test]
fn max_age_zero_holds_for_the_mail_that_asked() {
    let mut domain = Domain::unknown().txt("v1").https(FLEETING);
    for gets in [1, 2, 3, 4, 4] {
        assert_uses(&domain.mail(), FLEETING);
        assert_eq!((domain.gets, &domain.state.kept), (gets, &None));
    }
    // Without a fetch it holds only while the record names it and the hour lasts.
    let mut other = Domain { state: domain.state.clone(), ..Domain::unknown().txt("v2") };
    assert!(matches!(other.mail(), Verdict::Defer(_)));
    let mut gone = Domain { state: domain.state.clone(), ..Domain::unknown() };
    assert_none(&gone.mail());
    domain.wait(HOUR);
    domain.https = http_500();
    assert!(matches!(domain.mail(), Verdict::Defer(_)), "fetched again, and failed");
    // It also replaces what was kept.
    let mut replaced = Domain::with(V1).txt("v2").https(FLEETING);
    assert_uses(&replaced.mail(), FLEETING);
    assert_eq!(replaced.state.kept, None);
}

#[test]
fn refresh_comes_daily_while_mail_uses_the_policy() {
    let mut domain = Domain::with(V1);
    let fetched = domain.state.kept.as_ref().unwrap().fetched_at();
    let due =
        |domain: &Domain, jitter| domain.state.refresh_at(domain.moment, jitter, &domain.settings);
    assert_eq!(due(&domain, 0), Some(later(fetched, DAY)));
    assert_eq!(due(&domain, 255), Some(later(fetched, 21 * HOUR)));
    domain.wait(DAY);
    // Whatever the record says: the refresh asks nobody.
    assert_uses(&domain.refresh(), V1);
    let failed_at = domain.moment.now;
    for minutes in [5, 10, 20, 40] {
        assert_eq!(due(&domain, 0), Some(later(domain.moment.now, minutes * MINUTE)));
        domain.wait(minutes * MINUTE);
        domain.refresh();
        assert_eq!(domain.alarms.is_empty(), minutes == 5, "told at the third failure");
    }
    assert!(failed_at < domain.moment.now);
    assert_eq!(domain.alarms, [Alarm::RefreshFailing], "told once");
    domain.https = Ok(V1);
    domain.refresh();
    assert!(domain.state.alarms.is_empty());
    assert_eq!(domain.state.failed, None);
    assert_eq!(due(&domain, 0), Some(later(domain.moment.now, DAY)));
}

#[test]
fn refresh_stops_for_policies_that_nobody_uses_or_that_ended() {
    let mut domain = Domain::with(V1_FOR_A_YEAR);
    let due = |domain: &Domain| domain.state.refresh_at(domain.moment, 0, &domain.settings);
    domain.wait(29 * DAY);
    assert!(due(&domain).is_some());
    domain.wait(DAY);
    assert_eq!(due(&domain), None, "no mail for 30 days");
    domain.mail();
    assert!(due(&domain).is_some());
    domain.wait(366 * DAY);
    domain.state.last_used_at = Some(domain.moment.now);
    assert_eq!(due(&domain), None, "expired");
    assert_eq!(due(&Domain::unknown()), None);
}

#[test]
fn short_lived_policies_are_refreshed_at_half_their_life() {
    for (max_age, minutes) in [(60, 30), (3_600, 30), (14_400, 120), (604_800, 24 * 60)] {
        let body = V1.replace("604800", &max_age.to_string());
        let kept = CachedPolicy::new(id("v1"), body.as_bytes(), start()).unwrap();
        let state = State { kept: Some(kept.into()), ..State::default() };
        let moment = Moment::undoubted(start());
        let due = state.refresh_at(moment, 0, &KeepSettings::default());
        assert_eq!(due, Some(later(start(), minutes * MINUTE)), "{max_age}");
    }
}

#[test]
fn what_a_clock_that_was_ahead_wrote_does_not_hold_us_up() {
    let mut domain = Domain::with(V1).txt("v2");
    domain.wait(40 * DAY);
    domain.moment.clock = ClockTrust::Suspect;
    domain.mail();
    domain.https = Ok(V2);
    domain.refresh();
    domain.https = http_500();
    domain.mail();
    domain.moment = Moment::undoubted(later(start(), 2 * HOUR));
    // Back-off and refresh count from a time to come; neither waits for it.
    assert!(domain.state.may_fetch(&id("v2"), domain.moment.now));
    let due = domain.state.refresh_at(domain.moment, 0, &domain.settings);
    assert_eq!(due, Some(domain.moment.now));
    let mut half_an_hour = Domain::with(V1).txt("v2");
    half_an_hour.mail();
    let back = half_an_hour.moment.now.checked_sub(30 * MINUTE).unwrap();
    assert!(half_an_hour.state.may_fetch(&id("v2"), back));
    let mut dns = Domain::unknown().answer(servfail());
    dns.state.dns_failing_since = Some(later(start(), 30 * DAY));
    assert!(matches!(dns.mail(), Verdict::Defer(_)));
    assert_eq!(dns.state.dns_failing_since, Some(start()));
}

#[test]
fn alarms_end_with_their_cause_and_are_raised_anew() {
    let testing = "version: STSv1\nmode: testing\nmx: mx1.example\nmax_age: 604800\n";
    let mut domain = Domain::with(testing);
    let raised = |domain: &mut Domain| {
        domain.mail();
        std::mem::take(&mut domain.alarms)
    };
    domain = domain.answer(no_record());
    assert_eq!(raised(&mut domain), [Alarm::RecordGone]);
    assert_eq!(raised(&mut domain), []);
    domain = domain.txt("v2");
    assert_eq!(raised(&mut domain), [Alarm::FetchFailing]);
    assert_eq!(domain.state.alarms, BTreeSet::from([Alarm::FetchFailing]));
    domain = domain.txt("v1");
    assert_eq!(raised(&mut domain), []);
    assert!(domain.state.alarms.is_empty(), "the record names what is kept");
    domain = domain.answer(no_record());
    assert_eq!(raised(&mut domain), [Alarm::RecordGone]);
    domain.wait(30 * DAY);
    assert_eq!(raised(&mut domain), []);
    assert!(domain.state.alarms.is_empty(), "nothing is kept any more");
}

#[test]
fn a_record_ends_the_memory_of_none_and_none_ends_the_count_of_failures() {
    let mut domain = Domain::unknown();
    assert_none(&domain.mail());
    assert!(domain.state.none_seen_at.is_some());
    domain = domain.txt("v1");
    assert!(matches!(domain.mail(), Verdict::Defer(_)));
    assert_eq!(domain.state.none_seen_at, None);
    assert_eq!(domain.state.first_fetch_failures, 1);
    assert_eq!(domain.state.last_used_at, Some(start()), "mail wants the policy");
    domain = domain.answer(no_record());
    assert_none(&domain.mail());
    domain.wait(FETCH_BACKOFF);
    domain = domain.txt("v1");
    assert!(matches!(domain.mail(), Verdict::Defer(_)), "a first contact again");
    domain.wait(FETCH_BACKOFF);
    assert_none(&domain.mail());
    assert_eq!(domain.state.alarms, BTreeSet::from([Alarm::FetchFailing]));
    domain = domain.answer(no_record());
    domain.mail();
    assert!(domain.state.alarms.is_empty(), "nothing is to be fetched any more");
}

#[test]
fn refresh_slows_down_to_its_regular_interval_and_no_further() {
    let mut domain = Domain::with(V1_FOR_A_YEAR);
    for _ in 0..40 {
        let due = domain.state.refresh_at(domain.moment, 0, &domain.settings).unwrap();
        assert!(due <= later(domain.moment.now, DAY));
        domain.moment.now = due.max(domain.moment.now);
        domain.state.last_used_at = Some(domain.moment.now);
        domain.refresh();
    }
    let due = domain.state.refresh_at(domain.moment, 0, &domain.settings);
    assert_eq!(due, Some(later(domain.moment.now, DAY)));
}

#[test]
fn the_mode_none_raises_no_alarms() {
    let mut domain = Domain::with(NONE).txt("v2");
    assert_uses(&domain.mail(), NONE);
    for _ in 0..5 {
        domain.refresh();
    }
    assert_eq!(domain.alarms, []);
}

#[test]
fn rows_are_spent_long_after_their_policy_and_never_when_a_policy_was_lost() {
    let mut domain = Domain::with(V1);
    domain.wait(36 * DAY);
    assert!(!domain.state.is_spent(domain.moment), "the clock may be wrong");
    domain.wait(2 * DAY);
    assert!(domain.state.is_spent(domain.moment));
    domain.moment.clock = ClockTrust::Suspect;
    assert!(!domain.state.is_spent(domain.moment));
    let now = Moment::undoubted(start());
    assert!(State::default().is_spent(now));
    assert!(!lost().is_spent(now));
    let fetch = RecentFetch { at: start(), id: id("a"), failed: true };
    let failed = FailedFetch { id: id("a"), at: start(), count: 1 };
    for recent in [
        State { none_seen_at: Some(start()), ..State::default() },
        State { dns_failing_since: Some(start()), ..State::default() },
        State { last_used_at: Some(start()), ..State::default() },
        State { recent: vec![fetch], ..State::default() },
        State { failed: Some(failed), ..State::default() },
    ] {
        assert!(!recent.is_spent(now), "{recent:?}");
        let later = Moment { now: later(start(), 31 * DAY), ..now };
        assert!(recent.is_spent(later), "{recent:?}");
    }
}

#[test]
fn marks_are_written_rarely() {
    let mut domain = Domain::unknown();
    domain.mail();
    assert_eq!(domain.state.last_used_at, None, "nothing to use");
    let before = domain.state.clone();
    domain.wait(23 * HOUR);
    domain.mail();
    assert_eq!(domain.state, before, "no row to write");
    domain.wait(HOUR);
    domain.mail();
    assert_ne!(domain.state, before);
    let mut domain = Domain::with(V1).answer(servfail());
    domain.mail();
    let before = domain.state.clone();
    domain.wait(59 * MINUTE);
    domain.mail();
    assert_eq!(domain.state, before);
    domain.wait(MINUTE);
    domain.mail();
    assert_eq!(domain.state.last_used_at, Some(domain.moment.now), "what is kept is used");
}

#[test]
fn the_forms_for_the_store_survive_and_junk_is_left_out() {
    let fetch = |second, name: &str, failed| RecentFetch {
        at: Timestamp::from_second(second).unwrap(),
        id: id(name),
        failed,
    };
    let recent = vec![fetch(1_772_000_000, "v1", false), fetch(-5, "v2", true)];
    let alarms = BTreeSet::from(Alarm::ALL);
    let state = State { recent: recent.clone(), alarms: alarms.clone(), ..State::default() };
    assert_eq!(State::recent_from_text(&state.recent_to_text()), recent);
    assert_eq!(State::alarms_from_text(&state.alarms_to_text()), alarms);
    for junk in ["", " ", "x", "1", "+", "-", "1+", "+a", "1+ü", "99999999999999999999+a", "1*a"] {
        assert_eq!(State::recent_from_text(junk), [], "{junk:?}");
        assert!(State::alarms_from_text(junk).is_empty());
    }
}

#[derive(Clone, Debug)]
enum Event {
    Usable(u8),
    NoRecord,
    ServFail,
    Refresh,
}

fn events() -> impl Strategy<Value = (Event, bool, u32)> {
    let event = prop_oneof![
        (0u8..3).prop_map(Event::Usable),
        Just(Event::NoRecord),
        Just(Event::ServFail),
        Just(Event::Refresh),
    ];
    (event, any::<bool>(), 0u32..20_000)
}

proptest! {
    /// The promise: whatever DNS and HTTPS do, mail never goes without a policy that has not
    /// expired, and no hour sees more than four fetches.
    #[test]
    fn an_unexpired_policy_always_holds(story in prop::collection::vec(events(), 1..40)) {
        let mut domain = Domain::with(V1);
        let mut gets_at = Vec::new();
        for (event, https_works, seconds) in story {
            domain.wait(Duration::from_secs(seconds.into()));
            domain.https = if https_works { Ok(V2) } else { http_500() };
            let now = domain.moment.now;
            let live = domain.state.live(domain.moment).is_some();
            let before = domain.gets;
            let verdict = match event {
                Event::Refresh => {
                    let due = domain.state.refresh_at(domain.moment, 0, &domain.settings);
                    if due.is_none_or(|due| due > now) {
                        continue;
                    }
                    domain.refresh()
                }
                Event::Usable(n) => { domain = domain.txt(&format!("v{n}")); domain.mail() }
                Event::NoRecord => { domain = domain.answer(no_record()); domain.mail() }
                Event::ServFail => { domain = domain.answer(servfail()); domain.mail() }
            };
            prop_assert!(domain.state.recent.len() <= FETCHES_PER_HOUR);
            prop_assert!(!live || matches!(verdict, Verdict::Use(_)), "{verdict:?}");
            if let Verdict::Defer(deferral) = &verdict {
                prop_assert!(deferral.until > now && deferral.until <= later(now, HOUR));
            }
            gets_at.extend((before..domain.gets).map(|_| now));
            let hour_ago = now.checked_sub(HOUR).unwrap();
            prop_assert!(gets_at.iter().filter(|at| **at > hour_ago).count() <= FETCHES_PER_HOUR);
        }
    }
}

use std::net::IpAddr;

use smtp::HostName;

use super::*;

const START: i64 = 1_800_000_000;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Wall seconds relative to the start, CLOCK_BOOTTIME in seconds.
fn at(wall: i64, boottime: u64) -> ClockReading {
    ClockReading { wall: stamp(wall), boottime: Duration::from_secs(boottime) }
}

fn stamp(wall: i64) -> Timestamp {
    Timestamp::from_second(START + wall).unwrap()
}

fn seconds(n: i64) -> SignedDuration {
    SignedDuration::from_secs(n)
}

fn boot(n: u8) -> Option<BootId> {
    Some(BootId::parse(&format!("{n:032x}")).unwrap())
}

/// Started for the first time at second 0, in boot 1.
fn fresh() -> Judge {
    let mut judge = Judge::start(at(0, 0), boot(1), LastMark::Never);
    assert_eq!(judge.look(at(0, 0)), ClockChange::None);
    judge
}

/// The next life: what the last one knew at `end` is on the disk.
fn restarted(
    mut judge: Judge,
    end: ClockReading,
    begin: ClockReading,
    in_boot: Option<BootId>,
) -> Judge {
    judge.mark_was_lost();
    let text = judge.due_mark(end).unwrap().to_string();
    Judge::start(begin, in_boot, LastMark::Whole(text.parse().unwrap()))
}

fn is_suspect(judge: &Judge) -> bool {
    judge.moment(at(0, 0)).clock == ClockTrust::Suspect
}

fn witness(domain: &str, address: &str, date: i64) -> Witness {
    Witness {
        domain: HostName::parse(domain).unwrap(),
        address: address.parse::<IpAddr>().unwrap(),
        known_since: stamp(-7 * DAY),
        date: stamp(date),
    }
}

#[test]
fn a_step_of_more_than_an_hour_is_suspect_and_drift_is_not() {
    let cases = [
        (at(60, 60), false),
        (at(60 + HOUR, 60), false),
        (at(60 + HOUR + 1, 60), true),
        (at(60 - HOUR, 60), false),
        (at(60 - HOUR - 1, 60), true),
        (at(30 * DAY, 60), true),
    ];
    for (reading, want) in cases {
        let mut judge = fresh();
        judge.look(reading);
        assert_eq!(is_suspect(&judge), want, "{reading:?}");
    }
}

#[test]
fn small_steps_do_not_add_up_to_a_large_one_unseen() {
    let mut judge = fresh();
    judge.look(at(60 + HOUR / 2, 60));
    judge.look(at(120 + HOUR, 120));
    assert!(!is_suspect(&judge));
    judge.look(at(180 + HOUR + HOUR / 2, 180));
    assert!(is_suspect(&judge));
}

/// A doubt that ends by agreement, and a restart, must not give the next step another hour.
#[test]
fn no_doubt_and_no_restart_begins_the_comparison_anew() {
    let mut judge = fresh();
    judge.look(at(2 * HOUR, 60));
    assert_eq!(
        judge.look(at(120 + HOUR - 1, 120)),
        ClockChange::BecameTrusted(TrustedBy::Agreement)
    );
    let mut judge = restarted(judge, at(120 + HOUR - 1, 120), at(180 + HOUR - 1, 180), boot(1));
    judge.look(at(180 + HOUR - 1, 180));
    assert!(!is_suspect(&judge));
    judge.look(at(240 + HOUR + 1, 240));
    assert!(is_suspect(&judge));
}

#[test]
fn honest_drift_never_becomes_a_step() {
    let mut judge = fresh();
    for day in 1..400 {
        let wall = day * (DAY + 30 * 60);
        assert_eq!(
            judge.look(at(wall, u64::try_from(day * DAY).unwrap())),
            ClockChange::None,
            "{day}"
        );
    }
}

#[test]
fn within_one_boot_a_pause_is_known_exactly() {
    for (wall, want) in [
        (40 * DAY, false),
        (40 * DAY + HOUR, false),
        (40 * DAY + HOUR + 1, true),
        (40 * DAY - HOUR - 1, true),
        (60, true),
    ] {
        let begin = at(wall, 40 * 86_400);
        let mut judge = restarted(fresh(), at(60, 60), begin, boot(1));
        judge.look(begin);
        assert_eq!(is_suspect(&judge), want, "{wall}");
        let moment = judge.moment(begin);
        let now = if want { stamp(40 * DAY) } else { stamp(wall) };
        assert_eq!(moment.now, now, "the steady time goes on through the pause");
    }
}

#[test]
fn after_a_reboot_a_day_ahead_may_be_a_pause_and_the_past_is_none() {
    let cases = [
        (0, false),
        (DAY, false),
        (DAY + 1, true),
        (-HOUR, false),
        (-HOUR - 1, true),
        (-30 * DAY, true),
    ];
    for (wall, want) in cases {
        for in_boot in [boot(2), None] {
            let begin = at(wall, 10);
            let mut judge = restarted(fresh(), at(0, 0), begin, in_boot);
            judge.look(begin);
            assert_eq!(is_suspect(&judge), want, "{wall}");
        }
    }
    // A machine set back to an earlier state has the same boot, at an earlier time of it.
    let mut judge = restarted(fresh(), at(HOUR, 3600), at(3 * HOUR, 60), boot(1));
    judge.look(at(3 * HOUR, 60));
    assert!(!is_suspect(&judge), "as after a pause of unknown length");
}

#[test]
fn pauses_over_reboots_add_up_until_witnesses_are_heard() {
    let reboots = |witnesses: bool| {
        let mut judge = fresh();
        let mut wall = 0;
        for n in 2..5 {
            let begin = at(wall + 9 * HOUR, 0);
            judge = restarted(judge, at(wall, 60), begin, boot(n));
            judge.look(begin);
            wall += 9 * HOUR + 60;
            if witnesses {
                for (domain, address) in
                    [("a.test", "192.0.2.1"), ("b.test", "192.0.2.2"), ("c.test", "192.0.2.3")]
                {
                    judge.hear(at(wall, 60), &witness(domain, address, wall));
                }
            }
        }
        is_suspect(&judge)
    };
    assert!(reboots(false), "27 hours");
    assert!(!reboots(true));
}

#[test]
fn doubt_ends_by_agreement_by_the_operator_or_after_a_day() {
    let doubting = || {
        let mut judge = fresh();
        let offset = seconds(30 * DAY - 60);
        assert_eq!(judge.look(at(30 * DAY, 60)), ClockChange::BecameSuspect(offset));
        judge
    };
    let mut judge = doubting();
    assert_eq!(judge.look(at(120, 120)), ClockChange::BecameTrusted(TrustedBy::Agreement));
    assert_eq!(judge.moment(at(120, 120)).trusted_since, stamp(120));

    let mut judge = doubting();
    let operator = ClockChange::BecameTrusted(TrustedBy::Operator);
    assert_eq!(judge.trust_by_operator(at(30 * DAY + 60, 120)), operator);
    assert_eq!(judge.moment(at(30 * DAY + 60, 120)).trusted_since, stamp(30 * DAY + 60));
    assert_eq!(judge.trust_by_operator(at(30 * DAY + 120, 180)), ClockChange::None);

    let mut judge = doubting();
    assert_eq!(judge.look(at(31 * DAY - 1, 86_400 + 59)), ClockChange::None);
    let time = ClockChange::BecameTrusted(TrustedBy::Time);
    assert_eq!(judge.look(at(31 * DAY, 86_400 + 60)), time);
    assert_eq!(judge.moment(at(31 * DAY, 86_400 + 60)).trusted_since, stamp(31 * DAY));
}

#[test]
fn the_time_goes_on_undisturbed_while_the_clock_is_suspect() {
    for step in [30 * DAY, -30 * DAY] {
        let mut judge = fresh();
        judge.look(at(60, 60));
        for second in 61..200 {
            let reading = at(second + step, u64::try_from(second).unwrap());
            judge.look(reading);
            let moment = judge.moment(reading);
            assert_eq!((moment.now, moment.clock), (stamp(second), ClockTrust::Suspect));
        }
    }
}

#[test]
fn only_three_independent_witnesses_who_agree_are_enough() {
    let good = [
        ("a.test", "192.0.2.1", 30 * DAY),
        ("b.test", "192.0.2.2", 30 * DAY),
        ("c.test", "192.0.2.3", 30 * DAY),
    ];
    let with = |index: usize, other: (&'static str, &'static str, i64)| {
        let mut witnesses = good.to_vec();
        witnesses[index] = other;
        witnesses
    };
    let both = [
        ("a.test", "2001:db8:1::1", 30 * DAY),
        ("b.test", "2001:db8:1::2", 30 * DAY),
        ("c.test", "2001:db8:2::1", 30 * DAY),
    ];
    let cases = [
        ("three", good.to_vec(), true),
        ("two", good[..2].to_vec(), false),
        ("one, often", [good[0]; 9].to_vec(), false),
        ("two below one registrable domain", with(2, ("x.b.test", "192.0.2.3", 30 * DAY)), false),
        ("two at one address", with(2, ("c.test", "192.0.2.2", 30 * DAY)), false),
        ("mapped is the same address", with(2, ("c.test", "::ffff:192.0.2.2", 30 * DAY)), false),
        ("one IPv6 network is one address", both.to_vec(), false),
        ("an hour off", with(2, ("c.test", "192.0.2.3", 30 * DAY + HOUR)), true),
        ("more than an hour off", with(2, ("c.test", "192.0.2.3", 30 * DAY + HOUR + 1)), false),
        ("another date", with(2, ("c.test", "192.0.2.3", 0)), false),
    ];
    for (what, witnesses, want) in cases {
        let mut judge = fresh();
        judge.look(at(30 * DAY, 0));
        for (domain, address, date) in witnesses {
            judge.hear(at(30 * DAY, 0), &witness(domain, address, date));
        }
        assert_eq!(!is_suspect(&judge), want, "{what}");
    }
}

#[test]
fn witnesses_that_differ_from_each_other_are_not_enough() {
    let mut judge = fresh();
    judge.look(at(30 * DAY, 0));
    let dates = [("a.test", "192.0.2.1", -HOUR), ("b.test", "192.0.2.2", 0)];
    for (domain, address, off) in dates {
        judge.hear(at(30 * DAY, 0), &witness(domain, address, 30 * DAY + off));
    }
    judge.hear(at(30 * DAY, 0), &witness("c.test", "192.0.2.3", 30 * DAY + 1));
    assert!(is_suspect(&judge), "a and c differ by more than an hour");
    let fourth = witness("d.test", "192.0.2.4", 30 * DAY - 1);
    let witnesses = ClockChange::BecameTrusted(TrustedBy::Witnesses);
    assert_eq!(judge.hear(at(30 * DAY, 0), &fourth), witnesses, "b, c and d agree");
}

#[test]
fn who_came_within_the_last_week_is_no_witness_whatever_the_wall_clock_says() {
    for (known_since, want) in [(-7 * DAY, true), (-7 * DAY + 1, false), (20 * DAY, false)] {
        let mut judge = fresh();
        judge.look(at(30 * DAY, 0));
        for (domain, address) in
            [("a.test", "192.0.2.1"), ("b.test", "192.0.2.2"), ("c.test", "192.0.2.3")]
        {
            let known_since = stamp(known_since);
            let witness = Witness { known_since, ..witness(domain, address, 30 * DAY) };
            judge.hear(at(30 * DAY, 0), &witness);
        }
        assert_eq!(!is_suspect(&judge), want, "{known_since}");
    }
}

/// What was said about an hour ago keeps its meaning, and what was said before the doubt has none.
#[test]
fn witnesses_speak_of_the_wall_clock_of_this_doubt() {
    let three = [("a.test", "192.0.2.1"), ("b.test", "192.0.2.2"), ("c.test", "192.0.2.3")];
    let mut judge = fresh();
    for (domain, address) in &three[..2] {
        judge.hear(at(0, 0), &witness(domain, address, 0));
    }
    judge.look(at(30 * DAY, 0));
    judge.hear(at(30 * DAY, 0), &witness("c.test", "192.0.2.3", 30 * DAY));
    assert!(is_suspect(&judge));

    let mut judge = fresh();
    judge.look(at(30 * DAY, 0));
    for (hour, (domain, address)) in (0..).zip(three) {
        let reading = at(30 * DAY + hour * 5 * HOUR, u64::try_from(hour * 5 * HOUR).unwrap());
        judge.hear(reading, &witness(domain, address, 30 * DAY + hour * 5 * HOUR));
    }
    assert!(!is_suspect(&judge), "hours apart, of one clock");
}

#[test]
fn a_doubt_outlives_restarts_and_its_day_goes_on() {
    let mut judge = fresh();
    judge.look(at(30 * DAY, 0));
    // Twelve hours later, in the same boot, of which six without a daemon.
    let mut judge = restarted(judge, at(30 * DAY, 6 * 3600), at(30 * DAY, 12 * 3600), boot(1));
    assert_eq!(judge.look(at(30 * DAY, 12 * 3600)), ClockChange::None, "it is no news");
    assert!(is_suspect(&judge));
    assert_eq!(judge.doubt_left(at(0, 12 * 3600)), Some(DOUBT_MAX / 2));
    // Another boot: how long the machine was off is not known, so that does not count.
    let mut judge = restarted(judge, at(30 * DAY, 12 * 3600), at(30 * DAY, 5), boot(2));
    assert_eq!(judge.look(at(30 * DAY, 5)), ClockChange::None);
    assert_eq!(judge.doubt_left(at(0, 5)), Some(DOUBT_MAX / 2));
    assert_eq!(judge.look(at(30 * DAY, 12 * 3600 + 4)), ClockChange::None);
    let time = ClockChange::BecameTrusted(TrustedBy::Time);
    assert_eq!(judge.look(at(30 * DAY, 12 * 3600 + 5)), time);
}

/// Twenty hours ahead would pass for a pause.
#[test]
fn a_reboot_does_not_make_a_step_a_pause() {
    let mut judge = fresh();
    judge.look(at(20 * HOUR, 60));
    assert!(is_suspect(&judge));
    let mut judge = restarted(judge, at(20 * HOUR, 60), at(20 * HOUR, 5), boot(2));
    assert_eq!(judge.look(at(20 * HOUR, 5)), ClockChange::None);
    assert!(is_suspect(&judge));
    let agreement = ClockChange::BecameTrusted(TrustedBy::Agreement);
    assert_eq!(judge.look(at(HOUR, 10)), agreement);
}

/// Otherwise each new boot would have another hour for nothing, ahead or behind.
#[test]
fn steps_before_a_reboot_count_like_pauses() {
    for by in [HOUR - 1, 1 - HOUR] {
        let mut judge = fresh();
        let mut suspect_at = None;
        for n in 1..30_u8 {
            // Two hours after the last reboot, ten seconds after another step.
            let begin = at(i64::from(n) * (2 * HOUR + by), 0);
            judge.look(at(i64::from(n) * (2 * HOUR + by) - 10, 7190));
            judge = restarted(
                judge,
                ClockReading { boottime: Duration::from_secs(7200), ..begin },
                begin,
                boot(n + 1),
            );
            judge.look(begin);
            if suspect_at.is_none() && is_suspect(&judge) {
                suspect_at = Some(n);
            }
        }
        assert_eq!(suspect_at, Some(25), "{by}");
    }
}

#[test]
fn when_trust_returned_is_known_after_a_restart() {
    let mut judge = fresh();
    judge.look(at(30 * DAY, 60));
    judge.trust_by_operator(at(30 * DAY, 60));
    let mut judge = restarted(judge, at(30 * DAY, 120), at(30 * DAY, 180), boot(1));
    judge.look(at(30 * DAY, 180));
    assert_eq!(judge.moment(at(30 * DAY, 180)).trusted_since, stamp(30 * DAY));
    assert!(!is_suspect(&judge), "the clock that was believed is the measure");
}

#[test]
fn the_mark_moves_by_steady_time_in_doubt_and_back_only_when_trust_returns() {
    let mut judge = fresh();
    assert_eq!(judge.due_mark(at(0, 0)).unwrap().time, stamp(0));
    assert_eq!(judge.due_mark(at(599, 599)), None);
    assert_eq!(judge.due_mark(at(600, 600)).unwrap().time, stamp(600));
    judge.look(at(30 * DAY, 660));
    let mark = judge.due_mark(at(30 * DAY, 660)).unwrap();
    assert_eq!((mark.time, mark.doubt), (stamp(660), Some(Duration::ZERO)));
    assert_eq!(judge.due_mark(at(30 * DAY, 719)), None);
    assert_eq!(judge.due_mark(at(30 * DAY, 720)).unwrap().time, stamp(720));
    judge.look(at(-30 * DAY, 780));
    judge.trust_by_operator(at(-30 * DAY, 780));
    assert_eq!(judge.due_mark(at(-30 * DAY, 780)).unwrap().time, stamp(-30 * DAY));
    judge.mark_was_lost();
    assert!(judge.due_mark(at(-30 * DAY, 780)).is_some());
}

#[test]
fn a_mark_of_an_earlier_release_is_the_time_before_a_pause_of_unknown_length() {
    for (time, want) in [(0, false), (-DAY, false), (-DAY - 1, true), (HOUR + 1, true)] {
        let mut judge = Judge::start(at(0, 60), boot(1), LastMark::Time(stamp(time)));
        judge.look(at(0, 60));
        assert_eq!(is_suspect(&judge), want, "{time}");
    }
}

#[test]
fn a_damaged_mark_is_a_doubt_that_nothing_can_agree_with() {
    let mut judge = Judge::start(at(0, 60), boot(1), LastMark::Damaged);
    judge.look(at(0, 60));
    assert!(is_suspect(&judge));
    let mut judge = restarted(judge, at(0, 60), at(0, 5), boot(2));
    judge.look(at(0, 5));
    assert!(is_suspect(&judge));
    for (domain, address) in
        [("a.test", "192.0.2.1"), ("b.test", "192.0.2.2"), ("c.test", "192.0.2.3")]
    {
        judge.hear(at(0, 5), &witness(domain, address, 0));
    }
    assert!(!is_suspect(&judge));
}

#[test]
fn a_mark_is_read_as_it_was_written_and_damage_is_seen() {
    let whole = Mark {
        time: stamp(0),
        boottime: Duration::from_millis(90_061),
        boot: boot(7),
        anchor: Anchor {
            wall: stamp(-5),
            boottime: Duration::from_millis(7),
            slack: Slack::Pause(seconds(9)),
        },
        gaps: seconds(100),
        trusted_since: stamp(-9),
        doubt: Some(Duration::from_secs(77)),
    };
    let slack = |slack| Mark { anchor: Anchor { slack, ..whole.anchor }, ..whole.clone() };
    let none = Mark { boot: None, trusted_since: Timestamp::MIN, doubt: None, ..whole.clone() };
    for mark in [whole.clone(), slack(Slack::Step), slack(Slack::Unknown), none] {
        let text = mark.to_string();
        assert_eq!(text.parse(), Ok(mark), "{text}");
        for cut in 0..text.len() {
            let (rest, lost) = text.split_at(cut);
            // Cut within the last number it is another number.
            if lost.contains(' ') {
                assert_eq!(rest.parse::<Mark>(), Err(BadMark), "{rest}");
            }
        }
    }
    let bad = [
        Mark { trusted_since: stamp(1), ..whole.clone() },
        Mark { anchor: Anchor { wall: stamp(1), ..whole.anchor }, ..whole.clone() },
        Mark { boottime: Duration::from_millis(6), ..whole.clone() },
    ];
    for mark in bad {
        assert_eq!(mark.to_string().parse::<Mark>(), Err(BadMark), "{mark}");
    }
    let text = whole.to_string();
    for bad in [text.replace("1 ", "2 "), text.replace('7', "x"), format!("{text} "), "0".into()] {
        assert_eq!(bad.parse::<Mark>(), Err(BadMark), "{bad}");
    }
}

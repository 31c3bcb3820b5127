//! Commands that are well formed beyond doubt mean the same to smtp-proto, another server's parser.
//!
//! Only such: of what is malformed, it accepts much that is refused here, and means to.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use proptest::prelude::*;
use smtp::Extension;
use smtp::ReversePath;
use smtp::command::{BodyKind, Command, FutureRelease, Mail, Offer, Rcpt, Recipient};
use smtp::params::{ByMode, Hold, Notify, Return};
use smtp_proto::{MailFrom, RcptTo, Request};

fn offer() -> Offer {
    [
        Extension::EightBitMime,
        Extension::SmtpUtf8,
        Extension::Dsn,
        Extension::RequireTls,
        Extension::Chunking,
    ]
    .into_iter()
    .fold(Offer::new(u64::MAX), Offer::with)
    .with_future_release(FutureRelease::new(999_999_999, "2026-12-24T18:00:00Z").unwrap())
    .with_deliver_by(0)
    .with(Extension::MtPriority)
}

fn ours(line: &str) -> Command {
    Command::parse(line.as_bytes(), offer()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn theirs(line: &str) -> Request<String> {
    let octets = format!("{line}\r\n").into_bytes();
    let request = Request::parse(&mut octets.iter());
    request.unwrap_or_else(|error| panic!("{line}: {error:?}")).into_owned()
}

/// What they say about MAIL, in our words.
fn mail_of(theirs: &MailFrom<String>) -> Mail {
    let is = |flag| theirs.flags & flag != 0;
    let by_mode = match (is(smtp_proto::MAIL_BY_RETURN), is(smtp_proto::MAIL_BY_NOTIFY)) {
        (true, _) => Some(ByMode::Return),
        (false, true) => Some(ByMode::Notify),
        (false, false) => None,
    };
    Mail {
        size: (theirs.size > 0).then_some(theirs.size as u64),
        body: match () {
            () if is(smtp_proto::MAIL_BODY_8BITMIME) => Some(BodyKind::EightBitMime),
            () if is(smtp_proto::MAIL_BODY_7BIT) => Some(BodyKind::SevenBit),
            () => None,
        },
        smtp_utf8: is(smtp_proto::MAIL_SMTPUTF8),
        require_tls: is(smtp_proto::MAIL_REQUIRETLS),
        ret: match () {
            () if is(smtp_proto::MAIL_RET_FULL) => Some(Return::Full),
            () if is(smtp_proto::MAIL_RET_HDRS) => Some(Return::Headers),
            () => None,
        },
        hold: (theirs.hold_for > 0).then_some(Hold::For(theirs.hold_for)),
        deliver_by: by_mode.map(|mode| smtp::params::DeliverBy {
            seconds: theirs.by,
            mode,
            trace: is(smtp_proto::MAIL_BY_TRACE),
        }),
        ..Mail::from(ReversePath::parse_utf8(&theirs.address).unwrap())
    }
}

fn notify_of(theirs: &RcptTo<String>) -> Option<Notify> {
    let is = |flag| theirs.flags & flag != 0;
    if is(smtp_proto::RCPT_NOTIFY_NEVER) {
        return Some(Notify::Never);
    }
    let [success, failure, delay] = [
        is(smtp_proto::RCPT_NOTIFY_SUCCESS),
        is(smtp_proto::RCPT_NOTIFY_FAILURE),
        is(smtp_proto::RCPT_NOTIFY_DELAY),
    ];
    (success || failure || delay).then_some(Notify::On { success, failure, delay })
}

/// A dot-string, an address literal left out: they know no `[127.0.0.1]`.
const ADDRESS: &str =
    "[A-Za-z0-9!#$%&'*/?^_`{|}~+-]{1,20}([.][a-z]{1,5})?@[a-z][a-z0-9]{0,10}[.](com|example)";

/// Of each list one or none, in any order.
fn parameters(all: Vec<Vec<&'static str>>) -> impl Strategy<Value = String> {
    let each: Vec<_> =
        all.into_iter().map(|values| prop_oneof![Just(""), prop::sample::select(values)]).collect();
    each.prop_shuffle().prop_map(|values| values.concat())
}

fn mail_parameters() -> impl Strategy<Value = String> {
    parameters(vec![
        vec![" SIZE=1", " size=123456"],
        vec![" BODY=7BIT", " body=8bitmime"],
        vec![" SMTPUTF8", " smtputf8"],
        vec![" REQUIRETLS"],
        vec![" RET=FULL", " RET=HDRS"],
        vec![" ENVID=abc", " ENVID=a+2Bb+20c"],
        vec![" HOLDFOR=1", " HOLDFOR=999999999"],
        vec![" BY=60;R", " BY=-60;N", " BY=0;NT", " by=5;RT"],
        vec![" MT-PRIORITY=9", " MT-PRIORITY=-3"],
    ])
}

fn rcpt_parameters() -> impl Strategy<Value = String> {
    parameters(vec![
        vec![
            " NOTIFY=NEVER",
            " NOTIFY=SUCCESS",
            " notify=failure,delay",
            " NOTIFY=DELAY,SUCCESS,FAILURE",
        ],
        vec![" ORCPT=rfc822;a+2Bb@x.example"],
    ])
}

proptest! {
    #[test]
    fn mail_and_rcpt_mean_the_same(
        address in ADDRESS,
        mail_parameters in mail_parameters(),
        rcpt_parameters in rcpt_parameters(),
    ) {
        let line = format!("MAIL FROM:<{address}>{mail_parameters}");
        let (Command::Mail(mail), Request::Mail { from }) = (ours(&line), theirs(&line)) else {
            panic!("{line}")
        };
        let decoded = mail.envelope_id.as_ref().map(|id| id.decoded().to_string());
        prop_assert_eq!(&decoded, &from.env_id);
        prop_assert_eq!(mail.priority.unwrap_or_default().get() as i64, from.mt_priority);
        let want = mail_of(&from);
        prop_assert_eq!(Mail { envelope_id: None, priority: None, ..mail }, want);

        let line = format!("RCPT TO:<{address}>{rcpt_parameters}");
        let (Command::Rcpt(Rcpt { recipient, notify, original, .. }), Request::Rcpt { to }) =
            (ours(&line), theirs(&line))
        else {
            panic!("{line}")
        };
        let Recipient::Mailbox(mailbox) = recipient else { panic!("{line}") };
        prop_assert_eq!(mailbox.as_str(), &to.address);
        prop_assert_eq!(notify, notify_of(&to));
        prop_assert_eq!(original.map(|original| original.address().to_string()), to.orcpt);
    }

    #[test]
    fn bdat_and_bare_verbs_mean_the_same(octets in any::<u32>(), last: bool) {
        let line = format!("BDAT {octets}{}", if last { " LAST" } else { "" });
        prop_assert_eq!(ours(&line), Command::Bdat { octets: u64::from(octets), last });
        prop_assert_eq!(
            theirs(&line),
            Request::Bdat { chunk_size: octets as usize, is_last: last }
        );
        for (line, command, request) in [
            ("data", Command::Data, Request::Data),
            ("Rset", Command::Rset, Request::Rset),
            ("QUIT", Command::Quit, Request::Quit),
            ("STARTTLS", Command::StartTls, Request::StartTls),
        ] {
            prop_assert_eq!(ours(line), command);
            prop_assert_eq!(theirs(line), request);
        }
    }
}

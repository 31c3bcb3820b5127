//! DSNs on demand (RFC 3461), row by row, and the deadlines that make some (RFC 2852).

use world::{Client, Mx, Received, Relay, Then, message};

use crate::home::{Home, field};
use crate::submission::{BCRYPT, IMPLICIT, Office};

/// Submits a message by these command lines, without their `MAIL FROM:` and `RCPT TO:`.
async fn submit(relay: &Relay, mail: &str, recipients: &[&str]) {
    submit_over(&mut relay.client().await, mail, recipients).await;
}

async fn submit_over(client: &mut Client, mail: &str, recipients: &[&str]) {
    client.expect(&format!("MAIL FROM:{mail}"), 250).await;
    for recipient in recipients {
        client.expect(&format!("RCPT TO:{recipient}"), 250).await;
    }
    client.expect("DATA", 354).await;
    client.send(&message("alice@sender.test", "bob@far.test", "hello")).await.unwrap();
    client.expect(".", 250).await;
}

/// The commands of a host that start like this.
fn commands(mx: &Mx, prefix: &str) -> Vec<String> {
    mx.commands().read(|all| all.iter().filter(|line| line.starts_with(prefix)).cloned().collect())
}

/// Waits until `count` recipients of `far.test` are settled in one way or the other.
async fn delivered(relay: &Relay, count: usize) {
    relay.event("delivered").with("domain", "far.test").times(count).await;
}

/// DSN-02, DSN-03: octet for octet, and nothing that the client did not say.
#[tokio::test]
async fn dsn_03_a_host_that_offers_dsn_gets_what_the_client_said() {
    let stage = Home::start().await;
    stage.mx.clear_rules();
    stage.mx.script(|script| script.offer(&["DSN"]));
    submit(
        &stage.relay,
        "<alice@sender.test> RET=HDRS ENVID=QQ+2B1+3Dx",
        &[
            "<bob@far.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@far.test",
            "<carol@far.test> NOTIFY=NEVER",
            "<dave@far.test>",
        ],
    )
    .await;
    delivered(&stage.relay, 3).await;
    let mail = commands(&stage.mx, "MAIL");
    assert!(mail[0].contains(" RET=HDRS ENVID=QQ+2B1+3Dx"), "{mail:?}");
    assert_eq!(
        commands(&stage.mx, "RCPT"),
        [
            "RCPT TO:<bob@far.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@far.test",
            "RCPT TO:<carol@far.test> NOTIFY=NEVER",
            "RCPT TO:<dave@far.test>",
        ]
    );
    assert_eq!(stage.relay.event("dsn_queued").count(), 0, "the host tells");
    assert_eq!(stage.home.connections(), 0);
}

/// DSN-03: ORCPT is added where an alias replaced what the client wrote, and nowhere else.
#[tokio::test]
async fn dsn_03_an_alias_does_not_hide_whom_the_sender_wrote_to() {
    let stage = Home::with("[aliases]\npostmaster = \"ops@far.test\"").await;
    stage.mx.clear_rules();
    stage.mx.script(|script| script.offer(&["DSN"]));
    for written in ["<postmaster@relay.test>", "<postmaster@relay.test> ORCPT=rfc822;me@far.test"] {
        let mark = stage.relay.mark();
        submit(&stage.relay, "<alice@sender.test>", &[written]).await;
        stage.relay.event("delivered").with("domain", "far.test").after(mark).await;
    }
    assert_eq!(
        commands(&stage.mx, "RCPT"),
        [
            "RCPT TO:<ops@far.test> ORCPT=rfc822;postmaster@relay.test",
            "RCPT TO:<ops@far.test> ORCPT=rfc822;me@far.test",
        ]
    );
}

/// Programs repeat RCPT where an address stands in To, Cc and Bcc, and several aliases may lead to
/// one mailbox.
#[tokio::test]
async fn dsn_03_a_recipient_gets_one_copy_however_often_it_was_written() {
    let stage = Home::with("[aliases]\npostmaster = \"bob@far.test\"").await;
    stage.mx.clear_rules();
    stage.mx.script(|script| script.offer(&["DSN"]));
    let recipients = [
        "<bob@far.test>",
        "<bob@FAR.test> NOTIFY=SUCCESS ORCPT=rfc822;list@far.test",
        "<\"bob\"@far.test>",
        "<postmaster@relay.test>",
        "<Bob@far.test>",
    ];
    submit(&stage.relay, "<alice@sender.test>", &recipients).await;
    delivered(&stage.relay, 2).await;
    assert_eq!(
        commands(&stage.mx, "RCPT"),
        [
            "RCPT TO:<bob@far.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;list@far.test",
            "RCPT TO:<Bob@far.test>",
        ]
    );
}

#[tokio::test]
async fn dsn_08_each_address_that_led_to_one_mailbox_is_reported() {
    let stage = Home::with("[aliases]\npostmaster = \"bob@far.test\"").await;
    let recipients = ["<postmaster@relay.test>", "<bob@far.test> ORCPT=rfc822;list@far.test"];
    submit(&stage.relay, "<alice@sender.test>", &recipients).await;
    let text = stage.home.message().await.text();
    let original = ["rfc822; postmaster@relay.test", "rfc822; list@far.test"];
    assert_eq!(field(&text, "Original-Recipient"), original, "{text}");
    assert_eq!(field(&text, "Final-Recipient"), ["rfc822; bob@far.test"; 2]);
}

#[tokio::test]
async fn dsn_04_what_a_host_without_dsn_took_is_told_to_who_asked() {
    let stage = Home::start().await;
    stage.mx.clear_rules();
    submit(
        &stage.relay,
        "<alice@sender.test> RET=FULL ENVID=QQ1",
        &[
            "<bob@far.test> NOTIFY=SUCCESS ORCPT=rfc822;bob@list.test",
            "<carol@far.test> NOTIFY=FAILURE",
            "<dave@far.test>",
            "<eve@far.test> NOTIFY=NEVER",
        ],
    )
    .await;
    delivered(&stage.relay, 4).await;
    for line in commands(&stage.mx, "MAIL").iter().chain(&commands(&stage.mx, "RCPT")) {
        assert!(
            !["RET=", "ENVID=", "NOTIFY=", "ORCPT="].iter().any(|p| line.contains(p)),
            "{line}"
        );
    }
    let text = stage.home.message().await.text();
    assert_eq!(field(&text, "Action"), ["relayed"], "{text}");
    assert_eq!(field(&text, "Status"), ["2.0.0"]);
    assert_eq!(field(&text, "Final-Recipient"), ["rfc822; bob@far.test"]);
    assert_eq!(field(&text, "Original-Recipient"), ["rfc822; bob@list.test"]);
    assert_eq!(field(&text, "Original-Envelope-Id"), ["QQ1"]);
    assert_eq!(field(&text, "Remote-MTA"), ["dns; mx.far.test"]);
    // DSN-10: RET is about failures.
    assert!(text.contains("text/rfc822-headers") && !text.contains("\r\nhello\r\n"), "{text}");
    assert_eq!(stage.home.received().len(), 1);
}

/// DSN-05, DSN-09: one DSN, about those whose sender wants to hear of failures.
#[tokio::test]
async fn dsn_05_failures_are_told_to_who_wants_to_hear_of_them() {
    let stage = Home::start().await;
    submit(
        &stage.relay,
        "<alice@sender.test>",
        &[
            "<absent@far.test>",
            "<failure@far.test> NOTIFY=FAILURE",
            "<never@far.test> NOTIFY=NEVER",
            "<success@far.test> NOTIFY=SUCCESS",
            "<delay@far.test> NOTIFY=DELAY",
            "<all@far.test> NOTIFY=SUCCESS,FAILURE,DELAY",
        ],
    )
    .await;
    stage.relay.event("bounced").with("domain", "far.test").times(6).await;
    let text = stage.home.message().await.text();
    let mut told = field(&text, "Final-Recipient");
    told.sort_unstable();
    assert_eq!(
        told,
        ["rfc822; absent@far.test", "rfc822; all@far.test", "rfc822; failure@far.test"]
    );
    submit(&stage.relay, "<alice@sender.test>", &["<x@far.test> NOTIFY=NEVER"]).await;
    stage.relay.event("bounced").with("recipient", "x@far.test").await;
    assert!(stage.relay.queue().await.is_empty());
    assert_eq!(stage.home.received().len(), 1);
}

#[tokio::test]
async fn dsn_05_delays_are_told_to_who_wants_to_hear_of_them() {
    let stage = Home::with("delay_notice_after = \"1s\"").await;
    stage.mx.clear_rules();
    stage.mx.on("RCPT", Then::reply("450 4.2.1 Come back later"));
    submit(
        &stage.relay,
        "<alice@sender.test> RET=FULL",
        &[
            "<absent@far.test>",
            "<failure@far.test> NOTIFY=FAILURE",
            "<never@far.test> NOTIFY=NEVER",
            "<delay@far.test> NOTIFY=DELAY",
        ],
    )
    .await;
    let text = stage.home.message().await.text();
    let mut told = field(&text, "Final-Recipient");
    told.sort_unstable();
    assert_eq!(told, ["rfc822; absent@far.test", "rfc822; delay@far.test"], "{text}");
    // DSN-10: not with the whole message.
    assert!(text.contains("text/rfc822-headers") && !text.contains("\r\nhello\r\n"), "{text}");
    let mark = stage.relay.mark();
    stage.relay.event("deferred").after(mark).with("recipient", "never@far.test").times(2).await;
    assert_eq!(stage.home.received().len(), 1);
}

/// DSN-06: from nobody, to the sender, and nobody hears what becomes of the DSN itself.
#[tokio::test]
async fn dsn_06_a_notice_is_from_nobody_and_asks_for_none() {
    let stage = Home::start().await;
    stage.home.script(|script| script.offer(&["DSN"]));
    stage.relay.submit("alice@sender.test", &["bad@far.test"], "hello").await;
    let notice = stage.home.message().await;
    assert_eq!((notice.from.as_str(), &notice.to[..]), ("", &["alice@sender.test".to_owned()][..]));
    assert_eq!(commands(&stage.home, "RCPT"), ["RCPT TO:<alice@sender.test> NOTIFY=NEVER"]);
    stage.relay.submit("", &["bad2@far.test"], "nobody").await;
    stage.relay.event("bounced").with("recipient", "bad2@far.test").await;
    stage.relay.event("dsn_undeliverable").await;
    assert_eq!(stage.home.received().len(), 1);
}

/// It was accepted: what becomes of it must not be lost.
#[tokio::test]
async fn a_dsn_to_a_name_of_this_machine_goes_to_its_alias_or_to_root() {
    let aliases = "[aliases]\nroot = \"ops@sender.test\"\nwww = \"web@sender.test\"";
    let stage = Home::with(aliases).await;
    let senders =
        ["www@relay.test", "backup@relay.test", "monit@localhost", "postmaster@localhost"];
    for (number, sender) in senders.iter().enumerate() {
        stage.relay.submit(sender, &["bad@far.test"], "hello").await;
        stage.home.messages(number + 1).await;
    }
    let notices = stage.home.messages(senders.len()).await;
    let to: Vec<_> = notices.iter().map(|one| one.to.join(",")).collect();
    assert_eq!(to, ["web@sender.test", "ops@sender.test", "ops@sender.test", "ops@sender.test"]);
    assert!(notices[1].text().contains("\r\nTo: <backup@relay.test>\r\n"), "{}", notices[1].text());
    assert_eq!(stage.relay.event("alarm").count(), 0);

    let stage = Home::start().await;
    stage.relay.submit("monit@localhost", &["bad@far.test"], "hello").await;
    let alarm = stage.relay.event("alarm").with("reason", "no_root_alias");
    alarm.with("sender", "monit@localhost").await;
    stage.relay.event("dsn_undeliverable").await;
    stage.relay.event("bounced").await;
    assert!(stage.relay.queue().await.is_empty());
}

/// The parts of a DSN, by their types.
fn part_types(notice: &Received) -> Vec<String> {
    let parsed = mail_parser::MessageParser::default().parse(&notice.content).unwrap();
    let kind = |part: &mail_parser::MessagePart<'_>| {
        let kind = mail_parser::MimeHeaders::content_type(part).unwrap();
        format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default())
    };
    parsed.parts.iter().map(kind).collect()
}

/// DSN-07, DSN-08, DSN-13: for programs and for people.
#[tokio::test]
async fn dsn_08_a_notice_has_its_parts_and_fields() {
    let stage = Home::start().await;
    submit(
        &stage.relay,
        "<alice@sender.test> RET=FULL ENVID=QQ+20x",
        &["<bad@far.test> ORCPT=rfc822;boss@corp.test", "<bad2@far.test>"],
    )
    .await;
    let notice = stage.home.message().await;
    let text = notice.text();
    assert_eq!(
        part_types(&notice),
        ["multipart/report", "text/plain", "message/delivery-status", "message/rfc822"]
    );
    assert!(text.contains("report-type=delivery-status"), "{text}");
    assert_eq!(field(&text, "Reporting-MTA"), ["dns; relay.test"]);
    assert_eq!(field(&text, "Original-Envelope-Id"), ["QQ x"]);
    assert_eq!(field(&text, "Arrival-Date").len(), 1);
    assert_eq!(field(&text, "Original-Recipient"), ["rfc822; boss@corp.test"]);
    assert_eq!(field(&text, "Final-Recipient").len(), 2, "DSN-09: one notice: {text}");
    assert_eq!(field(&text, "Action"), ["failed", "failed"]);
    assert_eq!(field(&text, "Status"), ["5.1.1", "5.1.1"]);
    assert_eq!(field(&text, "Remote-MTA"), ["dns; mx.far.test", "dns; mx.far.test"]);
    assert!(field(&text, "Diagnostic-Code")[0].starts_with("smtp; 550 5.1.1"), "{text}");
    assert_eq!(field(&text, "Last-Attempt-Date").len(), 2);
    assert!(field(&text, "Will-Retry-Until").is_empty());
    assert!(text.contains("\r\nhello\r\n"), "RET=FULL: {text}");
    assert_eq!(field(&text, "Auto-Submitted"), ["auto-replied"]);
    assert_eq!(field(&text, "To")[0], "<alice@sender.test>");
    assert!(field(&text, "From")[0].contains("<mailer-daemon@relay.test>"), "{text}");
    assert!(!field(&text, "Message-ID")[0].is_empty() && !field(&text, "Date")[0].is_empty());
}

/// DSN-10: where RET says nothing, `dsn.return` does; RET=HDRS is kept.
#[tokio::test]
async fn dsn_10_ret_decides_how_much_of_a_failure_comes_back() {
    let stage = Home::start().await;
    for (number, (ret, is_full)) in
        [("", false), (" RET=HDRS", false), (" RET=FULL", true)].into_iter().enumerate()
    {
        submit(&stage.relay, &format!("<alice@sender.test>{ret}"), &["<bad@far.test>"]).await;
        let notices = stage.home.messages(number + 1).await;
        let text = notices[number].text();
        assert_eq!(text.contains("Content-Type: message/rfc822"), is_full, "{ret}: {text}");
        assert_eq!(text.contains("\r\nhello\r\n"), is_full, "{ret}: {text}");
    }
}

/// DSN-10: an original that may not be encoded does not keep its DSN from a host that takes
/// seven bits.
#[tokio::test]
async fn dsn_10_what_cannot_be_converted_comes_back_as_its_header() {
    let stage = Home::start().await;
    stage.home.script(|script| script.keywords = Vec::new());
    let part = "Content-Transfer-Encoding: 8bit\r\n\r\nGr\u{fc}\u{df}e\r\n";
    let kinds = [("mixed", "message/rfc822"), ("signed", "text/rfc822-headers")];
    for (number, (kind, returned)) in kinds.into_iter().enumerate() {
        let content = format!(
            "Subject: {kind}\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/{kind}; boundary=b\r\n\r\n--b\r\n{part}--b--\r\n"
        );
        let mut client = stage.relay.client().await;
        client.expect("MAIL FROM:<alice@sender.test> RET=FULL BODY=8BITMIME", 250).await;
        client.expect("RCPT TO:<bad@far.test>", 250).await;
        client.expect("DATA", 354).await;
        client.send(content.as_bytes()).await.unwrap();
        client.expect(".", 250).await;
        let notice = stage.home.messages(number + 1).await.remove(number);
        assert!(notice.content.is_ascii(), "{notice:?}");
        assert_eq!(part_types(&notice)[3..], [returned], "{}", notice.text());
        assert!(notice.text().contains(&format!("Subject: {kind}\r\n")), "{}", notice.text());
    }
}

/// DSN-10: what is not converted is no reason to leave it out.
#[tokio::test]
async fn dsn_10_ascii_comes_back_whole_however_odd_it_is() {
    let stage = Home::start().await;
    stage.home.script(|script| script.keywords = Vec::new());
    let content =
        "Subject: odd\r\nContent-Type: text/plain\r\nContent-Type: text/html\r\n\r\nbody\r\n";
    let mut client = stage.relay.client().await;
    client.expect("MAIL FROM:<alice@sender.test> RET=FULL", 250).await;
    client.expect("RCPT TO:<bad@far.test>", 250).await;
    client.expect("DATA", 354).await;
    client.send(content.as_bytes()).await.unwrap();
    client.expect(".", 250).await;
    let notice = stage.home.message().await;
    assert!(part_types(&notice).contains(&"message/rfc822".to_owned()), "{}", notice.text());
    assert!(notice.text().contains("\r\n\r\nbody\r\n"), "{}", notice.text());
}

/// DSN-11: who has an ASCII address gets ASCII, who has not gets the international form.
#[tokio::test]
async fn dsn_11_utf8_addresses_are_told_in_the_form_that_travels() {
    let stage = Home::start().await;
    stage.mx.script(|script| script.offer(&["SMTPUTF8"]));
    stage.home.script(|script| script.offer(&["SMTPUTF8"]));
    submit(&stage.relay, "<alice@sender.test> SMTPUTF8", &["<jos\u{e9}@far.test>"]).await;
    let notice = stage.home.message().await;
    assert!(notice.content.is_ascii() && !notice.parameters.contains("SMTPUTF8"), "{notice:?}");
    assert_eq!(field(&notice.text(), "Final-Recipient"), ["utf-8; jos\\x{E9}@far.test"]);
    assert!(part_types(&notice).contains(&"message/delivery-status".to_owned()));

    submit(&stage.relay, "<zo\u{eb}@sender.test> SMTPUTF8", &["<jos\u{e9}@far.test>"]).await;
    let notice = stage.home.messages(2).await.remove(1);
    assert!(notice.parameters.contains("SMTPUTF8"), "{notice:?}");
    assert_eq!(notice.to, ["zo\u{eb}@sender.test"]);
    assert_eq!(field(&notice.text(), "Final-Recipient"), ["utf-8; jos\u{e9}@far.test"]);
    let types = part_types(&notice);
    assert_eq!(types[2..], ["message/global-delivery-status", "message/global-headers"]);
}

/// EXT-13, mode N: told once when the time is over, tried further, and told when a host without
/// DELIVERBY takes it for who wants to know.
#[tokio::test]
async fn ext_13_mode_n_tells_at_the_deadline_and_goes_on() {
    let stage = Home::start().await;
    stage.mx.clear_rules();
    stage.mx.on("RCPT", Then::reply("450 4.2.1 Come back later"));
    let recipients = ["<bob@far.test> NOTIFY=SUCCESS,DELAY", "<eve@far.test> NOTIFY=NEVER"];
    submit(&stage.relay, "<alice@sender.test> BY=1;N", &recipients).await;
    let text = stage.home.message().await.text();
    assert_eq!((field(&text, "Action"), field(&text, "Status")), (vec!["delayed"], vec!["4.4.7"]));
    assert_eq!(field(&text, "Final-Recipient"), ["rfc822; bob@far.test"], "{text}");
    assert!(text.contains("(expired)"), "{text}");
    let mark = stage.relay.mark();
    stage.relay.event("deferred").after(mark).with("recipient", "bob@far.test").times(2).await;
    stage.mx.clear_rules();
    let text = stage.home.messages(2).await.remove(1).text();
    assert_eq!(field(&text, "Action"), ["relayed"], "{text}");
    assert_eq!(field(&text, "Final-Recipient"), ["rfc822; bob@far.test"], "{text}");
    stage.relay.event("delivered").with("recipient", "eve@far.test").await;
}

/// EXT-13: what is left of the time goes on to a host with DELIVERBY.
#[tokio::test]
async fn ext_13_the_time_that_is_left_is_passed_on() {
    let stage = Home::start().await;
    stage.mx.clear_rules();
    stage.mx.script(|script| script.offer(&["DELIVERBY 10", "DSN"]));
    submit(&stage.relay, "<alice@sender.test> BY=600;RT", &["<bob@far.test>"]).await;
    let parameters = stage.mx.message().await.parameters;
    let by = parameters.split(' ').find_map(|p| p.strip_prefix("BY=")).unwrap();
    let (seconds, mode) = by.split_once(';').unwrap();
    let seconds: i64 = seconds.parse().unwrap();
    assert!((570..=600).contains(&seconds), "{parameters}");
    assert_eq!(mode, "RT");
    // A trace asks each relay to tell.
    let text = stage.home.message().await.text();
    assert_eq!(field(&text, "Action"), ["relayed"], "{text}");
}

/// EXT-13, mode R: never to a host that would not keep the time.
#[tokio::test]
async fn ext_13_mode_r_does_not_go_where_nobody_would_keep_the_time() {
    let stage = Home::start().await;
    stage.mx.clear_rules();
    submit(&stage.relay, "<alice@sender.test> BY=600;R", &["<bob@far.test>"]).await;
    let text = stage.home.message().await.text();
    assert_eq!(field(&text, "Action"), ["failed"], "{text}");
    assert!(stage.mx.received().is_empty());
}

/// EXT-12: it goes out by itself when its time comes, and no operator hurries it.
#[tokio::test]
async fn ext_12_held_mail_goes_out_when_its_time_comes() {
    let office = Office::open(&[("anna", BCRYPT)], "").await;
    let mx = office.world.mx("mx.far.test").await;
    office.world.domain("far.test").mx(&[(10, &mx)]);
    let mut client = office.user(IMPLICIT, "anna", "secret").await;
    client.ehlo().await.unwrap();
    submit_over(&mut client, "<anna@client.test> HOLDFOR=3", &["<bob@far.test>"]).await;
    let row = office.relay.queued("bob@far.test").await.expect("it waits");
    assert_eq!(row["not_before"], row["next_attempt_at"]);
    let retried = office.relay.cli(&["queue", "retry", "--all"]).await;
    assert!(retried.status.success(), "{retried:?}");
    let not_before: jiff::Timestamp = row["not_before"].as_str().unwrap().parse().unwrap();
    mx.message().await;
    let delivered = office.relay.event("delivered").with("recipient", "bob@far.test").await;
    let at: jiff::Timestamp = delivered.text("timestamp").unwrap().parse().unwrap();
    assert!(at >= not_before, "{at} is before {not_before}");
    assert!(!commands(&mx, "MAIL")[0].contains("HOLD"), "never passed on");
}

//! What becomes of the mail that clients hand in, row by row: who may, what is added, what is kept.

use world::{Client, Mode, Mx, Received, Then, World, message};

use crate::harness::{PROGRAM, Stage, on_stage};
use crate::submission::{BCRYPT, IMPLICIT, Office, RELAY, STARTTLS};

/// A host for a domain of the row's own.
async fn mx_of(stage: &Stage, domain: &str) -> Mx {
    let mx = stage.world.mx(&format!("mx.{domain}")).await;
    stage.world.domain(domain).mx(&[(10, &mx)]);
    mx
}

/// The first header field, unfolded.
fn first_field(received: &Received) -> String {
    let text = received.text();
    let mut lines = text.split("\r\n");
    let mut field = lines.next().unwrap().to_owned();
    for line in lines.take_while(|line| line.starts_with(['\t', ' '])) {
        field.push(' ');
        field.push_str(line.trim_start());
    }
    field
}

#[test]
fn sv_09_one_received_in_front_and_for_only_with_a_single_recipient() {
    on_stage(|stage| async move {
        let mx = mx_of(stage, "sv09.test").await;
        let older = "Received: from a.test by b.test; Mon, 02 Mar 2026 10:00:00 +0000\r\n";
        let content = [older.as_bytes(), &message("a@client.test", "x", "sv09")].concat();
        for (name, to) in
            [("one", &["one@sv09.test"][..]), ("two", &["two@sv09.test", "blind@sv09.test"][..])]
        {
            let id = stage.relay.submit_content("a@client.test", to, &content).await;
            let id = id.text().rsplit(' ').next().unwrap().to_owned();
            let received = mx.message_to(&format!("{name}@sv09.test")).await;
            let field = first_field(&received);
            let front = "Received: from client.test ([127.0.0.1]) by relay.test with ESMTP id ";
            let rest = field.strip_prefix(front).unwrap_or_else(|| panic!("{field}"));
            let rest = rest.strip_prefix(&id).unwrap_or_else(|| panic!("{field}"));
            let for_one = if to.len() == 1 { " for <one@sv09.test>" } else { "" };
            let date =
                rest.strip_prefix(&format!("{for_one}; ")).unwrap_or_else(|| panic!("{field}"));
            assert!(
                date.ends_with(" +0000") && date.len() == "Mon, 02 Mar 2026 10:00:00 +0000".len()
            );
            assert!(received.content.ends_with(&content), "the rest is as it was");
        }
    });
}

/// Each word of the registry that a client can bring about: by HELO or EHLO, in clear or in TLS of
/// either kind, logged in or not, with the parameter SMTPUTF8 or without (RFC 3848, RFC 6531 §4.3).
/// After HELO there is one word only, whatever protects it. A login without TLS cannot be, so
/// neither can `ESMTPA` nor `UTF8SMTPA`.
#[tokio::test]
async fn sv_10_with_says_what_was_true_of_the_transaction() {
    let office = Office::open(&[("anna", BCRYPT)], "").await;
    let mx = office.world.mx("mx.sv10.test").await;
    office.world.domain("sv10.test").mx(&[(10, &mx)]);
    mx.script(|script| script.offer(&["PIPELINING", "8BITMIME", "SMTPUTF8"]));
    let in_clear = async || Client::hello(office.relay.listener_at(RELAY)).await.unwrap();
    let sessions = [
        ("SMTP", "UTF8SMTP", in_clear().await),
        ("SMTPS", "UTF8SMTPS", office.client(RELAY).await),
        ("SMTPSA", "UTF8SMTPSA", office.user(STARTTLS, "anna", "secret").await),
        ("SMTPSA", "UTF8SMTPSA", office.user(IMPLICIT, "anna", "secret").await),
    ];
    for (number, (plain, utf8, mut client)) in sessions.into_iter().enumerate() {
        // Advertised is not used: what counts is the parameter in this very transaction.
        for (greeting, parameter, word) in [
            ("EHLO client.test", "", format!("E{plain}")),
            ("EHLO client.test", " SMTPUTF8", utf8.to_owned()),
            ("HELO client.test", "", "SMTP".to_owned()),
            ("EHLO client.test", "", format!("E{plain}")),
        ] {
            client.expect(greeting, 250).await;
            let to = format!("{number}.{}@sv10.test", mx.received().len());
            client.expect(&format!("MAIL FROM:<anna@client.test>{parameter}"), 250).await;
            client.expect(&format!("RCPT TO:<{to}>"), 250).await;
            client.expect("DATA", 354).await;
            client.send(&world::stuff(&message("anna@client.test", &to, "sv10"))).await.unwrap();
            assert_eq!(client.reply().await.unwrap().code, 250);
            let field = first_field(&mx.message_to(&to).await);
            assert!(field.contains(&format!(" with {word} id ")), "{greeting}: {word}: {field}");
            // Known of the listener: it does not say where its users are.
            assert_eq!(field.starts_with("Received: from "), number != 3, "{field}");
        }
    }
}

/// RFC 5321 §4.1.4: whatever a client calls itself, it is served. What is no name does not stand in
/// the trace, where it could pretend to be more.
#[test]
fn sv_09_a_client_that_calls_itself_nonsense_is_served_and_not_quoted() {
    on_stage(|stage| async move {
        let mx = mx_of(stage, "sv09b.test").await;
        let long = "x".repeat(500);
        for (number, name) in
            [&long, "evil.test) by relay.test with ESMTPSA", "\u{fc}.test", "[127.0.0.1", "-;\t,"]
                .into_iter()
                .enumerate()
        {
            let to = format!("{number}@sv09b.test");
            let mut client = Client::dial(stage.relay.listener()).await.unwrap();
            client.reply().await.unwrap();
            client.expect(&format!("EHLO {name}"), 250).await;
            let content = message("a@client.test", &to, "sv09");
            let reply = client.transact("a@client.test", &[&to], &content).await.unwrap();
            assert_eq!(reply.code, 250, "{reply:?}");
            let field = first_field(&mx.message_to(&to).await);
            let front = "Received: from [127.0.0.1] ([127.0.0.1]) by relay.test with ESMTP id ";
            assert!(field.starts_with(front), "{name}: {field}");
        }
    });
}

#[test]
fn sv_12_more_than_a_hundred_received_fields_are_a_loop() {
    on_stage(|stage| async move {
        let mx = mx_of(stage, "sv12.test").await;
        let hop = "Received: from a.test by b.test; Mon, 02 Mar 2026 10:00:00 +0000\r\n";
        for (hops, code) in [(100, 250), (101, 554)] {
            let content =
                [hop.repeat(hops).into_bytes(), message("a@client.test", "x", "sv12")].concat();
            let reply =
                stage.relay.submit_content("a@client.test", &["a@sv12.test"], &content).await;
            assert_eq!(reply.code, code, "{hops}: {reply:?}");
            assert!(code == 250 || reply.text().starts_with("5.4.6 "), "{reply:?}");
        }
        assert_eq!(mx.messages(1).await.len(), 1);
    });
}

#[tokio::test]
async fn sv_13_a_250_survives_the_death_of_the_process() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.sv13.test").await;
    mx.on("MAIL", Then::reply("451 4.3.0 Later"));
    world.domain("sv13.test").mx(&[(10, &mx)]);
    let mut relay = world.relay("").await;
    let id = relay.submit("a@client.test", &["b@sv13.test"], "sv13").await;
    relay.kill9().await;
    relay.start_again().await;
    let row = relay.queued("b@sv13.test").await.expect("it is still there");
    assert_eq!(row["id"], id.as_str());
}

#[test]
fn sv_14_the_null_reverse_path_is_kept_and_never_answered() {
    on_stage(|stage| async move {
        let mx = mx_of(stage, "sv14.test").await;
        let reply =
            stage.relay.submit_content("", &["good@sv14.test"], &message("", "x", "sv14")).await;
        assert_eq!(reply.code, 250, "{reply:?}");
        assert_eq!(mx.message_to("good@sv14.test").await.from, "");
        mx.on("RCPT TO:<bad@", Then::reply("550 5.1.1 Nobody of that name"));
        let reply =
            stage.relay.submit_content("", &["bad@sv14.test"], &message("", "x", "sv14")).await;
        let id = reply.text().rsplit(' ').next().unwrap().to_owned();
        stage.relay.event("dsn_undeliverable").with("message_id", id).await;
    });
}

/// By address on a relay listener, by login on those for submission.
#[tokio::test]
async fn sv_17_only_who_may_relay_relays() {
    let office = Office::open(&[("anna", BCRYPT)], "networks = [\"127.0.0.1/32\"]").await;
    let relay = office.relay.listener_at(RELAY);
    let mut known = Client::hello(relay).await.unwrap();
    known.expect("MAIL FROM:<a@client.test>", 250).await;
    let stranger = Client::dial_from([127, 0, 0, 2].into(), relay).await.unwrap();
    let mut stranger = stranger.greeted().await.unwrap();
    let reply = stranger.expect("MAIL FROM:<a@client.test>", 550).await;
    assert!(reply.text().starts_with("5.7.1 "), "{reply:?}");
    stranger.expect("RCPT TO:<b@elsewhere.test>", 503).await;
    office.relay.event("rejected").with("reason", "relay_denied").with("client", "127.0.0.2").await;
    // Where users log in, an address is worth nothing.
    let mut known = office.client(IMPLICIT).await;
    known.expect("MAIL FROM:<a@client.test>", 530).await;
}

#[tokio::test]
async fn sv_18_postmaster_and_aliases_go_to_whom_the_operator_names() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.sv18.test").await;
    world.domain("sv18.test").mx(&[(10, &mx)]);
    let aliases = "[aliases]\npostmaster = \"ops@sv18.test\"\nroot = \"admins@sv18.test\"\n";
    let relay = world.relay(aliases).await;
    let content = message("a@client.test", "x", "sv18");
    for (written, want) in [
        ("Postmaster", "ops@sv18.test"),
        ("postMaster@RELAY.test", "ops@sv18.test"),
        ("postmaster@[127.0.0.1]", "ops@sv18.test"),
        ("root@relay.test", "admins@sv18.test"),
        ("root@localhost", "admins@sv18.test"),
        ("root@localhost.relay.test", "admins@sv18.test"),
        ("root@sv18.test", "root@sv18.test"),
    ] {
        let reply = relay.submit_content("a@client.test", &[written], &content).await;
        assert_eq!(reply.code, 250, "{written}: {reply:?}");
        let id = reply.text().rsplit(' ').next().unwrap().to_owned();
        relay.event("delivered").with("message_id", id).with("recipient", want).await;
    }
    for written in ["anna@relay.test", "anna@localhost"] {
        let reply = relay.submit_content("a@client.test", &[written], &content).await;
        let text = "5.1.1 No alias and no route for this name";
        assert_eq!((reply.code, reply.text().as_str()), (550, text), "{written}");
        relay.event("rejected").with("reason", "unknown_name").with("recipient", written).await;
    }
    let relay = world.relay("").await;
    let reply = relay.submit_content("a@client.test", &["postmaster"], &content).await;
    assert!(reply.code == 550 && reply.text().starts_with("5.1.1 "), "nobody is named: {reply:?}");
}

#[tokio::test]
async fn sv_19_what_is_missing_is_added_at_first_hand_and_nothing_else_is_repaired() {
    let office = Office::open(&[("anna", BCRYPT)], "").await;
    let mx = office.world.mx("mx.sv19.test").await;
    office.world.domain("sv19.test").mx(&[(10, &mx)]);
    let mut relayed = Client::hello(office.relay.listener_at(RELAY)).await.unwrap();
    let mut submitted = office.user(STARTTLS, "anna", "secret").await;
    let to = "b@sv19.test";
    let mut count = 0;
    for (client, is_submission) in [(&mut relayed, false), (&mut submitted, true)] {
        // In front of what is no field, and of an empty line.
        for rest in ["\r\nbody\r\n", "Dear all: hello\r\nDate: text\r\n\r\nbody\r\n"] {
            let content = format!("Subject: bare\r\n{rest}");
            client.transact("a@client.test", &[to], content.as_bytes()).await.unwrap();
            count += 1;
            let text = mx.messages(count).await[count - 1].text();
            let (_, added) = text.split_once("Subject: bare\r\n").unwrap();
            let lines: Vec<&str> = added.splitn(3, "\r\n").collect();
            assert!(lines[0].starts_with("Date: ") && lines[0].ends_with(" +0000"), "{text}");
            assert!(lines[1].starts_with("Message-ID: <") && lines[1].ends_with("@relay.test>"));
            assert_eq!(lines[2], rest);
        }
        let whole = "date: whenever\r\nMESSAGE-ID: <x@y>\r\nSubject: whole\r\n\r\nbody\r\n";
        let signed = "DKIM-Signature: v=1\r\nSubject: signed\r\n\r\nbody\r\n";
        let passed_on = "Received: from x\r\nSubject: passed on\r\n\r\nbody\r\n";
        for (content, is_same) in [(whole, true), (signed, true), (passed_on, !is_submission)] {
            client.transact("a@client.test", &[to], content.as_bytes()).await.unwrap();
            count += 1;
            let text = mx.messages(count).await[count - 1].text();
            assert_eq!(text.ends_with(&format!("+0000\r\n{content}")), is_same, "{text}");
        }
        // It does not become a part of our own field.
        let content = " by ceo; Thu, 1 Jan 1970 00:00:00 +0000\r\n\r\nbody\r\n";
        client.transact("a@client.test", &[to], content.as_bytes()).await.unwrap();
        count += 1;
        let text = mx.messages(count).await[count - 1].text();
        assert!(text.ends_with(&format!("@relay.test>\r\n\r\n{content}")), "{text}");
    }
}

#[tokio::test]
async fn sv_19_nothing_is_added_where_the_operator_says_so() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.sv19.test").await;
    world.domain("sv19.test").mx(&[(10, &mx)]);
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nadd_missing_headers = false\n";
    let relay = world.relay(listener).await;
    let cases = [("Subject: bare\r\n\r\nbody\r\n", ""), ("\tx\r\n\r\nbody\r\n", "\r\n")];
    for (number, (content, apart)) in cases.into_iter().enumerate() {
        relay.submit_content("a@client.test", &["b@sv19.test"], content.as_bytes()).await;
        let text = mx.messages(number + 1).await[number].text();
        assert!(text.ends_with(&format!("+0000\r\n{apart}{content}")), "{text}");
    }
}

#[test]
fn sv_21_one_answer_for_all_recipients_and_a_notice_for_those_that_fail() {
    on_stage(|stage| async move {
        let home = mx_of(stage, "home21.test").await;
        let mx = mx_of(stage, "sv21.test").await;
        mx.on("RCPT TO:<bad@", Then::reply("550 5.1.1 Nobody of that name"));
        let mut client = stage.relay.client().await;
        let to = ["good@sv21.test", "bad@sv21.test"];
        let content = message("a@home21.test", "x", "sv21");
        let reply = client.transact("a@home21.test", &to, &content).await.unwrap();
        assert_eq!((reply.code, reply.lines.len()), (250, 1), "{reply:?}");
        client.expect("NOOP", 250).await;
        assert_eq!(mx.message().await.to, ["good@sv21.test"]);
        let notice = home.message().await;
        assert_eq!(notice.from, "");
        assert!(notice.text().contains("Final-Recipient: rfc822; bad@sv21.test"), "{notice:?}");
    });
}

/// Decided: what DNS says of a recipient is asked once, by the queue, which knows what a forged
/// answer must not end. So a hopeless recipient is taken, and its sender hears of it.
#[test]
fn sv_25_a_hopeless_recipient_is_taken_and_returned() {
    on_stage(|stage| async move {
        let home = mx_of(stage, "home25.test").await;
        stage.world.domain("null25.test").null_mx();
        let mut client = stage.relay.client().await;
        let hopeless = [("b@null25.test", "5.1.10"), ("b@nowhere25.test", "5.1.2")];
        for (number, (to, status)) in hopeless.into_iter().enumerate() {
            let content = message("a@home25.test", to, "sv25");
            let reply = client.transact("a@home25.test", &[to], &content).await.unwrap();
            assert_eq!(reply.code, 250, "{reply:?}");
            let notice = home.messages(number + 1).await.remove(number).text();
            assert!(notice.contains(&format!("Status: {status}\r\n")), "{notice}");
        }
    });
}

#[test]
fn sv_26_local_parts_are_kept_and_domains_compare_without_case() {
    on_stage(|stage| async move {
        let mx = stage.world.mx("mx.sv26.test").await;
        let domain = stage.world.domain("sv26.test");
        domain.mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &[mx.host()], 86400);
        let to = [
            "\"a b\"@sv26.test",
            "User+Tag@SV26.Test",
            "user+tag@sv26.test",
            "\"x\\\"@y\"@sv26.test",
        ];
        let content = message("Sender.X@client.test", "x", "sv26");
        let reply = stage.relay.submit_content("Sender.X@client.test", &to, &content).await;
        assert_eq!(reply.code, 250, "{reply:?}");
        let received = mx.message().await;
        assert_eq!(received.from, "Sender.X@client.test");
        let mut got = received.to;
        got.sort();
        let mut want: Vec<String> = to.iter().map(ToString::to_string).collect();
        want.sort();
        assert_eq!(got, want, "one host for all of them, and each as it was written");
    });
}

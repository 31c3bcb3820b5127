//! What is said beside the addresses, and to whom, row by row: limits, deadlines, priorities and
//! other parameters.

use world::World;

use super::extensions::{NOTICE, bounced, host, named_host, send};
use crate::harness::{PROGRAM, on_stage};

/// RFC 9422 §4.
#[test]
fn ext_11_announced_limits_are_kept_to_and_others_ignored() {
    on_stage(|stage| async {
        let mx = host(stage, "ext11.test", &["PIPELINING"]).await;
        mx.script(|script| script.offer(&["LIMITS RCPTMAX=2 MAILMAX=2 X-NEW=1 RCPTDOMAINMAX=0"]));
        let recipients: Vec<String> = (0..5).map(|n| format!("<r{n}@ext11.test>")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        send(&stage.relay, NOTICE, &recipients, b"X-Top: x\r\n\r\nx\r\n").await;
        let messages = mx.messages(3).await;
        let shape: Vec<_> = messages.iter().map(|one| (one.to.len(), one.connection)).collect();
        assert_eq!(shape, [(2, 1), (2, 1), (1, 2)]);
        assert_eq!((mx.commanded("RCPT"), mx.commanded("MAIL")), (5, 3));
        for number in 0..5 {
            stage.relay.event("delivered").with("recipient", format!("r{number}@ext11.test")).await;
        }
    });
}

/// RFC 9422 §3: what was said before STARTTLS is of a session that is over.
#[test]
fn ext_11_limits_from_before_tls_do_not_count() {
    on_stage(|stage| async {
        let mx = host(stage, "tls.ext11.test", &["LIMITS RCPTMAX=1"]).await;
        mx.script(|script| script.keywords_in_tls = Some(vec!["PIPELINING".to_owned()]));
        let both = ["<a@tls.ext11.test>", "<b@tls.ext11.test>"];
        send(&stage.relay, NOTICE, &both, b"X-Top: x\r\n\r\nx\r\n").await;
        assert_eq!(mx.message().await.to.len(), 2);
    });
}

/// RFC 9422 §4: what is not written as the RFC writes it says nothing.
#[test]
fn ext_11_malformed_limits_are_none_and_those_of_one_session_are_not_those_of_the_next() {
    on_stage(|stage| async {
        let three = |domain: &str| ["a", "b", "c"].map(|local| format!("<{local}@{domain}>"));
        let bad =
            ["RCPTMAX=x", "RCPTMAX=", "RCPTMAX", "RCPTMAX=1;", "RCPTMAX=-1", "=1", "RCPTMAX 1"];
        for (number, limits) in bad.into_iter().enumerate() {
            let domain = format!("bad{number}.ext11.test");
            let mx = host(stage, &domain, &[&format!("LIMITS {limits}")]).await;
            let to = three(&domain);
            send(&stage.relay, NOTICE, &to.each_ref().map(|to| &**to), b"X-Top: x\r\n\r\nx\r\n")
                .await;
            assert_eq!(mx.message().await.to.len(), 3, "{limits}");
        }

        let mx = host(stage, "then.ext11.test", &["LIMITS RCPTMAX=2 MAILMAX=1"]).await;
        let to = three("then.ext11.test");
        let to = to.each_ref().map(|to| &**to);
        send(&stage.relay, NOTICE, &to, b"X-Top: x\r\n\r\nx\r\n").await;
        mx.messages(2).await;
        mx.script(|script| script.keywords = vec!["LIMITS MAILMAX=5".to_owned()]);
        send(&stage.relay, NOTICE, &to, b"X-Top: x\r\n\r\nx\r\n").await;
        let shape: Vec<_> =
            mx.messages(3).await.iter().map(|one| (one.to.len(), one.connection)).collect();
        assert_eq!(shape, [(2, 1), (1, 2), (3, 3)]);
    });
}

/// RFC 9422 §4.3: domains are counted over the session, and mail for others needs a session of its
/// own.
#[tokio::test]
async fn ext_11_a_session_serves_no_more_domains_than_the_host_takes() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[delivery]\nconnection_idle = \"20s\"\n").await;
    for (name, limits, want) in
        [("one", "LIMITS RCPTDOMAINMAX=1", [1, 1, 2]), ("any", "LIMITS", [1, 1, 1])]
    {
        let mx = world.mx(&format!("mx.{name}.test")).await;
        mx.script(|script| script.offer(&[limits]));
        let (first, other) = (format!("first.{name}.test"), format!("other.{name}.test"));
        for domain in [&first, &first, &other] {
            world.domain(domain).mx(&[(10, &mx)]);
            let mark = relay.mark();
            relay.submit("", &[&format!("x@{domain}")], "one").await;
            relay.event("delivered").after(mark).await;
        }
        let connections: Vec<_> = mx.messages(3).await.iter().map(|one| one.connection).collect();
        assert_eq!(connections, want, "{limits}");
    }
}

/// RFC 2852 §4.1.
#[test]
fn ext_13_a_deadline_goes_on_with_the_time_that_is_left_or_the_message_comes_back() {
    on_stage(|stage| async {
        let knows = host(stage, "ext13.test", &["DELIVERBY 60"]).await;
        let other = host(stage, "old.ext13.test", &["SIZE"]).await;
        let content = b"X-Top: x\r\n\r\nx\r\n";
        send(&stage.relay, "<> BY=1000;R", &["<a@ext13.test>"], content).await;
        let parameters = knows.message().await.parameters;
        let (seconds, mode) = parameters.strip_prefix("BY=").unwrap().split_once(';').unwrap();
        assert_eq!(mode, "R");
        assert!((900..=1000).contains(&seconds.parse().unwrap()), "{parameters}");

        send(&stage.relay, "<> BY=1000;N", &["<a@old.ext13.test>"], content).await;
        let received = other.message().await;
        assert!(!received.parameters.contains("BY"), "{received:?}");
        send(&stage.relay, "<> BY=1000;R", &["<b@old.ext13.test>"], content).await;
        bounced(&stage.relay, "b@old.ext13.test", "deliver_by_unsupported", "5.3.3").await;
        assert_eq!(other.received().len(), 1);
    });
}

/// RFC 2852 §4.1.4.1: a host that promises nothing in so short a time would not keep it either.
/// Others are asked first.
#[test]
fn ext_13_mail_to_be_returned_in_time_goes_to_a_host_that_keeps_the_time() {
    on_stage(|stage| async {
        let none = named_host(stage, "none.by.ext13.test", &["SIZE"]).await;
        let slow = named_host(stage, "slow.by.ext13.test", &["DELIVERBY 3600"]).await;
        let fast = named_host(stage, "fast.by.ext13.test", &["DELIVERBY 60"]).await;
        let domain = |name| stage.world.domain(name);
        domain("by.ext13.test").mx(&[(10, &none), (20, &slow), (30, &fast)]);
        domain("slow.ext13.test").mx(&[(10, &none), (20, &slow)]);
        let content = b"X-Top: x\r\n\r\nx\r\n";
        send(&stage.relay, "<> BY=1000;R", &["<a@by.ext13.test>"], content).await;
        let parameters = fast.message().await.parameters;
        assert!(parameters.starts_with("BY=") && parameters.ends_with(";R"), "{parameters}");
        send(&stage.relay, "<> BY=1000;R", &["<a@slow.ext13.test>"], content).await;
        bounced(&stage.relay, "a@slow.ext13.test", "deliver_by_unsupported", "5.3.3").await;
        assert_eq!((none.commanded("MAIL"), slow.commanded("MAIL")), (0, 0));
    });
}

/// RFC 6710 §4.
#[test]
fn ext_14_a_priority_goes_on_where_it_is_understood() {
    on_stage(|stage| async {
        let knows = host(stage, "ext14.test", &["MT-PRIORITY MIXER"]).await;
        let other = host(stage, "old.ext14.test", &[]).await;
        for recipient in ["<a@ext14.test>", "<a@old.ext14.test>"] {
            send(&stage.relay, "<> MT-PRIORITY=3", &[recipient], b"X-Top: x\r\n\r\nx\r\n").await;
        }
        assert_eq!(knows.message().await.parameters, "MT-PRIORITY=3");
        assert_eq!(other.message().await.parameters, "");
    });
}

/// RFC 6710 §5: it decides what goes first, and nothing is left behind.
#[tokio::test]
async fn ext_14_what_is_urgent_goes_first_and_the_rest_follows() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("[delivery]\nconnections_per_domain = 1\n").await;
    let paused = relay.cli(&["pause", "far.test"]).await;
    assert!(paused.status.success(), "{paused:?}");
    for priority in [-5, 0, 5, -9, 9] {
        let mail = format!("<> MT-PRIORITY={priority}");
        let to = format!("<p{priority}@far.test>");
        send(&relay, &mail, &[&to], b"X-Top: x\r\n\r\nx\r\n").await;
    }
    let resumed = relay.cli(&["resume", "far.test"]).await;
    assert!(resumed.status.success(), "{resumed:?}");
    let order: Vec<_> = mx.messages(5).await.iter().map(|one| one.to[0].clone()).collect();
    let want = [9, 5, 0, -5, -9].map(|priority| format!("p{priority}@far.test"));
    assert_eq!(order, want);
}

/// RFC 5321 §2.2.1. The offer that counts is the one under TLS.
#[test]
fn ext_15_nothing_is_used_that_the_last_ehlo_did_not_offer() {
    const ALL: [&str; 8] = [
        "PIPELINING",
        "SIZE",
        "8BITMIME",
        "SMTPUTF8",
        "DSN",
        "CHUNKING",
        "DELIVERBY 60",
        "MT-PRIORITY",
    ];
    on_stage(|stage| async {
        let mail = "<> RET=HDRS ENVID=QQ BY=1000;N MT-PRIORITY=3 SMTPUTF8 BODY=8BITMIME";
        for (domain, in_tls) in [("all.ext15.test", &ALL[..]), ("none.ext15.test", &[])] {
            let mx = host(stage, domain, &ALL).await;
            mx.script(|script| {
                script.keywords_in_tls = Some(in_tls.iter().map(|&k| k.to_owned()).collect());
            });
            let to = format!("<a@{domain}> NOTIFY=NEVER ORCPT=rfc822;b@{domain}");
            send(&stage.relay, mail, &[&to], b"X-Top: x\r\n\r\nx\r\n").await;
            let received = mx.message().await;
            let named = |parameters: &str| -> Vec<String> {
                let words = parameters.split_whitespace();
                words.map(|word| word.split('=').next().unwrap().to_owned()).collect()
            };
            let (mail, rcpt) = (named(&received.parameters), named(&received.rcpt_parameters[0]));
            if in_tls.is_empty() {
                assert_eq!(
                    (mail.len(), rcpt.len(), received.chunked),
                    (0, 0, false),
                    "{received:?}"
                );
            } else {
                assert_eq!(mail, ["SIZE", "RET", "ENVID", "BY", "MT-PRIORITY"]);
                assert_eq!((rcpt, received.chunked), (vec!["NOTIFY".into(), "ORCPT".into()], true));
            }
            let verbs = mx.commands().read(|all| {
                all.iter()
                    .map(|line| line.split(' ').next().unwrap().to_owned())
                    .collect::<Vec<_>>()
            });
            let transfer = if in_tls.is_empty() { "DATA" } else { "BDAT" };
            assert_eq!(verbs[..6], ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", transfer]);
        }
    });
}

/// RFC 3461 §5.2.1.
#[test]
fn dsn_03_parameters_go_on_unchanged_to_a_host_with_dsn() {
    on_stage(|stage| async {
        let mx = host(stage, "dsn03.test", &["PIPELINING", "DSN"]).await;
        let recipients = [
            "<a@dsn03.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@old.test",
            "<b@dsn03.test> NOTIFY=NEVER",
            "<c@dsn03.test>",
        ];
        let mail = "<s@nowhere.test> RET=HDRS ENVID=QQ+2B314";
        send(&stage.relay, mail, &recipients, b"X-Top: x\r\n\r\nx\r\n").await;
        let received = mx.message().await;
        assert_eq!(received.parameters, "RET=HDRS ENVID=QQ+2B314");
        let want = ["NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@old.test", "NOTIFY=NEVER", ""];
        assert_eq!(received.rcpt_parameters, want, "and nothing of our own");
    });
}

/// RFC 2034 §4.
#[test]
fn dsn_15_every_line_of_a_reply_has_its_status() {
    on_stage(|stage| async {
        let mut client = stage.relay.client().await;
        let commands = [
            "NOOP",
            "RSET",
            "VRFY postmaster",
            "EXPN list",
            "NONSENSE",
            "RCPT TO:<b@x.test>",
            "DATA",
            "MAIL FROM:<a b>",
            "MAIL FROM:<a@x.test> NONSENSE=1",
            "MAIL FROM:<>",
            "MAIL FROM:<>",
            "RCPT TO:<no domain>",
            "RCPT TO:<b@x.test>",
            "QUIT",
        ];
        for command in commands {
            let reply = client.command(command).await.unwrap();
            let class = reply.code / 100;
            for line in &reply.lines {
                let status = line.split(' ').next().unwrap();
                let parts: Vec<u16> =
                    status.split('.').map_while(|part| part.parse().ok()).collect();
                assert!(parts.len() == 3 && parts[0] == class, "{command}: {reply:?}");
            }
        }
    });
}

//! What we say to hosts about a message, row by row: a scripted MX listens.

use world::{Then, World};

use super::client::{bounces, fate, only_mx, submit, waits};
use crate::harness::{PROGRAM, on_stage};

#[test]
fn cl_11_replies_are_read_strictly_and_bounded() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let endless = "250-and so on\r\n".repeat(200) + "250 end";
        let long = format!("250 {}", "x".repeat(5000));
        let odd: [(&str, &str); 6] = [
            ("mixed", "250-one\r\n251 other"),
            ("word", "Yes"),
            ("code", "999 no such code"),
            ("glued", "250_ok"),
            ("endless", &endless),
            ("long", &long),
        ];
        for (name, reply) in odd {
            let domain = format!("{name}.cl11.test");
            let mx = only_mx(world, &domain).await;
            mx.on("MAIL", Then::reply(reply));
            waits(relay, &format!("x@{domain}"), "protocol_error").await;
            mx.clear_rules();
        }
        // Strange, but within what RFC 5321 §4.2 allows or many hosts do.
        let mx = only_mx(world, "odd.cl11.test").await;
        mx.on("MAIL", Then::reply("250"));
        mx.on("RCPT", Then::reply("299-\r\n299 \u{1b}[31mfine"));
        submit(relay, "x@odd.cl11.test").await;
        fate(relay, "delivered", "x@odd.cl11.test").await;
    });
}

#[test]
fn cl_15_many_recipients_at_one_host_are_one_copy() {
    on_stage(|stage| async {
        let mx = only_mx(&stage.world, "cl15.test").await;
        let all = ["a@cl15.test", "b@cl15.test", "c@cl15.test"];
        stage.relay.submit("", &all, "one").await;
        assert_eq!(mx.message().await.to, all);
        for recipient in all {
            fate(&stage.relay, "delivered", recipient).await;
        }
        assert_eq!(mx.received().len(), 1);
    });
}

#[test]
fn cl_16_the_message_follows_only_for_those_who_were_accepted() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        for (domain, keywords) in [("group.cl16.test", "PIPELINING"), ("single.cl16.test", "SIZE")]
        {
            let mx = only_mx(world, domain).await;
            mx.script(|script| script.keywords = vec![keywords.to_owned()]);
            let at = |local: &str| format!("{local}@{domain}");
            mx.on(&format!("RCPT TO:<{}", at("no")), Then::reply("550 5.1.1 No such user"));
            mx.on(&format!("RCPT TO:<{}", at("full")), Then::reply("452 4.2.2 Mailbox full"));
            let all = [at("no"), at("yes"), at("full")];
            relay.submit("", &all.each_ref().map(String::as_str), "some").await;
            assert_eq!(mx.message().await.to, [at("yes")]);
            fate(relay, "delivered", &at("yes")).await;
            let bounced = fate(relay, "bounced", &at("no")).await;
            assert_eq!(bounced.text("status").as_deref(), Some("5.1.1"));
            fate(relay, "deferred", &at("full")).await;
            mx.clear_rules();
            fate(relay, "delivered", &at("full")).await;

            mx.on("RCPT", Then::reply("550 5.1.1 Nobody at all"));
            bounces(relay, &at("none"), "remote_5xx").await;
            assert_eq!(mx.received().len(), 2);
            mx.wait_command("RSET").await;
        }
    });
}

/// RFC 5321 §4.5.2, §2.3.8.
#[test]
fn cl_17_dots_are_doubled_and_there_is_one_end() {
    on_stage(|stage| async {
        let mx = only_mx(&stage.world, "cl17.test").await;
        let bodies =
            [".", ".\r\n", "..\r\n.\r\n...\r\n", "a\r\n.b\r\n", "no end", "", "\r\n", "\r\n\r\n."];
        for body in bodies {
            let mut client = stage.relay.client().await;
            client.expect("MAIL FROM:<>", 250).await;
            client.expect("RCPT TO:<x@cl17.test>", 250).await;
            // By BDAT, since behind DATA nothing comes without the end of its last line.
            let reply =
                client.bdat(format!("X-Top: x\r\n\r\n{body}").as_bytes(), true).await.unwrap();
            assert_eq!(reply.code, 250, "{reply:?}");
        }
        let mut got: Vec<_> =
            mx.messages(bodies.len()).await.iter().map(|m| m.body().to_vec()).collect();
        let mut want: Vec<_> = bodies
            .iter()
            .map(|body| {
                let is_ended = body.is_empty() || body.ends_with("\r\n");
                format!("{body}{}", if is_ended { "" } else { "\r\n" }).into_bytes()
            })
            .collect();
        got.sort();
        want.sort();
        assert_eq!(got, want);
        assert_eq!(mx.commanded("DATA"), bodies.len(), "no line of a message was a command");
    });
}

/// RFC 5321 §4.5.3.1.6: under `delivery.long_lines`.
#[tokio::test]
async fn cl_18_long_lines_pass_or_are_encoded_or_refused() {
    let world = World::start(PROGRAM).await;
    let mx = only_mx(&world, "far.test").await;
    let line = ".".to_owned() + &"x".repeat(10_000);
    let content =
        format!("Subject: long\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n{line}\r\n");
    for (number, word) in ["pass", "encode", "refuse"].into_iter().enumerate() {
        let relay = world.relay(&format!("[delivery]\nlong_lines = \"{word}\"\n")).await;
        let recipient = format!("{word}@far.test");
        assert_eq!(relay.submit_content("", &[&recipient], content.as_bytes()).await.code, 250);
        if word == "refuse" {
            let bounced = fate(&relay, "bounced", &recipient).await;
            assert_eq!(bounced.text("reason").as_deref(), Some("line_too_long"));
            assert_eq!(mx.received().len(), number);
            continue;
        }
        let received = mx.message_to(&recipient).await;
        let body = String::from_utf8(received.body().to_vec()).unwrap();
        let longest = body.lines().map(str::len).max().unwrap();
        assert_eq!(longest, if word == "pass" { line.len() } else { 76 }, "{word}");
        assert_eq!(body.replace("=\r\n", ""), format!("{line}\r\n"), "{word}");
    }
}

/// RFC 5322 §2.2.3: folding changes nothing, but for a signature of the field as it is written (RFC
/// 6376 §3.4.1).
#[tokio::test]
async fn cl_18_long_header_fields_are_folded_where_no_signature_breaks_by_it() {
    let world = World::start(PROGRAM).await;
    let mx = only_mx(&world, "far.test").await;
    let relay = world.relay("[delivery]\nlong_lines = \"encode\"\n").await;
    let list = vec!["user@dest.test,"; 100].join(" ");
    for (number, canonical) in ["relaxed", "simple"].into_iter().enumerate() {
        let header = format!(
            "DKIM-Signature: v=1; c={canonical}/simple; h=from:cc; b=x\r\nCc: {list}\r\n\
             References: {list}\r\n"
        );
        let content = format!("{header}\r\nbody\r\n");
        let reply = relay.submit_content("", &["u@far.test"], content.as_bytes()).await;
        assert_eq!(reply.code, 250);
        let text = mx.messages(number + 1).await[number].text();
        let long: Vec<_> = text.lines().filter(|line| line.len() > 998).collect();
        let kept = format!("Cc: {list}");
        assert_eq!(long, if canonical == "simple" { vec![kept.as_str()] } else { vec![] });
        let unfolded = text.replace("\r\n ", " ");
        assert!(unfolded.ends_with(&content), "{text}");
    }
    let converted = relay.event("converted").with("dkim_signed", "false").await;
    assert_eq!(converted.text("mx").as_deref(), Some("mx.far.test"));
}

//! What hosts answer, and what becomes of mail then, row by row: a scripted MX listens.

use std::net::Ipv4Addr;

use world::{Greeting, Mx, Relay, Rule, Starttls, Then, World, message};

use super::client::{arrives, bounces, enforce, fate, only_mx, submit, waits};
use crate::harness::{PROGRAM, on_stage};

/// At which point a host refuses the session.
#[derive(Clone, Copy)]
enum Closed {
    AtGreeting,
    AtEhlo,
}

impl Closed {
    fn say(self, mx: &Mx, reply: &str) {
        match self {
            Self::AtGreeting => {
                mx.script(|script| script.greeting = Greeting::Reply(reply.to_owned()));
            }
            Self::AtEhlo => mx.on("EHLO", Then::reply(reply)),
        }
    }
}

#[test]
fn cl_09_a_host_that_takes_no_mail_at_all_is_passed_over_and_ends_it_only_alone() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let said = [
            ("g521", Closed::AtGreeting, "521 5.3.2 No mail here"),
            ("g556", Closed::AtGreeting, "556 5.1.10 No mail here"),
            ("e521", Closed::AtEhlo, "521 No mail here"),
            ("e556", Closed::AtEhlo, "556 No mail here"),
        ];
        for (name, place, reply) in said {
            let at = |part: &str| format!("{part}.{name}.cl09.test");
            let closed = world.mx(&at("closed")).await;
            let also = world.mx(&at("also")).await;
            for mx in [&closed, &also] {
                place.say(mx, reply);
            }
            let open = world.mx(&at("open")).await;
            world.domain(&at("both")).mx(&[(5, &closed), (10, &open)]);
            arrives(relay, &open, &format!("x@{}", at("both"))).await;
            world.domain(&at("alone")).mx(&[(5, &closed), (10, &also)]);
            bounces(relay, &format!("x@{}", at("alone")), "greeting_refused").await;
            assert!(closed.connections() > 0 && also.connections() > 0, "{name}: all were asked");
            // Of one that cannot be reached nobody knows what it would say.
            let (mixed, dead) = (at("mixed"), at("dead"));
            world.dns.a(&dead, Ipv4Addr::new(127, 0, 99, 1));
            world.domain(&mixed).mx_names(&[(5, closed.host()), (10, &dead)]);
            waits(relay, &format!("x@{mixed}"), "greeting_refused").await;
            assert_eq!((closed.commanded("MAIL"), also.commanded("MAIL")), (0, 0), "{name}");
        }
    });
}

#[test]
fn cl_09_nothing_else_that_is_said_to_a_session_ends_mail_and_nothing_forged_does() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        // Any other refusal of the session is the host's trouble, not the mail's.
        let moody = [
            ("g554", Closed::AtGreeting, "554 5.7.1 Not today"),
            ("g550", Closed::AtGreeting, "550 Not today"),
            ("e554", Closed::AtEhlo, "554 5.7.1 Not today"),
            ("e550", Closed::AtEhlo, "550 Not today"),
        ];
        for (name, place, reply) in moody {
            let (alone, next) = (format!("{name}.cl09.test"), format!("next.{name}.cl09.test"));
            let mx = only_mx(world, &alone).await;
            place.say(&mx, reply);
            waits(relay, &format!("x@{alone}"), "greeting_refused").await;
            let good = world.mx(&format!("good.{name}.cl09.test")).await;
            world.domain(&next).mx(&[(5, &mx), (10, &good)]);
            arrives(relay, &good, &format!("x@{next}")).await;
            assert_eq!(mx.commanded("MAIL"), 0, "{name}");
        }
        // A greeting is clear text, which anybody on the way can write.
        let strict = only_mx(world, "strict.cl09.test").await;
        enforce(stage, "strict.cl09.test");
        Closed::AtGreeting.say(&strict, "521 5.3.2 No mail here");
        waits(relay, "x@strict.cl09.test", "greeting_refused").await;
        strict.script(|script| script.greeting = Greeting::Good);
        strict.message_to("x@strict.cl09.test").await;
    });
}

/// RFC 7504 §4: 556 speaks of the domain and not of the host that says it.
#[test]
fn cl_09_a_recipient_whose_domain_takes_no_mail_is_returned_at_once() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let mx = world.mx("mx.rcpt.cl09.test").await;
        let other = world.mx("other.rcpt.cl09.test").await;
        world.domain("rcpt.cl09.test").mx(&[(5, &mx), (10, &other)]);
        mx.on("RCPT TO:<no@", Then::reply("556 5.1.10 The domain takes no mail"));
        relay.submit("", &["no@rcpt.cl09.test", "yes@rcpt.cl09.test"], "both").await;
        let bounced = fate(relay, "bounced", "no@rcpt.cl09.test").await;
        assert_eq!(bounced.text("reason").as_deref(), Some("remote_5xx"));
        assert_eq!(bounced.text("status").as_deref(), Some("5.1.10"));
        assert_eq!(mx.message().await.to, ["yes@rcpt.cl09.test"]);
        assert_eq!(other.connections(), 0);
    });
}

/// RFC 5321 §4.2.2: what a server says that does not know the command, or not in this form or
/// place.
const NOT_UNDERSTOOD: [u16; 5] = [500, 501, 502, 503, 504];
/// What others say to EHLO for other reasons.
const UNDERSTOOD: [u16; 7] = [450, 451, 454, 530, 550, 554, 555];

#[test]
fn cl_10_helo_follows_only_an_ehlo_that_was_not_understood_where_nothing_needs_tls() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        for code in NOT_UNDERSTOOD {
            let (domain, recipient) =
                (format!("old{code}.cl10.test"), format!("x@old{code}.cl10.test"));
            let old = only_mx(world, &domain).await;
            old.on("EHLO", Then::Reply(format!("{code} What?")));
            arrives(relay, &old, &recipient).await;
            let received = old.message().await;
            assert_eq!((received.helo.as_str(), received.parameters.as_str()), ("relay.test", ""));

            let domain = format!("strict{code}.cl10.test");
            let strict = only_mx(world, &domain).await;
            strict.on("EHLO", Then::Reply(format!("{code} What?")));
            enforce(stage, &domain);
            waits(relay, &format!("x@{domain}"), "greeting_refused").await;
            assert_eq!((strict.commanded("HELO"), strict.commanded("MAIL")), (0, 0), "{code}");
        }
        for code in UNDERSTOOD {
            let domain = format!("busy{code}.cl10.test");
            let busy = only_mx(world, &domain).await;
            busy.on("EHLO", Then::Reply(format!("{code} Not so")));
            waits(relay, &format!("x@{domain}"), "greeting_refused").await;
            assert_eq!((busy.commanded("HELO"), busy.commanded("MAIL")), (0, 0), "{code}");
        }
        let full = only_mx(world, "full.cl10.test").await;
        full.on("EHLO", Then::ReplyAndClose("421 4.3.2 Too many".to_owned()));
        waits(relay, "x@full.cl10.test", "throttled").await;
        assert_eq!(full.commanded("HELO"), 0);
    });
}

/// HELO has no extensions, so an operator who wants TLS gets none of it either.
#[tokio::test]
async fn cl_10_no_helo_where_the_operator_requires_tls() {
    let world = World::start(PROGRAM).await;
    let old = only_mx(&world, "old.test").await;
    old.on("EHLO", Then::reply("502 5.5.1 What?"));
    let relay = world.relay("[delivery]\ntls = \"encrypt\"\n").await;
    waits(&relay, "x@old.test", "greeting_refused").await;
    assert_eq!((old.commanded("HELO"), old.commanded("MAIL")), (0, 0));
}

#[test]
fn cl_13_4yz_is_tried_again_and_5yz_ends_what_it_is_about() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let mx = only_mx(world, "cl13.test").await;
        mx.script(|script| {
            script.rules.extend([
                Rule::times(1, "MAIL", Then::reply("451 4.3.0 Not now")),
                Rule::times(1, "MAIL", Then::reply("550 5.1.0 Not you")),
                Rule::always("RCPT TO:<no@", Then::reply("550 5.1.1 Nobody")),
                Rule::times(1, "RCPT TO:<full@", Then::reply("450 4.2.2 Full")),
            ]);
        });
        submit(relay, "first@cl13.test").await;
        fate(relay, "deferred", "first@cl13.test").await;
        // The 5yz to MAIL is for this message alone.
        let bounced = fate(relay, "bounced", "first@cl13.test").await;
        assert_eq!(bounced.text("status").as_deref(), Some("5.1.0"));
        let all = ["yes@cl13.test", "no@cl13.test", "full@cl13.test"];
        relay.submit("a@client.test", &all, "all").await;
        fate(relay, "delivered", "yes@cl13.test").await;
        fate(relay, "bounced", "no@cl13.test").await;
        fate(relay, "deferred", "full@cl13.test").await;
        fate(relay, "delivered", "full@cl13.test").await;
        assert_eq!(mx.messages(2).await[0].to, ["yes@cl13.test"]);
    });
}

/// RFC 5321 §3.8: 421 ends the session and speaks of nobody's mail. Before a session there is
/// another host; later the mail waits for its next turn.
#[test]
fn cl_13_421_closes_the_session_and_ends_no_mail_wherever_it_comes() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        for (name, place) in [("greeting", Closed::AtGreeting), ("ehlo", Closed::AtEhlo)] {
            let (alone, next) = (format!("{name}.421.test"), format!("next.{name}.421.test"));
            let mx = only_mx(world, &alone).await;
            place.say(&mx, "421 4.3.2 Closing");
            waits(relay, &format!("x@{alone}"), "throttled").await;
            let good = world.mx(&format!("good.{name}.421.test")).await;
            world.domain(&next).mx(&[(10, &mx), (20, &good)]);
            arrives(relay, &good, &format!("x@{next}")).await;
            assert_eq!(mx.commanded("MAIL"), 0, "{name}");
            mx.clear_rules();
            mx.script(|script| script.greeting = Greeting::Good);
            mx.message_to(&format!("x@{alone}")).await;
        }
        let stages = [
            ("mail", "MAIL", "PIPELINING"),
            ("rcpt", "RCPT", "PIPELINING"),
            ("single", "RCPT", "SIZE"),
            ("data", "DATA", "PIPELINING"),
            ("dot", ".", "PIPELINING"),
            ("bdat", ".", "CHUNKING"),
        ];
        for (name, command, keyword) in stages {
            let domain = format!("{name}.421.test");
            let (one, two) = (format!("one@{domain}"), format!("two@{domain}"));
            let mx = only_mx(world, &domain).await;
            // The class of the enhanced code is that of another reply; the reply's own counts.
            let closing = Then::ReplyAndClose("421 5.3.2 Closing".to_owned());
            mx.script(|script| {
                script.keywords = vec![keyword.to_owned()];
                script.rules.push(Rule::times(1, command, closing));
            });
            relay.submit("", &[&one, &two], "both").await;
            for recipient in [&one, &two] {
                let deferred = fate(relay, "deferred", recipient).await;
                assert_eq!(deferred.text("reason").as_deref(), Some("throttled"), "{name}");
                assert_eq!(deferred.text("status").as_deref(), Some("4.3.2"), "{name}");
                fate(relay, "delivered", recipient).await;
                assert_eq!(relay.event("bounced").with("recipient", recipient).count(), 0);
            }
            let received = mx.message().await;
            assert_eq!((received.to.len(), received.connection), (2, 2), "{name}");
            assert_eq!(mx.received().len(), 1, "{name}");
        }
    });
}

/// RFC 5321 §4.5.3.1.10: 452, 552 from older hosts, with an enhanced code or without.
#[tokio::test]
async fn cl_14_recipients_beyond_the_hosts_hundred_follow_at_once() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[delivery]\nrecipients_per_transaction = 250\n").await;
    let forms = ["452 4.5.3 Too many recipients", "452 Too many", "552 5.5.3 Too many", "552 Full"];
    for (number, form) in forms.into_iter().enumerate() {
        let domain = format!("far{number}.test");
        let mx = only_mx(&world, &domain).await;
        mx.script(|script| {
            script.rcpt_max = Some(100);
            script.too_many = form.to_owned();
        });
        let recipients: Vec<String> = (0..250).map(|n| format!("r{n}@{domain}")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        relay.submit("", &recipients, "many").await;
        let messages = mx.messages(3).await;
        let shape: Vec<_> = messages.iter().map(|one| (one.to.len(), one.connection)).collect();
        assert_eq!(shape, [(100, 1), (100, 1), (50, 1)], "{form}");
        relay.event("delivered").times(250 * (number + 1)).await;
        assert_eq!(relay.event("deferred").count() + relay.event("bounced").count(), 0, "{form}");
        assert_eq!((mx.commanded("MAIL"), mx.received().len()), (3, 3), "{form}");
    }
}

#[test]
fn cl_14_what_names_another_cause_is_not_too_many() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let mx = only_mx(world, "other.cl14.test").await;
        let cases = [
            ("over", "552 5.2.2 Mailbox full", "bounced", "5.2.2"),
            ("list", "550 5.5.3 Too many recipients", "deferred", "4.5.3"),
            ("full", "452 4.2.2 Mailbox full", "deferred", "4.2.2"),
            ("disk", "452 4.3.1 No space", "deferred", "4.3.1"),
        ];
        let mut all = vec!["yes@other.cl14.test".to_owned()];
        for (local, reply, _, _) in cases {
            mx.on(&format!("RCPT TO:<{local}@"), Then::reply(reply));
            all.push(format!("{local}@other.cl14.test"));
        }
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        relay.submit("", &all, "all").await;
        for (local, _, event, status) in cases {
            let told = fate(relay, event, &format!("{local}@other.cl14.test")).await;
            assert_eq!(told.text("status").as_deref(), Some(status), "{local}");
        }
        assert_eq!(mx.message().await.to, ["yes@other.cl14.test"]);
        assert_eq!(mx.commanded("RCPT TO:<over@"), 1, "not asked again");

        // Too many, and not one was taken: again later, whatever the class of the reply.
        let none = only_mx(world, "none.cl14.test").await;
        none.on("RCPT", Then::reply("552 Too many recipients"));
        waits(relay, "x@none.cl14.test", "remote_5xx").await;
        none.clear_rules();
        none.message_to("x@none.cl14.test").await;
    });
}

/// RFC 5321 §3.8.
#[test]
fn cl_19_what_a_host_says_before_it_goes_is_heard_and_silence_is_tried_again() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let mx = only_mx(world, "said.cl19.test").await;
        mx.on("MAIL", Then::ReplyAndClose("550 5.7.1 Go away".to_owned()));
        bounces(relay, "x@said.cl19.test", "remote_5xx").await;

        let mx = only_mx(world, "large.cl19.test").await;
        mx.script(|script| script.offer(&["CHUNKING"]));
        mx.on("BDAT", Then::ReplyAndClose("552 5.3.4 Too much".to_owned()));
        bounces(relay, "x@large.cl19.test", "remote_5xx").await;

        // All was sent and no answer came: nobody knows, and a second copy is better than none.
        for (domain, keywords) in [("data.cl19.test", "PIPELINING"), ("bdat.cl19.test", "CHUNKING")]
        {
            let mx = only_mx(world, domain).await;
            mx.script(|script| {
                script.keywords = vec![keywords.to_owned()];
                script.rules.push(Rule::times(1, ".", Then::Close));
            });
            let recipient = format!("x@{domain}");
            let content = message("", &recipient, "again");
            assert_eq!(relay.submit_content("", &[&recipient], &content).await.code, 250);
            let deferred = fate(relay, "deferred", &recipient).await;
            assert_eq!(deferred.text("reason").as_deref(), Some("connection_lost"));
            let received = mx.message().await;
            assert!(received.text().contains("Message-ID: <again@client.test>\r\n"));
            fate(relay, "delivered", &recipient).await;
        }
    });
}

/// A message of several megabytes: more than what lies in the buffers between us and a host.
fn large(recipient: &str) -> Vec<u8> {
    let line = "0123456789abcdef".repeat(4) + "\r\n";
    let mut content = message("", recipient, "large");
    content.extend(line.repeat(100_000).bytes());
    content
}

async fn submit_large(relay: &Relay, recipient: &str) {
    let reply = relay.submit_content("", &[recipient], &large(recipient)).await;
    assert_eq!(reply.code, 250, "{reply:?}");
}

/// The host does not read on, and its system resets the connection under what we write. Its reply
/// has come by then.
#[test]
fn cl_19_a_reply_in_the_middle_of_a_large_message_is_heard_though_the_host_closes() {
    on_stage(|stage| async {
        let (world, relay) = (&stage.world, &stage.relay);
        let ways = [
            ("PIPELINING", Starttls::Absent),
            ("PIPELINING", Starttls::Good),
            ("CHUNKING", Starttls::Absent),
            ("CHUNKING", Starttls::Good),
        ];
        // Each reply one way, and both kinds of them both ways.
        let ends = [
            ("bounced", "remote_5xx", "552 5.3.4 Too large"),
            ("bounced", "remote_5xx", "554 5.6.0 Not this"),
            ("deferred", "throttled", "421 4.3.2 Closing"),
            ("bounced", "remote_5xx", "552 5.3.4 Too large"),
            ("deferred", "remote_4xx", "451 4.3.0 Not now"),
            ("deferred", "remote_4xx", "452 4.3.1 No space"),
        ];
        for (number, (event, reason, reply)) in ends.into_iter().enumerate() {
            let (keyword, starttls) = ways[number % ways.len()].clone();
            let domain = format!("r{number}.large.cl19.test");
            let recipient = format!("x@{domain}");
            let mx = only_mx(world, &domain).await;
            mx.script(|script| {
                script.keywords = vec![keyword.to_owned()];
                script.starttls = starttls.clone();
                script.enough = Some((100_000, reply.to_owned()));
            });
            submit_large(relay, &recipient).await;
            let told = fate(relay, event, &recipient).await;
            assert_eq!(told.text("reason").as_deref(), Some(reason), "{reply}");
            assert_eq!(told.text("status").as_deref(), reply.split(' ').nth(1), "{reply}");
            if event == "deferred" {
                mx.script(|script| script.enough = None);
                let received = mx.message_to(&recipient).await;
                assert!(received.content.ends_with(&large(&recipient)), "all of it, later");
            }
        }
    });
}

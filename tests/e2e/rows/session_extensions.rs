//! The extensions that the session itself decides, row by row.

use world::{Client, Mode, Relay, Trust, World, stuff};

use super::session::{FRONT, HIDDEN, SMALL, is_unclean, mx_of, opened, smuggling, talk};
use crate::harness::{PROGRAM, on_stage};
use crate::submission::{BCRYPT, IMPLICIT, Office, RELAY, STARTTLS, write_users};

#[tokio::test]
async fn ext_01_size_is_held_at_mail_and_again_at_the_end() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay(SMALL).await;
    let mut client = Client::hello(relay.listener()).await.unwrap();
    assert_eq!(client.keyword("SIZE"), Some("65536"));
    let rows = [
        ("MAIL FROM:<a@client.test> SIZE=65537", "552 5.3.4"),
        ("MAIL FROM:<a@client.test> SIZE=65536", "250"),
        ("RCPT TO:<x@ext01.test>", "250"),
    ];
    talk(&mut client, &rows).await;
    // Nobody's: that would be "", which is the null sender.
    let rejected = relay.event("rejected").with("reason", "size_exceeded").await;
    assert_eq!(rejected.text("sender"), None);

    // Dots that are only stuffing do not count (RFC 1870 §6.1); one octet more is too much.
    let front = format!("Subject: x\r\n\r\n{}", ".\r\n".repeat(20_000));
    for (size, want) in [(65_537, 552), (65_536, 250)] {
        let content = format!("{front}{}\r\n", "x".repeat(size - front.len() - 2));
        client.expect("RSET", 250).await;
        client.expect("MAIL FROM:<a@client.test>", 250).await;
        client.expect("RCPT TO:<x@ext01.test>", 250).await;
        client.expect("DATA", 354).await;
        client.send(&stuff(content.as_bytes())).await.unwrap();
        let reply = client.reply().await.unwrap();
        assert_eq!(reply.code, want, "{size}: {reply:?}");
    }
}

/// RFC 1870 §6.1: what does not fit now is refused for now, before it is sent if its size is told.
#[tokio::test]
async fn ext_01_a_message_that_the_disk_has_no_room_for_is_refused_for_now() {
    let world = World::start(PROGRAM).await;
    // More than any disk has, of which one message may claim what is left.
    let relay = world.relay("[limits]\nmessage_size = \"1000000GiB\"\n").await;
    let mut client = relay.client().await;
    let rows = [
        ("MAIL FROM:<a@client.test> SIZE=1000000000000000", "452 4.3.1"),
        ("MAIL FROM:<a@client.test> SIZE=1000", "250"),
    ];
    talk(&mut client, &rows).await;
    relay.event("rejected").with("reason", "local_error").with("code", 452).await;

    let relay = world.relay("[limits]\ndisk_free_min = \"1000000GiB\"\n").await;
    relay.client().await.expect("MAIL FROM:<a@client.test>", 452).await;
}

/// Nobody can know it before: the disk runs full while the message comes. The answer stands behind
/// its end, as any other, and the session goes on.
#[tokio::test]
async fn ext_01_a_message_that_the_disk_runs_full_under_is_refused_at_its_end() {
    let world = World::start(PROGRAM).await;
    world.dns.outage(Some(world::Answer::Refused));
    let relay = world.relay("").await;
    let drafts = relay.data_dir().join("tmp");
    let line = format!("{}\r\n", "x".repeat(98));
    let large = format!("Subject: large\r\n\r\n{}", line.repeat(20_000));
    let mut client = relay.client().await;
    let before = file_size_limit(&relay, Some(256 * 1024));
    for last_verb in ["DATA", "BDAT"] {
        client.expect("MAIL FROM:<a@client.test>", 250).await;
        client.expect("RCPT TO:<b@far.test>", 250).await;
        let reply = if last_verb == "DATA" {
            client.expect("DATA", 354).await;
            client.send(&stuff(large.as_bytes())).await.unwrap();
            client.reply().await.unwrap()
        } else {
            let (front, back) = large.split_at(large.len() / 2);
            assert_eq!(client.bdat(front.as_bytes(), false).await.unwrap().code, 250);
            client.bdat(back.as_bytes(), true).await.unwrap()
        };
        assert_eq!(reply.code, 452, "{last_verb}: {reply:?}");
        assert!(reply.text().starts_with("4.3.1 "), "{reply:?}");
        assert_eq!(std::fs::read_dir(&drafts).unwrap().count(), 0, "nothing of it is kept");
        client.expect("NOOP", 250).await;
    }
    // Not even the octet that the smallest needs.
    file_size_limit(&relay, Some(1));
    let reply = client.transact("a@client.test", &["b@far.test"], b"X: y\r\n\r\n").await.unwrap();
    assert_eq!(reply.code, 452, "{reply:?}");
    // A reload needs no disk.
    relay.cli_json(&["reload"]).await;
    file_size_limit(&relay, before);
    let reply = client.transact("a@client.test", &["b@far.test"], large.as_bytes()).await.unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
    assert_eq!(relay.queue().await.len(), 1);
}

/// How large a file the daemon may make from now on; what it might before. To the daemon it is a
/// full disk.
fn file_size_limit(relay: &Relay, octets: Option<u64>) -> Option<u64> {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let pid = Pid::from_raw(i32::try_from(relay.pid()).unwrap());
    let limit = Rlimit { current: octets, maximum: None };
    prlimit(pid, Resource::Fsize, limit).unwrap().current
}

#[test]
fn ext_04_any_split_of_the_input_gives_the_same_dialogue() {
    on_stage(|stage| async move {
        let mx = mx_of(stage, "ext04.test").await;
        let dialogue = b"EHLO client.test\r\nMAIL FROM:<a@client.test> BODY=8BITMIME\r\n\
            RCPT TO:<x@ext04.test>\r\nRCPT TO:<bad\r\nNOOP\r\nDATA\r\n\
            Subject: split\r\n\r\n..dot\r\nt\xc3\xa4xt\r\n.\r\nVRFY x\r\nFROBNICATE\r\nQUIT\r\n";
        let want = [220, 250, 250, 250, 501, 250, 354, 250, 252, 500, 221];
        let sizes = [1, 2, 3, 5, 8, 13, 21, 34, 55, dialogue.len()];
        for size in sizes {
            let mut client = Client::dial(stage.relay.listener()).await.unwrap();
            let mut codes = vec![client.reply().await.unwrap().code];
            client.send_split(dialogue, size).await.unwrap();
            while let Ok(reply) = client.reply().await {
                codes.push(reply.code);
            }
            assert_eq!(codes, want, "in pieces of {size}");
        }
        for message in mx.messages(sizes.len()).await {
            assert!(message.content.ends_with(b"\r\n\r\n.dot\r\nt\xc3\xa4xt\r\n"), "{message:?}");
        }
    });
}

#[test]
fn ext_05_bdat_counts_octets_and_no_chunk_ends_a_message_early() {
    on_stage(|stage| async move {
        let mx = mx_of(stage, "ext05.test").await;
        let mut taken = 0;
        for (id, content) in smuggling() {
            // Each place where a chunk can end inside of what should look like the end.
            for cut in FRONT.len()..=content.len() - HIDDEN.len() {
                let recipient = format!("{id}-{cut}@ext05.test");
                let mut client = opened(stage.relay.listener(), &recipient).await;
                let (front, back) = content.split_at(cut);
                let chunks = [
                    format!("BDAT {}\r\n", front.len()).as_bytes(),
                    front,
                    format!("BDAT {} LAST\r\n", back.len()).as_bytes(),
                    back,
                    b"NOOP\r\n",
                ]
                .concat();
                client.send(&chunks).await.unwrap();
                let mut codes = Vec::new();
                for _ in 0..3 {
                    codes.push(client.reply().await.unwrap().code);
                }
                let want: &[[u16; 3]] = match is_unclean(&content) {
                    // Refused with the first chunk, and then there is no message to go on with.
                    true => &[[550, 503, 250], [250, 550, 250]],
                    false => &[[250, 250, 250]],
                };
                assert!(want.iter().any(|want| codes == want), "{id} at {cut}: {codes:?}");
                taken += usize::from(codes[..2] == [250, 250]);
            }
        }
        for message in mx.messages(taken).await {
            assert_eq!(message.from, "sender@client.test");
            let id = message.to[0].split('-').next().unwrap().to_owned();
            let (_, content) = smuggling().into_iter().find(|(row, _)| *row == id).expect("a row");
            assert!(message.content.ends_with(&content), "{id}: {message:?}");
        }
    });
}

#[tokio::test]
async fn ext_05_refused_octets_are_read_and_bdat_and_data_are_not_mixed() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay(SMALL).await;
    let mut client = Client::hello(relay.listener()).await.unwrap();
    assert_eq!(client.keyword("CHUNKING"), Some(""));
    assert_eq!(client.bdat(b"QUIT\r\n", true).await.unwrap().code, 503, "no MAIL");
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    assert_eq!(client.bdat(b"QUIT\r\n", true).await.unwrap().code, 503, "no RCPT");
    client.expect("RCPT TO:<x@ext05b.test>", 250).await;
    assert_eq!(client.bdat(b"Subject: x\r\n", false).await.unwrap().code, 250);
    let rows = [
        ("DATA", "503 5.5.1"),
        ("RCPT TO:<y@ext05b.test>", "503 5.5.1"),
        ("MAIL FROM:<a@client.test>", "503 5.5.1"),
        ("RSET", "250"),
    ];
    talk(&mut client, &rows).await;
    assert_eq!(client.bdat(b"QUIT\r\n", true).await.unwrap().code, 503, "RSET ended the message");

    client.expect("MAIL FROM:<a@client.test>", 250).await;
    client.expect("RCPT TO:<x@ext05b.test>", 250).await;
    let large = b"QUIT\r\n".repeat(20_000);
    let reply = client.bdat(&large, false).await.unwrap();
    assert_eq!(reply.code, 552, "{reply:?}");
    assert!(reply.text().starts_with("5.3.4 "), "{reply:?}");
    assert_eq!(client.bdat(&large, true).await.unwrap().code, 503);
    client.expect("NOOP", 250).await;
    assert!(relay.queue().await.is_empty());

    // How long is a chunk whose size cannot be read? Nobody knows, so nothing more is read.
    client.expect("BDAT 0x10 LAST", 501).await;
    assert!(client.is_closed().await);
}

#[test]
fn ext_05_a_last_line_without_its_end_gets_one_and_the_empty_message_none() {
    on_stage(|stage| async move {
        let mx = mx_of(stage, "ext05c.test").await;
        let mut client = opened(stage.relay.listener(), "x@ext05c.test").await;
        assert_eq!(client.bdat(b"Subject: open\r\n\r\nab\r", false).await.unwrap().code, 250);
        assert_eq!(client.bdat(b"\ncd", false).await.unwrap().code, 250);
        let reply = client.bdat(b"", true).await.unwrap();
        assert_eq!(reply.code, 250, "{reply:?}");
        let message = mx.messages(1).await.remove(0);
        assert!(message.content.ends_with(b"\r\n\r\nab\r\ncd\r\n"), "{message:?}");

        client.expect("MAIL FROM:<sender@client.test>", 250).await;
        client.expect("RCPT TO:<x@ext05c.test>", 250).await;
        assert_eq!(client.bdat(b"", true).await.unwrap().code, 250);
        let message = mx.messages(2).await.remove(1);
        assert!(message.content.starts_with(b"Received: "), "{message:?}");
        assert!(!message.content.ends_with(b"\r\n\r\n"), "{message:?}");
    });
}

#[test]
fn ext_06_binarymime_is_not_offered_and_not_taken() {
    on_stage(|stage| async move {
        let mut client = Client::hello(stage.relay.listener()).await.unwrap();
        assert_eq!(client.keyword("BINARYMIME"), None);
        client.expect("MAIL FROM:<a@client.test> BODY=BINARYMIME", 501).await;
    });
}

#[test]
fn ext_08_utf8_addresses_need_smtputf8_and_arrive_as_written() {
    on_stage(|stage| async move {
        let mx = mx_of(stage, "ext08.test").await;
        mx.script(|script| script.offer(&["8BITMIME", "SMTPUTF8"]));
        let mut client = Client::hello(stage.relay.listener()).await.unwrap();
        assert_eq!(client.keyword("SMTPUTF8"), Some(""));
        let rows = [
            ("MAIL FROM:<j\u{fc}rgen@client.test>", "550 5.6.7"),
            ("MAIL FROM:<a@client.test> SMTPUTF8=yes", "501 5.5.4"),
            ("MAIL FROM:<a@client.test>", "250"),
            ("RCPT TO:<gr\u{fc}n@ext08.test>", "553 5.6.7"),
            ("RCPT TO:<x@gr\u{fc}n.ext08.test>", "553 5.6.7"),
            ("RSET", "250"),
            ("MAIL FROM:<j\u{fc}rgen@client.test> SMTPUTF8", "250"),
            ("RCPT TO:<gr\u{fc}n@ext08.test>", "250"),
            ("DATA", "354"),
        ];
        talk(&mut client, &rows).await;
        client.send("Subject: gr\u{fc}n\r\n\r\nx\r\n.\r\n".as_bytes()).await.unwrap();
        assert_eq!(client.reply().await.unwrap().code, 250);
        let message = mx.messages(1).await.remove(0);
        assert_eq!(message.from, "j\u{fc}rgen@client.test");
        assert_eq!(message.to, ["gr\u{fc}n@ext08.test"]);
    });
}

#[test]
fn ext_09_a_domain_in_its_own_script_is_looked_up_with_a_labels() {
    on_stage(|stage| async move {
        // MX, the policy's record, its host and the name in the certificate: all in ASCII.
        let mx = mx_of(stage, "xn--grn-ioa.ext09.test").await;
        mx.script(|script| script.offer(&["8BITMIME", "SMTPUTF8"]));
        let mut client = Client::hello(stage.relay.listener()).await.unwrap();
        let rows = [
            ("MAIL FROM:<a@client.test> SMTPUTF8", "250"),
            ("RCPT TO:<x@gr\u{fc}n.ext09.test>", "250"),
            ("DATA", "354"),
        ];
        talk(&mut client, &rows).await;
        client.send("Subject: gr\u{fc}n\r\n\r\nx\r\n.\r\n".as_bytes()).await.unwrap();
        assert_eq!(client.reply().await.unwrap().code, 250);
        let message = mx.messages(1).await.remove(0);
        assert_eq!(message.to, ["x@gr\u{fc}n.ext09.test"], "as it was written");
        assert!(message.tls.is_some());
        let queries = stage.world.domain("xn--grn-ioa.ext09.test").policy_requests();
        assert_eq!(queries, 1, "the policy was found and holds");
    });
}

/// PLAIN's message for `user` and `secret`.
const PLAIN: &str = "AHVzZXIAc2VjcmV0";

#[tokio::test]
async fn ext_10_auth_is_a_dialogue_that_can_be_cancelled_and_succeeds_once() {
    let office = Office::open(&[("user", BCRYPT)], "").await;
    let mut client = office.client(IMPLICIT).await;
    assert!(client.keyword("AUTH").is_some_and(|mechanisms| mechanisms.contains("PLAIN")));
    let long = "A".repeat(12_288);
    let plain = format!("AUTH PLAIN {PLAIN}");
    let rows = [
        ("AUTH", "501 5.5.4"),
        ("AUTH CRAM-MD5", "504 5.5.4"),
        ("AUTH PLAIN not-base64", "501 5.5.2"),
        ("AUTH PLAIN AHVzZXIAc2VjcmV0 x", "501 5.5.4"),
        ("AUTH PLAIN", "334 "),
        ("*", "501 5.7.0"),
        ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
        ("dXNlcg==", "334 UGFzc3dvcmQ6"),
        ("*", "501 5.7.0"),
        ("AUTH PLAIN", "334 "),
        ("%%%", "501 5.5.2"),
        ("AUTH PLAIN", "334 "),
        (&long, "500 5.5.6"),
        ("MAIL FROM:<a@client.test>", "530 5.7.0"),
        ("NOOP", "250"),
        (&plain, "235 2.7.0"),
        (&plain, "503 5.5.1"),
        ("MAIL FROM:<a@client.test> AUTH=+", "501 5.5.4"),
        ("MAIL FROM:<a@client.test> AUTH=<>", "250"),
        (&plain, "503 5.5.1"),
        ("RSET", "250"),
        ("MAIL FROM:<a@client.test> AUTH=a+40client.test", "250"),
    ];
    talk(&mut client, &rows).await;
    client.ehlo().await.unwrap();
    assert_eq!(client.keyword("AUTH"), None, "it succeeds once");
    let rows = [(&*plain, "503 5.5.1"), ("MAIL FROM:<a@client.test>", "250")];
    talk(&mut client, &rows).await;
}

/// RFC 4954 §4: what comes with the command, what behind it, and how long either may be. Nothing of
/// it counts as a command, and nothing as a login.
#[tokio::test]
async fn ext_10_every_form_of_a_response_is_read_as_what_it_is() {
    let office = Office::open(&[("user", BCRYPT)], "[limits]\nerrors_per_session = 100\n").await;
    let mut client = office.client(IMPLICIT).await;
    // With its CRLF as long as lines of this dialogue may be (§4), once as a command and once as a
    // response.
    let command = |octets: usize| format!("{:A<1$}", "AUTH PLAIN ", octets - "\r\n".len());
    let [longest, too_long] = [12_288, 12_289].map(command);
    // The longest that is base64 at all, and four characters more.
    let [response, long_response] = [12_284, 12_288].map(|octets| "A".repeat(octets));
    let rows = [
        // `=` is a response without octets, which PLAIN has not; on a line of its own it is not
        // base64.
        ("AUTH PLAIN =", "501 5.5.2"),
        ("AUTH PLAIN", "334 "),
        ("=", "501 5.5.2"),
        ("AUTH PLAIN", "334 "),
        ("", "501 5.5.2"),
        ("AUTH LOGIN dXNlcg==", "334 UGFzc3dvcmQ6"),
        // A word of base64 as good as any other, and not the password.
        ("QUIT", "535 5.7.8"),
        ("AUTH LOGIN dXNlcg==", "334 UGFzc3dvcmQ6"),
        ("NOOP x", "501 5.5.2"),
        ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
        (" *", "501 5.5.2"),
        ("AUTH PLAIN *", "501 5.5.2"),
        ("auth plain AHVzZXIAc2VjcmV0==", "501 5.5.2"),
        ("AUTH PLAIN AHVzZXIAc2VjcmV0\0", "500 5.5.2"),
        ("AUTH SCRAM-SHA-256", "504 5.5.4"),
        ("AUTH XOAUTH2 =", "504 5.5.4"),
        (&too_long, "500 5.5.2"),
        (&longest, "501 5.5.2"),
        ("AUTH PLAIN", "334 "),
        (&long_response, "500 5.5.6"),
        ("AUTH PLAIN", "334 "),
        (&response, "501 5.5.2"),
        ("MAIL FROM:<a@client.test>", "530 5.7.0"),
        ("AUTH PLAIN AHVzZXIAd3Jvbmc=", "535 5.7.8"),
        ("MAIL FROM:<a@client.test>", "530 5.7.0"),
        ("auth plain AHVzZXIAc2VjcmV0", "235 2.7.0"),
    ];
    talk(&mut client, &rows).await;
}

/// Where and when: not before EHLO, not in clear, and not where nobody can log in. STARTTLS forgets
/// no login, since there was none before it; RSET and EHLO forget none either.
#[tokio::test]
async fn ext_10_auth_has_its_place_and_a_login_lasts() {
    let office = Office::open(&[("user", BCRYPT)], "").await;
    let plain = format!("AUTH PLAIN {PLAIN}");
    let mut early = Client::dial(office.relay.listener_at(STARTTLS)).await.unwrap();
    early.reply().await.unwrap();
    let rows = [
        (&*plain, "538 5.7.11"),
        ("EHLO client.test", "250"),
        (&plain, "538 5.7.11"),
        ("AUTH FROBNICATE", "538 5.7.11"),
        ("MAIL FROM:<a@client.test>", "530 5.7.0"),
        ("RSET", "250"),
    ];
    talk(&mut early, &rows).await;
    early.expect("STARTTLS", 220).await;
    let trust = Trust::in_ca(&office.world.pki);
    let mut client = early.secure(&trust, "relay.test").await.unwrap();
    let rows = [
        (&*plain, "503 5.5.1"),
        ("EHLO client.test", "250"),
        (&plain, "235 2.7.0"),
        ("RSET", "250"),
        ("STARTTLS", "503 5.5.1"),
        ("MAIL FROM:<a@client.test>", "250"),
        ("EHLO client.test", "250"),
        ("MAIL FROM:<a@client.test>", "250"),
    ];
    talk(&mut client, &rows).await;
    let mut relayed = office.client(RELAY).await;
    talk(&mut relayed, &[(&*plain, "502 5.5.1"), ("NOOP", "250")]).await;
}

#[test]
fn ext_15_a_parameter_that_is_not_offered_is_refused_and_not_ignored() {
    on_stage(|stage| async move {
        let mut client = Client::hello(stage.relay.listener()).await.unwrap();
        // What is offered where this client is; the rest is not.
        let parameters = [
            ("REQUIRETLS", "REQUIRETLS"),
            ("FUTURERELEASE", "HOLDFOR=60"),
            ("FUTURERELEASE", "HOLDUNTIL=2099-01-01T00:00:00Z"),
            ("AUTH", "AUTH=<>"),
            ("DSN", "RET=HDRS"),
            ("DSN", "ENVID=x"),
            ("DELIVERBY", "BY=86400;N"),
            ("MT-PRIORITY", "MT-PRIORITY=1"),
            ("SMTPUTF8", "SMTPUTF8"),
            ("BURL", "BURL"),
            ("CHECKPOINT", "TRANSID=<x@y>"),
        ];
        for (keyword, parameter) in parameters {
            let want = if client.keyword(keyword).is_some() { 250 } else { 555 };
            client.expect(&format!("MAIL FROM:<a@client.test> {parameter}"), want).await;
            client.expect("RSET", 250).await;
        }
        for keyword in ["REQUIRETLS", "FUTURERELEASE", "AUTH", "BURL", "CHECKPOINT"] {
            assert_eq!(client.keyword(keyword), None, "{keyword} in the clear, on a relay");
        }
    });
}

#[test]
fn ext_16_what_this_server_does_not_do_is_502() {
    on_stage(|stage| async move {
        for verb in ["ETRN x.test", "ATRN", "EXPN list", "TURN", "SEND FROM:<a@b.test>", "LHLO x"] {
            let mut client = Client::hello(stage.relay.listener()).await.unwrap();
            talk(&mut client, &[(verb, "502 5.5.1"), ("NOOP", "250")]).await;
        }
        let mut client = Client::hello(stage.relay.listener()).await.unwrap();
        client.expect("VERB", 500).await;
        client.expect("CHECKPOINT", 500).await;
        // Who a client is, no client says by itself: that is for proxies that are listed.
        for claim in ["XCLIENT ADDR=192.0.2.1 LOGIN=anna", "XFORWARD ADDR=192.0.2.1"] {
            talk(&mut client, &[(claim, "500 5.5.1"), ("NOOP", "250")]).await;
        }
        client.ehlo().await.unwrap();
        assert_eq!((client.keyword("XCLIENT"), client.keyword("XFORWARD")), (None, None));
    });
}

#[tokio::test]
async fn rtls_14_users_ask_for_requiretls_on_submission_listeners_too() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.rtls14.test").await;
    mx.script(|script| script.offer_in_tls(&["REQUIRETLS"]));
    world.domain("rtls14.test").mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &[mx.host()], 86400);
    let users = world.dir().join("users");
    write_users(&users, &[("user", BCRYPT)]);
    let relay = world
        .relay(&format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"submission\"\nrequire_tls = true\n{}\
             [access]\nusers_file = \"{}\"\n",
            world.key_files("relay.test").toml(),
            users.display()
        ))
        .await;
    let client = Client::hello(relay.listener()).await.unwrap();
    assert_eq!(client.keyword("REQUIRETLS"), None);
    let mut client = client.starttls(&Trust::in_ca(&world.pki), "relay.test").await.unwrap();
    assert_eq!(client.keyword("REQUIRETLS"), Some(""));
    let plain = format!("AUTH PLAIN {PLAIN}");
    let rows = [
        ("MAIL FROM:<a@client.test> REQUIRETLS", "530 5.7.0"),
        (&plain, "235"),
        ("MAIL FROM:<a@client.test> REQUIRETLS", "250"),
        ("RCPT TO:<x@rtls14.test>", "250"),
    ];
    talk(&mut client, &rows).await;
    assert_eq!(client.bdat(b"Subject: x\r\n\r\nx\r\n", true).await.unwrap().code, 250);
    let message = mx.messages(1).await.remove(0);
    assert!(message.parameters.contains("REQUIRETLS"), "{message:?}");
}

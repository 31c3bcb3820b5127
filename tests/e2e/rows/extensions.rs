//! How messages travel, row by row: what we make of hosts' offers about groups, size and content.

use world::{Mx, Received, Relay, Rule, Then, World};

use crate::harness::{PROGRAM, Stage, on_stage};

/// The sender of what nobody is told about.
pub(super) const NOTICE: &str = "<>";

/// A domain of the stage with one host, which offers `keywords` in TLS and in clear.
pub(super) async fn host(stage: &Stage, domain: &str, keywords: &[&str]) -> Mx {
    let mx = named_host(stage, &format!("mx.{domain}"), keywords).await;
    stage.world.domain(domain).mx(&[(10, &mx)]);
    mx
}

pub(super) async fn named_host(stage: &Stage, name: &str, keywords: &[&str]) -> Mx {
    let mx = stage.world.mx(name).await;
    mx.script(|script| script.keywords = keywords.iter().map(|&k| k.to_owned()).collect());
    mx
}

/// One transaction: what follows the address in MAIL, the recipients with what follows theirs, and
/// the content.
pub(super) async fn send(relay: &Relay, mail: &str, recipients: &[&str], content: &[u8]) {
    let mut client = relay.client().await;
    client.expect(&format!("MAIL FROM:{mail}"), 250).await;
    for recipient in recipients {
        client.expect(&format!("RCPT TO:{recipient}"), 250).await;
    }
    let reply = client.bdat(content, true).await.unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
}

/// What the message was submitted as: below our own Received field.
fn below_received(received: &Received) -> String {
    let text = String::from_utf8_lossy(&received.content).into_owned();
    let (_, below) =
        text.split_once("X-Top: x\r\n").expect("the first field of the tests' messages");
    format!("X-Top: x\r\n{below}")
}

pub(super) async fn bounced(relay: &Relay, recipient: &str, reason: &str, status: &str) {
    let bounced = relay.event("bounced").with("recipient", recipient).await;
    assert_eq!(bounced.text("reason").as_deref(), Some(reason), "{recipient}");
    assert_eq!(bounced.text("status").as_deref(), Some(status), "{recipient}");
}

/// RFC 1870 §6.1.
#[test]
fn ext_02_a_message_too_large_for_one_host_goes_to_the_next_and_comes_back_from_all() {
    on_stage(|stage| async {
        let small = named_host(stage, "small.ext02.test", &["SIZE 10"]).await;
        let large = named_host(stage, "large.ext02.test", &["SIZE 100000"]).await;
        stage.world.domain("ext02.test").mx(&[(10, &small), (20, &large)]);
        stage.world.domain("all.ext02.test").mx(&[(10, &small)]);
        let content = b"X-Top: x\r\n\r\nmore than ten octets\r\n";
        send(&stage.relay, NOTICE, &["<a@ext02.test>"], content).await;
        let received = large.message_to("a@ext02.test").await;
        assert_eq!(received.parameters, format!("SIZE={}", received.content.len()));
        assert_eq!(small.commanded("MAIL"), 0, "nothing is even begun");

        send(&stage.relay, NOTICE, &["<a@all.ext02.test>"], content).await;
        bounced(&stage.relay, "a@all.ext02.test", "size_exceeded", "5.3.4").await;
        assert_eq!(small.commanded("MAIL"), 0);
    });
}

/// RFC 2920 §3.1: only by the EHLO inside TLS, and a group ends with DATA.
#[test]
fn ext_03_commands_are_grouped_only_where_the_last_ehlo_offers_it() {
    on_stage(|stage| async {
        for (domain, in_tls, rcpts) in
            [("group.ext03.test", &["PIPELINING"][..], 1), ("single.ext03.test", &[][..], 0)]
        {
            let mx = host(stage, domain, &["PIPELINING"]).await;
            mx.script(|script| {
                script.keywords_in_tls = Some(in_tls.iter().map(|&k| k.to_owned()).collect());
            });
            mx.on("MAIL", Then::reply("550 5.7.1 Not you"));
            let recipient = format!("a@{domain}");
            stage.relay.submit("", &[&recipient], "one").await;
            bounced(&stage.relay, &recipient, "remote_5xx", "5.7.1").await;
            assert_eq!(mx.commanded("RCPT"), rcpts, "{domain}");
            assert_eq!(mx.commanded("DATA"), rcpts, "{domain}");
            assert_eq!(mx.received().len(), 0);
        }
    });
}

/// RFC 2920 §3.1: the group went out in full, and some hosts ask for the content of a message that
/// nobody gets. It is a lone dot, and whatever is said to it is no delivery.
#[tokio::test]
async fn ext_03_content_that_is_asked_for_nobody_is_a_lone_dot_and_no_delivery() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("[delivery]\nconnection_idle = \"20s\"\n").await;
    let answers = [
        ("took", Then::reply("250 2.0.0 Ok"), 1),
        ("minds", Then::reply("554 5.5.1 No valid recipients"), 1),
        ("goes", Then::Close, 2),
    ];
    for (name, answer, next) in answers {
        let domain = format!("{name}.test");
        let (no, yes) = (format!("no@{domain}"), format!("yes@{domain}"));
        let mx = world.mx(&format!("mx.{domain}")).await;
        world.domain(&domain).mx(&[(10, &mx)]);
        mx.on("RCPT TO:<no@", Then::reply("550 5.1.1 Nobody"));
        mx.on("DATA", Then::reply("354 Go on"));
        mx.script(|script| script.rules.push(Rule::times(1, ".", answer)));
        relay.submit("", &[&no], "nobody gets this").await;
        bounced(&relay, &no, "remote_5xx", "5.1.1").await;
        assert_eq!(relay.event("delivered").with("recipient", &no).count(), 0, "{name}");
        relay.submit("", &[&yes], "one").await;
        let received = mx.message_to(&yes).await;
        assert_eq!(received.connection, next, "{name}: in step, or another one");
        let content = received.text();
        assert!(content.ends_with("one\r\n") && !content.contains("nobody"), "{content}");
        let empty = mx.received().read(|all| all.iter().find(|one| one.to.is_empty()).cloned());
        assert_eq!(empty.map(|one| one.content), (name == "took").then(Vec::new), "{name}");
    }
}

/// RFC 2920 §3.1 leaves the size of a group to the window. That neither side waits for the other
/// while both only write, `a_large_group_does_not_wait_for_a_peer_that_waits_for_us` shows with
/// small windows.
#[tokio::test]
async fn ext_03_a_thousand_recipients_are_one_group() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let overlay = "[limits]\nrecipients = 1000\n[delivery]\nrecipients_per_transaction = 1000\n";
    let relay = world.relay(overlay).await;
    let recipients: Vec<String> = (0..1000).map(|n| format!("{n:x>60}@far.test")).collect();
    mx.on(&format!("RCPT TO:<{}", recipients[500]), Then::reply("550 5.1.1 Nobody"));
    let all: Vec<&str> = recipients.iter().map(String::as_str).collect();
    relay.submit("", &all, "many").await;
    bounced(&relay, all[500], "remote_5xx", "5.1.1").await;
    relay.event("delivered").times(999).await;
    let received = mx.message().await;
    assert!(received.to.iter().eq(recipients.iter().filter(|one| *one != all[500])), "in order");
    assert_eq!((mx.commanded("MAIL"), mx.commanded("DATA")), (1, 1));
}

/// RFC 3030 §2: as many octets as announced, no dots doubled, nothing behind.
#[test]
fn ext_05_a_message_goes_in_one_chunk_where_chunking_is_offered() {
    on_stage(|stage| async {
        let mx = host(stage, "ext05.test", &["PIPELINING", "CHUNKING", "SIZE"]).await;
        let content = b"X-Top: x\r\nReceived: by x\r\n\r\n.\r\n..\r\n.dot\r\nno end";
        send(&stage.relay, NOTICE, &["<a@ext05.test>", "<b@ext05.test>"], content).await;
        let received = mx.message().await;
        assert!(received.chunked);
        assert_eq!(received.to, ["a@ext05.test", "b@ext05.test"]);
        let whole = [&content[..], b"\r\n"].concat();
        assert_eq!(below_received(&received).as_bytes(), whole, "with its last line's end");
        assert_eq!(received.parameters, format!("SIZE={}", received.content.len()));
        assert_eq!((mx.commanded("BDAT"), mx.commanded("DATA")), (1, 0));
    });
}

/// Where all recipients are refused, nobody's message follows them.
#[test]
fn ext_05_no_chunk_is_sent_for_nobody() {
    on_stage(|stage| async {
        let mx = host(stage, "none.ext05.test", &["PIPELINING", "CHUNKING"]).await;
        mx.on("RCPT", Then::reply("550 5.1.1 Nobody"));
        stage.relay.submit("", &["a@none.ext05.test"], "one").await;
        bounced(&stage.relay, "a@none.ext05.test", "remote_5xx", "5.1.1").await;
        assert_eq!(mx.commanded("BDAT"), 0);
    });
}

/// A server, or something in front of it, that offers what it does not know.
#[test]
fn ext_05_a_host_that_offers_chunking_and_refuses_bdat_gets_data_over_another_connection() {
    on_stage(|stage| async {
        let mx = host(stage, "odd.ext05.test", &["PIPELINING", "CHUNKING"]).await;
        mx.on("BDAT", Then::reply("500 5.5.1 What?"));
        stage.relay.submit("", &["a@odd.ext05.test"], "one").await;
        let received = mx.message().await;
        assert!(!received.chunked);
        assert_eq!(received.connection, 2, "the octets may have been taken for commands");
        stage.relay.event("delivered").with("recipient", "a@odd.ext05.test").await;
        assert_eq!(stage.relay.event("deferred").with("recipient", "a@odd.ext05.test").count(), 0);
    });
}

/// What a message may not carry past us: lines that end it for some and not for others, with a
/// second message behind. Those that are clean arrive as one message, whichever way they come and
/// go.
#[test]
fn ext_05_no_message_is_smuggled_inside_another_in_either_form() {
    on_stage(|stage| async {
        let hosts = [
            host(stage, "data.smuggle.test", &["PIPELINING"]).await,
            host(stage, "bdat.smuggle.test", &["PIPELINING", "CHUNKING"]).await,
        ];
        let evil =
            "MAIL FROM:<evil@evil.test>\r\nRCPT TO:<victim@evil.test>\r\nDATA\r\nX: y\r\n\r\nbad";
        let ends = [
            "\r\n.\r\n",
            "\r\n.\r\n\r\n.\r\n",
            "\n.\n",
            "\n.\r\n",
            "\r\n.\n",
            "\r.\r",
            "\r\n.\r",
            "\r.\r\n",
            "\r\r\n.\r\r\n",
            "\n\n.\r\n",
            "\r\n\0.\r\n",
            "\r\n.\0\r\n",
            "\u{2028}.\u{2028}",
            "\u{85}.\u{85}",
            "\r\n.\r\nBDAT 3 LAST\r\n",
            "\r\n.\r\nQUIT\r\n",
        ];
        let mut accepted = 0;
        for (number, end) in ends.iter().enumerate() {
            let content = format!("X-Top: x\r\nSubject: {number}\r\n\r\na{end}{evil}{end}");
            for by_bdat in [true, false] {
                let mut client = stage.relay.client().await;
                client.expect("MAIL FROM:<>", 250).await;
                for host in ["data", "bdat"] {
                    client.expect(&format!("RCPT TO:<a@{host}.smuggle.test>"), 250).await;
                }
                let reply = if by_bdat {
                    client.bdat(content.as_bytes(), true).await.unwrap()
                } else {
                    client.expect("DATA", 354).await;
                    client.send(&world::stuff(content.as_bytes())).await.unwrap();
                    client.reply().await.unwrap()
                };
                let is_clean = !content.replace("\r\n", "").contains(['\r', '\n', '\0']);
                assert_eq!(reply.code == 250, is_clean, "{end:?}: {reply:?}");
                accepted += usize::from(is_clean);
                client.expect("NOOP", 250).await;
            }
        }
        for mx in &hosts {
            let messages = mx.messages(accepted).await;
            for received in &messages {
                assert_eq!(received.from, "");
                assert!(below_received(received).contains("MAIL FROM:<evil@evil.test>\r\n"));
            }
            assert_eq!(mx.commanded("MAIL FROM:<evil"), 0);
            assert_eq!(mx.received().len(), accepted);
        }
    });
}

/// Whatever a host offers, no message leaves as something that a host without it could not be
/// given.
#[test]
fn ext_06_binarymime_is_neither_offered_nor_used() {
    on_stage(|stage| async {
        assert_eq!(stage.relay.client().await.keyword("BINARYMIME"), None);
        let mx = host(stage, "ext06.test", &["CHUNKING", "BINARYMIME", "8BITMIME"]).await;
        send(&stage.relay, NOTICE, &["<a@ext06.test>"], "X-Top: x\r\n\r\n\u{e4}".as_bytes()).await;
        assert_eq!(mx.message().await.parameters, "BODY=8BITMIME");
    });
}

const EIGHT_BIT: &str = "X-Top: x\r\nDKIM-Signature: v=1\r\nMIME-Version: 1.0\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\ngr\u{fc}n\r\n";

/// RFC 6152 §3.
#[test]
fn ext_07_eight_bits_go_where_they_are_taken_first_and_are_converted_else() {
    on_stage(|stage| async {
        let seven = named_host(stage, "seven.ext07.test", &["SIZE 100000"]).await;
        let eight = named_host(stage, "eight.ext07.test", &["8BITMIME"]).await;
        stage.world.domain("ext07.test").mx(&[(10, &seven), (20, &eight)]);
        stage.world.domain("old.ext07.test").mx(&[(10, &seven)]);
        send(&stage.relay, NOTICE, &["<a@ext07.test>"], EIGHT_BIT.as_bytes()).await;
        let received = eight.message().await;
        assert_eq!((below_received(&received).as_str(), seven.commanded("MAIL")), (EIGHT_BIT, 0));

        send(&stage.relay, NOTICE, &["<a@old.ext07.test>"], EIGHT_BIT.as_bytes()).await;
        let received = seven.message().await;
        let want = EIGHT_BIT
            .replace("Encoding: 8bit", "Encoding: quoted-printable")
            .replace('\u{fc}', "=C3=BC");
        assert_eq!(below_received(&received), want);
        assert_eq!(received.parameters, format!("SIZE={}", received.content.len()));
        let converted = stage.relay.event("converted").with("mx", "seven.ext07.test").await;
        assert_eq!(converted.text("dkim_signed").as_deref(), Some("true"));
        assert_eq!(stage.relay.event("converted").with("mx", "seven.ext07.test").count(), 1);
    });
}

/// RFC 6152 §3: what was declared is a permission. Content that is seven bits needs no host to take
/// eight.
#[test]
fn ext_07_what_is_seven_bits_goes_unchanged_whatever_was_declared() {
    on_stage(|stage| async {
        let seven = host(stage, "ascii.ext07.test", &["SIZE"]).await;
        let eight = host(stage, "either.ext07.test", &["8BITMIME"]).await;
        let plain = "X-Top: x\r\nReceived: by x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Content-Transfer-Encoding: 8bit\r\n\r\ngreen\r\n";
        let signed = "X-Top: x\r\nReceived: by x\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n\
            green\r\n--b--\r\n";
        for content in [plain, signed] {
            let both = ["<a@ascii.ext07.test>", "<a@either.ext07.test>"];
            send(&stage.relay, "<> BODY=8BITMIME", &both, content.as_bytes()).await;
        }
        for mx in [&seven, &eight] {
            let mut bodies: Vec<_> = mx.messages(2).await.iter().map(below_received).collect();
            bodies.sort_by_key(|body| body.contains("signed"));
            assert_eq!(bodies, [plain, signed], "{}", mx.host());
            assert_eq!(stage.relay.event("converted").with("mx", mx.host()).count(), 0);
        }
        assert!(
            seven.received().read(|all| all.iter().all(|one| !one.parameters.contains("BODY")))
        );
    });
}

/// RFC 1847 §2.1: a signature that breaks is worth less than a DSN.
#[test]
fn ext_07_signed_content_is_returned_rather_than_changed() {
    on_stage(|stage| async {
        let mx = host(stage, "signed.ext07.test", &["SIZE"]).await;
        let content = "X-Top: x\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n\u{e4}\r\n--b--\r\n";
        send(&stage.relay, NOTICE, &["<a@signed.ext07.test>"], content.as_bytes()).await;
        bounced(&stage.relay, "a@signed.ext07.test", "conversion_refused", "5.6.3").await;
        assert_eq!(mx.commanded("MAIL"), 0);
    });
}

/// A large message is converted from its file, octet for octet as a small one.
#[test]
fn ext_07_a_large_message_is_converted_piece_by_piece() {
    on_stage(|stage| async {
        let mx = host(stage, "large.ext07.test", &["SIZE"]).await;
        let line = "gr\u{fc}n ".repeat(20) + "\r\n";
        let header = "X-Top: x\r\nMIME-Version: 1.0\r\nContent-Type: application/x\r\n";
        let content = format!("{header}\r\n{}", line.repeat(3000));
        send(&stage.relay, NOTICE, &["<a@large.ext07.test>"], content.as_bytes()).await;
        let received = mx.message().await;
        assert!(received.content.is_ascii());
        assert_eq!(received.parameters, format!("SIZE={}", received.content.len()));
        let text = below_received(&received);
        let (front, encoded) = text.split_once("\r\n\r\n").unwrap();
        assert!(front.ends_with("Content-Transfer-Encoding: base64"), "{front}");
        assert!(encoded.lines().all(|line| line.len() <= 76));
        let octets = encoded.replace("\r\n", "").trim_end_matches('=').len() * 3 / 4;
        assert_eq!(octets, line.len() * 3000);
    });
}

/// `delivery.eightbit = "send"`: the practice of those who think that nobody has seven bits any
/// more.
#[tokio::test]
async fn ext_07_eight_bits_go_as_they_are_where_the_operator_says_so() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    mx.script(|script| script.keywords.clear());
    world.domain("far.test").mx(&[(10, &mx)]);
    let relay = world.relay("[delivery]\neightbit = \"send\"\n").await;
    assert_eq!(relay.submit_content("", &["a@far.test"], EIGHT_BIT.as_bytes()).await.code, 250);
    let received = mx.message().await;
    assert_eq!((below_received(&received).as_str(), received.parameters.as_str()), (EIGHT_BIT, ""));
}

/// RFC 6531 §3.2, §3.4: other hosts first, and no address is mangled.
#[test]
fn ext_08_utf8_addresses_go_only_where_they_are_taken() {
    on_stage(|stage| async {
        let old = named_host(stage, "old.ext08.test", &["8BITMIME"]).await;
        let new = named_host(stage, "new.ext08.test", &["8BITMIME", "SMTPUTF8"]).await;
        stage.world.domain("ext08.test").mx(&[(10, &old), (20, &new)]);
        stage.world.domain("all.ext08.test").mx(&[(10, &old)]);
        let content = "X-Top: x\r\nSubject: gr\u{fc}n\r\n\r\nx\r\n";
        let mail = "<> SMTPUTF8 BODY=8BITMIME";
        let to = "<gr\u{fc}n@ext08.test>";
        send(&stage.relay, mail, &[to], content.as_bytes()).await;
        let received = new.message().await;
        assert_eq!(received.to, ["gr\u{fc}n@ext08.test"]);
        assert_eq!(received.parameters, "BODY=8BITMIME SMTPUTF8");
        assert_eq!(old.commanded("MAIL"), 0);

        // Of two recipients in one message, the one with an ASCII address is reached.
        let content = b"X-Top: x\r\nSubject: green\r\n\r\nx\r\n";
        let both = ["<gr\u{fc}n@all.ext08.test>", "<green@all.ext08.test>"];
        send(&stage.relay, "<> SMTPUTF8", &both, content).await;
        bounced(&stage.relay, "gr\u{fc}n@all.ext08.test", "smtputf8_unsupported", "5.6.7").await;
        let received = old.message().await;
        assert_eq!(
            (received.to, received.parameters.as_str()),
            (vec!["green@all.ext08.test".to_owned()], "")
        );
    });
}

/// What the client allowed and the message does not need stands in nobody's way.
#[test]
fn ext_08_a_message_that_does_not_need_smtputf8_goes_without() {
    on_stage(|stage| async {
        let mx = host(stage, "xn--grn-ioa.ext08.test", &["8BITMIME"]).await;
        let content = "X-Top: x\r\n\r\nonly the body is gr\u{fc}n\r\n".as_bytes();
        let to = "<a@gr\u{fc}n.ext08.test>";
        send(&stage.relay, "<> SMTPUTF8 BODY=8BITMIME", &[to], content).await;
        let received = mx.message().await;
        assert_eq!(received.to, ["a@xn--grn-ioa.ext08.test"], "a domain has a form in ASCII");
        assert_eq!(received.parameters, "BODY=8BITMIME");
    });
}

/// Programs and Postfix's sendmail say SMTPUTF8 for a Subject in UTF-8: what people read in a
/// header has a form in ASCII (RFC 2047), an address has none.
#[test]
fn ext_08_a_header_in_utf8_is_encoded_for_a_host_without_smtputf8() {
    on_stage(|stage| async {
        let eight = named_host(stage, "eight.words.test", &["8BITMIME"]).await;
        let utf8 = named_host(stage, "utf8.words.test", &["8BITMIME", "SMTPUTF8"]).await;
        let seven = host(stage, "seven.words.test", &["SIZE"]).await;
        stage.world.domain("eight.words.test").mx(&[(10, &eight)]);
        stage.world.domain("both.words.test").mx(&[(10, &eight), (20, &utf8)]);
        let header = "X-Top: x\r\nReceived: by x\r\nSubject: Cron gr\u{fc}n\r\nFrom: J\u{fc}rgen <j@x.test>\r\n\
            MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n";
        let content = format!("{header}\r\ngr\u{fc}n\r\n");
        let flagged = "<> SMTPUTF8 BODY=8BITMIME";
        send(&stage.relay, flagged, &["<a@both.words.test>"], content.as_bytes()).await;
        assert_eq!(below_received(&utf8.message().await), content, "hosts that take it come first");

        send(&stage.relay, flagged, &["<a@eight.words.test>"], content.as_bytes()).await;
        let received = eight.message().await;
        let encoded = content
            .replace("Cron gr\u{fc}n", "Cron =?utf-8?B?Z3LDvG4=?=")
            .replace("J\u{fc}rgen", "=?utf-8?B?SsO8cmdlbg==?=");
        assert_eq!(below_received(&received), encoded);
        assert_eq!(received.parameters, "BODY=8BITMIME");
        stage.relay.event("converted").with("mx", "eight.words.test").await;

        send(&stage.relay, flagged, &["<a@seven.words.test>"], content.as_bytes()).await;
        let received = seven.message().await;
        assert!(received.content.is_ascii(), "{}", received.text());
        assert!(received.text().ends_with("quoted-printable\r\n\r\ngr=C3=BCn\r\n"));

        let address = content.replace("<j@", "<\u{fc}@");
        send(&stage.relay, flagged, &["<b@eight.words.test>"], address.as_bytes()).await;
        bounced(&stage.relay, "b@eight.words.test", "smtputf8_unsupported", "5.6.7").await;
    });
}

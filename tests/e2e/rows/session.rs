//! What the session itself decides, row by row: the form and order of commands, and where content ends.

use std::net::SocketAddr;

use world::{Client, Mode, Mx, Trust, World, stuff};

use crate::harness::{PROGRAM, Stage, on_stage, unescape, vectors};
use crate::submission::{BCRYPT, IMPLICIT, Office, write_users};

/// A client that has heard the greeting and said nothing.
async fn quiet(address: SocketAddr) -> Client {
    let mut client = Client::dial(address).await.unwrap();
    assert_eq!(client.reply().await.unwrap().code, 220);
    client
}

/// Sends each line and compares its reply: the code, and the status if one is given.
async fn talk<L: AsRef<[u8]>>(client: &mut Client, lines: &[(L, &str)]) {
    for (line, want) in lines {
        let line = line.as_ref();
        client.send(&[line, b"\r\n"].concat()).await.unwrap();
        let reply = client.reply().await.unwrap();
        let got = format!("{} {}", reply.code, reply.lines.last().unwrap());
        assert!(got.starts_with(want), "{}: {got}, not {want}", line.escape_ascii());
    }
}

/// EHLO, MAIL and RCPT, all accepted.
async fn opened(address: SocketAddr, recipient: &str) -> Client {
    let mut client = Client::hello(address).await.unwrap();
    client.expect("MAIL FROM:<sender@client.test>", 250).await;
    client.expect(&format!("RCPT TO:<{recipient}>"), 250).await;
    client
}

/// The end of a domain's journey.
async fn mx_of(stage: &Stage, domain: &str) -> Mx {
    let mx = stage.world.mx(&format!("mx.{domain}")).await;
    stage.world.domain(domain).mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &[mx.host()], 86400);
    mx
}

/// The vectors that try to end a message early, with commands behind.
fn smuggling() -> Vec<(String, Vec<u8>)> {
    let rows = vectors("smtp.tsv").into_iter().filter(|row| row[2].starts_with("not end of data"));
    rows.map(|row| {
        let hidden = unescape(row[1].strip_suffix("MAIL FROM:<b@x>...").expect("their shape"));
        let commands =
            b"MAIL FROM:<smuggler@client.test>\r\nRCPT TO:<s@hidden.test>\r\nDATA\r\n\r\nx\r\n";
        (row[0].clone(), [&b"Subject: x\r\n\r\n"[..], &hidden, commands].concat())
    })
    .collect()
}

/// Has it a CR or LF that stands alone, or a NUL?
fn is_unclean(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).replace("\r\n", "").contains(['\r', '\n', '\0'])
}

#[test]
fn sv_01_only_crlf_ends_a_line_and_only_crlf_dot_crlf_a_message() {
    on_stage(|stage| async move {
        let mx = mx_of(stage, "sv01.test").await;
        let mut client = quiet(stage.relay.listener()).await;
        client.send(b"EHLO client.test\nNOOP\n").await.unwrap();
        talk(&mut client, &[("NOOP\rQUIT", "500 5.5.2"), ("NOOP", "250")]).await;

        let mut taken = 0;
        for (id, content) in smuggling() {
            let mut client = opened(stage.relay.listener(), &format!("{id}@sv01.test")).await;
            client.expect("DATA", 354).await;
            // One octet at a time: no end of a read looks like an end of a line.
            client.send_split(&[&content[..], b".\r\n"].concat(), 1).await.unwrap();
            let reply = client.reply().await.unwrap();
            let want = if is_unclean(&content) { 550 } else { 250 };
            assert_eq!(reply.code, want, "{id}: {reply:?}");
            taken += usize::from(want == 250);
            client.expect("NOOP", 250).await;
        }
        assert!(taken >= 5);
        let messages = mx.messages(taken).await;
        assert!(messages.iter().all(|message| message.from == "sender@client.test"));
    });
}

#[test]
fn sv_02_a_bare_cr_or_lf_or_a_nul_is_refused_after_the_true_end() {
    on_stage(|stage| async move {
        for line in ["a\nb", "a\rb", "a\r\r\nb", "a\0b", "\n.", ".\r", "a\n.\r"] {
            let mut client = opened(stage.relay.listener(), "x@sv02.test").await;
            client.expect("DATA", 354).await;
            let content = format!("Subject: x\r\n\r\n{line}\r\nRSET\r\n");
            client.send(&stuff(content.as_bytes())).await.unwrap();
            let reply = client.reply().await.unwrap();
            assert_eq!(reply.code, 550, "{line:?}: {reply:?}");
            assert!(reply.text().starts_with("5.5.2 "), "{line:?}: {reply:?}");
            talk(&mut client, &[("DATA", "503 5.5.1"), ("NOOP", "250")]).await;
        }
        assert_eq!(stage.relay.queued("x@sv02.test").await, None);
    });
}

/// A daemon that takes little.
const SMALL: &str = "[limits]\nmessage_size = \"64KiB\"\n";

#[tokio::test]
async fn sv_03_a_message_that_is_refused_is_read_to_its_end() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay(SMALL).await;
    let mut client = opened(relay.listener(), "x@sv03.test").await;
    client.expect("DATA", 354).await;
    let large = format!("{}\r\n", "x".repeat(70)).repeat(1000);
    let content = format!("Subject: x\r\n\r\n{large}\n.\r\nHELP\r\n.\nQUIT\r\n");
    client.send(&[content.as_bytes(), b".\r\n"].concat()).await.unwrap();
    let reply = client.reply().await.unwrap();
    assert_eq!(reply.code / 100, 5, "{reply:?}");
    // Neither HELP nor QUIT was answered.
    talk(&mut client, &[("DATA", "503 5.5.1"), ("NOOP", "250 2.0.0")]).await;
}

#[test]
fn sv_04_lines_are_bounded_text_and_the_session_stays_in_step() {
    on_stage(|stage| async move {
        let mut client = quiet(stage.relay.listener()).await;
        let exact = format!("NOOP {}", "x".repeat(512 - "NOOP \r\n".len()));
        let long = format!("{exact}x");
        let huge = format!("HELO {}", "x".repeat(100_000));
        let rows: [(&[u8], &str); 12] = [
            (b"eHlO client.test", "250"),
            (b"noop", "250 2.0.0"),
            (exact.as_bytes(), "250 2.0.0"),
            (long.as_bytes(), "500 5.5.2"),
            (huge.as_bytes(), "500 5.5.2"),
            (b"NOOP \0", "500 5.5.2"),
            (b"NOOP \xff", "500 5.5.2"),
            (b"FROBNICATE", "500 5.5.1"),
            (b"", "500 5.5.1"),
            (b"MAIL FROM:<\xff@client.test>", "550 5.6.7"),
            (b"NOOP ", "250 2.0.0"),
            (b"QUIT", "221 2.0.0"),
        ];
        talk(&mut client, &rows).await;
        assert!(client.is_closed().await);
    });
}

#[tokio::test]
async fn sv_05_sizes_that_every_server_takes_are_taken() {
    let world = World::start(PROGRAM).await;
    // The least that the configuration allows is what RFC 5321 §4.5.3.1 demands.
    let relay = world.relay(SMALL).await;
    let local = "l".repeat(64);
    let label = "d".repeat(63);
    let longest = format!("{local}@{label}.{label}.{}.test", "d".repeat(56));
    assert_eq!(longest.len(), 254, "a path of 256 with its brackets");
    let mut client = Client::hello(relay.listener()).await.unwrap();
    client.expect(&format!("MAIL FROM:<{longest}>"), 250).await;
    client.expect(&format!("RCPT TO:<{longest}>"), 250).await;
    for number in 1..100 {
        client.expect(&format!("RCPT TO:<r{number}@sv05.test>"), 250).await;
    }
    client.expect("DATA", 354).await;
    let head = "Subject: x\r\n\r\n";
    let line = format!("{}\r\n", "x".repeat(998));
    let body = line.repeat((65_536 - head.len()) / line.len());
    let rest = "y".repeat(65_536 - head.len() - body.len() - 2);
    client.send(&stuff(format!("{head}{body}{rest}\r\n").as_bytes())).await.unwrap();
    let reply = client.reply().await.unwrap();
    assert_eq!(reply.code, 250, "64 KiB to the octet: {reply:?}");

    let too_long = [
        (format!("MAIL FROM:<l{longest}>"), "501 5.1.7"),
        (format!("MAIL FROM:<l{local}@client.test>"), "501 5.1.7"),
        (format!("MAIL FROM:<x@{label}d.test>"), "501 5.1.8"),
    ];
    talk(&mut client, &too_long).await;
}

#[test]
fn sv_06_ehlo_needs_a_name_resets_and_comes_first() {
    on_stage(|stage| async move {
        let mut client = quiet(stage.relay.listener()).await;
        let rows = [
            ("MAIL FROM:<a@client.test>", "503 5.5.1"),
            ("EHLO", "501 5.5.4"),
            ("HELO ", "501 5.5.4"),
            ("MAIL FROM:<a@client.test>", "503 5.5.1"),
            ("EHLO client.test", "250"),
            ("MAIL FROM:<a@client.test>", "250 2.1.0"),
            ("RCPT TO:<x@sv06.test>", "250 2.1.5"),
            ("EHLO client.test", "250"),
            ("RCPT TO:<x@sv06.test>", "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            ("MAIL FROM:<a@client.test>", "250 2.1.0"),
            ("HELO client.test", "250"),
            ("MAIL FROM:<a@client.test>", "250 2.1.0"),
        ];
        talk(&mut client, &rows).await;
    });
}

#[test]
fn sv_07_parameters_are_known_and_right_or_refused() {
    on_stage(|stage| async move {
        let mut client = Client::hello(stage.relay.listener()).await.unwrap();
        let rows = [
            ("MAIL FROM:<a@client.test> FOO=bar", "555 5.5.4"),
            ("MAIL FROM:<a@client.test> FOO", "555 5.5.4"),
            ("MAIL FROM:<a@client.test> SIZE=x", "501 5.5.4"),
            ("MAIL FROM:<a@client.test> SIZE", "501 5.5.4"),
            ("MAIL FROM:<a@client.test> SIZE=1 SIZE=1", "501 5.5.4"),
            ("MAIL FROM:<a@client.test> BODY=9BIT", "501 5.5.4"),
            ("MAIL FROM:a@client.test", "501 5.1.7"),
            ("MAIL FROM:<a@client.test>SIZE=1", "501 5.1.7"),
            ("MAIL FROM: <a@client.test> size=1  body=8bitmime", "250 2.1.0"),
            ("RCPT TO:<x@sv07.test> FOO=bar", "555 5.5.4"),
            ("RCPT TO:<x@sv07.test> SIZE=1", "555 5.5.4"),
            ("RCPT TO:<>", "501 5.1.3"),
            ("RCPT TO:<@relay.test:x@sv07.test>", "250 2.1.5"),
        ];
        talk(&mut client, &rows).await;
    });
}

#[test]
fn sv_08_commands_out_of_order_are_503_and_some_come_at_any_time() {
    on_stage(|stage| async move {
        let mut client = quiet(stage.relay.listener()).await;
        let any_time = [("RSET", "250"), ("NOOP", "250"), ("VRFY x", "252"), ("HELP", "214")];
        talk(&mut client, &any_time).await;
        let rows = [
            ("DATA", "503 5.5.1"),
            ("EHLO client.test", "250"),
            ("RCPT TO:<x@sv08.test>", "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            ("MAIL FROM:<a@client.test>", "250"),
            ("MAIL FROM:<a@client.test>", "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            ("DATA x", "501 5.5.4"),
            ("RCPT TO:<x@sv08.test>", "250"),
        ];
        talk(&mut client, &rows).await;
        talk(&mut client, &any_time[1..]).await;
        // The transaction is still there; after RSET it is not, and EHLO still counts.
        let rows = [
            ("RCPT TO:<y@sv08.test>", "250"),
            ("RSET", "250"),
            ("RCPT TO:<x@sv08.test>", "503 5.5.1"),
            ("MAIL FROM:<a@client.test>", "250"),
        ];
        talk(&mut client, &rows).await;
    });
}

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
            let (from, to) = (14, content.len() - 60);
            for cut in from..to {
                let to = format!("{id}-{cut}@ext05.test");
                let mut client = opened(stage.relay.listener(), &to).await;
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

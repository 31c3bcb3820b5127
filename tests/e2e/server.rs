//! What a client may say to us, over a real socket: commands out of order or out of form, and above
//! all content that other servers would read as more than one message (RFC 5321 §2.3.8, §4.1.1.4).
//! Rows of `tests/data/vectors/smtp.tsv`.

use world::{Closed, Mode, message};

use crate::harness::{Stage, on_stage, unescape, vectors};

/// What a row asks for content that only seems to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expected {
    /// Refused after the true end.
    Refused,
    /// One message, taken as it is.
    Taken,
}

/// Content followed by commands that must never run.
fn smuggling_rows() -> Vec<(String, Vec<u8>, Expected)> {
    let smuggled = "MAIL FROM:<smuggler@client.test>\r\nRCPT TO:<smuggled@smuggling.test>\r\n\
                    DATA\r\n\r\nsmuggled\r\n";
    let rows = vectors("smtp.tsv").into_iter().filter(|row| row[2].starts_with("not end of data"));
    rows.map(|row| {
        let content = row[1].strip_suffix("MAIL FROM:<b@x>...").expect("the shape of these rows");
        let mut bytes = b"Received: smuggling\r\n\r\n".to_vec();
        bytes.extend(unescape(content));
        bytes.extend(smuggled.bytes());
        let is_taken = row[2].contains("message continues");
        (row[0].clone(), bytes, if is_taken { Expected::Taken } else { Expected::Refused })
    })
    .collect()
}

#[test]
fn content_that_seems_to_end_is_one_message_or_none() {
    on_stage(|stage| async move {
        let mx = stage.world.mx("mx.smuggling.test").await;
        let domain = stage.world.domain("smuggling.test");
        domain.mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &[mx.host()], 86400);
        let rows = smuggling_rows();
        assert!(rows.len() >= 18, "the file has them all");

        let mut taken = 0;
        for (id, content, expected) in &rows {
            let mut client = stage.relay.client().await;
            client.expect("MAIL FROM:<sender@client.test>", 250).await;
            client.expect(&format!("RCPT TO:<{id}@smuggling.test>"), 250).await;
            client.expect("DATA", 354).await;
            client.send(content).await.unwrap();
            client.send(b".\r\n").await.unwrap();
            let reply = client.reply().await.unwrap();
            match expected {
                Expected::Taken => {
                    taken += 1;
                    assert_eq!(reply.code, 250, "{id}: {reply:?}");
                }
                Expected::Refused => {
                    assert_eq!(reply.code, 550, "{id}: {reply:?}");
                    assert!(reply.text().starts_with("5.5.2 "), "{id}: {reply:?}");
                }
            }
            // In sync: the next reply is the one to the next command.
            client.expect("NOOP", 250).await;
            client.expect("RSET", 250).await;
            client.expect("QUIT", 221).await;
        }
        let messages = mx.messages(taken).await;
        assert_eq!(messages.len(), taken);
        for message in messages {
            assert_eq!(message.from, "sender@client.test");
            let id = message.to[0].split('@').next().unwrap().to_owned();
            let (_, content, _) = rows.iter().find(|(row, ..)| *row == id).expect("a row");
            assert!(message.content.ends_with(&unstuffed(content)), "{id}: {message:?}");
        }
    });
}

/// As the next server must get it: of a line that starts with a dot and goes on, the dot is taken.
fn unstuffed(content: &[u8]) -> Vec<u8> {
    let text = content.to_vec();
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line).to_vec()).collect()
}

/// Sends lines to a fresh session; the code of the last reply, or `None` if the server closed
/// instead.
async fn last_code(stage: &Stage, lines: &[&[u8]]) -> Option<(u16, String)> {
    let mut client = world::Client::dial(stage.relay.listener()).await.unwrap();
    client.reply().await.unwrap();
    let mut last = None;
    for line in lines {
        if client.send(&[line, &b"\r\n"[..]].concat()).await.is_err() {
            return None;
        }
        match client.reply().await {
            Ok(reply) => last = Some((reply.code, reply.text())),
            Err(Closed) => return None,
        }
    }
    last
}

#[test]
fn commands_out_of_order_or_form_are_refused() {
    on_stage(|stage| async move {
        let long_helo = [&b"HELO "[..], &[b'a'; 1000]].concat();
        let long_path = [&b"MAIL FROM:<"[..], &[b'a'; 600], b"@client.test>"].concat();
        let ehlo: &[u8] = b"EHLO client.test";
        let mail: &[u8] = b"MAIL FROM:<a@client.test>";
        let cases: [(&str, &[&[u8]], u16, &str); 12] = [
            ("X052", &[&long_helo], 500, ""),
            ("X053", &[b"DATA"], 503, "5.5.1"),
            ("X054", &[ehlo, b"DATA"], 503, "5.5.1"),
            ("X055", &[ehlo, b"MAIL LALA: <>"], 501, ""),
            ("X058", &[ehlo, b"MAIL FROM:<a@xn--->"], 501, "5.1.8"),
            ("X059", &[ehlo, &long_path], 501, "5.1.7"),
            ("X061", &[ehlo, mail, b"RCPT TO:<a@xn--->"], 501, "5.1.2"),
            ("X065", &[ehlo, b"FROBNICATE"], 500, "5.5.1"),
            ("X065", &[ehlo, b"FROBNICATE", b"NOOP"], 250, ""),
            ("nested MAIL", &[ehlo, mail, mail], 503, "5.5.1"),
            ("RCPT first", &[ehlo, b"RCPT TO:<a@b.test>"], 503, "5.5.1"),
            ("VRFY", &[ehlo, b"VRFY postmaster"], 252, ""),
        ];
        for (id, lines, code, status) in cases {
            let (got, text) =
                last_code(stage, lines).await.unwrap_or_else(|| panic!("{id}: closed"));
            assert_eq!(got, code, "{id}: {text}");
            assert!(text.starts_with(status), "{id}: {text}");
        }
    });
}

/// X049: a browser that was led here must not be able to send mail.
#[test]
fn http_is_not_served() {
    on_stage(|stage| async move {
        let mut client = world::Client::dial(stage.relay.listener()).await.unwrap();
        client.reply().await.unwrap();
        client.send(b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let reply = client.reply().await.unwrap();
        assert!(matches!(reply.code, 500 | 502 | 554), "{reply:?}");
        assert!(client.is_closed().await);
    });
}

/// X060: an address without brackets is taken where it can only be one, and never is another
/// address.
#[test]
fn an_address_without_brackets_is_never_another_address() {
    on_stage(|stage| async move {
        for (recipient, want) in [
            ("user@host.test", 250),
            (" user@host.test", 250),
            ("user@host.test>", 501),
            ("<user@host.test", 501),
            ("user@host.test,other@host.test", 501),
            ("\"user\"@host.test", 501),
            ("@relay.test:user@host.test", 501),
            ("user", 501),
            ("", 501),
        ] {
            let rcpt = format!("RCPT TO:{recipient}");
            let lines: [&[u8]; 3] =
                [b"EHLO client.test", b"MAIL FROM:a@client.test", rcpt.as_bytes()];
            let (code, text) = last_code(stage, &lines).await.unwrap();
            assert_eq!(code, want, "{recipient}: {text}");
        }
    });
}

/// X085 and RFC 5321 §6.3: mail that goes round in circles ends.
#[test]
fn a_message_with_too_many_hops_is_refused() {
    on_stage(|stage| async move {
        let hop = "Received: from a.test by b.test; Mon, 02 Mar 2026 10:00:00 +0000\r\n";
        let recipient = "user@loop.test";
        let mut content = hop.repeat(101).into_bytes();
        content.extend(message("a@client.test", recipient, "hops"));
        let reply = stage.relay.submit_content("a@client.test", &[recipient], &content).await;
        assert!(matches!(reply.code, 550 | 554), "{reply:?}");
        assert!(reply.text().starts_with("5.4.6"), "{reply:?}");
    });
}

/// Who is not in `access.networks` and not logged in relays nothing.
#[tokio::test]
async fn strangers_do_not_relay() {
    let world = world::World::start(crate::harness::PROGRAM).await;
    let relay = world.relay("[access]\nnetworks = [\"192.0.2.0/24\"]").await;
    let mut client = relay.client().await;
    let reply = client.expect("MAIL FROM:<a@client.test>", 550).await;
    assert!(reply.text().starts_with("5.7.1"), "{reply:?}");
    client.expect("RCPT TO:<b@elsewhere.test>", 503).await;
}

/// X041: what comes after the limit is not kept and not read as commands.
#[tokio::test]
async fn a_message_over_the_limit_is_refused_once_after_its_end() {
    let world = world::World::start(crate::harness::PROGRAM).await;
    let relay = world.relay("[limits]\nmessage_size = \"64KiB\"").await;
    let mut client = relay.client().await;
    client.expect("MAIL FROM:<a@client.test> SIZE=1000000", 552).await;
    client.expect("MAIL FROM:<a@client.test>", 250).await;
    client.expect("RCPT TO:<b@elsewhere.test>", 250).await;
    client.expect("DATA", 354).await;
    let line = [&[b'x'; 70][..], b"\r\n"].concat();
    client.send(&line.repeat(1000)).await.unwrap();
    client.send(b".\nHELP\r\n.HELP\r\n.\r\n").await.unwrap();
    let reply = client.reply().await.unwrap();
    assert!(matches!(reply.code, 550 | 552), "{reply:?}");
    client.expect("NOOP", 250).await;
    assert!(relay.queue().await.is_empty());
}

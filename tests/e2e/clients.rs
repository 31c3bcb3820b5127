//! Programs and devices that speak SMTP in their own way are served, or get a clear answer and a
//! line in the log.

use world::{Client, Relay, World};

use crate::harness::PROGRAM;

/// A client that has got its greeting, and writes octet for octet what it is told to.
async fn greeted(relay: &Relay) -> Client {
    let mut client = Client::dial(relay.listener()).await.unwrap();
    assert_eq!(client.reply().await.unwrap().code, 220);
    client
}

/// Says this, and gets an answer with this code.
async fn say(client: &mut Client, octets: &[u8], code: u16) {
    client.send(octets).await.unwrap();
    let reply = client.reply().await.unwrap();
    assert_eq!(reply.code, code, "{}: {reply:?}", octets.escape_ascii());
}

#[tokio::test]
async fn a_device_that_ends_its_lines_with_lf_gets_its_mail_through_under_normalize() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nbare_newline = \"normalize\"\n";
    let relay = world.relay(listener).await;
    let mut ups = greeted(&relay).await;
    for command in ["HELO ups", "MAIL FROM:<ups@client.test>", "RCPT TO:<bob@far.test>"] {
        say(&mut ups, format!("{command}\n").as_bytes(), 250).await;
    }
    say(&mut ups, b"DATA\n", 354).await;
    say(&mut ups, b"Subject: battery\n\n10%\r20%\n..\n.\n", 250).await;
    let received = mx.message().await;
    let text = received.text();
    assert!(text.contains("\r\n\r\n10% 20%\r\n.\r\n"), "{text:?}");
}

#[tokio::test]
async fn a_command_that_ends_in_lf_gets_its_answer_at_once_where_lf_is_refused() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    let mut ups = greeted(&relay).await;
    ups.send(b"HELO ups\n").await.unwrap();
    let reply = ups.reply().await.unwrap();
    assert!(reply.code == 500 && reply.text().starts_with("5.5.2 "), "{reply:?}");
    assert!(ups.is_closed().await);
    let event = relay.event("rejected").with("reason", "bad_command").await;
    assert!(event.text("message").unwrap().contains("LF alone"), "{event:?}");
}

/// The beginning of a ClientHello (RFC 8446 §4.1.2) that offers `minor` at most, and one suite of
/// that time.
fn hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    // No session, TLS_RSA_WITH_AES_128_CBC_SHA, no compression.
    body.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let length = |octets: usize| u16::try_from(octets).unwrap().to_be_bytes();
    let handshake = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[22, 3, 1][..], &length(handshake.len()), &handshake].concat()
}

#[tokio::test]
async fn a_client_with_old_tls_is_named_as_that_in_the_log() {
    let world = World::start(PROGRAM).await;
    let files = world.key_files("relay.test");
    let listener = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{}", files.toml());
    let relay = world.relay(&listener).await;
    for (minor, what) in
        [(1, "TLS 1.0 at most"), (2, "TLS 1.1 at most"), (3, "no signature algorithm in common")]
    {
        let mark = relay.mark();
        let mut printer = greeted(&relay).await;
        say(&mut printer, b"EHLO printer\r\n", 250).await;
        say(&mut printer, b"STARTTLS\r\n", 220).await;
        printer.send(&hello(minor)).await.unwrap();
        let event = relay.event("handshake_failed").after(mark).await;
        assert!(event.text("error").unwrap().contains(what), "{event:?}");
    }
}

#[tokio::test]
async fn tls_on_a_port_that_begins_in_clear_text_is_named_as_that_in_the_log() {
    let world = World::start(PROGRAM).await;
    for access in ["", "[access]\nnetworks = []\n"] {
        let relay = world.relay(access).await;
        let mut app = Client::dial(relay.listener()).await.unwrap();
        app.send(&hello(3)).await.unwrap();
        let event = relay.event("rejected").with("reason", "bad_command").await;
        assert!(event.text("message").unwrap().contains("use STARTTLS"), "{event:?}");
        assert!(!app.rest().await.is_empty(), "the client gets an answer, too");
    }
}

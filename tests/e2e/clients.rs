//! Programs and devices that speak SMTP in their own way are served, or get a clear answer and a line in the log.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use world::{Relay, World};

use crate::harness::PROGRAM;

/// A client that writes what it is told to, octet for octet.
struct Raw(BufReader<TcpStream>);

impl Raw {
    async fn connect(relay: &Relay) -> Self {
        Self(BufReader::new(TcpStream::connect(relay.listener()).await.unwrap()))
    }

    /// The last line of the next reply; empty where the connection was closed.
    async fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    }

    async fn say(&mut self, octets: &[u8]) {
        self.0.get_mut().write_all(octets).await.unwrap();
    }

    async fn is_closed(&mut self) -> bool {
        // A reset is an end, too.
        matches!(self.0.read(&mut [0]).await, Ok(0) | Err(_))
    }
}

#[tokio::test]
async fn a_device_that_ends_its_lines_with_lf_gets_its_mail_through_under_normalize() {
    let world = World::start(PROGRAM).await;
    let mx = world.mx("mx.far.test").await;
    world.domain("far.test").mx(&[(10, &mx)]);
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nbare_newline = \"normalize\"\n";
    let relay = world.relay(listener).await;
    let mut ups = Raw::connect(&relay).await;
    assert!(ups.reply().await.starts_with("220 "));
    for command in ["HELO ups", "MAIL FROM:<ups@client.test>", "RCPT TO:<bob@far.test>"] {
        ups.say(format!("{command}\n").as_bytes()).await;
        assert!(ups.reply().await.starts_with("250 "), "{command}");
    }
    ups.say(b"DATA\n").await;
    assert!(ups.reply().await.starts_with("354 "));
    ups.say(b"Subject: battery\n\n10%\r20%\n..\n.\n").await;
    assert!(ups.reply().await.starts_with("250 "));
    let received = mx.message().await;
    let text = received.text();
    assert!(text.contains("\r\n\r\n10% 20%\r\n.\r\n"), "{text:?}");
}

#[tokio::test]
async fn a_command_that_ends_in_lf_gets_its_answer_at_once_where_lf_is_refused() {
    let world = World::start(PROGRAM).await;
    let relay = world.relay("").await;
    let mut ups = Raw::connect(&relay).await;
    assert!(ups.reply().await.starts_with("220 "));
    ups.say(b"HELO ups\n").await;
    assert!(ups.reply().await.starts_with("500 5.5.2 "));
    assert!(ups.is_closed().await);
    let event = relay.event("rejected").with("reason", "bad_command").await;
    assert!(event.text("message").unwrap().contains("LF alone"), "{event:?}");
}

/// The beginning of a ClientHello (RFC 8446 §4.1.2) that offers `minor` at most, and one suite of that time.
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
        let mut printer = Raw::connect(&relay).await;
        printer.reply().await;
        printer.say(b"EHLO printer\r\n").await;
        printer.reply().await;
        printer.say(b"STARTTLS\r\n").await;
        assert!(printer.reply().await.starts_with("220 "));
        printer.say(&hello(minor)).await;
        let event = relay.event("handshake_failed").after(mark).await;
        assert!(event.text("error").unwrap().contains(what), "{event:?}");
    }
}

#[tokio::test]
async fn tls_on_a_port_that_begins_in_clear_text_is_named_as_that_in_the_log() {
    let world = World::start(PROGRAM).await;
    for access in ["", "[access]\nnetworks = []\n"] {
        let relay = world.relay(access).await;
        let mut app = Raw::connect(&relay).await;
        app.say(&hello(3)).await;
        let event = relay.event("rejected").with("reason", "bad_command").await;
        assert!(event.text("message").unwrap().contains("use STARTTLS"), "{event:?}");
        while !app.reply().await.is_empty() {}
    }
}

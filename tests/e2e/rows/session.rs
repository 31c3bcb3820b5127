//! What the session itself decides, row by row: the form and order of commands, and where content
//! ends.

use std::net::SocketAddr;

use world::{Client, Mode, Mx, World, stuff};

use crate::harness::{PROGRAM, Stage, on_stage, unescape, vectors};
use crate::submission::{BCRYPT, IMPLICIT, Office, STARTTLS};

/// A client that has heard the greeting and said nothing.
async fn quiet(address: SocketAddr) -> Client {
    let mut client = Client::dial(address).await.unwrap();
    assert_eq!(client.reply().await.unwrap().code, 220);
    client
}

/// Sends each line and compares its reply: the code, and the status if one is given.
pub(super) async fn talk<L: AsRef<[u8]>>(client: &mut Client, lines: &[(L, &str)]) {
    for (line, want) in lines {
        let line = line.as_ref();
        client.send(&[line, b"\r\n"].concat()).await.unwrap();
        let reply = client.reply().await.unwrap();
        let got = format!("{} {}", reply.code, reply.lines.last().unwrap());
        assert!(got.starts_with(want), "{}: {got}, not {want}", line.escape_ascii());
    }
}

/// EHLO, MAIL and RCPT, all accepted.
pub(super) async fn opened(address: SocketAddr, recipient: &str) -> Client {
    let mut client = Client::hello(address).await.unwrap();
    client.expect("MAIL FROM:<sender@client.test>", 250).await;
    client.expect(&format!("RCPT TO:<{recipient}>"), 250).await;
    client
}

/// The end of a domain's journey.
pub(super) async fn mx_of(stage: &Stage, domain: &str) -> Mx {
    let mx = stage.world.mx(&format!("mx.{domain}")).await;
    stage.world.domain(domain).mx(&[(10, &mx)]).mta_sts(Mode::Enforce, &[mx.host()], 86400);
    mx
}

/// What must not run.
pub(super) const HIDDEN: &[u8] =
    b"MAIL FROM:<smuggler@client.test>\r\nRCPT TO:<s@hidden.test>\r\nDATA\r\n\r\nx\r\n";
/// What stands in front of what should look like the end.
pub(super) const FRONT: &[u8] = b"Received: x\r\n\r\n";

/// The vectors that try to end a message early, with commands behind.
pub(super) fn smuggling() -> Vec<(String, Vec<u8>)> {
    let rows = vectors("smtp.tsv").into_iter().filter(|row| row[2].starts_with("not end of data"));
    rows.map(|row| {
        let end = unescape(row[1].strip_suffix("MAIL FROM:<b@x>...").expect("their shape"));
        (row[0].clone(), [FRONT, &end, HIDDEN].concat())
    })
    .collect()
}

/// Has it a CR or LF that stands alone, or a NUL?
pub(super) fn is_unclean(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).replace("\r\n", "").contains(['\r', '\n', '\0'])
}

#[test]
fn sv_01_only_crlf_ends_a_line_and_only_crlf_dot_crlf_a_message() {
    on_stage(|stage| async move {
        let mx = mx_of(stage, "sv01.test").await;
        let mut client = quiet(stage.relay.listener()).await;
        // What follows an LF may come from another hand than the line before.
        client.send(b"EHLO client.test\nNOOP\r\n").await.unwrap();
        assert_eq!(client.reply().await.unwrap().code, 500);
        assert!(client.is_closed().await);
        let mut client = quiet(stage.relay.listener()).await;
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
pub(super) const SMALL: &str = "[limits]\nmessage_size = \"64KiB\"\n";

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

/// RFC 5321 §4.5.3.1.4, and what each extension adds to it: RFC 1870 §3, RFC 6152 §3, RFC 6531
/// §3.1, RFC 3461 §4, RFC 4954 §3, RFC 2852 §3, RFC 8689 §2. For HOLDUNTIL (RFC 4865) it is as long
/// as it can be.
#[tokio::test]
async fn sv_04_a_line_is_longer_by_what_each_extension_adds_and_no_octet_more() {
    const HOLD: &str = " HOLDUNTIL=2020-01-01T00:00:00.000000000+01:00";
    let office = Office::open(&[("anna", BCRYPT)], "").await;
    let mut client = office.user(STARTTLS, "anna", "secret").await;
    let label = "d".repeat(63);
    let path = format!("<{}@{label}.{label}.{}.test>", "l".repeat(64), "d".repeat(56));
    assert_eq!(path.len(), 256);
    let envelope_id = "+2B".repeat(100);
    let identity = "x".repeat(500 - " AUTH=".len());
    let mail = format!(
        "MAIL FROM:{path} SIZE=00000000000000000042 BODY=8BITMIME SMTPUTF8 RET=HDRS \
         ENVID={envelope_id} REQUIRETLS AUTH={identity} BY=-999999999;NT{HOLD}"
    );
    let dsn = " RET=HDRS ENVID=".len() + 300;
    let mail_max = 2048 + 26 + 17 + 10 + dsn + 11 + 500 + 17 + HOLD.len();
    let original = format!("rfc822;{}", "x".repeat(500 - "rfc822;".len()));
    let rcpt = format!("RCPT TO:{path} NOTIFY=SUCCESS,FAILURE,DELAY ORCPT={original}");
    let rcpt_max = 2048 + 10 + " NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=".len() + 500;
    // Blanks at the end count, and mean nothing.
    for (line, max) in [(mail, mail_max), (rcpt, rcpt_max)] {
        let exact = format!("{line:max$}", max = max - "\r\n".len());
        assert!(exact.len() > line.len(), "what is legal is shorter than what is taken");
        let rows = [(format!("{exact} "), "500 5.5.2"), (exact, "250")];
        talk(&mut client, &rows).await;
    }

    // REQUIRETLS is worth its eleven octets where it is offered (RFC 8689 §2), and no other verb
    // gains by any of it.
    let mut without = office.user(IMPLICIT, "anna", "secret").await;
    let mail =
        |octets: usize| format!("{:1$}", "MAIL FROM:<anna@client.test>", octets - "\r\n".len());
    let rows = [
        (mail(mail_max), "500 5.5.2"),
        (mail(mail_max - 10), "500 5.5.2"),
        (format!("NOOP{:506}x", ""), "500 5.5.2"),
        (mail(mail_max - 11), "250"),
    ];
    talk(&mut without, &rows).await;
}

#[tokio::test]
async fn sv_05_sizes_that_every_server_takes_are_taken() {
    let world = World::start(PROGRAM).await;
    // The least that the configuration allows is what RFC 5321 §4.5.3.1 demands.
    let relay = world.relay(SMALL).await;
    // A local part of 64 is what everybody takes, and no maximum.
    let local = "l".repeat(512);
    let label = "d".repeat(63);
    let longest = format!("{local}@{label}.{label}.{}.test", "d".repeat(56));
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
        (format!("MAIL FROM:<x@{0}.{0}.{0}.{0}.test>", label), "501 5.1.8"),
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
            ("MAIL FROM:<a@client.test> BODY=7BIT body=8BITMIME", "501 5.5.4"),
            ("MAIL FROM:<a@client.test> SMTPUTF8 SMTPUTF8", "501 5.5.4"),
            ("MAIL FROM:<a@client.test> ENVID=x ENVID=x", "501 5.5.4"),
            ("MAIL FROM:<a@client.test> MT-PRIORITY=1 MT-PRIORITY=1", "501 5.5.4"),
            ("MAIL FROM:<a@client.test> =1", "501 5.5.4"),
            ("MAIL FROM:<a@client.test> BODY=9BIT", "501 5.5.4"),
            ("MAIL FROM:a client.test", "501 5.1.7"),
            ("MAIL FROM:<a@client.test>SIZE=1", "501 5.1.7"),
            ("MAIL FROM:", "501 5.1.7"),
            ("MAIL FROM: alarm@client.test SIZE=1", "250 2.1.0"),
            ("RCPT TO: x@sv07.test", "250 2.1.5"),
            ("RSET", "250 2.0.0"),
            ("MAIL FROM: <a@client.test> size=1  body=8bitmime", "250 2.1.0"),
            ("RCPT TO:<x@sv07.test> FOO=bar", "555 5.5.4"),
            ("RCPT TO:<x@sv07.test> SIZE=1", "555 5.5.4"),
            ("RCPT TO:<x@sv07.test> NOTIFY=NEVER NOTIFY=NEVER", "501 5.5.4"),
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

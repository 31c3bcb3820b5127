//! What does an octet cost that is made to be costly? CPU of the daemon for a megabyte of content,
//! beside plain text.

use world::real::Usage;
use world::{Client, Relay, World};

use crate::{MIB, relay};

/// The promise.
const RATIO_MAX: f64 = 10.0;
/// Octets of a message whose body is what costs, and of one whose header does.
const BODY_OCTETS: usize = 4 << 20;
const HEADER_OCTETS: usize = 240 << 10;

/// Content that is repeated until a message is full.
struct Input {
    name: &'static str,
    place: Place,
    unit: Vec<u8>,
}

/// Where the content stands.
#[derive(Clone, Copy)]
enum Place {
    Body,
    Header,
}

impl Place {
    fn octets(self) -> usize {
        match self {
            Self::Body => BODY_OCTETS,
            Self::Header => HEADER_OCTETS,
        }
    }
}

fn input(name: &'static str, place: Place, unit: impl Into<Vec<u8>>) -> Input {
    Input { name, place, unit: unit.into() }
}

fn inputs() -> Vec<Input> {
    use Place::{Body, Header};
    let long = |octet: &str, octets: usize| format!("{}\r\n", octet.repeat(octets / octet.len()));
    let field = |value: String| format!("X: {value}");
    vec![
        input("empty lines", Body, "\r\n"),
        input("lines of two dots", Body, "..\r\n"),
        input("lines of three dots", Body, "...\r\n"),
        input("dots only, long lines", Body, format!("..{}", long(".", 60_000))),
        input("lines of one octet", Body, "x\r\n"),
        input("lines of one octet above 127", Body, b"\xff\r\n".as_slice()),
        input("lines of a blank", Body, " \r\n"),
        input("blanks, long lines", Body, long(" ", 60_000)),
        input("blanks and tabs", Body, long("a \t", 60_000)),
        input("two dashes", Body, "--\r\n"),
        input("boundary lines", Body, "--b\r\n"),
        input("text that begins like From", Body, "From x\r\n"),
        input("empty fields", Header, "a:\r\n"),
        input("fields of one octet", Header, "a:b\r\n"),
        input("a folded field", Header, " x\r\n"),
        input("a folded field of blanks", Header, format!(" x{}", long(" ", 990))),
        input("colons", Header, field(long(":", 990))),
        input("semicolons", Header, field(long(";", 990))),
        input("encoded words", Header, field(long("=?utf-8?q?=0d?= ", 900))),
        input("comments in comments", Header, field(long("(", 990))),
        input("lines without a colon", Header, "no colon\r\n"),
        input("colons only", Header, ":\r\n"),
        input("Received, nearly", Header, "Receive: x\r\n"),
        input("received without a colon", Header, "Received \r\n"),
        input(
            "Content-Type with parameters",
            Header,
            format!("Content-Type: a/b{}", long(";x=y", 900)),
        ),
        input("To with addresses", Header, format!("To: {}", long("a@b.test, ", 900))),
        input("References", Header, format!("References: {}", long("<a@b.test> ", 900))),
    ]
}

pub(crate) async fn run(mib: usize) {
    let world = World::start(env!("CARGO_BIN_EXE_staunch")).await;
    let relay = relay(&world, "").await;
    relay.cli(&["pause"]).await;
    let text = || format!("{}\r\n", "plain text ".repeat(7));
    let plain = |place| input("plain text", place, text());
    let mut worst: f64 = 0.0;
    for place in [Place::Body, Place::Header] {
        // More of it, since everything is divided by it.
        let plain = cost(&relay, &plain(place), 4 * mib).await;
        println!("plain text, {} KiB a message: {plain:.2} ms CPU a MiB", place.octets() >> 10);
        for input in inputs().iter().filter(|input| input.place.octets() == place.octets()) {
            let ratio = cost(&relay, input, mib).await / plain;
            println!("{}: {ratio:.1} times plain text", input.name);
            worst = worst.max(ratio);
        }
    }
    println!("of {} hostile inputs the worst costs {worst:.1} times plain text", inputs().len());
    assert!(worst <= RATIO_MAX, "at most {RATIO_MAX}");
}

/// Milliseconds of CPU for a MiB of it. The first message only warms up.
async fn cost(relay: &Relay, input: &Input, mib: usize) -> f64 {
    let mut client = relay.client().await;
    let content = input.unit.repeat(input.place.octets() / input.unit.len());
    send(&mut client, input.place, &content).await;
    let before = Usage::of_process(relay.pid()).cpu_seconds;
    let mut octets = 0;
    while octets < mib << 20 {
        send(&mut client, input.place, &content).await;
        octets += content.len();
    }
    let after = Usage::of_process(relay.pid()).cpu_seconds;
    (after - before) * 1000.0 / (octets as f64 / MIB)
}

async fn send(client: &mut Client, place: Place, content: &[u8]) {
    client.expect("MAIL FROM:<a@x.test>", 250).await;
    client.expect("RCPT TO:<b@x.test>", 250).await;
    client.expect("DATA", 354).await;
    let front: &[u8] = match place {
        Place::Body => b"A: b\r\n\r\n",
        Place::Header => b"A: b\r\n",
    };
    for piece in [front, content, b"\r\n.\r\n"] {
        client.send(piece).await.expect("taken");
    }
    assert_eq!(client.reply().await.expect("an answer").code, 250);
}

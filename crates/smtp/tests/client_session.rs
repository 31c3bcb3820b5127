//! A transaction as a peer may have it: whatever it says, in whatever pieces.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use proptest::prelude::*;
use smtp::client::MailOptions;
use smtp::{
    Addressee, Extensions, Finished, Mailbox, RecipientReply, Reply, ReplyClass, ReplyParser,
    ReversePath, Transaction, TransactionStep, Transfer,
};

/// What marks the message in the transcript.
const BODY: &str = "<body>\r\n";

/// What was sent, and how it ended: with fates, or with why not.
#[derive(Debug, PartialEq)]
struct Transcript {
    sent: String,
    ended: Result<Finished, String>,
    replies: Vec<u16>,
}

/// Replies from a peer's octets, which come in pieces.
struct Peer<'a> {
    octets: &'a [u8],
    sizes: Box<dyn Iterator<Item = usize> + 'a>,
    buffer: Vec<u8>,
    parser: ReplyParser,
}

impl Peer<'_> {
    fn reply(&mut self) -> Result<Option<Reply>, String> {
        loop {
            let (consumed, reply) =
                self.parser.parse(&self.buffer).map_err(|error| error.to_string())?;
            self.buffer.drain(..consumed);
            if reply.is_some() || self.octets.is_empty() {
                return Ok(reply);
            }
            let size = self.sizes.next().unwrap_or(usize::MAX).clamp(1, self.octets.len());
            let (piece, rest) = self.octets.split_at(size);
            self.buffer.extend_from_slice(piece);
            self.octets = rest;
        }
    }
}

fn play(keywords: &[&str], recipients: usize, octets: &[u8], sizes: &[usize]) -> Transcript {
    let lines: String = keywords.iter().map(|word| format!("250-{word}\r\n")).collect();
    let ehlo = Reply::parse(format!("250-mx\r\n{lines}250 HELP\r\n").as_bytes()).unwrap();
    let extensions = Extensions::from_reply(&ehlo);
    let mailboxes: Vec<_> =
        (0..recipients).map(|i| Mailbox::parse(&format!("r{i}@example.org")).unwrap()).collect();
    let recipients: Vec<_> = mailboxes.iter().map(Addressee::from).collect();
    let envelope = smtp::Envelope {
        sender: &ReversePath::Null,
        recipients: &recipients,
        size: 8,
        has_8bit: true,
        options: MailOptions { smtp_utf8: true, require_tls: true, ..MailOptions::default() },
    };
    let mut peer = Peer {
        octets,
        sizes: Box::new(sizes.iter().copied()),
        buffer: Vec::new(),
        parser: ReplyParser::default(),
    };
    let (mut out, mut replies) = (Vec::new(), Vec::new());
    let mut step = Transaction::start(envelope, &extensions, Transfer::best(&extensions), &mut out);
    let ended = loop {
        let transaction = match step {
            TransactionStep::Done(finished) => break Ok(finished),
            TransactionStep::Await(transaction) => transaction,
            TransactionStep::SendBody(transaction) => {
                out.extend_from_slice(BODY.as_bytes());
                transaction.body_sent()
            }
        };
        let reply = match peer.reply() {
            Ok(Some(reply)) => reply,
            Ok(None) => break Err(format!("{:?}", transaction.interrupted())),
            Err(error) => break Err(error),
        };
        replies.push(reply.code);
        match transaction.on_reply(reply, &mut out) {
            Ok(next) => step = next,
            Err(unexpected) => break Err(format!("{unexpected:?}")),
        }
    };
    Transcript { sent: String::from_utf8(out).unwrap(), ended, replies }
}

/// Sets of keywords that change how a transaction goes.
fn keywords() -> impl Strategy<Value = Vec<&'static str>> {
    let all = vec!["PIPELINING", "CHUNKING", "SIZE 9", "8BITMIME", "SMTPUTF8", "DSN", "REQUIRETLS"];
    prop::sample::subsequence(all, 0..=7)
}

/// What servers answer, and what no server should.
fn reply() -> impl Strategy<Value = String> {
    let code = prop_oneof![
        6 => Just(250u16),
        3 => Just(354u16),
        1 => prop::sample::select(vec![251, 421, 450, 452, 500, 503, 550, 552, 554]),
        1 => 200u16..600,
    ];
    (code, 1usize..4).prop_map(|(code, lines)| {
        let first: String = (1..lines).map(|_| format!("{code}-more\r\n")).collect();
        format!("{first}{code} 2.0.0 last\r\n")
    })
}

proptest! {
    #[test]
    fn pieces_of_replies_do_not_matter_and_only_what_was_taken_counts(
        keywords in keywords(),
        recipients in 0usize..6,
        replies in prop::collection::vec(reply(), 0..12),
        sizes in prop::collection::vec(1usize..12, 0..60),
    ) {
        let octets = replies.concat().into_bytes();
        let whole = play(&keywords, recipients, &octets, &[]);
        prop_assert_eq!(&play(&keywords, recipients, &octets, &sizes), &whole);

        let (commands, behind) = whole.sent.split_once(BODY).unwrap_or((&whole.sent, ""));
        prop_assert_eq!(behind, "", "nothing follows the message");
        prop_assert!(commands.matches("DATA\r\n").count() + commands.matches("BDAT").count() <= 1);
        let Ok(Finished { fates, .. }) = &whole.ended else { return Ok(()) };
        prop_assert_eq!(fates.len(), recipients);
        for (at, fate) in fates.iter().enumerate() {
            let RecipientReply::Accepted(reply) = fate else { continue };
            prop_assert_eq!(reply.class(), ReplyClass::Success);
            prop_assert!(whole.sent.ends_with(BODY));
            prop_assert!((200..300).contains(&whole.replies[0]), "MAIL");
            prop_assert!((200..300).contains(&whole.replies[1 + at]), "its RCPT");
        }
    }

    #[test]
    fn no_octets_make_it_panic(
        keywords in keywords(),
        recipients in 0usize..4,
        octets: Vec<u8>,
        sizes in prop::collection::vec(1usize..9, 0..40),
    ) {
        let whole = play(&keywords, recipients, &octets, &[]);
        prop_assert_eq!(play(&keywords, recipients, &octets, &sizes), whole);
    }
}

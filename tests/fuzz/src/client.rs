//! Replies, and a transaction that lives on them.

use smtp::client::{Addressee, Ending, MailOptions, Transfer};
use smtp::command::Command;
use smtp::{
    Envelope, Extensions, Mailbox, RecipientReply, Reply, ReplyParser, ReversePath, Transaction,
    TransactionStep,
};

use crate::common::full_offer;
use crate::{choice, piece_size};

/// The replies in `data`, handed over in pieces; whether it went wrong behind them.
fn replies(data: &[u8], piece: usize) -> (Vec<Reply>, bool) {
    let mut parser = ReplyParser::default();
    let (mut replies, mut buffer) = (Vec::new(), Vec::new());
    for part in data.chunks(piece) {
        buffer.extend_from_slice(part);
        loop {
            match parser.parse(&buffer) {
                Err(_) => return (replies, true),
                Ok((used, reply)) => {
                    buffer.drain(..used);
                    let Some(reply) = reply else { break };
                    replies.push(reply);
                }
            }
        }
    }
    (replies, false)
}

/// Replies are the same however they come, and what they say is inert.
pub fn check_reply(mut data: &[u8]) {
    let piece = piece_size(&mut data);
    let whole = replies(data, usize::MAX);
    assert_eq!(replies(data, piece), whole);
    for reply in whole.0 {
        assert!((200..600).contains(&reply.code));
        assert!(!reply.to_string().contains(|c: char| c.is_control()));
        let extensions = Extensions::from_reply(&reply);
        assert!(extensions.size_limit() != Some(0));
    }
}

/// A server answers one transaction with whatever it likes.
pub fn check(mut data: &[u8]) {
    let (kind, recipients) = (choice(&mut data), 1 + usize::from(choice(&mut data) % 5));
    let (mut replies, _) = replies(data, usize::MAX);
    if replies.is_empty() {
        return;
    }
    // The first is the reply to EHLO.
    let extensions = Extensions::from_reply(&replies.remove(0));
    let sender = ReversePath::parse("a@b.example").expect("an address");
    let mailboxes: Vec<_> = (0..recipients)
        .map(|number| Mailbox::parse(&format!("r{number}@d.example")).expect("an address"))
        .collect();
    let addressees: Vec<_> = mailboxes.iter().map(Addressee::from).collect();
    let envelope = Envelope {
        sender: &sender,
        recipients: &addressees,
        size: 3,
        has_8bit: kind & 1 != 0,
        options: MailOptions { require_tls: kind & 2 != 0, ..MailOptions::default() },
    };
    converse(envelope, &extensions, replies.into_iter(), kind & 4 != 0);
}

/// Plays the dialogue to its end, or as far as the replies go. `is_early`: the server talks while
/// the message is on its way.
fn converse(
    envelope: Envelope<'_>,
    extensions: &Extensions,
    mut replies: impl Iterator<Item = Reply>,
    is_early: bool,
) {
    let mut out = Vec::new();
    let mut is_sent = false;
    let transfer = Transfer::best(extensions);
    let mut step = Transaction::start(envelope, extensions, transfer, &mut out);
    let finished = loop {
        let transaction = match step {
            TransactionStep::Done(finished) => break finished,
            TransactionStep::Await(transaction) => transaction,
            TransactionStep::SendBody(transaction) if is_early => transaction,
            TransactionStep::SendBody(transaction) => {
                is_sent = true;
                transaction.body_sent()
            }
        };
        let Some(reply) = replies.next() else {
            assert_eq!(transaction.interrupted().fates.len(), envelope.recipients.len());
            return check_commands(&out);
        };
        match transaction.on_reply(reply, &mut out) {
            Ok(next) => step = next,
            Err(unexpected) => {
                assert_eq!(unexpected.interrupted.fates.len(), envelope.recipients.len());
                return check_commands(&out);
            }
        }
    };
    check_commands(&out);
    assert_eq!(finished.fates.len(), envelope.recipients.len());
    for fate in &finished.fates {
        let is_accepted = matches!(fate, RecipientReply::Accepted(_));
        assert!(!is_accepted || is_sent, "nobody got a message that was not sent");
        assert!(!is_accepted || finished.ending == Ending::Clean);
    }
}

/// Whatever was said can be read by a server that is as strict as ours.
fn check_commands(out: &[u8]) {
    let text = std::str::from_utf8(out).expect("commands are text");
    for line in text.split_inclusive("\r\n") {
        let line = line.strip_suffix("\r\n").expect("each line is whole");
        assert!(line == "." || Command::parse(line.as_bytes(), full_offer()).is_ok(), "{line}");
    }
}

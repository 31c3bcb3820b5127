//! `staunch sendmail -t`: everybody whom the header names gets it, or the program says whom it
//! cannot reach.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt as _};
use world::Value;

use crate::judge;
use crate::message::Message;
use crate::stage::{BATCH, Stage, arrived, settle};
use crate::tally::{Tally, Verdict};

/// Programs that run at a time.
const AT_A_TIME: usize = 4;

/// How the program ended.
#[derive(Clone, Debug)]
struct Ended {
    exit: i32,
    said: String,
}

pub(crate) async fn run(stage: &Stage, messages: &[Message]) -> Tally {
    let since = stage.home.received().len();
    let mut ended = BTreeMap::new();
    let mut returned = BTreeMap::new();
    for batch in messages.chunks(BATCH) {
        let mark = stage.machine.mark();
        let calls = batch.iter().map(|message| call(stage, message));
        ended.extend(stream::iter(calls).buffer_unordered(AT_A_TIME).collect::<Vec<_>>().await);
        returned.extend(settle(&stage.machine, mark).await);
    }
    let copies = arrived(&stage.home, since, |one| Some(one.from.clone()));
    let questions = messages
        .iter()
        .map(|message| {
            let copies = copies.get(&message.number).map(Vec::as_slice).unwrap_or_default();
            let ended = ended.get(&message.number).expect("each was sent");
            about(stage, message, copies, ended)
        })
        .collect();
    let verdicts = judge::ask(stage, "recipients", questions);
    let mut tally = Tally::new("`sendmail -t`");
    for message in messages {
        let verdict = verdicts.get(&message.number).expect("a verdict on each").clone();
        let verdict = match (verdict, returned.get(&message.number)) {
            (Verdict::Differing(how), Some(reason)) => {
                Verdict::Differing(format!("{how}; {reason}"))
            }
            (verdict, _) => verdict,
        };
        tally.add(message, verdict);
    }
    tally
}

/// As programs write it: lines end in LF.
async fn call(stage: &Stage, message: &Message) -> (usize, Ended) {
    let lines = without_cr(&message.octets);
    let sender = format!("{}@sender.test", message.local_part());
    let output = stage.machine.cli_with(&["sendmail", "-t", "-i", "-f", &sender], &lines).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (message.number, Ended { exit: output.status.code().unwrap_or(-1), said })
}

fn without_cr(octets: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(octets.len());
    for line in octets.split_inclusive(|&octet| octet == b'\n') {
        match line.strip_suffix(b"\r\n") {
            Some(front) => lines.extend_from_slice(&[front, b"\n"].concat()),
            None => lines.extend_from_slice(line),
        }
    }
    lines
}

fn about(stage: &Stage, message: &Message, copies: &[world::Received], ended: &Ended) -> Value {
    let to: BTreeSet<&String> = copies.iter().flat_map(|one| &one.to).collect();
    let to = to.into_iter().map(|one| Value::from(one.as_str())).collect();
    let distinct: BTreeSet<&[u8]> = copies.iter().map(|one| below_received(&one.content)).collect();
    let files = distinct.iter().enumerate().map(|(number, content)| {
        let path = stage.write(&format!("{}.sendmail.{number}", message.name), content);
        Value::from(path.display().to_string())
    });
    let sent = stage.cache.join("messages").join(format!("{}.eml", message.name));
    let about = [
        ("sent", Value::from(sent.display().to_string())),
        ("to", Value::Array(to)),
        ("arrived", Value::Array(files.collect())),
        ("exit", Value::from(ended.exit)),
        ("said", Value::from(ended.said.as_str())),
    ];
    judge::question(message.number, about)
}

fn below_received(content: &[u8]) -> &[u8] {
    smtp::header::split_field(content).map_or(content, |(_, rest)| rest)
}

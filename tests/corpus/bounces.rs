//! Each message bounces: its sender gets a DSN that flufl.bounce understands.

use world::{Received, Value};

use crate::judge;
use crate::message::Message;
use crate::stage::{Door, Envelope, Stage, arrived};
use crate::tally::{Tally, Verdict};

pub(crate) async fn run(stage: &Stage, messages: &[Message]) -> Vec<Tally> {
    vec![
        returned(stage, messages, ("bounces, RET=FULL", "FULL")).await,
        returned(stage, messages, ("bounces, RET=HDRS", "HDRS")).await,
    ]
}

async fn returned(stage: &Stage, messages: &[Message], (road, ret): (&'static str, &str)) -> Tally {
    let since = stage.home.received().len();
    let envelope = |message: &Message| Envelope {
        from: format!("{}@sender.test", message.local_part()),
        to: recipient(message),
        mail: format!("{} RET={ret}", if message.is_eight_bit() { " BODY=8BITMIME" } else { "" }),
        rcpt: " NOTIFY=FAILURE",
    };
    let refused = stage.pass(Door::Relay, messages, envelope).await;
    let notices = arrived(&stage.home, since, |one: &Received| one.to.first().cloned());
    let mut questions = Vec::new();
    for message in messages {
        if let Some([notice]) = notices.get(&message.number).map(Vec::as_slice) {
            let path = stage.write(&format!("{}.{ret}", message.name), &notice.content);
            let sent = stage.cache.join("messages").join(format!("{}.eml", message.name));
            let about = [
                ("notice", Value::from(path.display().to_string())),
                ("sent", Value::from(sent.display().to_string())),
                ("recipient", Value::from(recipient(message))),
                ("ret", Value::from(ret)),
            ];
            questions.push(judge::question(message.number, about));
        }
    }
    let verdicts = judge::ask(stage, "bounces", questions);
    let mut tally = Tally::new(road);
    for message in messages {
        let reason = refused.get(&message.number).cloned().unwrap_or_default();
        let verdict = match verdicts.get(&message.number) {
            Some(verdict) => verdict.clone(),
            None if reason.starts_with("returned") || reason.is_empty() => {
                let count = notices.get(&message.number).map_or(0, Vec::len);
                Verdict::Differing(format!("{count} notices"))
            }
            None => Verdict::Refused(reason),
        };
        tally.add(message, verdict);
    }
    tally
}

fn recipient(message: &Message) -> String {
    format!("{}@refusing.test", message.local_part())
}

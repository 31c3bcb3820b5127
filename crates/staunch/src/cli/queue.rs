//! `staunch queue`: look at what waits, and act on it.

mod show;
mod summary;

use std::io::{self, IsTerminal as _, Write, stderr, stdout};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::arguments::{Json, MailCommand, QueueAction, QueueHold, QueueList, QueueShow};
use super::exit::{Exit, Failure};
use super::output::{self, ShownText, age_cell, sender_cell, size_cell, text_cell, time_cell};
use super::table::{CellStyle, TextTable};
use crate::cli::admin_client::{AdminClient, read, with_client};
use crate::clock;
use crate::config::Loaded;
use crate::control::api::{
    ActionDone, FailureOf, GroupBy, HoldOrder, LastProblem, ListedMessage, ListedRecipient,
    MailState, QueueOrder, SortBy, Unmatched,
};

/// Of the list; those from [`OWN`] on are about the recipient alone.
const HEADINGS: [&str; 10] = [
    "ID",
    "SENDER",
    "SIZE",
    "AGE",
    "RECIPIENT",
    "STATE",
    "TRIES",
    "NEXT ATTEMPT",
    "REASON",
    "LAST ANSWER",
];
const OWN: usize = 4;
/// Our choice: rows of a sorted list where nobody says how many.
const SORTED_ROWS: u64 = 1_000;

pub(super) fn run(command: &MailCommand, loaded: &Loaded) -> Result<Exit, Failure> {
    with_client(&loaded.config.admin.socket, async |client| match command {
        MailCommand::List(command) => {
            if list(&client, command).await? == 0 && !command.json.json {
                writeln!(stdout(), "Nothing in the queue fits.")?;
            }
            Ok(Exit::Ok)
        }
        MailCommand::Show(command) => show(&client, command).await,
        MailCommand::Retry(action) => {
            act(&client, QueueOrder::Retry, action, &action.chosen()).await
        }
        MailCommand::Hold(QueueHold { action, why }) => {
            let order = HoldOrder { chosen: action.chosen(), why: why.clone() };
            act(&client, QueueOrder::Hold, action, &order).await
        }
        MailCommand::Release(action) => {
            act(&client, QueueOrder::Release, action, &action.chosen()).await
        }
        MailCommand::Bounce(action) => {
            act(&client, QueueOrder::Bounce, action, &action.chosen()).await
        }
        MailCommand::Delete(action) => {
            act(&client, QueueOrder::Delete, action, &action.chosen()).await
        }
        MailCommand::Summary(command) => {
            let by = [("by", command.by.map(GroupBy::as_str))];
            let counts = client.get(&["v1", "queue", "summary"], &by).await?;
            let mut out = stdout().lock();
            if command.json.json {
                output::json(&mut out, &counts)?;
            } else {
                summary::counts(&mut out, &read(&counts)?, clock::now())?;
            }
            Ok(Exit::Ok)
        }
    })
}

/// `mailq`: the list, or the words that scripts look for.
pub(super) fn mailq(loaded: &Loaded) -> Result<Exit, Failure> {
    with_client(&loaded.config.admin.socket, async |client| {
        if list(&client, &QueueList::default()).await? == 0 {
            writeln!(stdout(), "Mail queue is empty")?;
        }
        Ok(Exit::Ok)
    })
}

/// Prints the list; how many rows there were.
async fn list(client: &AdminClient, command: &QueueList) -> Result<u64, Failure> {
    let is_json = command.json.json;
    let is_sorted = command.sort.is_some_and(|by| by != SortBy::Age);
    let limit = command.limit.or_else(|| is_sorted.then_some(SORTED_ROWS));
    // One more, to say whether there are more.
    let asked = limit.map(|limit| limit.saturating_add(1).to_string());
    let older_than = command.older_than.map(|age| age.as_secs().to_string());
    let query = [
        ("domain", command.domain.as_deref()),
        ("state", command.state.map(MailState::as_str)),
        ("reason", command.reason.as_deref()),
        ("sender", command.sender.as_deref()),
        ("recipient", command.recipient.as_deref()),
        ("host", command.host.as_deref()),
        ("older_than", older_than.as_deref()),
        ("limit", asked.as_deref()),
        ("sort", command.sort.map(SortBy::as_str)),
    ];
    let mut rows = client.stream(&["v1", "queue"], &query).await?;
    let mut out = stdout().lock();
    let width = out.is_terminal().then(|| output::width(&out)).flatten();
    let mut table = TextTable::new(&HEADINGS).cut_at(width).styled(style());
    let (mut count, mut is_cut, now) = (0, false, clock::now());
    while let Some(row) = rows.line().await? {
        if limit.is_some_and(|limit| count >= limit) {
            is_cut = true;
            break;
        }
        count += 1;
        if is_json {
            output::json(&mut out, &row)?;
        } else {
            table.row(&mut out, cells(&read(&row)?, now))?;
        }
    }
    table.finish(&mut out)?;
    let more = "There are more; staunch queue summary counts all.";
    match (is_cut, is_json, command.limit) {
        (true, false, _) => writeln!(out, "{more}")?,
        // A program is told of a limit that it did not set.
        (true, true, None) => writeln!(stderr(), "{more}")?,
        (true, true, Some(_)) | (false, _, _) => {}
    }
    Ok(count)
}

/// What stands out, if there are colours.
fn style() -> Option<CellStyle> {
    fn of(heading: &str, cell: &str) -> Style {
        match (heading, cell) {
            ("STATE", "held") => AnsiColor::Yellow.on_default(),
            ("STATE", "sending") => AnsiColor::Green.on_default(),
            ("REASON", reason) if reason != "-" => AnsiColor::Red.on_default(),
            _ => Style::new(),
        }
    }
    output::has_colours().then_some(of)
}

fn cells(row: &ListedRecipient, now: Timestamp) -> Vec<String> {
    let or_dash = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), text_cell);
    vec![
        or_dash(row.id.as_deref()),
        row.sender.as_deref().map_or_else(|| "-".to_owned(), sender_cell),
        row.size.map_or_else(|| "-".to_owned(), size_cell),
        row.arrived_at.map_or_else(|| "-".to_owned(), |came| age_cell(now.duration_since(came))),
        text_cell(&row.recipient),
        row.state.as_str().to_owned(),
        row.attempts.map_or_else(|| "-".to_owned(), |attempts| attempts.to_string()),
        match row.state {
            MailState::Held => "-".to_owned(),
            MailState::Queued | MailState::Sending => {
                row.next_attempt_at.map_or_else(|| "-".to_owned(), time_cell)
            }
        },
        or_dash(row.last.as_ref().map(|last| last.reason.as_str())),
        answer_cell(row),
    ]
}

fn answer_cell(row: &ListedRecipient) -> String {
    match (&row.held_why, &row.last) {
        (Some(why), _) => format!("held: {}", text_cell(why)),
        (None, None) => "-".to_owned(),
        (None, Some(LastProblem { of: FailureOf::Message, text, .. })) => text_cell(text),
        (None, Some(LastProblem { of: FailureOf::NextHop, text, .. })) => {
            format!("next hop: {}", text_cell(text))
        }
    }
}

async fn show(client: &AdminClient, command: &QueueShow) -> Result<Exit, Failure> {
    if command.body {
        let mut body = client.stream(&["v1", "queue", &command.id, "body"], &[]).await?;
        let mut out = stdout().lock();
        // It may have sequences that make a terminal do things.
        let mut shown = (out.is_terminal() && !command.raw).then(ShownText::default);
        while let Some(piece) = body.piece().await? {
            match &mut shown {
                Some(shown) => out.write_all(shown.next(&piece).as_bytes())?,
                None => out.write_all(&piece)?,
            }
        }
        out.write_all(shown.map(ShownText::end).unwrap_or_default().as_bytes())?;
        out.flush()?;
        return Ok(Exit::Ok);
    }
    let message = client.get(&["v1", "queue", &command.id], &[]).await?;
    let mut out = stdout().lock();
    if command.json.json {
        output::json(&mut out, &message)?;
    } else {
        let (message, now) = (read::<ListedMessage>(&message)?, clock::now());
        show::message(&mut out, &message, now)?;
        writeln!(out)?;
        recipients(&mut out, &message.recipients, now)?;
    }
    Ok(Exit::Ok)
}

/// As in the list, without what they have in common.
fn recipients(out: &mut dyn Write, rows: &[ListedRecipient], now: Timestamp) -> io::Result<()> {
    let mut table = TextTable::new(HEADINGS.get(OWN..).unwrap_or_default()).styled(style());
    for row in rows {
        table.row(out, cells(row, now).into_iter().skip(OWN).collect())?;
    }
    table.finish(out)
}

async fn act(
    client: &AdminClient,
    order: QueueOrder,
    action: &QueueAction,
    request: &impl Serialize,
) -> Result<Exit, Failure> {
    let verb = order.as_str();
    let path = ["v1", "queue", verb, "dry-run"];
    let path = if action.dry_run { &path[..] } else { path.get(..3).unwrap_or_default() };
    let answer = client.post(path, request).await?;
    let ActionDone { count, being_sent, dry_run, unmatched, missing } = read(&answer)?;
    let being_sent = being_sent.unwrap_or_default();
    let mut out = stdout().lock();
    if action.json.json {
        output::json(&mut out, &answer)?;
    } else {
        let recipients = if count == 1 { "recipient" } else { "recipients" };
        if dry_run == Some(true) {
            writeln!(out, "{verb} would be for {count} {recipients}; nothing is changed")?;
        } else {
            writeln!(out, "{verb}: {count} {recipients}")?;
        }
        // Its reason, if one was given, is the new one all the same.
        if order == QueueOrder::Hold && count + being_sent == 0 && unmatched.is_none() {
            writeln!(out, "all that matches is held already")?;
        }
        if being_sent > 0 {
            writeln!(out, "left alone, being sent at this moment: {being_sent}")?;
        }
    }
    match unmatched {
        Some(_) if !action.ids.is_empty() => {
            Err(Failure::new(Exit::No, "no such message in the queue"))
        }
        Some(unmatched) => {
            writeln!(stderr(), "{}", unmatched_line(action, &unmatched))?;
            Ok(Exit::Ok)
        }
        None if missing.is_empty() => Ok(Exit::Ok),
        None => {
            let text = format!("no such message in the queue: {}", missing.join(", "));
            Err(Failure::new(Exit::No, output::inert(&text)))
        }
    }
}

/// That nothing matches is no failure, and not what was expected either.
fn unmatched_line(action: &QueueAction, unmatched: &Unmatched) -> String {
    let what = match (&action.domain, &action.reason) {
        (Some(domain), _) => format!("--domain {}", text_cell(domain)),
        (None, Some(reason)) => format!("--reason {}", text_cell(reason)),
        (None, None) => return "the queue is empty".to_owned(),
    };
    format!("nothing in the queue matches {what}{}", output::did_you_mean(unmatched))
}

pub(super) fn print(value: &Value, format: Json) -> Result<Exit, Failure> {
    let mut out = stdout().lock();
    if format.json { output::json(&mut out, value) } else { output::object(&mut out, value) }?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_recipient_of_a_message_has_its_own_state() {
        let recipient = |address: &str, last: Value| {
            let row = json!({
                "id": "m1", "sender": "", "recipient": address, "state": "queued", "attempts": 1,
                "next_attempt_at": "2026-01-02T03:04:05.5Z", "last": last,
            });
            read(&row).unwrap()
        };
        let problem = json!({"status": "4.7.5", "reason": "mx_not_listed", "text": "no"});
        let rows = [recipient("b@x.example", problem), recipient("c@x.example", Value::Null)];
        assert_eq!(cells(&rows[0], clock::now())[1], "<>");
        let mut out = Vec::new();
        recipients(&mut out, &rows, clock::now()).unwrap();
        let want = "\
RECIPIENT    STATE   TRIES  NEXT ATTEMPT          REASON         LAST ANSWER
b@x.example  queued  1      2026-01-02 03:04:05Z  mx_not_listed  no
c@x.example  queued  1      2026-01-02 03:04:05Z  -              -
";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}

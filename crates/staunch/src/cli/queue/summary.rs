//! `queue summary`: how much waits, since when, and for which next hop.

use std::io::{self, Write};

use jiff::Timestamp;

use crate::cli::output::{age_cell, text_cell, time_cell};
use crate::cli::switches;
use crate::cli::table::TextTable;
use crate::control::api::{AgeTable, GroupCount, QueueCounts};

/// Our choice: next hops shown, those with the most mail; JSON has more.
const NEXT_HOPS_SHOWN: usize = 20;

/// Prints the counts, what is off, and the tables.
///
/// # Errors
///
/// Of writing.
pub(super) fn counts(out: &mut dyn Write, counts: &QueueCounts, now: Timestamp) -> io::Result<()> {
    let QueueCounts { messages, queued, held, sending_messages, .. } = counts;
    writeln!(out, "messages  {messages}, of which {sending_messages} are being sent")?;
    writeln!(out, "queued    {queued}")?;
    writeln!(out, "held      {held}")?;
    if let Some(oldest) = counts.oldest_at {
        writeln!(
            out,
            "oldest    {} ({})",
            age_cell(now.duration_since(oldest)),
            time_cell(oldest)
        )?;
    }
    switches::what_is_off(&counts.switches).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    if let Some(table) = counts.ages.as_ref().filter(|table| !table.next_hops.is_empty()) {
        writeln!(out)?;
        ages(out, table)?;
    }
    if let Some(found) = counts.groups.as_ref().filter(|groups| !groups.is_empty()) {
        writeln!(out)?;
        groups(out, found)?;
    }
    Ok(())
}

/// As qshape(1) of Postfix: rows by next hop, columns by age.
fn ages(out: &mut dyn Write, ages: &AgeTable) -> io::Result<()> {
    let spans: Vec<String> = ages.up_to_seconds.iter().map(span).collect();
    let older = spans.last().map(|last| format!(">{last}")).unwrap_or_default();
    let headings = ["NEXT HOP".to_owned(), "TOTAL".to_owned()].into_iter();
    let headings: Vec<String> = headings.chain(spans).chain([older]).collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let mut table = TextTable::new(&headings).numbers_from(1);
    let row = |name: &str, total: u64, counts: &[u64]| {
        let numbers = [total].into_iter().chain(counts.iter().copied());
        [text_cell(name)].into_iter().chain(numbers.map(|number| number.to_string())).collect()
    };
    table.row(out, row("(all)", ages.counts.iter().sum(), &ages.counts))?;
    for hop in ages.next_hops.iter().take(NEXT_HOPS_SHOWN) {
        table.row(out, row(&hop.next_hop, hop.recipients, &hop.counts))?;
    }
    table.finish(out)?;
    let more = ages.next_hops.len().saturating_sub(NEXT_HOPS_SHOWN) + ages.more_next_hops;
    if more > 0 { writeln!(out, "{more} more next hops have less mail.") } else { Ok(()) }
}

/// A span in its largest whole unit: `5m`, `3d`.
fn span(seconds: &u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let whole = units.into_iter().find(|(unit, _)| *seconds > 0 && seconds.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

fn groups(out: &mut dyn Write, groups: &[GroupCount]) -> io::Result<()> {
    let mut table: Option<TextTable> = None;
    for GroupCount { domain, reason, host, recipients } in groups {
        let named = [("DOMAIN", domain), ("REASON", reason), ("HOST", host)];
        let found = named.iter().find_map(|(what, name)| Some((*what, name.as_deref()?)));
        let (what, name) = found.unwrap_or(("GROUP", "-"));
        let table =
            table.get_or_insert_with(|| TextTable::new(&[what, "RECIPIENTS"]).numbers_from(1));
        table.row(out, vec![text_cell(name), recipients.to_string()])?;
    }
    table.map_or(Ok(()), |table| table.finish(out))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(value: serde_json::Value) -> String {
        let mut out = Vec::new();
        let now = "2026-01-03T03:04:05Z".parse().unwrap();
        counts(&mut out, &serde_json::from_value(value).unwrap(), now).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_summary_says_how_old_mail_is_for_each_next_hop() {
        let hop = |name: &str, counts: [u64; 3]| json!({"next_hop": name, "recipients": counts.iter().sum::<u64>(), "counts": counts});
        let small = (0..20).map(|n| hop(&format!("d{n}.test"), [1, 0, 0]));
        let hops: Vec<_> = [hop("down.test", [1000, 0, 34])].into_iter().chain(small).collect();
        let text = shown(json!({
            "messages": 7, "queued": 1050, "held": 4, "sending_messages": 1,
            "oldest_at": "2026-01-01T00:00:00Z", "paused": null,
            "paused_hops": [{"domain": "down.test", "since": "2026-01-02T00:00:00Z", "next_hops": ["down.test"]}],
            "draining": null,
            "ages": {"up_to_seconds": [300, 86400], "counts": [1020, 0, 34], "next_hops": hops, "more_next_hops": 9},
            "groups": [{"reason": "connect_failed", "recipients": 3}, {"reason": "-", "recipients": 12}],
        }));
        let want = "\
messages  7, of which 1 are being sent
queued    1050
held      4
oldest    2d3h (2026-01-01 00:00:00Z)
Paused for down.test since 2026-01-02 00:00:00Z. Undo: staunch resume down.test

NEXT HOP   TOTAL    5m  1d  >1d
(all)       1054  1020   0   34
down.test   1034  1000   0   34
d0.test        1     1   0    0
";
        assert!(text.starts_with(want), "{text}");
        let end = "
d18.test       1     1   0    0
10 more next hops have less mail.

REASON          RECIPIENTS
connect_failed           3
-                       12
";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn an_empty_queue_has_no_table_and_a_daemon_before_it_has_none_either() {
        let text = shown(json!({
            "messages": 0, "queued": 0, "held": 0, "sending_messages": 0,
            "paused": null, "paused_hops": [], "draining": null,
        }));
        assert_eq!(text, "messages  0, of which 0 are being sent\nqueued    0\nheld      0\n");
    }
}

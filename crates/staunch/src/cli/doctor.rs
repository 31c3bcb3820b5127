//! `staunch doctor --data`: what is damaged in the data directory, and what can be done.

use std::io::{self, Write, stdout};

use serde_json::{Value, json};
use spool::{DamageFinding, Examined, Repaired};

use super::arguments::DoctorCommand;
use super::backup::failure;
use super::exit::{Exit, Failure};
use super::output;
use crate::config::Loaded;

pub(super) fn run(command: &DoctorCommand, loaded: &Loaded) -> Result<Exit, Failure> {
    let data_dir = &loaded.config.data_dir;
    let repaired =
        if command.repair { Some(spool::repair(data_dir).map_err(failure)?) } else { None };
    let examined = spool::examine(data_dir).map_err(failure)?;
    let mut out = stdout().lock();
    if command.json.json {
        let finding = |finding: &DamageFinding| json!({ "file": finding.file, "what": finding.what, "cure": finding.cure.to_string() });
        let repaired = repaired.as_ref().map(|repaired| {
            json!({
                "log_kept": repaired.log_kept,
                "queue_kept": repaired.queue_kept,
                "rows_found": repaired.rows_found,
                "held": repaired.held,
                "policies_kept": repaired.policies_kept,
                "bodies": repaired.bodies,
            })
        });
        let findings: Vec<Value> = examined.findings.iter().map(finding).collect();
        let said = json!({
            "data_dir": data_dir,
            "messages": examined.messages,
            "recipients": examined.recipients,
            "in_journal": examined.in_journal,
            "findings": findings,
            "repaired": repaired,
        });
        output::json(&mut out, &said)?;
    } else {
        if let Some(repaired) = &repaired {
            tell_repaired(&mut out, repaired)?;
        }
        for DamageFinding { file, what, cure } in &examined.findings {
            writeln!(out, "{file}: {what}: {cure}")?;
        }
        let Examined { messages, recipients, in_journal, findings } = &examined;
        let whole = if findings.is_empty() { "; all of it is what was written" } else { "" };
        writeln!(out, "{messages} messages to {recipients} recipients read{whole}")?;
        if *in_journal > 0 {
            writeln!(
                out,
                "{in_journal} more are in the journal only: the next start takes them over"
            )?;
        }
    }
    Ok(Exit::from(examined.findings.is_empty()))
}

fn tell_repaired(out: &mut dyn Write, repaired: &Repaired) -> io::Result<()> {
    let Repaired { log_kept, queue_kept, rows_found, held, policies_kept, bodies } = repaired;
    if *bodies > 0 {
        writeln!(out, "{bodies} bodies came back from bodies/lost")?;
    }
    if let Some(kept) = log_kept {
        writeln!(out, "queue.db-wal was made whole; the damaged one is {}", kept.display())?;
    }
    if let Some(kept) = queue_kept {
        writeln!(
            out,
            "queue.db was made anew, with {rows_found} rows that could not be reached; the old one is {}",
            kept.display()
        )?;
    }
    if *held > 0 {
        writeln!(
            out,
            "{held} recipients are held, since they may have been sent to before: see `staunch queue list --reason message_damaged`"
        )?;
    }
    if let Some(kept) = policies_kept {
        writeln!(
            out,
            "policies.db is {} now; policies are fetched again, and mail that needs one waits for it",
            kept.display()
        )?;
    }
    if (log_kept, queue_kept, policies_kept, *bodies) == (&None, &None, &None, 0) {
        writeln!(out, "there was nothing that could be repaired")?;
    }
    Ok(())
}

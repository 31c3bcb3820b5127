//! `staunch queue export` and `import`: mail moves to another machine.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write, stderr, stdin, stdout};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use spool::{Export, Exported, StoredBody};

use super::arguments::TransferFile;
use super::backup::failure;
use super::exit::{Exit, Failure};
use crate::cli::admin_client::{read, with_client};
use crate::config::Loaded;
use crate::control::api::Imported;
use crate::control::transfer::{EnvelopeLine, ExportEnd, ExportHead, FORMAT, LINE_MAX};

/// The name of stdin and stdout.
const PIPE: &str = "-";

pub(super) fn export(command: &TransferFile, loaded: &Loaded) -> Result<Exit, Failure> {
    let messages = Export::open(&loaded.config.data_dir).map_err(failure)?;
    if command.file == Path::new(PIPE) {
        return write_all(messages, &mut stdout().lock());
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&command.file);
    let file = file.map_err(|error| in_file(&command.file, Exit::NoInput, &error))?;
    let mut out = BufWriter::new(file);
    let exit = write_all(messages, &mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(exit)
}

fn in_file(path: &Path, exit: Exit, error: &dyn std::error::Error) -> Failure {
    Failure::new(exit, format!("{}: {error}", path.display()))
}

/// Writes what can be read; says what cannot.
fn write_all(messages: Export, out: &mut dyn Write) -> Result<Exit, Failure> {
    json_line(out, &ExportHead { staunch_queue: FORMAT })?;
    let (mut count, mut damaged) = (0_u64, 0_u64);
    for exported in messages {
        match exported {
            Exported::Message(detail, body) => {
                json_line(out, &EnvelopeLine::of(&detail))?;
                match body {
                    StoredBody::Memory(bytes) => out.write_all(&bytes)?,
                    StoredBody::File { mut file, .. } => drop(io::copy(&mut file, out)?),
                }
                out.write_all(b"\n")?;
                count += 1;
            }
            Exported::Damaged(id, error) => {
                damaged += 1;
                writeln!(stderr(), "message {id} is left out: {error}")?;
            }
        }
    }
    json_line(out, &ExportEnd { end: count })?;
    out.flush()?;
    writeln!(stderr(), "{count} messages exported")?;
    Ok(Exit::from(damaged == 0))
}

fn json_line(out: &mut dyn Write, value: &impl serde::Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(io::Error::other)?;
    Ok(writeln!(out, "{line}")?)
}

pub(super) fn import(command: &TransferFile, loaded: &Loaded) -> Result<Exit, Failure> {
    let path = &command.file;
    let mut source: Box<dyn BufRead> = if path == Path::new(PIPE) {
        Box::new(stdin().lock())
    } else {
        let file = File::open(path).map_err(|error| in_file(path, Exit::NoInput, &error))?;
        Box::new(BufReader::new(file))
    };
    let head = line(&mut source).and_then(|line| {
        let head: ExportHead = serde_json::from_slice(&line.unwrap_or_default())?;
        if head.staunch_queue == FORMAT { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    });
    head.map_err(|_| {
        let text = format!("{}: no export of a queue that this release reads", path.display());
        Failure::new(Exit::BadInput, text)
    })?;
    with_client(&loaded.config.admin.socket, async |client| {
        let (mut new, mut known) = (0_u64, 0_u64);
        loop {
            let request = message(&mut source);
            let request = request.map_err(|error| in_file(path, Exit::BadInput, &error))?;
            let Some(request) = request else { break };
            let answer = client.send(&["v1", "queue", "import"], request).await?;
            let Imported { imported, .. } = read(&answer)?;
            if imported { new += 1 } else { known += 1 }
        }
        let mut out = stdout().lock();
        writeln!(out, "{new} messages imported, {known} were in the queue already")?;
        Ok(Exit::Ok)
    })
}

/// The line of the next message and its body, as one request; `None` behind the last one.
fn message(source: &mut dyn BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut request = line(source)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    if serde_json::from_slice::<ExportEnd>(&request).is_ok() {
        return Ok(None);
    }
    let envelope: EnvelopeLine = serde_json::from_slice(&request)?;
    request.push(b'\n');
    let before = request.len();
    Read::take(&mut *source, envelope.size).read_to_end(&mut request)?;
    let is_whole = u64::try_from(request.len() - before).ok() == Some(envelope.size);
    let mut end = [0];
    source.read_exact(&mut end)?;
    if is_whole && end == *b"\n" {
        return Ok(Some(request));
    }
    let text = format!("message {}: its body is cut short", envelope.id);
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Without its end; `None` at the end of the file.
fn line(source: &mut dyn BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let max = u64::try_from(LINE_MAX).unwrap_or(u64::MAX);
    Read::take(&mut *source, max).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"id":"x","sender":"","client":"","arrived_at":"2026-01-01T00:00:00Z","expires_at":"2026-01-02T00:00:00Z","size":3,"ret":null,"envelope_id":null,"smtp_utf8":false,"require_tls":false,"deliver_by":null,"priority":0,"not_before":null,"user":null,"recipients":[]}"#;

    #[test]
    fn a_file_that_is_cut_short_or_has_something_else_behind_a_body_is_refused_there() {
        let whole = format!("{LINE}\na\nb\n{LINE}\nccc\n{{\"end\":2}}\n");
        let read = |mut source: &[u8]| {
            std::iter::from_fn(|| message(&mut source).transpose()).collect::<io::Result<Vec<_>>>()
        };
        let messages = read(whole.as_bytes()).unwrap();
        assert_eq!(messages.len(), 2);
        assert!(
            messages.iter().zip(["a\nb", "ccc"]).all(|(got, body)| got.ends_with(body.as_bytes()))
        );
        for cut in 1..whole.len() {
            assert!(read(&whole.as_bytes()[..cut]).is_err(), "{cut}");
        }
        assert!(read(whole.replace("ccc\n", "cccc\n").as_bytes()).is_err());
    }
}

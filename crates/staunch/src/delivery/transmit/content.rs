//! The content of a mail, in pieces.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use smtp::mime::{Conversion, ConversionPlan};
use tokio::task::spawn_blocking;

/// Octets of a body that are read, framed and written at once.
pub(crate) const PIECE_OCTETS: usize = 64 * 1024;

/// Where the content is.
#[derive(Clone, Debug)]
pub(crate) enum BodySource<'a> {
    Memory(&'a [u8]),
    /// In a file, from its start; where the file stands does not matter.
    File(Arc<File>),
}

#[derive(Clone, Debug)]
pub(crate) struct BodyContent<'a> {
    /// Where it is.
    pub(crate) source: BodySource<'a>,
    /// Its octets there.
    pub(crate) size: u64,
    /// How it is changed on the way, if it is.
    pub(crate) plan: Option<&'a ConversionPlan>,
}

impl BodyContent<'_> {
    /// From the beginning.
    pub(super) fn pieces(&self) -> Pieces<'_> {
        Pieces {
            source: PieceSource {
                source: &self.source,
                offset: 0,
                size: self.size,
                buffer: Vec::new(),
            },
            conversion: self.plan.map(Conversion::new),
            converted: Vec::new(),
        }
    }
}

/// Reads a body once, as it is sent.
pub(super) struct Pieces<'a> {
    source: PieceSource<'a>,
    conversion: Option<Conversion<'a>>,
    converted: Vec<u8>,
}

impl Pieces<'_> {
    pub(super) fn has_more(&self) -> bool {
        self.source.has_more()
    }

    /// The next piece; of what is converted, it may be empty.
    pub(super) async fn next(&mut self) -> io::Result<&[u8]> {
        let Some(conversion) = &mut self.conversion else { return self.source.next().await };
        self.converted.clear();
        let piece = self.source.next().await?;
        conversion.push(piece, &mut self.converted).map_err(io::Error::other)?;
        if !self.source.has_more()
            && let Some(conversion) = self.conversion.take()
        {
            conversion.finish(&mut self.converted).map_err(io::Error::other)?;
        }
        Ok(&self.converted)
    }
}

/// Reads a body once, as it is stored.
struct PieceSource<'a> {
    source: &'a BodySource<'a>,
    offset: u64,
    size: u64,
    buffer: Vec<u8>,
}

impl PieceSource<'_> {
    fn has_more(&self) -> bool {
        self.offset < self.size
    }

    /// At least one octet, at most [`PIECE_OCTETS`] and never beyond the size.
    async fn next(&mut self) -> io::Result<&[u8]> {
        let rest = usize::try_from(self.size - self.offset).unwrap_or(usize::MAX);
        let wanted = rest.min(PIECE_OCTETS);
        let piece = match self.source {
            BodySource::Memory(octets) => {
                if u64::try_from(octets.len()) != Ok(self.size) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "not of its size"));
                }
                let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
                octets.get(start..start.saturating_add(wanted)).unwrap_or_default()
            }
            BodySource::File(file) => {
                let (file, offset) = (Arc::clone(file), self.offset);
                let mut buffer = std::mem::take(&mut self.buffer);
                buffer.resize(wanted, 0);
                let read = spawn_blocking(move || {
                    let octets = file.read_at(&mut buffer, offset)?;
                    buffer.truncate(octets);
                    Ok::<_, io::Error>(buffer)
                });
                self.buffer = read.await.map_err(io::Error::other)??;
                &self.buffer
            }
        };
        if piece.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "shorter than its size"));
        }
        self.offset += u64::try_from(piece.len()).unwrap_or_default();
        Ok(piece)
    }
}

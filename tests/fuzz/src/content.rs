//! Content on its way in, and on its way out again.

use smtp::Stuffer;
use smtp::data::{Chunk, ChunkReceiver, DataReceiver, Fault, LineEnd, Newlines};

use crate::{choice, piece_size};

/// The largest content that is taken, in octets.
const SIZE_MAX: u64 = 3000;

fn newlines(data: &mut &[u8]) -> Newlines {
    if choice(data).is_multiple_of(2) { Newlines::Strict } else { Newlines::Normalize }
}

/// What was kept, unless there was a fault; and what stands behind the end, if that came.
type Outcome = (Result<Vec<u8>, Fault>, Option<Vec<u8>>);

fn receive(stream: &[u8], newlines: Newlines, end: LineEnd, piece: usize) -> Outcome {
    let mut receiver = DataReceiver::new(newlines, SIZE_MAX).ended_by(end);
    let mut kept = Vec::new();
    let mut left = None;
    let mut from = 0;
    'pieces: for part in stream.chunks(piece) {
        let mut input = part;
        from += part.len();
        loop {
            match receiver.next(&mut input) {
                Chunk::Content(content) => kept.extend_from_slice(content),
                Chunk::NeedInput => break,
                Chunk::End => {
                    left = Some([input, &stream[from..]].concat());
                    break 'pieces;
                }
            }
        }
    }
    (receiver.fault().map_or(Ok(kept), Err), left)
}

/// DATA: cut as it may be, the content and its end are the same, and what is kept can be sent on.
pub fn check_data(mut data: &[u8]) {
    let newlines = newlines(&mut data);
    let is_lf = newlines == Newlines::Normalize && choice(&mut data).is_multiple_of(2);
    let line_end = if is_lf { LineEnd::Lf } else { LineEnd::CrLf };
    let piece = piece_size(&mut data);
    let whole = receive(data, newlines, line_end, usize::MAX);
    assert_eq!(receive(data, newlines, line_end, piece), whole);
    if line_end == LineEnd::CrLf {
        let framed = [b"\r\n", data].concat();
        let end = framed.windows(5).position(|octets| octets == b"\r\n.\r\n");
        assert_eq!(whole.1.as_deref(), end.map(|at| &framed[at + 5..]), "the only end there is");
    }
    if let (Ok(kept), Some(_)) = &whole {
        check_clean(kept);
        assert!(kept.len() as u64 <= SIZE_MAX);
        let again = receive(&stuffed(kept, piece), Newlines::Strict, LineEnd::CrLf, usize::MAX);
        assert_eq!(again, (Ok(kept.clone()), Some(Vec::new())));
    }
}

/// As it goes out by DATA, handed over in pieces.
fn stuffed(content: &[u8], piece: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut stuffer = Stuffer::default();
    for part in content.chunks(piece) {
        stuffer.push(part, &mut out).expect("it is clean");
    }
    stuffer.finish(&mut out).expect("it is clean");
    out
}

fn check_clean(kept: &[u8]) {
    for line in kept.split_inclusive(|octet| *octet == b'\n') {
        let text = line.strip_suffix(b"\r\n").expect("lines end with CRLF");
        assert!(!text.contains(&b'\r') && !text.contains(&0));
    }
}

fn receive_chunks(content: &[u8], newlines: Newlines, piece: usize) -> Result<Vec<u8>, Fault> {
    let mut receiver = ChunkReceiver::new(newlines, SIZE_MAX);
    let mut kept = Vec::new();
    for part in content.chunks(piece) {
        let mut input = part;
        while let Some(octets) = receiver.next(&mut input) {
            assert!(!octets.ends_with(b"\r"));
            kept.extend_from_slice(octets);
        }
        assert!(input.is_empty());
    }
    while let Some(octets) = receiver.finish() {
        kept.extend_from_slice(octets);
    }
    receiver.fault().map_or(Ok(kept), Err)
}

/// BDAT: the same content, whatever the chunks; and it is what DATA would have brought.
pub fn check_bdat(mut data: &[u8]) {
    let newlines = newlines(&mut data);
    let piece = piece_size(&mut data);
    let whole = receive_chunks(data, newlines, usize::MAX);
    assert_eq!(receive_chunks(data, newlines, piece), whole);
    let Ok(kept) = &whole else { return };
    check_clean(kept);
    if newlines == Newlines::Strict {
        let end = if data.is_empty() || data.ends_with(b"\r\n") { &b""[..] } else { b"\r\n" };
        assert_eq!(*kept, [data, end].concat());
    }
    if kept.len() as u64 <= SIZE_MAX {
        let by_data = receive(&stuffed(kept, piece), Newlines::Strict, LineEnd::CrLf, usize::MAX);
        assert_eq!(by_data, (Ok(kept.clone()), Some(Vec::new())));
    }
}

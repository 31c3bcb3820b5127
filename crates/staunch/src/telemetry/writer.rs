//! The way out for the log's lines: a thread of its own behind a bounded queue, so that a log which
//! nobody reads (a pipe whose reader was stopped, a journal that hangs) stops no mail.
//!
//! Why not the queue of tracing-appender: where its reader stands still it prints to stdout at the
//! end, which may be the same pipe, so that the daemon never ends; and it counts no failed writes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::lock::lock;

/// Lines that wait for their reader. Our choice: some seconds of a busy relay, and at most some
/// 16 MiB where all of them are as long as lines of deliveries are.
const LINES_WAITING_MAX: usize = 32 * 1024;
/// Our choice: bytes that go out with one call at most, while lines come faster than they are read.
const WRITE_BYTES: usize = 64 * 1024;
/// How long a line may wait for others that go out with it. Our choice: nobody sees it, and under
/// load each line would wake the thread for itself.
const TOGETHER: Duration = Duration::from_millis(2);
/// How long the end waits for a reader that reads nothing.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How often the end waits so long, for a reader that is slow.
const LAST_LINES_TIMES: usize = 5;
/// When a file that others made non-blocking is tried again.
const FULL_PIPE_RETRY: Duration = Duration::from_millis(10);

/// Where lines go.
pub(super) trait LineSink: Send {
    /// Writes lines, each with its end; says how many of them were lost.
    fn write(&mut self, lines: &[Vec<u8>]) -> usize;
}

/// A file or pipe: many lines in one call.
#[derive(Debug)]
pub(super) struct StreamSink<W> {
    out: W,
    /// Half a line stands there: what follows must not pass for its rest.
    is_torn: bool,
}

impl<W> StreamSink<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, is_torn: false }
    }
}

impl<W: Write + Send> LineSink for StreamSink<W> {
    fn write(&mut self, lines: &[Vec<u8>]) -> usize {
        let mut bytes = if self.is_torn { b"\n".to_vec() } else { Vec::new() };
        lines.iter().for_each(|line| bytes.extend_from_slice(line));
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(written) if written > 0 => rest = rest.get(written..).unwrap_or_default(),
                // What shares the file made it non-blocking for all.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(FULL_PIPE_RETRY);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.is_torn |= rest.len() < bytes.len();
                    return whole_lines(rest);
                }
            }
        }
        self.is_torn = false;
        0
    }
}

/// Ends of lines in what could not be written.
fn whole_lines(rest: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', rest).count()
}

#[derive(Debug)]
struct WaitingLines {
    lines: VecDeque<Vec<u8>>,
    /// Lines that are missing behind the last one, and were not told of.
    lost: usize,
    /// Batches that went out, or were lost.
    batches: u64,
    stage: WriterStage,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum WriterStage {
    Open,
    /// What waits goes out, and then the thread ends.
    Closing,
    Ended,
}

#[derive(Debug)]
struct SharedLines {
    waiting: Mutex<WaitingLines>,
    /// For the thread: there are lines, or none will come.
    wake: Condvar,
    /// For the end: the thread got on.
    went_on: Condvar,
    room: usize,
}

/// Takes lines without waiting; what does not fit into the queue is lost, and counted.
#[derive(Debug)]
pub(super) struct LineQueue(Arc<SharedLines>);

/// While it lives, lines are written; when it goes, those that wait still are, as long as their
/// reader reads, for some seconds at most.
#[derive(Debug)]
pub(crate) struct LogEnd {
    shared: Arc<SharedLines>,
    patience: Duration,
}

impl LineQueue {
    /// A queue in front of `sink`, and its thread.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub(super) fn new(sink: impl LineSink + 'static) -> io::Result<(Self, LogEnd)> {
        Self::with_room(LINES_WAITING_MAX, LAST_LINES, sink)
    }

    fn with_room(
        room: usize,
        patience: Duration,
        mut sink: impl LineSink + 'static,
    ) -> io::Result<(Self, LogEnd)> {
        let waiting =
            WaitingLines { lines: VecDeque::new(), lost: 0, batches: 0, stage: WriterStage::Open };
        let shared = Arc::new(SharedLines {
            waiting: Mutex::new(waiting),
            wake: Condvar::new(),
            went_on: Condvar::new(),
            room,
        });
        let for_thread = Arc::clone(&shared);
        thread::Builder::new().name("log".into()).spawn(move || {
            while let Some(batch) = for_thread.take() {
                let lost = sink.write(&batch);
                for_thread.done(lost);
            }
        })?;
        Ok((Self(Arc::clone(&shared)), LogEnd { shared, patience }))
    }

    /// Puts a line into the queue, behind one that says how many before it were lost, if any were
    /// since the last such line.
    pub(super) fn push(&self, line: Vec<u8>, lost_lines: impl FnOnce(usize) -> Vec<u8>) {
        let mut waiting = lock(&self.0.waiting);
        if waiting.lines.len() >= self.0.room {
            waiting.lost += 1;
            return;
        }
        let is_first = waiting.lines.is_empty();
        if waiting.lost > 0 {
            let lost = std::mem::take(&mut waiting.lost);
            waiting.lines.push_back(lost_lines(lost));
        }
        waiting.lines.push_back(line);
        drop(waiting);
        if is_first {
            self.0.wake.notify_one();
        }
    }
}

impl SharedLines {
    /// The next lines; `None`: there are none any more.
    fn take(&self) -> Option<Vec<Vec<u8>>> {
        let mut waiting = lock(&self.waiting);
        while waiting.lines.is_empty() && waiting.stage == WriterStage::Open {
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.lines.is_empty() {
            waiting.stage = WriterStage::Ended;
            self.went_on.notify_all();
            return None;
        }
        let mut bytes = 0;
        let fits = waiting.lines.iter().take_while(|line| {
            bytes += line.len();
            bytes <= WRITE_BYTES
        });
        // One that is too long by itself has to be written all the same.
        let count = fits.count().max(1);
        Some(waiting.lines.drain(..count).collect())
    }

    fn done(&self, lost: usize) {
        let mut waiting = lock(&self.waiting);
        waiting.lost += lost;
        waiting.batches += 1;
        let rests = waiting.stage == WriterStage::Open && waiting.lines.is_empty();
        drop(waiting);
        self.went_on.notify_all();
        if rests {
            thread::sleep(TOGETHER);
        }
    }
}

impl Drop for LogEnd {
    fn drop(&mut self) {
        let mut waiting = lock(&self.shared.waiting);
        waiting.stage = WriterStage::Closing;
        self.shared.wake.notify_one();
        for _ in 0..LAST_LINES_TIMES {
            let before = waiting.batches;
            let waited = self
                .shared
                .went_on
                .wait_timeout_while(waiting, self.patience, |now| now.stage != WriterStage::Ended);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
            if waiting.stage == WriterStage::Ended || waiting.batches == before {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Says that it was asked to write, and writes when it is told to.
    struct Gate {
        begun: Sender<()>,
        open: Receiver<()>,
        written: Arc<Mutex<String>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.begun.send(()).unwrap();
            // The other side is gone: everything may go out.
            let _ = self.open.recv();
            self.written.lock().unwrap().push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lost_line(lines: usize) -> Vec<u8> {
        format!("lost {lines}\n").into_bytes()
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_which_are_counted_and_no_time() {
        let ((begun, has_begun), (opener, open)) = (channel(), channel());
        let written = Arc::<Mutex<String>>::default();
        let gate = StreamSink::new(Gate { begun, open, written: Arc::clone(&written) });
        let (queue, end) = LineQueue::with_room(2, LAST_LINES, gate).unwrap();
        queue.push(b"1\n".to_vec(), lost_line);
        has_begun.recv().unwrap();
        // The writer holds the first; two wait; three are lost.
        for line in [&b"2\n"[..], b"3\n", b"4\n", b"5\n", b"6\n"] {
            queue.push(line.to_vec(), lost_line);
        }
        drop(opener);
        // The second and third are in the writer's hands: there is room.
        has_begun.recv().unwrap();
        queue.push(b"7\n".to_vec(), lost_line);
        drop(end);
        assert_eq!(*written.lock().unwrap(), "1\n2\n3\nlost 3\n7\n");
    }

    #[test]
    fn the_end_does_not_wait_for_a_reader_that_stands_still() {
        let ((begun, has_begun), (opener, open)) = (channel(), channel());
        let gate = StreamSink::new(Gate { begun, open, written: Arc::default() });
        let (queue, end) = LineQueue::with_room(2, Duration::from_millis(1), gate).unwrap();
        queue.push(b"1\n".to_vec(), lost_line);
        has_begun.recv().unwrap();
        drop(end);
        drop(opener);
    }

    /// Takes so many bytes, then is full once, then takes all.
    struct Full {
        room: usize,
        written: Vec<u8>,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                self.room = usize::MAX;
                return Err(ErrorKind::StorageFull.into());
            }
            let taken = bytes.get(..self.room.min(bytes.len())).unwrap();
            self.room -= taken.len();
            self.written.extend_from_slice(taken);
            Ok(taken.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_half_a_line_takes_no_other_along() {
        let mut sink = StreamSink::new(Full { room: 3, written: Vec::new() });
        let lines = [b"1\n".to_vec(), b"2\n".to_vec(), b"3\n".to_vec()];
        assert_eq!(sink.write(&lines), 2);
        assert_eq!(sink.write(&[b"4\n".to_vec()]), 0);
        assert_eq!(sink.out.written, b"1\n2\n4\n");
    }
}

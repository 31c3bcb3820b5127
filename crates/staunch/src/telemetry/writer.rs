//! The way out for the log's lines: a thread of its own behind a bounded queue, so that a log which
//! nobody reads (a pipe whose reader was stopped, a journal that hangs) stops no mail.

use std::fmt;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that wait for their reader. Our choice: some seconds of a busy relay, and at most some
/// 16 MiB where all of them are as long as lines of deliveries are.
const LINES_WAITING_MAX: usize = 32 * 1024;

/// How long a line may wait for others that go out with it. Our choice: nobody sees it, and under
/// load each line would wake the thread for itself.
const TOGETHER: Duration = Duration::from_millis(2);

/// An output that lines which come shortly after each other go to together.
struct PacedOutput<W>(W);

impl<W: Write> Write for PacedOutput<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line)
    }

    /// Called whenever no line waits: what was gathered goes out, and more is waited for.
    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.0.flush();
        thread::sleep(TOGETHER);
        flushed
    }
}

/// Takes lines without waiting; what does not fit into the queue is lost, and counted.
pub(super) struct LineQueue {
    queue: NonBlocking,
    lost: ErrorCounter,
    /// Of the lost lines, how many the log was told of.
    told: usize,
}

impl fmt::Debug for LineQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineQueue").field("told", &self.told).finish_non_exhaustive()
    }
}

/// While it lives, lines are written; when it goes, those that wait still are, for a second at
/// most.
#[derive(Debug)]
pub(crate) struct LogEnd(#[expect(dead_code, reason = "it acts when it is dropped")] WorkerGuard);

impl LineQueue {
    /// A queue in front of `out`, which gets whole lines and is flushed whenever none waits.
    pub(super) fn new(out: impl Write + Send + 'static) -> (Self, LogEnd) {
        Self::with_room(LINES_WAITING_MAX, out)
    }

    fn with_room(lines: usize, out: impl Write + Send + 'static) -> (Self, LogEnd) {
        let builder = NonBlockingBuilder::default().thread_name("log").lossy(true);
        let (queue, guard) = builder.buffered_lines_limit(lines).finish(PacedOutput(out));
        let lost = queue.error_counter();
        (Self { queue, lost, told: 0 }, LogEnd(guard))
    }

    /// Puts a line into the queue, behind one that says how many before it were lost, if any were
    /// since the last such line.
    pub(super) fn push(&mut self, line: &[u8], lost_lines: impl FnOnce(usize) -> Vec<u8>) {
        let lost = self.lost.dropped_lines();
        if lost > self.told {
            let is_told = self.put(&lost_lines(lost - self.told));
            // Where it did not fit it counts as a lost line itself, which it is not.
            self.told = if is_told { lost } else { self.told + 1 };
        }
        self.put(line);
    }

    /// Did it fit?
    fn put(&mut self, line: &[u8]) -> bool {
        let before = self.lost.dropped_lines();
        // It says "written" of lost lines, too: only the count tells.
        let _ = self.queue.write_all(line);
        self.lost.dropped_lines() == before
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};

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
        let gate = Gate { begun, open, written: Arc::clone(&written) };
        let (mut queue, end) = LineQueue::with_room(2, gate);
        queue.push(b"1\n", lost_line);
        has_begun.recv().unwrap();
        // The writer holds the first; two wait; three are lost.
        for line in [&b"2\n"[..], b"3\n", b"4\n", b"5\n", b"6\n"] {
            queue.push(line, lost_line);
        }
        drop(opener);
        // The second and third are in the writer's hands, one after the other: there is room.
        has_begun.recv().unwrap();
        has_begun.recv().unwrap();
        queue.push(b"7\n", lost_line);
        drop(end);
        assert_eq!(*written.lock().unwrap(), "1\n2\n3\nlost 3\n7\n");
    }
}

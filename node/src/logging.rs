//! Log lines leave by a thread of their own: whoever reads standard output may stop reading, and a lease must not wait
//! for it.
//!
//! Without this a line holds a lock while it is written, and an ordinary thread that is put off the processor in the
//! middle holds up a real-time one (docs/decisions/0010).

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines waiting to be written; at the bound new ones are dropped and counted, and the count is written once there is
/// room.
const LINES: usize = 4_096;
/// How long the end of the process waits for its last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<SyncSender<Entry>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Entry {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Makes a writer for each line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lines;

/// One line being put together.
#[derive(Debug, Default)]
pub(crate) struct Line(Vec<u8>);

impl Lines {
    /// Starts the writing thread; once a process.
    ///
    /// # Errors
    /// The system refused the thread.
    pub(crate) fn start() -> io::Result<Lines> {
        let (queue, entries) = sync_channel(LINES);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(&entries, io::stdout))?;
        // A second start would have its lines go the first one's way.
        let _ = QUEUE.set(queue);
        Ok(Lines)
    }
}

/// Waits until what was logged so far is written, for a bounded time.
pub(crate) fn flush() {
    let (done, flushed) = sync_channel(1);
    if let Some(queue) = QUEUE.get()
        && queue.try_send(Entry::Flush(done)).is_ok()
    {
        let _ = flushed.recv_timeout(FLUSH_TIMEOUT);
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line::default()
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.0);
        if let Some(queue) = QUEUE.get() {
            queue_line(queue, line, &DROPPED);
        }
    }
}

fn queue_line(queue: &SyncSender<Entry>, line: Vec<u8>, dropped: &AtomicU64) {
    match queue.try_send(Entry::Line(line)) {
        Ok(()) => {}
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A reader that has gone away misses its lines; the node goes on.
fn write_lines<Output: Write>(entries: &Receiver<Entry>, output: impl Fn() -> Output) {
    while let Ok(entry) = entries.recv() {
        match entry {
            Entry::Line(line) => {
                let _ = output().write_all(&line);
                let dropped = DROPPED.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    // Into the queue that was full a moment ago: behind what is in it.
                    tracing::warn!(
                        dropped,
                        "log lines were dropped: they are not read fast enough"
                    );
                }
            }
            Entry::Flush(done) => {
                let _ = output().flush();
                let _ = done.try_send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Nobody reads: as many lines are kept as there is room for, the rest is counted, and nothing blocks.
    #[test]
    fn lines_that_nobody_reads_are_dropped_and_counted() {
        let (queue, entries) = sync_channel(4);
        let dropped = AtomicU64::new(0);
        for number in 0..10u8 {
            queue_line(&queue, vec![number], &dropped);
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 6);
        drop(queue);
        let kept: Vec<u8> = entries
            .iter()
            .flat_map(|entry| match entry {
                Entry::Line(line) => line,
                Entry::Flush(_) => Vec::new(),
            })
            .collect();
        assert_eq!(kept, [0, 1, 2, 3]);
    }
}

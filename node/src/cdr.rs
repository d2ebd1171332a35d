//! Call detail records: a file of JSON lines that is a view of the replicated table.
//!
//! A record enters the log in the same entry that ends its call. Every data node writes the records
//! of the log to its own file, in log order, so each file holds each call exactly once, whichever node
//! dies when. Epochs rise and sequences rise within an epoch, so log order is key order and one
//! watermark, the last id in the file, tells what is still to be written: after a crash, a torn last
//! line, or a snapshot (`docs/decisions/0006-cdr.md`).

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};
use tandem_engine::CdrId;
use tandem_sip::cdr::CdrRecord;
use tracing::{error, info, warn};

/// Records kept in the replicated table; when there are more, the owner deletes the oldest. A node
/// that was away for longer than this many calls lacks the older ones in its own file.
pub(crate) const RETAINED: usize = 100_000;
/// Records written per fsync.
const BATCH: usize = 1_024;
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Far more than a line can have: its strings come from one SIP message of at most 64 KiB.
const TAIL: u64 = 1 << 20;
/// How each of our lines starts.
const LINE_START: &[u8] = b"{\"id\":\"";
const NOT_OURS: &str = "the last line is not a call detail record";

/// Handle to the writer thread; stops it when dropped.
#[derive(Debug)]
pub(crate) struct CdrFile {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The table's records; bounded by [`RETAINED`] and one batch.
    retained: BTreeMap<CdrId, Bytes>,
    written: Option<CdrId>,
    lines: u64,
    trouble: Option<String>,
    stop: bool,
}

/// What status and metrics show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CdrStatus {
    /// Lines written since start.
    pub(crate) written: u64,
    /// Records in the table that are not in the file yet.
    pub(crate) waiting: usize,
    /// Why the last write failed, until one succeeds.
    pub(crate) trouble: Option<String>,
}

impl CdrFile {
    /// Opens the file, drops a torn last line, and starts the writer.
    ///
    /// # Errors
    /// Names the file; also when its last line is not one of ours.
    pub(crate) fn open(path: &Path) -> anyhow::Result<CdrFile> {
        let (file, written) =
            recover(path).with_context(|| format!("call detail records {}", path.display()))?;
        info!(path = %path.display(), last = written.map(|id| id.to_string()), "CDR file open");
        let state = Mutex::new(State {
            written,
            ..State::default()
        });
        let shared = Arc::new(Shared {
            state,
            changed: Condvar::new(),
        });
        let writer = Writer {
            file,
            path: path.to_owned(),
            shared: Arc::clone(&shared),
        };
        let writer = thread::Builder::new()
            .name("cdr".to_owned())
            .spawn(move || writer.run())
            .context("starting the CDR writer")?;
        Ok(CdrFile {
            shared,
            writer: Some(writer),
        })
    }

    /// A record was committed.
    pub(crate) fn put(&self, id: CdrId, record: Bytes) {
        self.shared.lock().retained.insert(id, record);
        self.shared.changed.notify_one();
    }

    /// A record left the table.
    pub(crate) fn delete(&self, id: CdrId) {
        self.shared.lock().retained.remove(&id);
    }

    /// A snapshot replaced the table.
    pub(crate) fn replace(&self, records: BTreeMap<CdrId, Bytes>) {
        self.shared.lock().retained = records;
        self.shared.changed.notify_one();
    }

    /// The records that the owner should delete, oldest first.
    pub(crate) fn surplus(&self) -> Vec<CdrId> {
        let state = self.shared.lock();
        let surplus = state.retained.len().saturating_sub(RETAINED);
        state
            .retained
            .keys()
            .take(surplus.min(BATCH))
            .copied()
            .collect()
    }

    pub(crate) fn status(&self) -> CdrStatus {
        let state = self.shared.lock();
        CdrStatus {
            written: state.lines,
            waiting: state.waiting().count(),
            trouble: state.trouble.clone(),
        }
    }
}

impl Drop for CdrFile {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Shared {
    /// The state is a plain map and a watermark: a panic elsewhere leaves it whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn waiting(&self) -> impl Iterator<Item = (&CdrId, &Bytes)> {
        let after = self.written.map_or(Bound::Unbounded, Bound::Excluded);
        self.retained.range((after, Bound::Unbounded))
    }
}

struct Writer {
    file: File,
    path: PathBuf,
    shared: Arc<Shared>,
}

impl Writer {
    /// Writes what waits, until told to stop and nothing waits.
    fn run(mut self) {
        loop {
            let batch = {
                let mut state = self.shared.lock();
                while state.waiting().next().is_none() && !state.stop {
                    state = self
                        .shared
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                state
                    .waiting()
                    .take(BATCH)
                    .map(|(id, bytes)| (*id, bytes.clone()))
                    .collect::<Vec<_>>()
            };
            let Some((last, _)) = batch.last() else {
                return;
            };
            match self.write(&batch) {
                Ok(()) => {
                    let mut state = self.shared.lock();
                    state.written = Some(*last);
                    state.lines += batch.len() as u64;
                    state.trouble = None;
                }
                Err(error) => {
                    error!(path = %self.path.display(), %error, "writing call detail records; retrying");
                    let mut state = self.shared.lock();
                    state.trouble = Some(format!("{}: {error}", self.path.display()));
                    if state.stop {
                        return;
                    }
                    // Woken early by new records at worst: the retry is then one record sooner.
                    drop(self.shared.changed.wait_timeout(state, RETRY_DELAY));
                }
            }
        }
    }

    /// All lines of the batch are in the file, or none.
    fn write(&mut self, batch: &[(CdrId, Bytes)]) -> io::Result<()> {
        let mut lines = Vec::new();
        for (id, bytes) in batch {
            match CdrRecord::decode(bytes.clone()) {
                Ok(record) => {
                    serde_json::to_writer(&mut lines, &Line::new(*id, &record))?;
                    lines.push(b'\n');
                }
                Err(error) => error!(%id, %error, "a CDR in the table cannot be read"),
            }
        }
        let end = self.file.seek(SeekFrom::End(0))?;
        let result = self
            .file
            .write_all(&lines)
            .and_then(|()| self.file.sync_data());
        if result.is_err() {
            self.file.set_len(end)?;
        }
        result
    }
}

/// Finds the last whole line and its id, and cuts off what a crash left after it. Reads only the tail.
fn recover(path: &Path) -> anyhow::Result<(File, Option<CdrId>)> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let length = file.metadata()?.len();
    let tail_start = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(tail_start))?;
    let mut tail = Vec::new();
    (&file).take(TAIL).read_to_end(&mut tail)?;

    let whole = tail
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |newline| newline + 1);
    let (lines, torn) = tail.split_at(whole);
    let last = lines.split_inclusive(|byte| *byte == b'\n').next_back();
    let id = last.map(id_of).transpose()?;
    if !torn.is_empty() {
        let shared = torn.len().min(LINE_START.len());
        ensure!(torn[..shared] == LINE_START[..shared], NOT_OURS);
        warn!(path = %path.display(), bytes = torn.len(), "dropping a torn last line");
        file.set_len(tail_start + whole as u64)?;
    }
    Ok((file, id))
}

fn id_of(line: &[u8]) -> anyhow::Result<CdrId> {
    #[derive(Deserialize)]
    struct Identified {
        id: String,
    }
    let Identified { id } = serde_json::from_slice(line).context(NOT_OURS)?;
    id.parse()
        .map_err(|_| anyhow!("the last line's id {id:?} is not <epoch>-<sequence>"))
}

/// One line of the file. Times are Unix milliseconds.
#[derive(Debug, Serialize)]
struct Line<'a> {
    id: String,
    call_id: &'a str,
    callee_call_id: &'a str,
    from: &'a str,
    to: &'a str,
    from_realm: &'a str,
    to_realm: &'a str,
    target: &'a str,
    start: u64,
    ringing: Option<u64>,
    answer: Option<u64>,
    end: u64,
    duration_ms: u64,
    status: &'static str,
    code: u32,
    ended_by: &'static str,
    reason: &'a str,
}

impl<'a> Line<'a> {
    fn new(id: CdrId, record: &'a CdrRecord) -> Line<'a> {
        Line {
            id: id.to_string(),
            call_id: &record.caller_call_id,
            callee_call_id: &record.callee_call_id,
            from: &record.from,
            to: &record.to,
            from_realm: &record.from_realm,
            to_realm: &record.to_realm,
            target: &record.target,
            start: record.start,
            ringing: record.ringing,
            answer: record.answer,
            end: record.end,
            duration_ms: record.duration_millis,
            status: record.status().text(),
            code: record.code,
            ended_by: record.ended_by().text(),
            reason: &record.reason,
        }
    }
}

#[cfg(test)]
mod tests;

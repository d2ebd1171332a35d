//! A witness beside the log of how far it got.
//!
//! sled cuts its log at the first record it cannot read and carries on: after a bad sector the store opens, a
//! little emptier than what was acknowledged. This file remembers a lower bound of what has been synced, so that
//! a shorter log is noticed instead of voted with. It is written after each sync and only synced itself before
//! the log shrinks on purpose, so a power cut leaves it behind the log, never ahead.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use tandem_replication_core::Position;
use tandem_replication_core::eraftpb::HardState;

use super::error::StoreError;
use super::files::with_path;

pub(super) const FILE: &str = "tip";
const RECORD_BYTES: usize = 36;

/// What the store held at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tip {
    pub(super) term: u64,
    pub(super) vote: u64,
    pub(super) last: Position,
}

impl Tip {
    pub(super) fn new(hard_state: &HardState, last: Position) -> Tip {
        Tip {
            term: hard_state.term,
            vote: hard_state.vote,
            last,
        }
    }

    /// Whether a store that shows `self` can be one that once showed `earlier`: terms never fall, a vote is
    /// never taken back within its term, and a log never becomes less up to date (Raft section 5.4.1) except
    /// where this file was told first.
    pub(super) fn follows(&self, earlier: &Tip) -> bool {
        let vote_kept = self.term > earlier.term || earlier.vote == 0 || self.vote == earlier.vote;
        let log_kept = (self.last.term, self.last.index) >= (earlier.last.term, earlier.last.index);
        self.term >= earlier.term && vote_kept && log_kept
    }

    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        let fields = [self.term, self.vote, self.last.index, self.last.term];
        for (chunk, field) in record.chunks_exact_mut(8).zip(fields) {
            chunk.copy_from_slice(&field.to_be_bytes());
        }
        let (body, checksum) = record.split_at_mut(RECORD_BYTES - 4);
        checksum.copy_from_slice(&fnv1a(body).to_be_bytes());
        record
    }

    pub(super) fn decode(record: &[u8]) -> Option<Tip> {
        let (body, checksum) = record.split_last_chunk::<4>()?;
        if body.len() != RECORD_BYTES - 4 || u32::from_be_bytes(*checksum) != fnv1a(body) {
            return None;
        }
        let mut fields = body
            .chunks_exact(8)
            .filter_map(|chunk| Some(u64::from_be_bytes(chunk.try_into().ok()?)));
        let (term, vote) = (fields.next()?, fields.next()?);
        let last = Position {
            index: fields.next()?,
            term: fields.next()?,
        };
        Some(Tip { term, vote, last })
    }
}

/// 32-bit FNV-1a: the record is one disk sector, so it only has to tell a record from garbage.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// The file the tip is kept in.
#[derive(Debug)]
pub(super) struct TipFile {
    file: File,
    path: PathBuf,
}

impl TipFile {
    /// Opens or creates the file.
    pub(super) fn open(state_dir: &Path) -> Result<TipFile, StoreError> {
        let path = state_dir.join(FILE);
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = with_path("open", &path, options)?;
        Ok(TipFile { file, path })
    }

    /// Whether nothing was ever written to it.
    pub(super) fn is_empty(&self) -> Result<bool, StoreError> {
        let metadata = with_path("look at", &self.path, self.file.metadata())?;
        Ok(metadata.len() == 0)
    }

    /// What the file remembers: nothing yet is the default, garbage is `None`.
    pub(super) fn read(&self) -> Result<Option<Tip>, StoreError> {
        let mut record = [0; RECORD_BYTES + 1];
        let length = with_path("read", &self.path, self.file.read_at(&mut record, 0))?;
        Ok(match record.get(..length) {
            Some([]) | None => Some(Tip::default()),
            Some(record) => Tip::decode(record),
        })
    }

    /// Remembers the tip, soon.
    pub(super) fn write(&self, tip: &Tip) -> Result<(), StoreError> {
        with_path(
            "write",
            &self.path,
            self.file.write_all_at(&tip.encode(), 0),
        )
    }

    /// Remembers the tip before anything else happens.
    pub(super) fn write_durably(&self, tip: &Tip) -> Result<(), StoreError> {
        self.write(tip)?;
        with_path("sync", &self.path, self.file.sync_data())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const fn tip(term: u64, vote: u64, index: u64, last_term: u64) -> Tip {
        Tip {
            term,
            vote,
            last: Position {
                index,
                term: last_term,
            },
        }
    }

    #[test]
    fn a_store_may_advance_but_not_forget() {
        let earlier = tip(5, 1, 100, 4);
        for later in [
            earlier,
            tip(6, 0, 100, 4),
            tip(5, 1, 101, 4),
            tip(5, 1, 90, 5),
        ] {
            assert!(later.follows(&earlier), "{later:?}");
        }
        for forgetful in [
            tip(4, 1, 100, 4),
            tip(5, 0, 100, 4),
            tip(5, 2, 100, 4),
            tip(5, 1, 99, 4),
            tip(6, 0, 200, 3),
        ] {
            assert!(!forgetful.follows(&earlier), "{forgetful:?}");
        }
        assert!(
            tip(5, 3, 1, 1).follows(&tip(5, 0, 1, 1)),
            "a first vote in the term"
        );
    }

    #[test]
    fn the_file_keeps_the_last_tip_and_shows_garbage() {
        let directory = tempfile::tempdir().unwrap();
        let file = TipFile::open(directory.path()).unwrap();
        assert_eq!(file.read().unwrap(), Some(Tip::default()));
        file.write(&tip(1, 2, 3, 1)).unwrap();
        file.write_durably(&tip(2, 3, 4, 2)).unwrap();
        let reopened = TipFile::open(directory.path()).unwrap();
        assert_eq!(reopened.read().unwrap(), Some(tip(2, 3, 4, 2)));
        file.file.write_all_at(b"x", 9).unwrap();
        assert_eq!(reopened.read().unwrap(), None);
    }
}

//! What one durable write costs without anything of ours: the yardstick of a commit.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Large enough that no block is written twice within one device cache, small enough to fill at once.
const FILE_BYTES: u64 = 32 << 20;

/// A file whose blocks are all allocated and written: a sync of it carries data only, no metadata.
#[derive(Debug)]
pub(super) struct BareFile {
    file: File,
    block: Vec<u8>,
    next: u64,
}

impl BareFile {
    pub(super) fn create(directory: &Path, block: Vec<u8>) -> io::Result<BareFile> {
        let file = File::create_new(directory.join("bare"))?;
        let filler = vec![0x55; 1 << 20];
        for offset in (0..FILE_BYTES).step_by(filler.len()) {
            file.write_all_at(&filler, offset)?;
        }
        file.sync_all()?;
        Ok(BareFile {
            file,
            block,
            next: 0,
        })
    }

    /// Writes one block behind the last one and makes it durable; how long both took.
    pub(super) fn write(&mut self) -> io::Result<Duration> {
        let length = self.block.len() as u64;
        if self.next + length > FILE_BYTES {
            self.next = 0;
        }
        let begun = Instant::now();
        self.file.write_all_at(&self.block, self.next)?;
        self.file.sync_data()?;
        self.next += length;
        Ok(begun.elapsed())
    }
}

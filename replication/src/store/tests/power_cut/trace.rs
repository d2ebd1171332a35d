//! The trace that `shim.c` writes, as values.

use std::path::{Path, PathBuf};

const MAGIC: u32 = 0x5450_4331;
const HEADER_BYTES: usize = 32;

/// One thing the victim did. Inodes are the file system's: one that was unlinked may come back as another file.
#[derive(Debug)]
pub(super) enum Operation {
    Create {
        inode: u64,
        path: PathBuf,
    },
    Write {
        inode: u64,
        offset: u64,
        data: Vec<u8>,
    },
    Truncate {
        inode: u64,
        length: u64,
    },
    Sync {
        inode: u64,
    },
    SyncDirectory {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    MakeDirectory {
        path: PathBuf,
    },
    Say {
        text: String,
    },
}

impl Operation {
    /// Whether the victim said exactly this.
    pub(super) fn says(&self, line: &str) -> bool {
        matches!(self, Operation::Say { text } if text.trim_end() == line)
    }
}

/// The whole trace, with paths relative to `base`.
pub(super) fn read(file: &Path, base: &Path) -> Vec<Operation> {
    let bytes = std::fs::read(file).unwrap();
    let mut rest = bytes.as_slice();
    let mut operations = Vec::new();
    while !rest.is_empty() {
        operations.push(take_operation(&mut rest, base));
    }
    operations
}

fn take_operation(rest: &mut &[u8], base: &Path) -> Operation {
    let header = take(rest, HEADER_BYTES);
    let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_ne_bytes(header[at..at + 8].try_into().unwrap());
    assert_eq!(word(0), MAGIC, "the trace is garbled");
    let (inode, offset) = (long(8), long(16));
    let path = take(rest, word(24) as usize);
    let data = take(rest, word(28) as usize);
    let relative = |path: &[u8]| {
        let path = Path::new(std::str::from_utf8(path).unwrap());
        path.strip_prefix(base).unwrap().to_owned()
    };
    match word(4) {
        1 => Operation::Create {
            inode,
            path: relative(path),
        },
        2 => Operation::Write {
            inode,
            offset,
            data: data.to_vec(),
        },
        3 => Operation::Truncate {
            inode,
            length: offset,
        },
        4 => Operation::Sync { inode },
        5 => Operation::SyncDirectory {
            path: relative(path),
        },
        6 => Operation::Rename {
            from: relative(path),
            to: relative(data),
        },
        7 => Operation::Unlink {
            path: relative(path),
        },
        8 => Operation::MakeDirectory {
            path: relative(path),
        },
        9 => Operation::Say {
            text: String::from_utf8(data.to_vec()).unwrap(),
        },
        unknown => panic!("operation {unknown}"),
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, remaining) = rest.split_at(length);
    *rest = remaining;
    taken
}

//! A disk with a cache: what was synced is there after a power cut, the rest may be, in any combination.
//!
//! Deliberately worse than any one file system: unsynced sectors arrive in any order or not at all, a file can have
//! grown without its content, names and content are independent, and only a sync of the directory keeps a name.
//! Names within one directory change in order, as in a journal.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use rand::Rng as _;
use rand::rngs::StdRng;

use super::trace::Operation;

/// The unit that a disk writes as a whole.
const SECTOR: usize = 512;

/// What happens to everything that was not synced.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    /// All of it arrived: a crash of the process, if anything.
    Nothing,
    /// None of it arrived.
    Everything,
    /// Each write arrived as a whole or not at all.
    Writes,
    /// Each sector of each write arrived or not.
    Sectors,
    /// Files have grown, and what they grew by is zeroes.
    Content,
}

pub(super) const LOSSES: [Loss; 5] = [
    Loss::Nothing,
    Loss::Everything,
    Loss::Writes,
    Loss::Sectors,
    Loss::Content,
];

#[derive(Clone, Debug)]
enum Pending {
    Write { offset: u64, data: Vec<u8> },
    Truncate { length: u64 },
}

#[derive(Debug, Default)]
struct File {
    synced: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Clone, Debug)]
enum Node {
    File(usize),
    Directory,
}

#[derive(Clone, Debug)]
enum NameChange {
    Put { name: OsString, node: Node },
    Move { from: OsString, to: OsString },
    Remove { name: OsString },
}

type Names = BTreeMap<OsString, Node>;

#[derive(Debug, Default)]
struct Directory {
    synced: Names,
    pending: Vec<NameChange>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Disk {
    files: Vec<File>,
    /// The file that an inode number means now.
    inodes: BTreeMap<u64, usize>,
    directories: BTreeMap<PathBuf, Directory>,
}

impl Disk {
    /// Empty, but for the base directory.
    pub(super) fn new() -> Disk {
        Disk {
            files: Vec::new(),
            inodes: BTreeMap::new(),
            directories: BTreeMap::from([(PathBuf::new(), Directory::default())]),
        }
    }

    pub(super) fn execute(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { inode, path } => {
                self.files.push(File::default());
                let file = self.files.len() - 1;
                self.inodes.insert(*inode, file);
                self.change(path, |name| NameChange::Put {
                    name,
                    node: Node::File(file),
                });
            }
            Operation::Write {
                inode,
                offset,
                data,
            } => self.file(*inode).pending.push(Pending::Write {
                offset: *offset,
                data: data.clone(),
            }),
            Operation::Truncate { inode, length } => self
                .file(*inode)
                .pending
                .push(Pending::Truncate { length: *length }),
            Operation::Sync { inode } => {
                let File { synced, pending } = self.file(*inode);
                for change in pending.drain(..) {
                    apply(synced, &change);
                }
            }
            Operation::SyncDirectory { path } => {
                let Directory { synced, pending } = self.directories.get_mut(path).unwrap();
                for change in pending.drain(..) {
                    rename(synced, change);
                }
            }
            Operation::Rename { from, to } => {
                assert_eq!(from.parent(), to.parent(), "a move between directories");
                let to = to.file_name().unwrap().to_owned();
                self.change(from, |from| NameChange::Move { from, to });
            }
            Operation::Unlink { path } => self.change(path, |name| NameChange::Remove { name }),
            Operation::MakeDirectory { path } => {
                self.change(path, |name| NameChange::Put {
                    name,
                    node: Node::Directory,
                });
                self.directories.insert(path.clone(), Directory::default());
            }
            Operation::Say { .. } => {}
        }
    }

    /// Writes out, below `to`, what a power cut now could leave.
    pub(super) fn image(&self, to: &Path, loss: Loss, random: &mut StdRng) {
        self.image_of(Path::new(""), to, loss, random);
    }

    fn image_of(&self, directory: &Path, to: &Path, loss: Loss, random: &mut StdRng) {
        fs::create_dir_all(to.join(directory)).unwrap();
        let Directory { synced, pending } = &self.directories[directory];
        let mut names = synced.clone();
        let kept = match loss {
            Loss::Nothing => pending.len(),
            Loss::Everything => 0,
            Loss::Writes | Loss::Sectors | Loss::Content => random.random_range(0..=pending.len()),
        };
        for change in &pending[..kept] {
            rename(&mut names, change.clone());
        }
        for (name, node) in names {
            let path = directory.join(name);
            match node {
                Node::Directory => self.image_of(&path, to, loss, random),
                Node::File(file) => {
                    fs::write(to.join(path), self.files[file].after(loss, random)).unwrap();
                }
            }
        }
    }

    fn file(&mut self, inode: u64) -> &mut File {
        &mut self.files[self.inodes[&inode]]
    }

    fn change(&mut self, path: &Path, change: impl FnOnce(OsString) -> NameChange) {
        let name = path.file_name().unwrap().to_owned();
        let directory = self.directories.get_mut(path.parent().unwrap()).unwrap();
        directory.pending.push(change(name));
    }
}

impl File {
    fn after(&self, loss: Loss, random: &mut StdRng) -> Vec<u8> {
        let mut content = self.synced.clone();
        for change in &self.pending {
            match loss {
                Loss::Nothing => apply(&mut content, change),
                Loss::Everything => {}
                Loss::Writes => {
                    if random.random() {
                        apply(&mut content, change);
                    }
                }
                Loss::Sectors => apply_sectors(&mut content, change, random),
                Loss::Content => grow(&mut content, change),
            }
        }
        content
    }
}

fn apply(content: &mut Vec<u8>, change: &Pending) {
    match change {
        Pending::Write { offset, data } => {
            let begin = usize::try_from(*offset).unwrap();
            let end = begin + data.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[begin..end].copy_from_slice(data);
        }
        Pending::Truncate { length } => content.resize(usize::try_from(*length).unwrap(), 0),
    }
}

/// Each sector that the write touches arrives or does not.
fn apply_sectors(content: &mut Vec<u8>, change: &Pending, random: &mut StdRng) {
    let Pending::Write { offset, data } = change else {
        if random.random() {
            apply(content, change);
        }
        return;
    };
    let begin = usize::try_from(*offset).unwrap();
    let mut at = 0;
    while at < data.len() {
        let end = data.len().min(at + SECTOR - (begin + at) % SECTOR);
        if random.random() {
            let offset = (begin + at) as u64;
            let data = data[at..end].to_vec();
            apply(content, &Pending::Write { offset, data });
        }
        at = end;
    }
}

/// The new length without the new content.
fn grow(content: &mut Vec<u8>, change: &Pending) {
    if let Pending::Write { offset, data } = change {
        let end = usize::try_from(*offset).unwrap() + data.len();
        content.resize(content.len().max(end), 0);
    }
}

fn rename(names: &mut Names, change: NameChange) {
    match change {
        NameChange::Put { name, node } => drop(names.insert(name, node)),
        NameChange::Remove { name } => drop(names.remove(&name)),
        NameChange::Move { from, to } => {
            let node = names.remove(&from).expect("names change in order");
            names.insert(to, node);
        }
    }
}

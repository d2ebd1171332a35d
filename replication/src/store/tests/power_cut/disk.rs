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

/// The directory that was there before.
const BASE: usize = 0;
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
    Directory(usize),
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
    /// With everything that is pending.
    current: Names,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Disk {
    files: Vec<File>,
    /// The file that an inode number means now.
    inodes: BTreeMap<u64, usize>,
    directories: Vec<Directory>,
    /// The directory that a path means now.
    paths: BTreeMap<PathBuf, usize>,
}

impl Disk {
    /// Empty, but for the base directory.
    pub(super) fn new() -> Disk {
        Disk {
            files: Vec::new(),
            inodes: BTreeMap::new(),
            directories: vec![Directory::default()],
            paths: BTreeMap::from([(PathBuf::new(), BASE)]),
        }
    }

    pub(super) fn execute(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { inode, path } => {
                self.files.push(File::default());
                let file = self.files.len() - 1;
                self.inodes.insert(*inode, file);
                let node = Node::File(file);
                self.change(path, |name| NameChange::Put { name, node });
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
                let directory = &mut self.directories[self.paths[path]];
                let Directory {
                    synced, pending, ..
                } = directory;
                for change in pending.drain(..) {
                    rename(synced, change);
                }
            }
            Operation::Rename { from, to } => {
                self.rename(from, to);
            }
            Operation::Unlink { path } => self.change(path, |name| NameChange::Remove { name }),
            Operation::MakeDirectory { path } => {
                self.directories.push(Directory::default());
                let directory = self.directories.len() - 1;
                self.paths.insert(path.clone(), directory);
                let node = Node::Directory(directory);
                self.change(path, |name| NameChange::Put { name, node });
            }
            Operation::Say { .. } => {}
        }
    }

    /// Writes out, below `to`, what a power cut now could leave.
    pub(super) fn image(&self, to: &Path, loss: Loss, random: &mut StdRng) {
        self.image_of(BASE, to, loss, random);
    }

    fn image_of(&self, directory: usize, to: &Path, loss: Loss, random: &mut StdRng) {
        fs::create_dir_all(to).unwrap();
        let Directory {
            synced, pending, ..
        } = &self.directories[directory];
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
            let path = to.join(name);
            match node {
                Node::Directory(directory) => self.image_of(directory, &path, loss, random),
                Node::File(file) => {
                    fs::write(path, self.files[file].after(loss, random)).unwrap();
                }
            }
        }
    }

    fn file(&mut self, inode: u64) -> &mut File {
        &mut self.files[self.inodes[&inode]]
    }

    fn change(&mut self, path: &Path, change: impl FnOnce(OsString) -> NameChange) {
        let name = path.file_name().unwrap().to_owned();
        let directory = &mut self.directories[self.paths[path.parent().unwrap()]];
        let change = change(name);
        rename(&mut directory.current, change.clone());
        directory.pending.push(change);
    }

    /// Within one directory a move is one change, as in a journal. Between two the worst is assumed: either half may
    /// be lost.
    fn rename(&mut self, from: &Path, to: &Path) {
        if from.parent() == to.parent() {
            let to = to.file_name().unwrap().to_owned();
            self.change(from, |from| NameChange::Move { from, to });
        } else {
            let parent = &self.directories[self.paths[from.parent().unwrap()]];
            let node = parent.current[from.file_name().unwrap()].clone();
            self.change(to, |name| NameChange::Put { name, node });
            self.change(from, |name| NameChange::Remove { name });
        }
        let moved: Vec<_> = self
            .paths
            .keys()
            .filter(|path| path.starts_with(from))
            .cloned()
            .collect();
        for path in moved {
            let directory = self.paths.remove(&path).unwrap();
            let below = path.strip_prefix(from).unwrap();
            let path = if below == Path::new("") {
                to.to_owned()
            } else {
                to.join(below)
            };
            self.paths.insert(path, directory);
        }
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

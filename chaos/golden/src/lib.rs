//! Golden files: bytes that a released version wrote, which every later version must still read.
//!
//! A corpus is one directory of one format version. Each sample is two files: `NAME.bin`, the bytes, and `NAME.txt`,
//! what they mean in words that a reviewer can read. A test reads the bytes with the code of today and compares
//! with the words, so a change that reads old bytes differently is seen, also when it reads them without an error.
//!
//! Files are written once: `TANDEM_GOLDEN=write cargo test -- --test-threads 1` adds samples that a corpus does not have, and never touches
//! one that exists. What a version has written stays as it is; a new version gets a directory of its own.
#![forbid(unsafe_code)]

pub mod replay;
mod text;
pub mod wire;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

pub use text::readable;

/// Set to `write`, samples that are missing are written.
const SWITCH: &str = "TANDEM_GOLDEN";

/// The files of one format version.
#[derive(Debug)]
pub struct Corpus {
    directory: PathBuf,
    write: bool,
    /// Samples there are, by name.
    found: BTreeMap<String, Sample>,
}

/// One sample as it lies in the corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What the version wrote.
    pub bytes: Vec<u8>,
    /// What it means.
    pub text: String,
}

impl Corpus {
    /// Opens a directory of golden files.
    ///
    /// # Panics
    /// On anything in it that is not one half of a sample whose other half is there too.
    pub fn open(directory: impl AsRef<Path>) -> Corpus {
        let write = std::env::var(SWITCH).is_ok_and(|value| value == "write");
        Corpus::open_as(directory.as_ref(), write)
    }

    fn open_as(directory: &Path, write: bool) -> Corpus {
        let mut halves: BTreeMap<String, (Option<Vec<u8>>, Option<String>)> = BTreeMap::new();
        for path in files(directory) {
            let name = path
                .file_stem()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            let half = halves.entry(name).or_default();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("bin") => half.0 = Some(read(&path, fs::read(&path))),
                Some("txt") => half.1 = Some(read(&path, fs::read_to_string(&path))),
                _ => panic!("{} is no golden file", path.display()),
            }
        }
        let found = halves.into_iter().map(|(name, half)| match half {
            (Some(bytes), Some(text)) => (name, Sample { bytes, text }),
            (bytes, _) => {
                let missing = if bytes.is_some() { "txt" } else { "bin" };
                panic!("{}/{name}.{missing} is missing", directory.display())
            }
        });
        Corpus {
            found: found.collect(),
            directory: directory.to_owned(),
            write,
        }
    }

    /// Checks that the corpus has exactly these samples, and that each reads as its text says and is written again
    /// as it was. `fresh` makes the bytes of a sample that is to be added.
    ///
    /// # Panics
    /// On any difference.
    pub fn check<T: Debug>(
        self,
        names: &[&str],
        fresh: impl Fn(&str) -> Vec<u8>,
        decode: impl Fn(&str, &[u8]) -> T,
        encode: impl Fn(&str, &T) -> Vec<u8>,
    ) {
        let words = |value: &T| readable(value);
        self.check_with(names, fresh, decode, words, encode);
    }

    /// [`check`](Corpus::check) with words of one's own.
    ///
    /// # Panics
    /// On any difference.
    pub fn check_with<T>(
        mut self,
        names: &[&str],
        fresh: impl Fn(&str) -> Vec<u8>,
        decode: impl Fn(&str, &[u8]) -> T,
        words: impl Fn(&T) -> String,
        encode: impl Fn(&str, &T) -> Vec<u8>,
    ) {
        if self.write {
            let missing: Vec<_> = names
                .iter()
                .filter(|name| !self.found.contains_key(**name))
                .collect();
            for name in missing {
                let bytes = fresh(name);
                let text = words(&decode(name, &bytes));
                self.add(name, Sample { bytes, text });
            }
        }
        let present: Vec<&str> = self.found.keys().map(String::as_str).collect();
        let mut expected = names.to_vec();
        expected.sort_unstable();
        assert_eq!(
            present,
            expected,
            "the samples in {}; {SWITCH}=write adds missing ones",
            self.directory.display()
        );
        for (name, sample) in &self.found {
            let value = decode(name, &sample.bytes);
            let text = words(&value);
            assert_eq!(
                text, sample.text,
                "{name} does not mean any more what it meant"
            );
            assert!(
                encode(name, &value) == sample.bytes,
                "{name} is not written again as it was: {text}"
            );
        }
    }

    /// The bytes of every sample, by name.
    ///
    /// # Panics
    /// If there are none.
    pub fn samples(&self) -> impl Iterator<Item = (&str, &[u8])> {
        assert!(
            !self.found.is_empty(),
            "{} is empty",
            self.directory.display()
        );
        self.found
            .iter()
            .map(|(name, sample)| (name.as_str(), sample.bytes.as_slice()))
    }

    fn add(&mut self, name: &str, sample: Sample) {
        read(&self.directory, fs::create_dir_all(&self.directory));
        for (extension, content) in [
            ("bin", sample.bytes.as_slice()),
            ("txt", sample.text.as_bytes()),
        ] {
            let path = self.directory.join(format!("{name}.{extension}"));
            let created = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&path);
            let written =
                created.and_then(|mut file| std::io::Write::write_all(&mut file, content));
            read(&path, written);
        }
        self.found.insert(name.to_owned(), sample);
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    if !directory.exists() {
        return Vec::new();
    }
    let entries = read(directory, fs::read_dir(directory));
    entries.map(|entry| read(directory, entry).path()).collect()
}

fn read<T>(path: &Path, result: std::io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// The format of these tests: text, written as it is.
    fn check(corpus: Corpus, names: &[&str]) -> Result<(), String> {
        let checked = catch_unwind(AssertUnwindSafe(|| {
            corpus.check(
                names,
                |name| name.as_bytes().to_vec(),
                |_, bytes| String::from_utf8(bytes.to_vec()).unwrap(),
                |_, text| text.trim_end().as_bytes().to_vec(),
            );
        }));
        checked.map_err(|panic| *panic.downcast::<String>().unwrap())
    }

    fn written(names: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        check(Corpus::open_as(directory.path(), true), names).unwrap();
        directory
    }

    #[test]
    fn what_was_written_is_checked_from_then_on() {
        let directory = written(&["one", "two"]);
        let open = || Corpus::open_as(directory.path(), false);
        check(open(), &["two", "one"]).unwrap();

        fs::write(directory.path().join("one.txt"), "\"another\"\n").unwrap();
        assert!(
            check(open(), &["one", "two"])
                .unwrap_err()
                .contains("one does not mean")
        );
        fs::write(directory.path().join("one.bin"), "another \n").unwrap();
        fs::write(directory.path().join("one.txt"), "\"another \\n\"\n").unwrap();
        assert!(
            check(open(), &["one", "two"])
                .unwrap_err()
                .contains("one is not written again")
        );
    }

    #[test]
    fn missing_and_extra_samples_are_errors() {
        let directory = written(&["one"]);
        let open = |write| Corpus::open_as(directory.path(), write);
        assert!(
            check(open(false), &["one", "two"]).is_err(),
            "two is missing"
        );
        assert!(check(open(false), &[]).is_err(), "one is extra");
        assert!(check(open(true), &[]).is_err(), "also when writing");

        fs::write(directory.path().join("stray.md"), "").unwrap();
        assert!(catch_unwind(|| open(false)).is_err(), "no golden file");
        fs::remove_file(directory.path().join("stray.md")).unwrap();
        fs::remove_file(directory.path().join("one.txt")).unwrap();
        assert!(
            catch_unwind(|| open(false)).is_err(),
            "half of it is missing"
        );
        assert!(catch_unwind(|| open(true)).is_err(), "also when writing");
    }

    #[test]
    fn writing_adds_and_never_overwrites() {
        let directory = written(&["one"]);
        let path = directory.path().join("one.bin");
        fs::write(&path, "wrong").unwrap();
        assert!(check(Corpus::open_as(directory.path(), true), &["one", "two"]).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "wrong");
        assert!(directory.path().join("two.bin").exists());
        assert!(
            check(
                Corpus::open_as(&directory.path().join("absent"), false),
                &["one"]
            )
            .is_err(),
            "nothing is written unless asked"
        );
    }
}

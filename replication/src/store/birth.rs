//! Which store this is, and whom it has become: written before anything is done by it.
//!
//! ```text
//! tandem-birth 1
//! slot b
//! store <32 hexadecimal digits, drawn at first use>
//! incarnation 1            from here on once that is decided
//! generation 0
//! founder a <store>        of a founder: whom it founded the pair with
//! opened                   a log was created
//! ```
//! The file outlives every crash between asking the others and the first vote: a decision that is on the disk is
//! never taken again, and one that is not has had no consequence.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use tandem_replication_core::{Founders, ReplicaId, Slot, StoreId};

use super::error::StoreError;
use super::files::{replace_durably, with_path};
use super::identity::stored_identity;

pub(super) const FILE: &str = "birth";
const VERSION_LINE: &str = "tandem-birth 1";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Birth {
    slot: Slot,
    pub(crate) store: StoreId,
    decided: Option<Decided>,
    opened: bool,
}

/// Who a store has become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) id: ReplicaId,
    pub(crate) generation: u32,
    /// Empty unless it founded the pair.
    pub(crate) founders: Founders,
}

impl Birth {
    /// Reads the file, or creates it in a directory that has never been used.
    ///
    /// # Errors
    /// It is garbled, of another slot, or speaks of a log that is gone.
    pub(crate) fn open(state_dir: &Path, slot: Slot) -> Result<Birth, StoreError> {
        with_path("create", state_dir, fs::create_dir_all(state_dir))?;
        let identity = stored_identity(state_dir)?;
        let mut birth = match Birth::read(state_dir)? {
            Some(birth) => birth,
            None => Birth {
                slot,
                store: StoreId(rand::random()),
                decided: None,
                opened: false,
            },
        };
        let path = state_dir.join(FILE);
        if birth.slot != slot || identity.is_some_and(|id| id.slot() != slot) {
            let detail = "it is of another slot";
            return Err(StoreError::Unidentified { path, detail });
        }
        match (identity, &birth.decided) {
            (None, Some(decided)) if birth.opened => {
                return Err(StoreError::Missing {
                    path: state_dir.to_owned(),
                    id: decided.id,
                });
            }
            // Created by a build that knew no births.
            (Some(id), None) => {
                birth.decided = Some(Decided {
                    id,
                    generation: 0,
                    founders: Founders::new(),
                });
            }
            (Some(_) | None, _) => {}
        }
        birth.opened = identity.is_some();
        birth.write(state_dir)?;
        Ok(birth)
    }

    /// Who it is, once that is decided.
    pub(crate) fn decided(&self) -> Option<&Decided> {
        self.decided.as_ref()
    }

    /// Decides, durably.
    pub(crate) fn decide(&mut self, state_dir: &Path, decided: Decided) -> Result<(), StoreError> {
        self.decided = Some(decided);
        self.write(state_dir)
    }

    /// A log has been created: from now on its absence is a loss.
    pub(crate) fn mark_opened(&mut self, state_dir: &Path) -> Result<(), StoreError> {
        if self.opened {
            return Ok(());
        }
        self.opened = true;
        self.write(state_dir)
    }

    fn read(state_dir: &Path) -> Result<Option<Birth>, StoreError> {
        let path = state_dir.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => match parse(&text) {
                Some(birth) => Ok(Some(birth)),
                None => Err(StoreError::Unidentified {
                    path,
                    detail: "the birth file is garbled",
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io {
                action: "read",
                path,
                source,
            }),
        }
    }

    /// After a crash the old file or the new one is there as a whole.
    fn write(&self, state_dir: &Path) -> Result<(), StoreError> {
        if Birth::read(state_dir)?.as_ref() == Some(self) {
            return Ok(());
        }
        replace_durably(state_dir, FILE, self.to_text().as_bytes())
    }

    fn to_text(&self) -> String {
        let mut text = format!("{VERSION_LINE}\nslot {}\nstore {}\n", self.slot, self.store);
        if let Some(decided) = &self.decided {
            let (incarnation, generation) = (decided.id.incarnation(), decided.generation);
            // Writing to a string cannot fail.
            let _ = write!(text, "incarnation {incarnation}\ngeneration {generation}\n");
            for (slot, store) in &decided.founders {
                let _ = writeln!(text, "founder {slot} {store}");
            }
        }
        if self.opened {
            text.push_str("opened\n");
        }
        text
    }
}

fn parse_store(text: &str) -> Option<StoreId> {
    let digits = Some(text).filter(|text| text.len() == 32)?;
    u128::from_str_radix(digits, 16).ok().map(StoreId)
}

fn parse(text: &str) -> Option<Birth> {
    let mut lines = text.lines().peekable();
    if lines.next()? != VERSION_LINE {
        return None;
    }
    let slot: Slot = lines.next()?.strip_prefix("slot ")?.parse().ok()?;
    let store = parse_store(lines.next()?.strip_prefix("store ")?)?;
    let mut decided = None;
    if let Some(incarnation) = lines
        .peek()
        .and_then(|line| line.strip_prefix("incarnation "))
    {
        let id = ReplicaId::new(slot, incarnation.parse().ok()?).ok()?;
        lines.next();
        let generation = lines.next()?.strip_prefix("generation ")?.parse().ok()?;
        let mut founders = Founders::new();
        while let Some(founder) = lines.peek().and_then(|line| line.strip_prefix("founder ")) {
            let (slot, store) = founder.split_once(' ')?;
            founders.insert(slot.parse().ok()?, parse_store(store)?);
            lines.next();
        }
        decided = Some(Decided {
            id,
            generation,
            founders,
        });
    }
    let opened = match lines.next() {
        Some("opened") => true,
        Some(_) => return None,
        None => false,
    };
    lines.next().is_none().then_some(Birth {
        slot,
        store,
        decided,
        opened,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::{Store, move_aside};

    fn decided(incarnation: u32) -> Decided {
        Decided {
            id: ReplicaId::new(Slot::B, incarnation).unwrap(),
            generation: 3,
            founders: Founders::from([(Slot::A, StoreId(7)), (Slot::B, StoreId(u128::MAX))]),
        }
    }

    #[test]
    fn what_is_decided_is_read_again_and_garbage_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut birth = Birth::open(directory.path(), Slot::B).unwrap();
        assert_eq!(birth.decided(), None);
        assert_eq!(
            Birth::open(directory.path(), Slot::B).unwrap(),
            birth,
            "drawn once"
        );
        birth.decide(directory.path(), decided(2)).unwrap();
        assert_eq!(Birth::open(directory.path(), Slot::B).unwrap(), birth);

        let path = directory.path().join(FILE);
        let whole = fs::read_to_string(&path).unwrap();
        for (number, _) in whole.char_indices().filter(|(at, _)| *at < whole.len() - 1) {
            fs::write(&path, &whole[..number]).unwrap();
            let cut = Birth::open(directory.path(), Slot::B);
            // Whole lines may be missing at the end; what is left then claims less, never something else.
            match cut {
                Ok(cut) => assert!(
                    cut.decided().is_none_or(|it| it.id == decided(2).id),
                    "{number}"
                ),
                Err(error) => assert!(matches!(error, StoreError::Unidentified { .. }), "{error}"),
            }
        }
        fs::write(&path, &whole).unwrap();
        let foreign = Birth::open(directory.path(), Slot::A);
        assert!(matches!(foreign, Err(StoreError::Unidentified { .. })));
    }

    /// Deleting log and identity does not make a founder that has voted a new one.
    #[test]
    fn a_log_that_was_opened_and_is_gone_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let mut birth = Birth::open(directory.path(), Slot::B).unwrap();
        birth.decide(directory.path(), decided(1)).unwrap();
        drop(Store::open(directory.path(), decided(1).id).unwrap());
        birth.mark_opened(directory.path()).unwrap();
        Birth::open(directory.path(), Slot::B).unwrap();
        for name in ["identity", "tip"] {
            fs::remove_file(directory.path().join(name)).unwrap();
        }
        fs::remove_dir_all(directory.path().join("log")).unwrap();
        let error = Birth::open(directory.path(), Slot::B).unwrap_err();
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
        assert!(error.to_string().contains("tandem rejoin"), "{error}");

        let aside = move_aside(directory.path()).unwrap().unwrap();
        assert!(aside.join(FILE).is_file());
        let again = Birth::open(directory.path(), Slot::B).unwrap();
        assert!(again.decided().is_none() && again.store != birth.store);
    }
}

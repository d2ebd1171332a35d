//! What numbers a call detail record.

use std::{fmt, str::FromStr};

/// Unique for ever, and ordered as the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CdrId {
    /// The epoch in which its call ended.
    pub epoch: u64,
    /// Counts from 1 within the epoch.
    pub sequence: u64,
}

/// The text is not `<epoch>-<sequence>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidCdrId;

impl fmt::Display for CdrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.sequence)
    }
}

impl FromStr for CdrId {
    type Err = InvalidCdrId;

    fn from_str(text: &str) -> Result<CdrId, InvalidCdrId> {
        let (epoch, sequence) = text.split_once('-').ok_or(InvalidCdrId)?;
        let number = |text: &str| text.parse().map_err(|_| InvalidCdrId);
        Ok(CdrId {
            epoch: number(epoch)?,
            sequence: number(sequence)?,
        })
    }
}

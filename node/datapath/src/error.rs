//! Why a session could not be set.

use std::{io, net::SocketAddr};
use tandem_media::{LocalPort, PlanError};

/// Nothing of the session has changed.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("{0} belongs to no configured media realm")]
    UnknownRealm(LocalPort),
    #[error("{0} is outside the media ports of its realm")]
    OutsideRange(LocalPort),
    #[error("cannot bind media socket {address}: {source}")]
    Bind {
        address: SocketAddr,
        source: io::Error,
    },
    /// Only while the process is going down or after a failure that has been logged.
    #[error("the media relay has stopped")]
    Stopped,
}

//! How an address gets to this node, and how it goes away.

use std::fmt;

use async_trait::async_trait;
use tandem_failover_core::Epoch;
use tandem_failover_core::address::{AddressConfig, Failure, FailureKind, Presence, Source};

/// A way to move the floating addresses.
///
/// Every operation is idempotent and cancel-safe: once its future is dropped, nothing of it reaches the
/// local kernel any more. (A request that is already with a cloud's control plane may still take effect.)
#[async_trait]
pub trait Mover: Send + Sync + fmt::Debug {
    fn name(&self) -> &'static str;

    /// What the engine has to watch with this mover.
    fn config(&self) -> AddressConfig;

    /// Brings all addresses here.
    async fn claim(&self, epoch: Epoch) -> Result<(), MoverError>;

    /// Takes all addresses away from this host.
    async fn release(&self) -> Result<(), MoverError>;

    /// Asks one of the sources named in `config`.
    async fn observe(&self, source: Source) -> Result<Presence, MoverError>;

    /// Tells the neighbours `copies` times at once.
    async fn announce(&self, copies: u8) -> Result<(), MoverError>;

    /// Waits for something that makes a look worth while. Cancel-safe.
    async fn changed(&self) -> Change;
}

/// Something a mover noticed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// One of the addresses was added or deleted, or the interface came or went.
    Addresses,
    /// The interface has its carrier back.
    LinkUp,
}

/// A failed operation of a mover: its class, and what failed where.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct MoverError {
    pub kind: FailureKind,
    pub text: String,
}

impl MoverError {
    pub fn new(kind: FailureKind, text: impl Into<String>) -> MoverError {
        MoverError {
            kind,
            text: text.into(),
        }
    }
}

impl From<MoverError> for Failure {
    fn from(error: MoverError) -> Failure {
        Failure {
            kind: error.kind,
            text: error.text,
        }
    }
}

//! Receiving death certificates: who sends too many is not listened to, and what remains is verified.
//!
//! Anybody can send a datagram to the pair's port. Until it is verified it costs a look at its layout; verifying is
//! bounded per second. A peer's address has a bound of its own, so that a flood from elsewhere does not keep its
//! certificate out. What a flood with a peer's address can do at most is to have a takeover wait for the timeout that
//! it waited for without certificates.
//!
//! One task verifies, from start to shutdown; dropping it loses certificates, which is what the bound does too.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::UnixTime;
use tandem_replication_core::Slot;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;

use super::counters::Counters;
use crate::certificate::{DATAGRAM_LIMIT, Verifier, claimed_slot};
use crate::mailbox::Mailbox;

/// Certificates verified per second that come from a peer's address and name its slot; more are dropped and counted.
/// A guard sends five a death.
const PEER_BUDGET: u32 = 50;
/// Likewise for all other addresses together: a peer behind address translation still gets through.
const STRANGER_BUDGET: u32 = 10;
const BUDGET_PERIOD: Duration = Duration::from_secs(1);
/// Certificates waiting to be verified; more are dropped and counted.
const WAITING: usize = 16;

/// Where datagrams that are not QUIC go.
#[derive(Debug)]
pub(super) struct Intake {
    own: Slot,
    peers: BTreeMap<Slot, IpAddr>,
    budgets: Mutex<BTreeMap<Option<Slot>, Budget>>,
    waiting: Sender<Bytes>,
    counters: Arc<Counters>,
}

/// The task that verifies.
#[derive(Debug)]
pub(super) struct Verification {
    verifier: Verifier,
    waiting: Receiver<Bytes>,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
}

impl Intake {
    pub(super) fn new(
        own: Slot,
        peers: &BTreeMap<Slot, SocketAddr>,
        verifier: Verifier,
        mailbox: Arc<Mailbox>,
        counters: Arc<Counters>,
    ) -> (Intake, Verification) {
        let (waiting, receiver) = channel(WAITING);
        let peers = peers.iter().map(|(slot, address)| (*slot, address.ip()));
        let intake = Intake {
            own,
            peers: peers.collect(),
            budgets: Mutex::default(),
            waiting,
            counters: Arc::clone(&counters),
        };
        let verification = Verification {
            verifier,
            waiting: receiver,
            mailbox,
            counters,
        };
        (intake, verification)
    }

    /// Takes one datagram that is not QUIC. Never blocks.
    pub(super) fn offer(&self, from: SocketAddr, datagram: &[u8]) {
        let claimed = Some(datagram)
            .filter(|datagram| datagram.len() <= DATAGRAM_LIMIT)
            .and_then(claimed_slot)
            .filter(|slot| *slot != self.own);
        let Some(slot) = claimed else {
            self.counters.certificates_malformed.add();
            return;
        };
        let known = Some(slot).filter(|slot| self.peers.get(slot) == Some(&from.ip()));
        if !self.spend(known, Instant::now()) {
            self.counters.certificates_limited.add();
            return;
        }
        if self
            .waiting
            .try_send(Bytes::copy_from_slice(datagram))
            .is_err()
        {
            self.counters.certificates_dropped.add();
        }
    }

    fn spend(&self, known: Option<Slot>, now: Instant) -> bool {
        let mut budgets = self.budgets.lock().expect("no holder of this lock panics");
        let limit = match known {
            Some(_) => PEER_BUDGET,
            None => STRANGER_BUDGET,
        };
        budgets
            .entry(known)
            .or_insert(Budget {
                since: now,
                spent: 0,
            })
            .spend(limit, now)
    }
}

/// What was spent since when.
#[derive(Clone, Copy, Debug)]
struct Budget {
    since: Instant,
    spent: u32,
}

impl Budget {
    fn spend(&mut self, limit: u32, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= BUDGET_PERIOD {
            (self.since, self.spent) = (now, 0);
        }
        let allowed = self.spent < limit;
        self.spent += u32::from(allowed);
        allowed
    }
}

impl Verification {
    pub(super) async fn run(mut self) {
        while let Some(datagram) = self.waiting.recv().await {
            match self.verifier.verify(&datagram, UnixTime::now()) {
                Ok(certificate) => {
                    self.counters.certificates_verified.add();
                    if self.mailbox.certificate(certificate).is_err() {
                        self.counters.certificates_dropped.add();
                    }
                }
                Err(error) => {
                    self.counters.certificates_forged.add();
                    tracing::warn!(%error, "death certificate refused");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_lasts_a_period_and_comes_back() {
        let start = Instant::now();
        let mut budget = Budget {
            since: start,
            spent: 0,
        };
        let later = start + BUDGET_PERIOD / 2;
        let spent = (0..100).filter(|_| budget.spend(7, later)).count();
        assert_eq!(spent, 7);
        assert!(budget.spend(7, start + BUDGET_PERIOD));
    }
}

//! Certifying a worker's death to those who may have promised it something.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::Context;
use tandem_replication::{CertificateSigner, DeathCertificate, KeyPaths, Pulse, Slot};
use tracing::{info, warn};

use crate::config::Config;

/// When the certificate is sent, after the death was seen. Lost once it comes again soon; lost five times the takeover
/// waits for its timeout, as it did before there were certificates.
const SENT_AFTER: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
];

/// The kernel program of a dead worker forwards nothing yet.
const GRACE: Duration = Duration::ZERO;

/// What certifies the end of one worker.
#[derive(Debug)]
pub(super) struct Announcer {
    signer: CertificateSigner,
    from: IpAddr,
    /// The witness first: the other data node stands for election as soon as it knows, and asks the witness.
    receivers: Vec<SocketAddr>,
}

impl Announcer {
    /// Loads the keys. Done for each worker, because they may be replaced meanwhile.
    ///
    /// # Errors
    /// Names the file that is missing or not usable.
    pub(super) fn load(config: &Config) -> anyhow::Result<Announcer> {
        let keys = KeyPaths::in_directory(&config.pair.keys);
        let signer = CertificateSigner::load(&keys, config.slot)?;
        let mut receivers = config.pair.addresses.clone();
        let own = receivers
            .remove(&config.slot)
            .context("pair: this node's own address")?;
        let mut receivers: Vec<_> = receivers.into_iter().collect();
        receivers.sort_by_key(|(slot, _)| *slot != Slot::Witness);
        Ok(Announcer {
            signer,
            from: own.ip(),
            receivers: receivers.into_iter().map(|(_, address)| address).collect(),
        })
    }

    /// Sends the certificate several times. Returns how many datagrams left.
    pub(super) async fn announce(&self, Pulse { replica, epoch }: Pulse, life: u64) -> u64 {
        if epoch == 0 {
            info!("the worker led nothing: no promise to release");
            return 0;
        }
        let death = DeathCertificate {
            replica,
            epoch,
            life,
            grace: GRACE,
        };
        let sent = self.send(&death).await;
        match sent {
            Ok(sent) => {
                let life = format_args!("{life:016x}");
                info!(%replica, epoch, %life, sent, "death certificate sent");
                sent
            }
            Err(error) => {
                warn!(
                    error = format!("{error:#}"),
                    "no death certificate was sent"
                );
                0
            }
        }
    }

    async fn send(&self, death: &DeathCertificate) -> anyhow::Result<u64> {
        let datagram = self.signer.sign(death)?;
        // Its own, and not tokio's: that one would wait for the first readiness event before it sends.
        let socket =
            UdpSocket::bind((self.from, 0)).with_context(|| format!("binding {}", self.from))?;
        socket.set_nonblocking(true).context("the socket")?;
        let mut sent = 0;
        let mut failure: Option<io::Error> = None;
        let mut before = Duration::ZERO;
        for after in SENT_AFTER {
            if after > before {
                tokio::time::sleep(after - before).await;
                before = after;
            }
            for receiver in &self.receivers {
                match socket.send_to(&datagram, receiver) {
                    Ok(_) => sent += 1,
                    // A receiver that is not there may answer so; the other one must hear all the same.
                    Err(error) => failure = Some(error),
                }
            }
        }
        match failure {
            Some(error) if sent == 0 => Err(error).context("sending"),
            Some(_) | None => Ok(sent),
        }
    }
}

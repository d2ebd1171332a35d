//! QUIC settings: mutual TLS under the pair's CA, and a transport tuned for a LAN between two halves of one thing.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig,
    IdleTimeout, ServerConfig, TransportConfig, VarInt,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;

use super::frame::{SNAPSHOT_STREAMS, STREAM_FRAME_LIMIT};
use super::incoming::HANDSHAKES;
use crate::pki::Credentials;

/// Version of everything spoken over the link. Peers that do not share it refuse each other.
pub(super) const ALPN: &[u8] = b"tandem/1";

/// Round trip assumed before it has been measured: the first retransmissions come this early.
const INITIAL_RTT: Duration = Duration::from_millis(5);
/// Longest a peer may hold back an acknowledgement; part of every retransmission timeout.
const ACK_DELAY: Duration = Duration::from_millis(5);
/// Silence after which a connection is given up and dialled anew. Shorter than it takes the probes of a dead
/// connection, sent at doubling intervals, to notice that the path is back.
pub(super) const IDLE_TIMEOUT_MS: u32 = 2_000;
/// Idle connections are kept alive this often.
const KEEP_ALIVE: Duration = Duration::from_millis(250);
/// Sent at once on a new connection: a burst of appends does not wait for the window to open.
const INITIAL_WINDOW: u64 = 128 << 10;
/// Bytes of datagrams waiting for the wire or the reader; the oldest are dropped beyond, as a network would.
const DATAGRAM_BUFFER: usize = 256 << 10;
/// Bytes in flight on all streams of a connection.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Length of a connection id.
const ID_BYTES: usize = 8;

/// Why the keys do not make a TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificate and key do not fit, or rustls refuses them.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
    /// The CA is not fit to verify clients.
    #[error("{0}")]
    Verifier(#[from] VerifierBuilderError),
    /// rustls lacks the cipher suite of QUIC's first packets.
    #[error("{0}")]
    Quic(#[from] NoInitialCipherSuite),
}

/// Everything an endpoint is made of.
#[derive(Debug)]
pub(super) struct QuicConfig {
    pub(super) endpoint: EndpointConfig,
    pub(super) server: ServerConfig,
    pub(super) client: ClientConfig,
}

impl QuicConfig {
    pub(super) fn new(credentials: Credentials) -> Result<QuicConfig, TlsError> {
        let transport = Arc::new(transport());
        let endpoint = endpoint(&credentials);
        let Credentials { roots, chain, key } = credentials;
        let provider = Arc::new(default_provider());
        let roots = Arc::new(roots);

        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()?;
        let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?));
        server
            .transport_config(Arc::clone(&transport))
            .max_incoming(HANDSHAKES);

        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?));
        client.transport_config(transport);
        Ok(QuicConfig {
            endpoint,
            server,
            client,
        })
    }
}

fn transport() -> TransportConfig {
    let mut acks = AckFrequencyConfig::default();
    acks.max_ack_delay(Some(ACK_DELAY));
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let mut transport = TransportConfig::default();
    transport
        .initial_rtt(INITIAL_RTT)
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(congestion))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(1 + SNAPSHOT_STREAMS))
        .stream_receive_window(VarInt::from_u32(2 * STREAM_FRAME_LIMIT))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER);
    transport
}

/// A restarted node answers packets of its former connections with stateless resets (RFC 9000 section 10.3) that
/// its peers recognise, so they dial again at once instead of waiting for the idle timeout. For that the key of the
/// reset tokens must outlive the process: it is derived from the node's private key.
fn endpoint(credentials: &Credentials) -> EndpointConfig {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"tandem stateless reset");
    context.update(credentials.key.secret_der());
    let key = hmac::Key::new(hmac::HMAC_SHA256, context.finish().as_ref());
    let mut config = EndpointConfig::new(Arc::new(key));
    config.cid_generator(|| Box::new(PlainIds));
    // The bit tells QUIC from death certificates.
    config.grease_quic_bit(false);
    config
}

/// Random connection ids. quinn's default ones are signed with a key of the process, and packets that carry
/// another process's are dropped without a reset. Resets are smaller than what they answer, and few (quinn's
/// `min_reset_interval`), so answering strangers too does no harm.
#[derive(Debug)]
struct PlainIds;

impl ConnectionIdGenerator for PlainIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; ID_BYTES]>())
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

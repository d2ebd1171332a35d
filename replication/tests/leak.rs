//! Nothing that replication logs, at any level, carries what it replicates or what it proves itself with. A program of
//! its own, since it takes the log of the whole process.
#![allow(clippy::unwrap_used)]

mod support;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use support::{Pair, SLOTS};
use tandem_replication::{Change, Slot};
use tracing_subscriber::filter::LevelFilter;

/// Bytes in a row that count as carried.
const PIECE: usize = 8;

/// All that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn begin() -> Log {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A secret's bytes in every form that a line might print them in.
fn forms(secret: &[u8]) -> Vec<String> {
    let pieces = secret.chunks_exact(PIECE);
    pieces
        .flat_map(|piece| {
            let decimal: Vec<String> = piece.iter().map(u8::to_string).collect();
            let hex: Vec<String> = piece.iter().map(|byte| format!("{byte:02x}")).collect();
            [
                piece.escape_ascii().to_string(),
                decimal.join(", "),
                hex.concat(),
                hex.concat().to_uppercase(),
                hex.join(":"),
                hex.join(" "),
                hex.join(", "),
            ]
        })
        .collect()
}

/// The private part of a node's key, as it is and as its file spells it. The rest of the file is public: it stands in
/// the certificate.
fn private_key(path: &Path) -> Vec<String> {
    // RFC 5915: version 1, then an octet string of 32 bytes.
    const BEFORE: &[u8] = &[0x02, 0x01, 0x01, 0x04, 0x20];
    let key = PrivateKeyDer::from_pem_file(path).unwrap();
    let der = key.secret_der();
    let at = der
        .windows(BEFORE.len())
        .position(|window| window == BEFORE)
        .unwrap()
        + BEFORE.len();
    let mut printed = forms(&der[at..at + 32]);
    let pem = std::fs::read_to_string(path).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    // Four characters spell three bytes.
    let spelt = &base64.as_bytes()[at.div_ceil(3) * 4..(at + 32) / 3 * 4];
    printed.extend(
        spelt
            .chunks_exact(PIECE)
            .map(|piece| String::from_utf8(piece.to_vec()).unwrap()),
    );
    assert!(printed.len() > 30, "{printed:?}");
    printed
}

/// What a call's record holds of its media keys (RFC 4568), different for each.
fn crypto(number: u64) -> Vec<u8> {
    let key: String = (0..40u64)
        .map(|at| {
            let mixed = (number * 40 + at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
            char::from(
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[mixed as usize],
            )
        })
        .collect();
    format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}|2^31").into_bytes()
}

fn record(number: u64) -> Vec<Change> {
    vec![Change::Put {
        key: format!("secret-{number:04}").into(),
        value: crypto(number).into(),
    }]
}

#[test]
fn no_log_line_carries_a_record_or_a_key() {
    const RECORDS: u64 = 60;
    let log = Log::begin();
    // So that a snapshot is sent as well.
    let mut pair = Pair::new(|settings| settings.limits.log_entries = 8);
    for slot in SLOTS {
        pair.start(slot);
    }
    pair.commit(&record(0));
    let away = if pair.leader() == Slot::A {
        Slot::B
    } else {
        Slot::A
    };
    pair.stop(away);
    for number in 1..RECORDS {
        pair.commit(&record(number));
    }
    pair.start(away);
    pair.observer(away)
        .wait("all records", |seen| seen.table.len() == RECORDS as usize);
    let next = pair.leader();
    let _ = pair.replication(next).propose(record(RECORDS)).unwrap();
    pair.observer(away)
        .wait("a snapshot", |seen| seen.restored >= 2);
    for slot in SLOTS {
        pair.stop(slot);
    }

    tracing::trace!("the end of the test");
    let text = log.text();
    for expected in ["the end of the test", "TRACE quinn", "tandem_replication"] {
        assert!(
            text.contains(expected),
            "the log is taken at every level: {expected}"
        );
    }
    let mut secrets: Vec<String> = (0..=RECORDS)
        .step_by(12)
        .flat_map(|number| forms(&crypto(number)[42..82]))
        .collect();
    secrets.extend(["inline:".to_owned(), "secret-00".to_owned()]);
    for slot in SLOTS {
        secrets.extend(private_key(&pair.keys(slot).key));
    }
    for secret in secrets {
        let line = text.lines().find(|line| line.contains(&secret));
        assert!(line.is_none(), "{secret} is in the log: {line:?}");
    }
}

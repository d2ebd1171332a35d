//! Keys and the owner entry as version 1 put them into the table. The records have golden files with `tandem-sip`.

use bytes::Bytes;
use tandem_failover_core::Epoch;
use tandem_golden::Corpus;
use tandem_replication_core::{Change, Slot};
use tandem_sip::record::CallKey;

use super::{Key, owner, parse_owner};
use crate::CdrId;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1");

fn key(name: &str) -> Key {
    match name {
        "call" => Key::Call(CallKey::new(7, 258)),
        "cdr" => Key::Cdr(CdrId {
            epoch: 7,
            sequence: 300,
        }),
        "owner" => Key::Owner,
        other => panic!("{other}"),
    }
}

#[test]
fn keys_of_the_table() {
    Corpus::open(format!("{DIRECTORY}/key")).check(
        &["call", "cdr", "owner"],
        |name| key(name).bytes().to_vec(),
        |name, bytes| {
            let read = Key::parse(bytes).expect("a key");
            assert_eq!(read, key(name));
            read
        },
        |_, key| key.bytes().to_vec(),
    );
}

fn entry(slot: Slot, epoch: Epoch) -> Bytes {
    match owner(slot, epoch) {
        Change::Put { value, .. } => value,
        Change::Delete { .. } => panic!("the owner entry is put"),
    }
}

#[test]
fn the_owner_entry() {
    Corpus::open(format!("{DIRECTORY}/owner")).check(
        &["a", "b"],
        |name| entry(name.parse().expect("a slot"), Epoch(7)).to_vec(),
        |name, bytes| {
            let (slot, Epoch(epoch)) = parse_owner(bytes).expect("an owner entry");
            assert_eq!(
                (format!("{slot:?}").to_lowercase().as_str(), epoch),
                (name, 7)
            );
            (slot, Epoch(epoch))
        },
        |name, (_, epoch)| entry(name.parse().expect("a slot"), *epoch).to_vec(),
    );
}

//! See [`crate::fuzzing`].

use bytes::{BufMut as _, Bytes, BytesMut};
use tandem_replication_core::{ENVELOPE_VERSION, Envelope};

/// What stands before a Raft message of generation 0.
const HEADER: [u8; 3] = [ENVELOPE_VERSION, 1, 0];

/// As an envelope, and as the Raft message in one.
///
/// The second reading is compared with the third: protobuf tells "no unknown fields" from "none left", which a field
/// given twice leaves behind (seed `snapshot-given-twice`), and only its first writing settles that.
pub(crate) fn message(bytes: &Bytes) {
    let mut headed = BytesMut::from(HEADER.as_slice());
    headed.put_slice(bytes);
    for bytes in [bytes.clone(), headed.freeze()] {
        if let Ok(envelope) = Envelope::decode(bytes) {
            let again = |envelope: &Envelope| {
                Envelope::decode(envelope.encode()).expect("what was written is read")
            };
            let second = again(&envelope);
            assert_eq!(again(&second), second);
        }
    }
}

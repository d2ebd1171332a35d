//! See [`crate::fuzzing`].

use bytes::Bytes;

use super::frame;

/// The second reading is compared with the third: protobuf tells "no unknown fields" from "none left", which a field
/// given twice leaves behind (seed `snapshot-given-twice`), and only its first writing settles that.
pub(crate) fn message(bytes: &Bytes) {
    if let Ok(message) = frame::decode(bytes) {
        let second = frame::decode(&frame::encode(&message)).expect("what was written is read");
        let third = frame::decode(&frame::encode(&second)).expect("what was written is read");
        assert_eq!(third, second);
    }
}

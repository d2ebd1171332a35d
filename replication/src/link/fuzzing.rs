//! See [`crate::fuzzing`].

use bytes::Bytes;

use super::frame;

pub(crate) fn message(bytes: &Bytes) {
    if let Ok(message) = frame::decode(bytes) {
        let again = frame::encode(&message);
        assert_eq!(frame::decode(&again).ok(), Some(message));
    }
}

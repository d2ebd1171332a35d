//! See [`crate::fuzzing`].

use super::tip::Tip;

pub(crate) fn tip_record(bytes: &[u8]) {
    if let Some(tip) = Tip::decode(bytes) {
        assert_eq!(tip.encode(), bytes);
        assert!(tip.follows(&tip), "nothing was forgotten");
    }
}

//! Names of our own ports.

use std::fmt;

/// A realm (one side of the border) by its number in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RealmNumber(pub u16);

/// One UDP port of ours: the realm decides the address it is bound to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LocalPort {
    pub realm: RealmNumber,
    pub port: u16,
}

impl LocalPort {
    /// RFC 3550 section 11: RTP takes the even port, RTCP the odd one above it. Setting the lowest bit is that
    /// successor for an even port and, unlike adding one, cannot overflow.
    pub fn rtcp(self) -> LocalPort {
        LocalPort {
            realm: self.realm,
            port: self.port | 1,
        }
    }

    /// Whether this port can carry media: even (RFC 3550 section 11) and not the reserved zero.
    pub fn is_media(self) -> bool {
        self.port != 0 && self.port.is_multiple_of(2)
    }
}

impl fmt::Display for LocalPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "realm {} port {}", self.realm.0, self.port)
    }
}

//! Contract 7: the address converges. Once everything is well, packets to it reach the owner within a stated bound.

use std::time::Duration;

use crate::clock::ms;

/// The bound; see [`Liveness`](super::Liveness) for why it is asked about.
#[derive(Debug)]
pub(crate) struct AddressConverges;

impl AddressConverges {
    pub(crate) const NAME: &'static str = "address converges after heal";

    /// From the heal on. A move that a former owner had asked for may take effect after the new owner has verified
    /// its own. What a look shows then may be the past for 3 s after the claim; the next look is up to a second away,
    /// and the repair takes a call and its effect.
    pub(crate) const BOUND: Duration = ms(6000);
}

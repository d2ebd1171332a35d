//! Sources of truth about the address. None is trusted alone: each has a way to be wrong or late.

use std::time::Duration;

use serde::Serialize;

/// Someone who can say where the address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The kernel's address list of the interface.
    Netlink,
    /// `DescribeNetworkInterfaces` on the own network interface.
    Ec2Describe,
}

impl Source {
    pub const fn as_str(self) -> &'static str {
        match self {
            Source::Netlink => "netlink",
            Source::Ec2Describe => "ec2_describe",
        }
    }
}

/// How many of the floating addresses a source sees here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    All,
    Some,
    None,
}

/// How one source takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePolicy {
    pub source: Source,
    /// The address counts as held only when this source sees all of it.
    pub required_to_hold: bool,
    /// The address counts as released only when this source sees none of it.
    pub required_to_release: bool,
    /// Pause between two looks when nothing is going on.
    pub interval: Duration,
    /// How long after a successful claim this source may still show the state from before it.
    pub settle: Duration,
}

impl SourcePolicy {
    /// The kernel answers at once and is never late.
    pub const NETLINK: SourcePolicy = SourcePolicy {
        source: Source::Netlink,
        required_to_hold: true,
        required_to_release: true,
        interval: Duration::from_secs(1),
        settle: Duration::ZERO,
    };

    /// Eventually consistent, and never asked to show a release: the address is left for the next owner to
    /// take in one call. The slow look doubles as permission check and keeps the connection warm.
    pub const EC2_DESCRIBE: SourcePolicy = SourcePolicy {
        source: Source::Ec2Describe,
        required_to_hold: true,
        required_to_release: false,
        interval: Duration::from_secs(20),
        settle: Duration::from_secs(3),
    };
}

/// The class of a failure: what an operator has to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No connection to the control plane.
    Unreachable,
    /// The connection stands, no answer in time. The effect may have happened.
    Timeout,
    Throttled,
    Unauthorized,
    NoCredentials,
    /// The network interface named in the configuration does not exist (or belongs to someone else).
    NotFound,
    /// The address is not of the network interface's subnet.
    WrongSubnet,
    /// The local kernel refused.
    Local,
    Other,
}

/// A failure in words an operator can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    pub text: String,
}

/// Names one look at one source; results of older looks are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservationId(pub(super) u64);

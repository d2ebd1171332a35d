//! Errors as the EC2 API answers them.
//!
//! Codes and statuses: "Error codes for the Amazon EC2 API" in the EC2 API Reference.

use std::net::Ipv4Addr;

use super::ids::{AllocationId, AssociationId, InstanceId, InterfaceId};

/// Why a call was refused. [`ApiError::code`] and the `Display` text go out in the error document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    #[error("The action {0} is not valid for this web service.")]
    InvalidAction(String),
    #[error("The request must contain the parameter {0}")]
    MissingParameter(&'static str),
    #[error("The parameter {0} is not recognized")]
    UnknownParameter(String),
    #[error("Invalid value '{value}' for {parameter}")]
    InvalidParameter { parameter: String, value: String },
    #[error("The filter '{0}' is invalid")]
    InvalidFilter(String),
    #[error("The networkInterface ID '{0}' does not exist")]
    UnknownInterface(InterfaceId),
    #[error("The instance ID '{0}' does not exist")]
    UnknownInstance(InstanceId),
    #[error("The allocation ID '{0}' does not exist")]
    UnknownAllocation(AllocationId),
    #[error("Address '{0}' not found.")]
    UnknownPublicAddress(Ipv4Addr),
    #[error("The association ID '{0}' does not exist")]
    UnknownAssociation(AssociationId),
    #[error("Address {address} does not fall within the subnet's address range or is reserved")]
    OutsideSubnet { address: Ipv4Addr },
    #[error(
        "{address} is already assigned to network interface {holder}, but move is not allowed."
    )]
    AddressInUse {
        address: Ipv4Addr,
        holder: InterfaceId,
    },
    #[error("{address} is the primary private address of network interface {holder}")]
    PrimaryAddress {
        address: Ipv4Addr,
        holder: InterfaceId,
    },
    #[error("The network interface {interface} holds {limit} secondary private addresses at most")]
    TooManyAddresses {
        interface: InterfaceId,
        limit: usize,
    },
    #[error("{address} is not assigned to network interface {interface}")]
    NotAssigned {
        address: Ipv4Addr,
        interface: InterfaceId,
    },
    #[error("resource {allocation} is already associated with associate-id {association}")]
    AlreadyAssociated {
        allocation: AllocationId,
        association: AssociationId,
    },
    #[error("{address} is already associated with {allocation}")]
    PrivateAddressAssociated {
        address: Ipv4Addr,
        allocation: AllocationId,
    },
    #[error("Request would have succeeded, but DryRun flag is set.")]
    DryRun,
    #[error("You are not authorized to perform this operation.")]
    Unauthorized,
    #[error("Request limit exceeded.")]
    RequestLimitExceeded,
    #[error("An internal error has occurred")]
    Internal,
    #[error("The service is unavailable. Please try again shortly.")]
    Unavailable,
}

impl ApiError {
    /// The `Code` element.
    #[must_use]
    pub(super) fn code(&self) -> &'static str {
        match self {
            ApiError::InvalidAction(_) => "InvalidAction",
            ApiError::MissingParameter(_) => "MissingParameter",
            ApiError::UnknownParameter(_) => "UnknownParameter",
            ApiError::InvalidParameter { .. }
            | ApiError::InvalidFilter(_)
            | ApiError::OutsideSubnet { .. }
            | ApiError::AddressInUse { .. }
            | ApiError::PrimaryAddress { .. }
            | ApiError::NotAssigned { .. } => "InvalidParameterValue",
            ApiError::UnknownInterface(_) => "InvalidNetworkInterfaceID.NotFound",
            ApiError::UnknownInstance(_) => "InvalidInstanceID.NotFound",
            ApiError::UnknownAllocation(_) => "InvalidAllocationID.NotFound",
            ApiError::UnknownPublicAddress(_) => "InvalidAddress.NotFound",
            ApiError::UnknownAssociation(_) => "InvalidAssociationID.NotFound",
            ApiError::TooManyAddresses { .. } => "PrivateIpAddressLimitExceeded",
            ApiError::AlreadyAssociated { .. } | ApiError::PrivateAddressAssociated { .. } => {
                "Resource.AlreadyAssociated"
            }
            ApiError::DryRun => "DryRunOperation",
            ApiError::Unauthorized => "UnauthorizedOperation",
            ApiError::RequestLimitExceeded => "RequestLimitExceeded",
            ApiError::Internal => "InternalError",
            ApiError::Unavailable => "Unavailable",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub(super) fn status(&self) -> u16 {
        match self {
            ApiError::DryRun => 412,
            ApiError::Unauthorized => 403,
            ApiError::Internal => 500,
            ApiError::RequestLimitExceeded | ApiError::Unavailable => 503,
            ApiError::InvalidAction(_)
            | ApiError::MissingParameter(_)
            | ApiError::UnknownParameter(_)
            | ApiError::InvalidParameter { .. }
            | ApiError::InvalidFilter(_)
            | ApiError::UnknownInterface(_)
            | ApiError::UnknownInstance(_)
            | ApiError::UnknownAllocation(_)
            | ApiError::UnknownPublicAddress(_)
            | ApiError::UnknownAssociation(_)
            | ApiError::OutsideSubnet { .. }
            | ApiError::AddressInUse { .. }
            | ApiError::PrimaryAddress { .. }
            | ApiError::TooManyAddresses { .. }
            | ApiError::NotAssigned { .. }
            | ApiError::AlreadyAssociated { .. }
            | ApiError::PrivateAddressAssociated { .. } => 400,
        }
    }
}

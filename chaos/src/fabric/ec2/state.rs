//! Who holds which address in the VPC, and the changes that the API allows. No time, no I/O.
//!
//! An Elastic IP is bound to a private address, not to an interface: when the private address
//! moves, the binding needs no change to follow it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::error::ApiError;
use super::ids::{AllocationId, AssociationId, InstanceId, InterfaceId, SubnetId};

/// The VPC takes the network address and the three after it, and the broadcast address
/// ("Subnet CIDR reservations", VPC User Guide).
const RESERVED_AT_START: u32 = 4;

/// One version of the VPC's address table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct State {
    interfaces: BTreeMap<InterfaceId, NetworkInterface>,
    elastic: BTreeMap<AllocationId, ElasticIp>,
    /// Numbers association ids; they are never used twice.
    associations: u64,
}

/// An elastic network interface (ENI).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetworkInterface {
    pub(super) id: InterfaceId,
    pub(super) instance: InstanceId,
    pub(super) subnet: SubnetId,
    pub(super) cidr: Ipv4Net,
    pub(super) primary: Ipv4Addr,
    pub(super) secondaries: BTreeSet<Ipv4Addr>,
    /// Depends on the instance type in EC2.
    pub(super) secondary_limit: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ElasticIp {
    pub(super) allocation: AllocationId,
    pub(super) public: Ipv4Addr,
    pub(super) binding: Option<Binding>,
}

/// What an Elastic IP is translated to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) association: AssociationId,
    pub(super) private: Ipv4Addr,
}

/// A call that changes the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// AssignPrivateIpAddresses with named addresses.
    Assign {
        interface: InterfaceId,
        addresses: Vec<Ipv4Addr>,
        allow_reassignment: bool,
    },
    /// UnassignPrivateIpAddresses.
    Unassign {
        interface: InterfaceId,
        addresses: Vec<Ipv4Addr>,
    },
    /// AssociateAddress.
    Associate {
        elastic: ElasticName,
        target: Target,
        /// The target's primary address when absent.
        private: Option<Ipv4Addr>,
        allow_reassociation: bool,
    },
    /// DisassociateAddress.
    Disassociate { association: AssociationName },
}

/// How a call names an Elastic IP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ElasticName {
    Allocation(AllocationId),
    Public(Ipv4Addr),
}

/// How a call names a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AssociationName {
    Association(AssociationId),
    Public(Ipv4Addr),
}

/// How a call names an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Interface(InterfaceId),
    Instance(InstanceId),
}

/// What the answer to a successful call carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Changed {
    Assigned {
        interface: InterfaceId,
        addresses: Vec<Ipv4Addr>,
    },
    Unassigned,
    Associated(AssociationId),
    Disassociated,
}

impl NetworkInterface {
    #[must_use]
    pub(super) fn holds(&self, address: Ipv4Addr) -> bool {
        self.primary == address || self.secondaries.contains(&address)
    }

    /// Primary first.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        std::iter::once(self.primary).chain(self.secondaries.iter().copied())
    }
}

impl State {
    /// A table with these resources, whose addresses must not overlap; Elastic IPs start unbound.
    #[must_use]
    pub(super) fn new(
        interfaces: impl IntoIterator<Item = NetworkInterface>,
        elastic: impl IntoIterator<Item = (AllocationId, Ipv4Addr)>,
    ) -> State {
        let state = State {
            interfaces: interfaces
                .into_iter()
                .map(|interface| (interface.id.clone(), interface))
                .collect(),
            elastic: elastic
                .into_iter()
                .map(|(allocation, public)| {
                    let elastic = ElasticIp {
                        allocation: allocation.clone(),
                        public,
                        binding: None,
                    };
                    (allocation, elastic)
                })
                .collect(),
            associations: 0,
        };
        state.check();
        state
    }

    pub(super) fn interfaces(&self) -> impl Iterator<Item = &NetworkInterface> {
        self.interfaces.values()
    }

    pub(super) fn elastic_ips(&self) -> impl Iterator<Item = &ElasticIp> {
        self.elastic.values()
    }

    #[must_use]
    pub(super) fn interface(&self, id: &InterfaceId) -> Option<&NetworkInterface> {
        self.interfaces.get(id)
    }

    /// The one interface that holds a private address.
    #[must_use]
    pub(super) fn holder(&self, address: Ipv4Addr) -> Option<&NetworkInterface> {
        self.interfaces
            .values()
            .find(|interface| interface.holds(address))
    }

    /// The Elastic IP bound to a private address.
    #[must_use]
    pub(super) fn elastic_of(&self, private: Ipv4Addr) -> Option<(&ElasticIp, &Binding)> {
        self.elastic.values().find_map(|elastic| {
            let binding = elastic.binding.as_ref()?;
            (binding.private == private).then_some((elastic, binding))
        })
    }

    /// The table after `change`, or why EC2 would refuse it. All of the change, or none.
    pub(super) fn with(&self, change: &Change) -> Result<(State, Changed), ApiError> {
        let mut next = self.clone();
        let changed = match change {
            Change::Assign {
                interface,
                addresses,
                allow_reassignment,
            } => next.assign(interface, addresses, *allow_reassignment)?,
            Change::Unassign {
                interface,
                addresses,
            } => next.unassign(interface, addresses)?,
            Change::Associate {
                elastic,
                target,
                private,
                allow_reassociation,
            } => next.associate(elastic, target, *private, *allow_reassociation)?,
            Change::Disassociate { association } => next.disassociate(association)?,
        };
        next.check();
        Ok((next, changed))
    }

    fn assign(
        &mut self,
        id: &InterfaceId,
        addresses: &[Ipv4Addr],
        allow_reassignment: bool,
    ) -> Result<Changed, ApiError> {
        for &address in addresses {
            let interface = self.known(id)?;
            check_subnet(interface.cidr, address)?;
            match self.holder(address) {
                None => {}
                // The wanted state is there already: assigning again is no error.
                Some(holder) if holder.id == *id && holder.primary != address => continue,
                Some(holder) if holder.primary == address => {
                    return Err(ApiError::PrimaryAddress {
                        address,
                        holder: holder.id.clone(),
                    });
                }
                Some(holder) if !allow_reassignment => {
                    return Err(ApiError::AddressInUse {
                        address,
                        holder: holder.id.clone(),
                    });
                }
                Some(holder) => {
                    let old = holder.id.clone();
                    self.known_mut(&old)?.secondaries.remove(&address);
                }
            }
            let interface = self.known_mut(id)?;
            if interface.secondaries.len() >= interface.secondary_limit {
                return Err(ApiError::TooManyAddresses {
                    interface: id.clone(),
                    limit: interface.secondary_limit,
                });
            }
            interface.secondaries.insert(address);
        }
        Ok(Changed::Assigned {
            interface: id.clone(),
            addresses: addresses.to_vec(),
        })
    }

    fn unassign(&mut self, id: &InterfaceId, addresses: &[Ipv4Addr]) -> Result<Changed, ApiError> {
        for &address in addresses {
            let interface = self.known_mut(id)?;
            if interface.primary == address {
                return Err(ApiError::PrimaryAddress {
                    address,
                    holder: id.clone(),
                });
            }
            if !interface.secondaries.remove(&address) {
                return Err(ApiError::NotAssigned {
                    address,
                    interface: id.clone(),
                });
            }
            // An Elastic IP bound to the address loses its binding, and does not get it back when
            // the address is assigned again.
            for elastic in self.elastic.values_mut() {
                elastic
                    .binding
                    .take_if(|binding| binding.private == address);
            }
        }
        Ok(Changed::Unassigned)
    }

    fn associate(
        &mut self,
        name: &ElasticName,
        target: &Target,
        private: Option<Ipv4Addr>,
        allow_reassociation: bool,
    ) -> Result<Changed, ApiError> {
        let interface = self.target(target)?;
        let address = private.unwrap_or(interface.primary);
        if !interface.holds(address) {
            return Err(ApiError::NotAssigned {
                address,
                interface: interface.id.clone(),
            });
        }
        let elastic = self.elastic_named(name)?;
        let allocation = elastic.allocation.clone();
        if let Some(binding) = &elastic.binding {
            if binding.private == address {
                return Ok(Changed::Associated(binding.association.clone()));
            }
            if !allow_reassociation {
                return Err(ApiError::AlreadyAssociated {
                    allocation,
                    association: binding.association.clone(),
                });
            }
        }
        if let Some((other, _)) = self.elastic_of(address) {
            if !allow_reassociation {
                return Err(ApiError::PrivateAddressAssociated {
                    address,
                    allocation: other.allocation.clone(),
                });
            }
            let other = other.allocation.clone();
            if let Some(other) = self.elastic.get_mut(&other) {
                other.binding = None;
            }
        }
        self.associations += 1;
        let association = AssociationId::new(format!("eipassoc-{:017x}", self.associations));
        if let Some(elastic) = self.elastic.get_mut(&allocation) {
            elastic.binding = Some(Binding {
                association: association.clone(),
                private: address,
            });
        }
        Ok(Changed::Associated(association))
    }

    fn disassociate(&mut self, name: &AssociationName) -> Result<Changed, ApiError> {
        let elastic = match name {
            AssociationName::Association(id) => self
                .elastic
                .values_mut()
                .find(|elastic| {
                    elastic
                        .binding
                        .as_ref()
                        .is_some_and(|binding| binding.association == *id)
                })
                .ok_or_else(|| ApiError::UnknownAssociation(id.clone()))?,
            AssociationName::Public(public) => self
                .elastic
                .values_mut()
                .find(|elastic| elastic.public == *public)
                .ok_or(ApiError::UnknownPublicAddress(*public))?,
        };
        elastic.binding = None;
        Ok(Changed::Disassociated)
    }

    fn elastic_named(&self, name: &ElasticName) -> Result<&ElasticIp, ApiError> {
        match name {
            ElasticName::Allocation(id) => self
                .elastic
                .get(id)
                .ok_or_else(|| ApiError::UnknownAllocation(id.clone())),
            ElasticName::Public(public) => self
                .elastic
                .values()
                .find(|elastic| elastic.public == *public)
                .ok_or(ApiError::UnknownPublicAddress(*public)),
        }
    }

    fn target(&self, target: &Target) -> Result<&NetworkInterface, ApiError> {
        match target {
            Target::Interface(id) => self.known(id),
            Target::Instance(id) => self
                .interfaces
                .values()
                .find(|interface| interface.instance == *id)
                .ok_or_else(|| ApiError::UnknownInstance(id.clone())),
        }
    }

    fn known(&self, id: &InterfaceId) -> Result<&NetworkInterface, ApiError> {
        self.interfaces
            .get(id)
            .ok_or_else(|| ApiError::UnknownInterface(id.clone()))
    }

    fn known_mut(&mut self, id: &InterfaceId) -> Result<&mut NetworkInterface, ApiError> {
        self.interfaces
            .get_mut(id)
            .ok_or_else(|| ApiError::UnknownInterface(id.clone()))
    }

    /// Invariants: one holder per private address; a bound address is held and has one Elastic IP.
    fn check(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let mut held = BTreeSet::new();
        for interface in self.interfaces.values() {
            for address in interface.addresses() {
                assert!(held.insert(address), "{address} has two holders");
            }
        }
        let mut bound = BTreeSet::new();
        for binding in self
            .elastic
            .values()
            .filter_map(|elastic| elastic.binding.as_ref())
        {
            let private = binding.private;
            assert!(held.contains(&private), "{private} is bound and not held");
            assert!(bound.insert(private), "{private} has two Elastic IPs");
        }
    }
}

fn check_subnet(cidr: Ipv4Net, address: Ipv4Addr) -> Result<(), ApiError> {
    let first = cidr.network().to_bits().saturating_add(RESERVED_AT_START);
    let last = cidr.broadcast().to_bits();
    if cidr.contains(&address) && (first..last).contains(&address.to_bits()) {
        return Ok(());
    }
    Err(ApiError::OutsideSubnet { address })
}

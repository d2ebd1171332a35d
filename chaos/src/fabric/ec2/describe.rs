//! Which rows of the table a Describe call selects.

use std::net::Ipv4Addr;

use super::error::ApiError;
use super::ids::{AllocationId, InstanceId, InterfaceId};
use super::query::Filter;
use super::state::{ElasticIp, NetworkInterface, State};

/// DescribeNetworkInterfaces. Naming an interface that does not exist is an error.
pub(super) fn interface_rows<'a>(
    state: &'a State,
    ids: &[InterfaceId],
    filters: &[Filter],
) -> Result<Vec<&'a NetworkInterface>, ApiError> {
    if let Some(unknown) = ids.iter().find(|id| state.interface(id).is_none()) {
        return Err(ApiError::UnknownInterface(unknown.clone()));
    }
    let named = |interface: &&NetworkInterface| ids.is_empty() || ids.contains(&interface.id);
    select(
        state.interfaces().filter(named),
        filters,
        |interface, name| {
            Some(match name {
                "network-interface-id" => vec![interface.id.to_string()],
                "subnet-id" => vec![interface.subnet.to_string()],
                "attachment.instance-id" => vec![interface.instance.to_string()],
                "private-ip-address" => vec![interface.primary.to_string()],
                "addresses.private-ip-address" => interface
                    .addresses()
                    .map(|address| address.to_string())
                    .collect(),
                "addresses.association.public-ip" => interface
                    .addresses()
                    .filter_map(|address| state.elastic_of(address))
                    .map(|(elastic, _)| elastic.public.to_string())
                    .collect(),
                _ => return None,
            })
        },
    )
}

/// DescribeAddresses. Naming an Elastic IP that does not exist is an error.
pub(super) fn elastic_rows<'a>(
    state: &'a State,
    allocations: &[AllocationId],
    publics: &[Ipv4Addr],
    filters: &[Filter],
) -> Result<Vec<&'a ElasticIp>, ApiError> {
    for id in allocations {
        if !state.elastic_ips().any(|elastic| elastic.allocation == *id) {
            return Err(ApiError::UnknownAllocation(id.clone()));
        }
    }
    for public in publics {
        if !state.elastic_ips().any(|elastic| elastic.public == *public) {
            return Err(ApiError::UnknownPublicAddress(*public));
        }
    }
    let named = |elastic: &&ElasticIp| {
        (allocations.is_empty() || allocations.contains(&elastic.allocation))
            && (publics.is_empty() || publics.contains(&elastic.public))
    };
    select(
        state.elastic_ips().filter(named),
        filters,
        |elastic, name| {
            let binding = elastic.binding.as_ref();
            let holder = || binding.and_then(|binding| state.holder(binding.private));
            Some(match name {
                "allocation-id" => vec![elastic.allocation.to_string()],
                "public-ip" => vec![elastic.public.to_string()],
                "association-id" => binding.iter().map(|b| b.association.to_string()).collect(),
                "private-ip-address" => binding.iter().map(|b| b.private.to_string()).collect(),
                "network-interface-id" => holder().iter().map(|h| h.id.to_string()).collect(),
                "instance-id" => holder().iter().map(|h| h.instance.to_string()).collect(),
                _ => return None,
            })
        },
    )
}

/// DescribeInstances, each instance by its one interface.
pub(super) fn instance_rows<'a>(
    state: &'a State,
    ids: &[InstanceId],
    filters: &[Filter],
) -> Result<Vec<&'a NetworkInterface>, ApiError> {
    for id in ids {
        if !state
            .interfaces()
            .any(|interface| interface.instance == *id)
        {
            return Err(ApiError::UnknownInstance(id.clone()));
        }
    }
    let named = |interface: &&NetworkInterface| ids.is_empty() || ids.contains(&interface.instance);
    select(
        state.interfaces().filter(named),
        filters,
        |interface, name| {
            Some(match name {
                "instance-id" => vec![interface.instance.to_string()],
                "instance-state-name" => vec!["running".to_owned()],
                "private-ip-address" => vec![interface.primary.to_string()],
                "subnet-id" => vec![interface.subnet.to_string()],
                _ => return None,
            })
        },
    )
}

/// The rows that match every filter. `property` gives a row's values under a filter's name, `None`
/// when there is no filter of that name.
fn select<'a, T>(
    rows: impl Iterator<Item = &'a T>,
    filters: &[Filter],
    property: impl Fn(&T, &str) -> Option<Vec<String>>,
) -> Result<Vec<&'a T>, ApiError> {
    let mut selected = Vec::new();
    for row in rows {
        let mut matches = true;
        for filter in filters {
            let values = property(row, &filter.name)
                .ok_or_else(|| ApiError::InvalidFilter(filter.name.clone()))?;
            // EC2 addresses are compared whole, never as substrings.
            matches &= values.iter().any(|value| filter.values.contains(value));
        }
        if matches {
            selected.push(row);
        }
    }
    Ok(selected)
}

//! The EC2 Query protocol's requests: a form of `Action=…&Parameter.N=…` into a typed call.
//!
//! "Making API requests", EC2 API Reference.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::error::ApiError;
use super::ids::{AllocationId, AssociationId, InstanceId, InterfaceId};
use super::state::{AssociationName, Change, ElasticName, Target};

/// Members of one list parameter, far above what an interface can hold; later ones are refused.
const MAX_LIST: usize = 256;

/// A form, decoded; the first of several values of a name counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Form(BTreeMap<String, String>);

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Change { change: Change, dry_run: bool },
    Describe { what: Describe, dry_run: bool },
}

/// A read. Empty id lists and filters select everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Describe {
    NetworkInterfaces {
        ids: Vec<InterfaceId>,
        filters: Vec<Filter>,
    },
    Addresses {
        allocations: Vec<AllocationId>,
        publics: Vec<Ipv4Addr>,
        filters: Vec<Filter>,
    },
    Instances {
        ids: Vec<InstanceId>,
        filters: Vec<Filter>,
    },
}

/// Matches when any of `values` equals the named property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) name: String,
    pub(super) values: Vec<String>,
}

impl Form {
    #[must_use]
    pub(super) fn decode(bytes: &[u8]) -> Form {
        let mut form = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(bytes) {
            form.entry(name.into_owned())
                .or_insert_with(|| value.into_owned());
        }
        Form(form)
    }

    /// The `Action`, or an empty string.
    #[must_use]
    pub(super) fn action(&self) -> &str {
        self.text("Action").unwrap_or_default()
    }

    /// `name=value` of everything but the protocol's own parameters, for logs.
    #[must_use]
    pub(super) fn summary(&self) -> String {
        let shown = self
            .0
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "Action" | "Version"));
        shown
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn required(&self, name: &'static str) -> Result<&str, ApiError> {
        self.text(name).ok_or(ApiError::MissingParameter(name))
    }

    fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name) {
            None => Ok(false),
            Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
            Some(value) if value.eq_ignore_ascii_case("false") => Ok(false),
            Some(value) => Err(invalid(name, value)),
        }
    }

    fn address(&self, name: &str) -> Result<Option<Ipv4Addr>, ApiError> {
        self.text(name)
            .map(|value| parse_address(name, value))
            .transpose()
    }

    /// `name.1`, `name.2`, … in the order of their numbers.
    fn list(&self, name: &str) -> Result<Vec<&str>, ApiError> {
        let mut members = BTreeMap::new();
        for (key, value) in &self.0 {
            let Some(index) = key
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('.'))
            else {
                continue;
            };
            // `Filter.1.Name` is no member of the list `Filter`.
            let Ok(index) = index.parse::<u32>() else {
                continue;
            };
            members.insert(index, value.as_str());
        }
        if members.len() > MAX_LIST {
            return Err(invalid(name, "too many values"));
        }
        Ok(members.into_values().collect())
    }

    fn addresses(&self, name: &str) -> Result<Vec<Ipv4Addr>, ApiError> {
        let list = self.list(name)?;
        list.into_iter()
            .map(|value| parse_address(name, value))
            .collect()
    }

    fn filters(&self) -> Result<Vec<Filter>, ApiError> {
        let mut filters = Vec::new();
        for number in 1..=MAX_LIST {
            let Some(name) = self.text(&format!("Filter.{number}.Name")) else {
                break;
            };
            let values = self.list(&format!("Filter.{number}.Value"))?;
            filters.push(Filter {
                name: name.to_owned(),
                values: values.into_iter().map(str::to_owned).collect(),
            });
        }
        Ok(filters)
    }
}

impl Request {
    /// Reads a call; unknown actions and malformed parameters get the API's own errors.
    pub(super) fn parse(form: &Form) -> Result<Request, ApiError> {
        let dry_run = form.flag("DryRun")?;
        match form.action() {
            action @ ("AssignPrivateIpAddresses" | "UnassignPrivateIpAddresses")
                if form.text("DryRun").is_some() =>
            {
                // These two have no DryRun in EC2: nothing may rely on it.
                Err(ApiError::UnknownParameter(format!("DryRun of {action}")))
            }
            "AssignPrivateIpAddresses" => change(assign(form)?, dry_run),
            "UnassignPrivateIpAddresses" => change(unassign(form)?, dry_run),
            "AssociateAddress" => change(associate(form)?, dry_run),
            "DisassociateAddress" => change(disassociate(form)?, dry_run),
            "DescribeNetworkInterfaces" => Ok(Request::Describe {
                what: Describe::NetworkInterfaces {
                    ids: ids(form, "NetworkInterfaceId", InterfaceId::new)?,
                    filters: form.filters()?,
                },
                dry_run,
            }),
            "DescribeAddresses" => Ok(Request::Describe {
                what: Describe::Addresses {
                    allocations: ids(form, "AllocationId", AllocationId::new)?,
                    publics: form.addresses("PublicIp")?,
                    filters: form.filters()?,
                },
                dry_run,
            }),
            "DescribeInstances" => Ok(Request::Describe {
                what: Describe::Instances {
                    ids: ids(form, "InstanceId", InstanceId::new)?,
                    filters: form.filters()?,
                },
                dry_run,
            }),
            unknown => Err(ApiError::InvalidAction(unknown.to_owned())),
        }
    }
}

fn change(change: Change, dry_run: bool) -> Result<Request, ApiError> {
    Ok(Request::Change { change, dry_run })
}

/// Only by named addresses: letting EC2 choose one (SecondaryPrivateIpAddressCount) cannot move
/// any.
fn assign(form: &Form) -> Result<Change, ApiError> {
    Ok(Change::Assign {
        interface: InterfaceId::new(form.required("NetworkInterfaceId")?),
        addresses: at_least_one_address(form)?,
        allow_reassignment: form.flag("AllowReassignment")?,
    })
}

fn unassign(form: &Form) -> Result<Change, ApiError> {
    Ok(Change::Unassign {
        interface: InterfaceId::new(form.required("NetworkInterfaceId")?),
        addresses: at_least_one_address(form)?,
    })
}

fn at_least_one_address(form: &Form) -> Result<Vec<Ipv4Addr>, ApiError> {
    let addresses = form.addresses("PrivateIpAddress")?;
    if addresses.is_empty() {
        return Err(ApiError::MissingParameter("PrivateIpAddress"));
    }
    Ok(addresses)
}

fn associate(form: &Form) -> Result<Change, ApiError> {
    let elastic = match (form.text("AllocationId"), form.address("PublicIp")?) {
        (Some(id), _) => ElasticName::Allocation(AllocationId::new(id)),
        (None, Some(public)) => ElasticName::Public(public),
        (None, None) => return Err(ApiError::MissingParameter("AllocationId")),
    };
    let target = match (form.text("NetworkInterfaceId"), form.text("InstanceId")) {
        (Some(id), _) => Target::Interface(InterfaceId::new(id)),
        (None, Some(id)) => Target::Instance(InstanceId::new(id)),
        (None, None) => return Err(ApiError::MissingParameter("NetworkInterfaceId")),
    };
    Ok(Change::Associate {
        elastic,
        target,
        private: form.address("PrivateIpAddress")?,
        allow_reassociation: form.flag("AllowReassociation")?,
    })
}

fn disassociate(form: &Form) -> Result<Change, ApiError> {
    let association = match (form.text("AssociationId"), form.address("PublicIp")?) {
        (Some(id), _) => AssociationName::Association(AssociationId::new(id)),
        (None, Some(public)) => AssociationName::Public(public),
        (None, None) => return Err(ApiError::MissingParameter("AssociationId")),
    };
    Ok(Change::Disassociate { association })
}

fn ids<Id>(form: &Form, name: &str, id: impl Fn(String) -> Id) -> Result<Vec<Id>, ApiError> {
    let list = form.list(name)?;
    Ok(list.into_iter().map(|value| id(value.to_owned())).collect())
}

fn parse_address(name: &str, value: &str) -> Result<Ipv4Addr, ApiError> {
    value.parse().map_err(|_| invalid(name, value))
}

fn invalid(parameter: &str, value: &str) -> ApiError {
    ApiError::InvalidParameter {
        parameter: parameter.to_owned(),
        value: value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(form: &str) -> Result<Request, ApiError> {
        Request::parse(&Form::decode(form.as_bytes()))
    }

    #[test]
    fn an_assign_as_the_sdk_sends_it() {
        let request = parse(
            "Action=AssignPrivateIpAddresses&Version=2016-11-15&AllowReassignment=true\
             &NetworkInterfaceId=eni-0a&PrivateIpAddress.2=10.0.0.101&PrivateIpAddress.1=10.0.0.100",
        );
        assert_eq!(
            request,
            Ok(Request::Change {
                change: Change::Assign {
                    interface: InterfaceId::new("eni-0a"),
                    addresses: vec![Ipv4Addr::new(10, 0, 0, 100), Ipv4Addr::new(10, 0, 0, 101)],
                    allow_reassignment: true,
                },
                dry_run: false,
            })
        );
    }

    #[test]
    fn list_members_are_ordered_by_number_not_by_text() {
        let numbers: String = (1..=11)
            .map(|n| format!("&NetworkInterfaceId.{n}=eni-{n}"))
            .collect();
        let request = parse(&format!("Action=DescribeNetworkInterfaces{numbers}")).unwrap();
        let Request::Describe {
            what: Describe::NetworkInterfaces { ids, .. },
            ..
        } = request
        else {
            panic!("{request:?}");
        };
        assert_eq!(ids[1].as_str(), "eni-2");
        assert_eq!(ids[10].as_str(), "eni-11");
    }

    #[test]
    fn filters_keep_their_values_together() {
        let request = parse(
            "Action=DescribeAddresses&Filter.1.Name=public-ip&Filter.1.Value.1=203.0.113.100\
             &Filter.2.Name=allocation-id&Filter.2.Value.1=x&Filter.2.Value.2=y",
        );
        let Ok(Request::Describe {
            what: Describe::Addresses { filters, .. },
            ..
        }) = request
        else {
            panic!("{request:?}");
        };
        assert_eq!(filters[0].values, ["203.0.113.100"]);
        assert_eq!(filters[1].values, ["x", "y"]);
    }

    #[test]
    fn refusals_carry_the_apis_codes() {
        let cases = [
            ("Action=LaunchRocket", "InvalidAction"),
            ("", "InvalidAction"),
            ("Action=AssignPrivateIpAddresses", "MissingParameter"),
            (
                "Action=AssignPrivateIpAddresses&NetworkInterfaceId=eni-0a",
                "MissingParameter",
            ),
            (
                "Action=AssignPrivateIpAddresses&NetworkInterfaceId=e&PrivateIpAddress.1=10.0.0",
                "InvalidParameterValue",
            ),
            (
                "Action=AssignPrivateIpAddresses&DryRun=true&NetworkInterfaceId=e\
                 &PrivateIpAddress.1=10.0.0.9",
                "UnknownParameter",
            ),
            ("Action=AssociateAddress&AllocationId=x", "MissingParameter"),
            ("Action=DisassociateAddress", "MissingParameter"),
            (
                "Action=DescribeInstances&DryRun=perhaps",
                "InvalidParameterValue",
            ),
        ];
        for (form, code) in cases {
            assert_eq!(parse(form).unwrap_err().code(), code, "{form}");
        }
    }
}

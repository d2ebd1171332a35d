//! The answers of the EC2 Query protocol as XML documents.

use std::fmt::Display;
use std::net::Ipv4Addr;

use super::describe::{elastic_rows, instance_rows, interface_rows};
use super::error::ApiError;
use super::query::Describe;
use super::state::{Changed, ElasticIp, NetworkInterface, State};

/// The API version that current SDKs ask for.
const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";
const ACCOUNT: &str = "123456789012";
const ZONE: &str = "eu-central-1a";

/// Builds a document element by element; text is escaped.
#[derive(Debug, Default)]
struct Xml {
    text: String,
}

impl Xml {
    fn element(&mut self, name: &str, content: impl FnOnce(&mut Xml)) {
        self.text.push_str(&format!("<{name}>"));
        content(self);
        self.text.push_str(&format!("</{name}>"));
    }

    fn value(&mut self, name: &str, value: impl Display) {
        let escaped = escape(&value.to_string());
        self.element(name, |xml| xml.text.push_str(&escaped));
    }

    fn items<T>(
        &mut self,
        name: &str,
        rows: impl IntoIterator<Item = T>,
        item: impl Fn(&mut Xml, T),
    ) {
        self.element(name, |xml| {
            for row in rows {
                xml.element("item", |xml| item(xml, row));
            }
        });
    }
}

fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, character| {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 s2.2 has no control characters but these, not even escaped.
            other if other.is_control() && !matches!(other, '\t' | '\n' | '\r') => {
                escaped.push('\u{fffd}');
            }
            other => escaped.push(other),
        }
        escaped
    })
}

/// A `{Action}Response` document.
fn response(action: &str, request_id: &str, content: impl FnOnce(&mut Xml)) -> String {
    let mut xml = Xml::default();
    xml.value("requestId", request_id);
    content(&mut xml);
    let body = xml.text;
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <{action}Response xmlns=\"{NAMESPACE}\">{body}</{action}Response>"
    )
}

/// The answer to a successful change.
#[must_use]
pub(super) fn changed(changed: &Changed, request_id: &str) -> String {
    match changed {
        Changed::Assigned {
            interface,
            addresses,
        } => response("AssignPrivateIpAddresses", request_id, |xml| {
            xml.value("networkInterfaceId", interface);
            xml.items(
                "assignedPrivateIpAddressesSet",
                addresses,
                |xml, address| {
                    xml.value("privateIpAddress", address);
                },
            );
            xml.value("return", true);
        }),
        Changed::Unassigned => response("UnassignPrivateIpAddresses", request_id, |xml| {
            xml.value("return", true);
        }),
        Changed::Associated(association) => response("AssociateAddress", request_id, |xml| {
            xml.value("return", true);
            xml.value("associationId", association);
        }),
        Changed::Disassociated => response("DisassociateAddress", request_id, |xml| {
            xml.value("return", true);
        }),
    }
}

/// The answer to a read of `state`.
pub(super) fn described(
    state: &State,
    what: &Describe,
    request_id: &str,
) -> Result<String, ApiError> {
    Ok(match what {
        Describe::NetworkInterfaces { ids, filters } => {
            let rows = interface_rows(state, ids, filters)?;
            response("DescribeNetworkInterfaces", request_id, |xml| {
                xml.items("networkInterfaceSet", rows, |xml, interface| {
                    network_interface(xml, state, interface);
                });
            })
        }
        Describe::Addresses {
            allocations,
            publics,
            filters,
        } => {
            let rows = elastic_rows(state, allocations, publics, filters)?;
            response("DescribeAddresses", request_id, |xml| {
                xml.items("addressesSet", rows, |xml, elastic| {
                    elastic_ip(xml, state, elastic);
                });
            })
        }
        Describe::Instances { ids, filters } => {
            let rows = instance_rows(state, ids, filters)?;
            response("DescribeInstances", request_id, |xml| {
                xml.items("reservationSet", rows, |xml, interface| {
                    reservation(xml, state, interface);
                });
            })
        }
    })
}

/// The error document.
#[must_use]
pub(super) fn error(error: &ApiError, request_id: &str) -> String {
    let mut xml = Xml::default();
    xml.element("Response", |xml| {
        xml.element("Errors", |xml| {
            xml.element("Error", |xml| {
                xml.value("Code", error.code());
                xml.value("Message", error);
            });
        });
        xml.value("RequestID", request_id);
    });
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", xml.text)
}

fn network_interface(xml: &mut Xml, state: &State, interface: &NetworkInterface) {
    xml.value("networkInterfaceId", &interface.id);
    xml.value("subnetId", &interface.subnet);
    xml.value("availabilityZone", ZONE);
    xml.value("ownerId", ACCOUNT);
    xml.value("status", "in-use");
    xml.value("privateIpAddress", interface.primary);
    xml.value("sourceDestCheck", true);
    xml.element("attachment", |xml| {
        xml.value("instanceId", &interface.instance);
        xml.value("deviceIndex", 0);
        xml.value("status", "attached");
    });
    association(xml, state, interface.primary);
    xml.items(
        "privateIpAddressesSet",
        interface.addresses(),
        |xml, address| {
            xml.value("privateIpAddress", address);
            xml.value("primary", address == interface.primary);
            association(xml, state, address);
        },
    );
}

/// The Elastic IP of a private address, where it has one.
fn association(xml: &mut Xml, state: &State, private: Ipv4Addr) {
    let Some((elastic, binding)) = state.elastic_of(private) else {
        return;
    };
    xml.element("association", |xml| {
        xml.value("publicIp", elastic.public);
        xml.value("ipOwnerId", ACCOUNT);
        xml.value("allocationId", &elastic.allocation);
        xml.value("associationId", &binding.association);
    });
}

fn elastic_ip(xml: &mut Xml, state: &State, elastic: &ElasticIp) {
    xml.value("publicIp", elastic.public);
    xml.value("allocationId", &elastic.allocation);
    xml.value("domain", "vpc");
    let Some(binding) = &elastic.binding else {
        return;
    };
    xml.value("associationId", &binding.association);
    xml.value("privateIpAddress", binding.private);
    if let Some(holder) = state.holder(binding.private) {
        xml.value("networkInterfaceId", &holder.id);
        xml.value("networkInterfaceOwnerId", ACCOUNT);
        xml.value("instanceId", &holder.instance);
    }
}

/// Every instance has one interface, so one reservation with one instance each.
fn reservation(xml: &mut Xml, state: &State, interface: &NetworkInterface) {
    xml.value("ownerId", ACCOUNT);
    xml.element("instancesSet", |xml| {
        xml.element("item", |xml| {
            xml.value("instanceId", &interface.instance);
            xml.element("instanceState", |xml| {
                xml.value("code", 16);
                xml.value("name", "running");
            });
            xml.value("privateIpAddress", interface.primary);
            xml.value("subnetId", &interface.subnet);
            xml.items("networkInterfaceSet", [interface], |xml, interface| {
                network_interface(xml, state, interface);
            });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_action_has_the_documented_error_form() {
        let document = error(&ApiError::InvalidAction("A&B<c>".to_owned()), "r-1");
        assert_eq!(
            document,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error>\
             <Code>InvalidAction</Code><Message>The action A&amp;B&lt;c&gt; is not valid for this \
             web service.</Message></Error></Errors><RequestID>r-1</RequestID></Response>"
        );
    }

    #[test]
    fn control_characters_cannot_break_the_document() {
        assert_eq!(escape("a\u{0}b\u{1b}\n"), "a\u{fffd}b\u{fffd}\n");
    }
}

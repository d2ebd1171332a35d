//! Dialogs (RFC 3261 section 12): what a leg learns from messages, and how its own requests are addressed.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::flow::{Flow, FlowRecord, Transport};
use crate::message::{Host, Message, Name, NameAddr, Uri};
use crate::record::LegRecord;

/// RFC 3261 section 19.1.2: the port of a SIP URI over UDP that names none.
pub(crate) const DEFAULT_PORT: u16 = 5060;

/// Routes kept of one peer. RFC 3261 knows no bound; a real path has two or three. More are cut from the far end.
const MAX_ROUTES: usize = 16;

/// Request-URI and Route values of a request inside the dialog.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Addressing {
    pub uri: Bytes,
    pub routes: Vec<Bytes>,
}

impl LegRecord {
    /// What an INVITE that asks for a dialog says about its sender (RFC 3261 section 12.1.1).
    pub(crate) fn learn_from_request(&mut self, request: &Message, source: Flow) {
        self.remote_tag = Bytes::copy_from_slice(request.from_tag().unwrap_or_default());
        self.remote_address = address_of(&request.from());
        self.local_address = address_of(&request.to());
        self.remote_sequence = Some(request.cseq().0);
        // "all URIs in the Record-Route header field from the request, taken in order"
        self.route_set = request
            .values(Name::RecordRoute)
            .take(MAX_ROUTES)
            .map(Bytes::copy_from_slice)
            .collect();
        self.flow = Some(FlowRecord::from(source));
        self.learn_target(request);
        let via = request.top_via();
        let sent_from = via.port.unwrap_or(DEFAULT_PORT) == source.remote.port()
            && ip_of(via.host).is_none_or(|ip| ip == source.remote.ip().to_canonical());
        self.behind_nat |= !sent_from && self.route_set.is_empty();
    }

    /// What the 2xx that makes the dialog says about its sender (RFC 3261 section 12.1.2).
    pub(crate) fn learn_from_response(&mut self, response: &Message) {
        self.remote_tag = Bytes::copy_from_slice(response.to_tag().unwrap_or_default());
        // "taken in reverse order"
        let mut routes: Vec<Bytes> = response
            .values(Name::RecordRoute)
            .take(MAX_ROUTES)
            .map(Bytes::copy_from_slice)
            .collect();
        routes.reverse();
        self.route_set = routes;
        self.learn_target(response);
    }

    /// Target refresh (RFC 3261 section 12.2): INVITE and its 2xx may move the peer's Contact.
    pub(crate) fn learn_target(&mut self, message: &Message) {
        if let Some(uri) = message.contact_uri() {
            self.remote_target = Bytes::copy_from_slice(uri);
        }
        let allow: Vec<&[u8]> = message.values(Name::Allow).collect();
        if !allow.is_empty() {
            self.allow = Some(Bytes::from(allow.join(b",".as_slice())));
        }
        self.behind_nat |= self.peer_flow().is_some_and(|flow| {
            uri_address(&self.remote_target)
                .is_some_and(|contact| is_private(contact.ip()) && !is_private(flow.remote.ip()))
        });
    }

    /// RFC 3261 section 12.2.1.1.
    pub(crate) fn addressing(&self) -> Addressing {
        let target = self.remote_target();
        let Some((first, rest)) = self.route_set.split_first() else {
            return Addressing {
                uri: target,
                routes: Vec::new(),
            };
        };
        if is_loose(first) {
            return Addressing {
                uri: target,
                routes: self.route_set.clone(),
            };
        }
        // A strict router: "place the first URI from the route set into the Request-URI", the target goes last.
        let mut routes = rest.to_vec();
        routes.push(Bytes::from([b"<".as_slice(), &target, b">"].concat()));
        let uri = NameAddr::parse(first)
            .map_or_else(|| target, |route| Bytes::copy_from_slice(route.uri));
        Addressing { uri, routes }
    }

    fn remote_target(&self) -> Bytes {
        if !self.remote_target.is_empty() {
            return self.remote_target.clone();
        }
        let address = self
            .peer_flow()
            .map_or_else(String::new, |flow| flow.remote.to_string());
        Bytes::from(format!("sip:{address}"))
    }

    /// Where a request of ours goes: the first route, else the Contact, as far as they are addresses; a peer behind a
    /// NAT, or one that gives a name, is reached where its own messages come from.
    pub(crate) fn next_hop(&self) -> Option<Flow> {
        let flow = self.peer_flow()?;
        let uri = match self.route_set.first() {
            Some(route) => NameAddr::parse(route)?.uri,
            None if self.behind_nat => return Some(flow),
            None => &self.remote_target,
        };
        let remote = uri_address(uri).filter(|remote| remote.is_ipv4() == flow.remote.is_ipv4());
        Some(Flow {
            realm: flow.realm,
            transport: Transport::Udp,
            remote: remote.unwrap_or(flow.remote),
        })
    }

    /// Whether the peer takes a method. Without an Allow list nothing is known, so it is tried (RFC 3261 section
    /// 20.5).
    pub(crate) fn allows(&self, method: &str) -> bool {
        self.allow.as_ref().is_none_or(|allow| {
            allow
                .split(|byte| *byte == b',')
                .any(|item| item.trim_ascii() == method.as_bytes())
        })
    }
}

/// Display name and URI, without the header's parameters.
pub(crate) fn address_of(name: &NameAddr<'_>) -> Bytes {
    with_uri(name, name.uri)
}

/// The same display name in front of another URI.
pub(crate) fn with_uri(name: &NameAddr<'_>, uri: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(uri.len() + 2);
    if let Some(display) = name.display.filter(|display| !display.is_empty()) {
        out.extend_from_slice(display);
        out.push(b' ');
    }
    out.push(b'<');
    out.extend_from_slice(uri);
    out.push(b'>');
    Bytes::from(out)
}

fn is_loose(route: &[u8]) -> bool {
    NameAddr::parse(route)
        .and_then(|route| route.parsed_uri())
        .and_then(|uri| uri.sip().map(|uri| uri.parameters.has("lr")))
        .unwrap_or(false)
}

fn uri_address(uri: &[u8]) -> Option<SocketAddr> {
    let uri = Uri::parse(uri)?;
    let uri = uri.sip()?;
    Some(SocketAddr::new(
        ip_of(uri.host)?,
        uri.port.unwrap_or(DEFAULT_PORT),
    ))
}

fn ip_of(host: Host<'_>) -> Option<IpAddr> {
    match host {
        Host::Name(_) => None,
        Host::V4(ip) => Some(IpAddr::V4(ip)),
        Host::V6(ip) => Some(IpAddr::V6(ip)),
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_private() || ip.is_link_local() || ip.is_loopback() || ip.is_unspecified()
        }
        IpAddr::V6(ip) => {
            ip.is_unique_local()
                || ip.is_unicast_link_local()
                || ip.is_loopback()
                || ip.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::flow::RealmId;

    fn leg(routes: &[&'static str], target: &'static str, peer: &str) -> LegRecord {
        let flow = Flow {
            realm: RealmId(1),
            transport: Transport::Udp,
            remote: peer.parse().unwrap(),
        };
        LegRecord {
            route_set: routes
                .iter()
                .map(|route| Bytes::from_static(route.as_bytes()))
                .collect(),
            remote_target: Bytes::from_static(target.as_bytes()),
            flow: Some(FlowRecord::from(flow)),
            ..LegRecord::default()
        }
    }

    fn hop(leg: &LegRecord) -> String {
        leg.next_hop().unwrap().remote.to_string()
    }

    #[test]
    fn a_loose_router_leaves_the_request_uri() {
        let leg = leg(
            &["<sip:192.0.2.1;lr>", "<sip:192.0.2.2;lr>"],
            "sip:bob@192.0.2.9",
            "192.0.2.1:5060",
        );
        let addressing = leg.addressing();
        assert_eq!(addressing.uri, "sip:bob@192.0.2.9");
        assert_eq!(addressing.routes, leg.route_set);
        assert_eq!(hop(&leg), "192.0.2.1:5060");
    }

    #[test]
    fn a_strict_router_takes_the_request_uri() {
        let leg = leg(
            &["<sip:192.0.2.1:5080>", "<sip:192.0.2.2;lr>"],
            "sip:bob@192.0.2.9",
            "192.0.2.7:5060",
        );
        let addressing = leg.addressing();
        assert_eq!(addressing.uri, "sip:192.0.2.1:5080");
        assert_eq!(
            addressing.routes,
            ["<sip:192.0.2.2;lr>", "<sip:bob@192.0.2.9>"]
        );
        assert_eq!(hop(&leg), "192.0.2.1:5080");
    }

    #[test]
    fn a_name_or_another_family_is_reached_where_its_messages_come_from() {
        assert_eq!(
            hop(&leg(&[], "sip:bob@pbx.example", "192.0.2.7:5066")),
            "192.0.2.7:5066"
        );
        assert_eq!(
            hop(&leg(&[], "sip:bob@[2001:db8::1]", "192.0.2.7:5066")),
            "192.0.2.7:5066"
        );
        assert_eq!(
            hop(&leg(&[], "sip:bob@192.0.2.9", "192.0.2.7:5066")),
            "192.0.2.9:5060"
        );
        assert_eq!(hop(&leg(&[], "", "192.0.2.7:5066")), "192.0.2.7:5066");
    }

    #[test]
    fn a_private_contact_of_a_public_peer_is_behind_nat() {
        let response = |contact: &str| {
            let text = format!(
                "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 203.0.113.1;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\n\
                 To: <sip:c@d>;tag=2\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContact: {contact}\r\nContent-Length: 0\r\n\r\n"
            );
            Message::parse(Bytes::from(text)).unwrap()
        };
        let mut behind = leg(&[], "", "198.51.100.7:40000");
        behind.learn_from_response(&response("<sip:bob@192.168.1.5:5060>"));
        assert_eq!(hop(&behind), "198.51.100.7:40000");
        let mut direct = leg(&[], "", "198.51.100.7:40000");
        direct.learn_from_response(&response("<sip:bob@198.51.100.8>"));
        assert_eq!(hop(&direct), "198.51.100.8:5060");
        let mut inside = leg(&[], "", "192.168.1.1:5060");
        inside.learn_from_response(&response("<sip:bob@192.168.1.5:5060>"));
        assert_eq!(hop(&inside), "192.168.1.5:5060");
    }

    #[test]
    fn an_allow_list_is_believed_and_its_absence_says_nothing() {
        let mut leg = leg(&[], "", "192.0.2.7:5066");
        assert!(leg.allows("INFO"));
        leg.allow = Some(Bytes::from_static(b"INVITE, ACK,BYE"));
        assert!(leg.allows("BYE") && !leg.allows("INFO"));
    }
}

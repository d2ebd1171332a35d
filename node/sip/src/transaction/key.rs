//! Which transaction a message belongs to.

use bytes::Bytes;

use crate::message::{Message, Method, Via};

/// Never part of the texts a key is made of: no message holds a line end inside a value.
const SEPARATOR: u8 = b'\n';

/// RFC 3261 section 17.1.3: a response belongs to the request with the same branch and CSeq method. The method
/// tells a CANCEL, which shares the branch, from its INVITE.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(Bytes);

/// RFC 3261 section 17.2.3: branch, sent-by and method, an ACK counting as INVITE. Without the magic cookie the
/// rules of RFC 2543 apply: Request-URI, tags, Call-ID, CSeq number and top Via.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerKey(Bytes);

impl ClientKey {
    /// Of a response received or a request to send.
    pub fn of(message: &Message) -> ClientKey {
        let via = message.top_via();
        ClientKey(join(&[
            via.branch().unwrap_or_default(),
            message.method().text().as_bytes(),
        ]))
    }

    /// The form kept in records.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    pub(super) fn from_record(bytes: Bytes) -> ClientKey {
        ClientKey(bytes)
    }
}

impl ServerKey {
    /// Of a request received. `received` and `rport` play no part, so it does not matter whether they are filled
    /// in yet.
    pub fn of(request: &Message) -> ServerKey {
        let method = match request.method() {
            Method::Ack => Method::Invite,
            other => other,
        };
        ServerKey::with_method(request, method)
    }

    /// Of the INVITE that a CANCEL aims at (RFC 3261 section 9.2: match as if the method were the original's).
    pub fn of_cancelled(cancel: &Message) -> ServerKey {
        ServerKey::with_method(cancel, Method::Invite)
    }

    /// The form kept in records.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    pub(super) fn from_record(bytes: Bytes) -> ServerKey {
        ServerKey(bytes)
    }

    fn with_method(request: &Message, method: Method<'_>) -> ServerKey {
        let via = request.top_via();
        let branch = via.branch().unwrap_or_default();
        let sent_by = sent_by(&via);
        let method_text = method.text().as_bytes();
        if via.has_cookie() {
            return ServerKey(join(&[branch, sent_by.as_bytes(), method_text]));
        }
        // The To tag of an ACK is the response's, not the INVITE's, so it cannot be part of their common key; the
        // other fields tell INVITE transactions apart as well.
        let to_tag = match method {
            Method::Invite => None,
            _ => request.to_tag(),
        };
        let (sequence, _) = request.cseq();
        ServerKey(join(&[
            request.request_uri().unwrap_or_default(),
            to_tag.unwrap_or_default(),
            request.from_tag().unwrap_or_default(),
            request.call_id(),
            sequence.to_string().as_bytes(),
            branch,
            sent_by.as_bytes(),
            method_text,
        ]))
    }
}

/// Host names compare without regard to case; an absent port is the default one.
fn sent_by(via: &Via<'_>) -> String {
    format!(
        "{}:{}",
        via.host.to_string().to_ascii_lowercase(),
        via.port_or_default()
    )
}

fn join(parts: &[&[u8]]) -> Bytes {
    Bytes::from(parts.join(&SEPARATOR))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn request(method: &str, via: &str, to: &str) -> Message {
        let text = format!(
            "{method} sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/UDP {via}\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:b@c>{to}\r\nCall-ID: x\r\nCSeq: 5 {method}\r\nContent-Length: 0\r\n\r\n"
        );
        Message::parse(Bytes::from(text)).unwrap()
    }

    #[test]
    fn the_cookie_makes_the_branch_decide() {
        let invite = ServerKey::of(&request("INVITE", "Host.example;branch=z9hG4bKa", ""));
        let same = "host.example:5060;rport=7;received=192.0.2.1;branch=z9hG4bKa";
        assert_eq!(invite, ServerKey::of(&request("INVITE", same, "")));
        assert_eq!(invite, ServerKey::of(&request("ACK", same, ";tag=2")));
        assert_eq!(
            invite,
            ServerKey::of_cancelled(&request("CANCEL", same, ""))
        );
        assert_ne!(invite, ServerKey::of(&request("CANCEL", same, "")));
        assert_ne!(
            invite,
            ServerKey::of(&request("INVITE", "host.example:5061;branch=z9hG4bKa", ""))
        );
        assert_ne!(
            invite,
            ServerKey::of(&request("INVITE", "host.example;branch=z9hG4bKb", ""))
        );
    }

    #[test]
    fn without_cookie_the_rules_of_rfc_2543_decide() {
        let via = "host.example;branch=1";
        let invite = ServerKey::of(&request("INVITE", via, ""));
        assert_eq!(invite, ServerKey::of(&request("ACK", via, ";tag=2")));
        assert_eq!(invite, ServerKey::of_cancelled(&request("CANCEL", via, "")));
        assert_ne!(
            invite,
            ServerKey::of(&request("INVITE", "other.example;branch=1", ""))
        );
        let bye = ServerKey::of(&request("BYE", "host.example;branch=z9hG4bK", ";tag=2"));
        assert_ne!(
            bye,
            ServerKey::of(&request("BYE", "host.example;branch=z9hG4bK", ";tag=3"))
        );
    }

    #[test]
    fn a_response_finds_its_request_by_branch_and_method() {
        let invite = request("INVITE", "host.example;branch=z9hG4bKa", "");
        let cancel = request("CANCEL", "host.example;branch=z9hG4bKa", "");
        assert_ne!(ClientKey::of(&invite), ClientKey::of(&cancel));
        let response = crate::message::Builder::response_to(&cancel, 200, "OK", None)
            .build()
            .unwrap();
        assert_eq!(
            ClientKey::of(&Message::parse(response).unwrap()),
            ClientKey::of(&cancel)
        );
    }
}

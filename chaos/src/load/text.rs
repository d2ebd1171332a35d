//! The few SIP messages of a load, as text. A call's number is the user of its request URI and the head of its
//! Call-ID.

use std::fmt::Write;
use std::net::SocketAddr;

/// Never opened: nothing is sent to it but what the pair forwards, and nobody speaks.
const MEDIA_PORT: u16 = 30_000;

/// A message's lines; a body is not looked at.
#[derive(Debug)]
pub(super) struct Message<'a> {
    first: &'a str,
    headers: Vec<(&'a str, &'a str)>,
}

impl<'a> Message<'a> {
    /// `None` for what is not text with a first line.
    pub(super) fn parse(datagram: &'a [u8]) -> Option<Message<'a>> {
        let text = std::str::from_utf8(datagram).ok()?;
        let (head, _) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let first = lines.next()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        Some(Message { first, headers })
    }

    /// Status of a response.
    pub(super) fn status(&self) -> Option<u16> {
        let rest = self.first.strip_prefix("SIP/2.0 ")?;
        rest.split(' ').next()?.parse().ok()
    }

    /// Method and call of a request.
    pub(super) fn request(&self) -> Option<(&'a str, u32)> {
        let (method, rest) = self.first.split_once(" sip:")?;
        let (user, _) = rest.split_once('@')?;
        Some((method, user.parse().ok()?))
    }

    /// Call of a response that the caller gets.
    pub(super) fn number(&self) -> Option<u32> {
        let (number, _) = self.header("Call-ID")?.split_once('@')?;
        number.parse().ok()
    }

    fn header(&self, name: &str) -> Option<&'a str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }
}

pub(super) fn invite(number: u32, own: SocketAddr, border: SocketAddr, media: bool) -> Vec<u8> {
    let body = description(own, media);
    format!(
        "INVITE sip:{number}@{border} SIP/2.0\r\n\
         Via: SIP/2.0/UDP {own};branch=z9hG4bKi{number}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:load@{own}>;tag=c{number}\r\n\
         To: <sip:{number}@{border}>\r\n\
         Call-ID: {number}@load\r\n\
         CSeq: 1 INVITE\r\n\
         Contact: <sip:load@{own}>\r\n\
         Content-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The ACK for a final response; `None` when that lacks what it must have. One to a refusal belongs to the
/// INVITE's transaction (RFC 3261 section 17.1.1.3), one to an answer is a transaction of its own.
pub(super) fn ack(response: &Message<'_>, number: u32, own: SocketAddr) -> Option<Vec<u8>> {
    let to = response.header("To")?;
    let from = response.header("From")?;
    let (uri, branch) = match response.status()? {
        200..300 => (uri_of(response.header("Contact")?)?, 'a'),
        _ => (uri_of(to)?, 'i'),
    };
    let text = format!(
        "ACK {uri} SIP/2.0\r\n\
         Via: SIP/2.0/UDP {own};branch=z9hG4bK{branch}{number}\r\n\
         Max-Forwards: 70\r\n\
         From: {from}\r\n\
         To: {to}\r\n\
         Call-ID: {number}@load\r\n\
         CSeq: 1 ACK\r\n\
         Content-Length: 0\r\n\r\n"
    );
    Some(text.into_bytes())
}

/// 200 to an INVITE, with what RFC 3261 section 8.2.6.2 says to copy.
pub(super) fn answer(request: &Message<'_>, number: u32, own: SocketAddr, media: bool) -> Vec<u8> {
    let mut text = String::from("SIP/2.0 200 OK\r\n");
    for name in ["Via", "Record-Route", "From", "Call-ID", "CSeq"] {
        for value in request.all(name) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{name}: {value}\r\n");
        }
    }
    let to = request.header("To").unwrap_or_default();
    let body = description(own, media);
    let _ = write!(
        text,
        "To: {to};tag=d{number}\r\n\
         Contact: <sip:{number}@{own}>\r\n\
         Content-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    text.into_bytes()
}

fn description(own: SocketAddr, media: bool) -> String {
    let address = own.ip();
    let port = if media { MEDIA_PORT } else { 0 };
    format!(
        "v=0\r\no=load 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP 0\r\n"
    )
}

/// The URI of a name-addr or addr-spec.
fn uri_of(value: &str) -> Option<&str> {
    match value.split_once('<') {
        Some((_, rest)) => rest.split_once('>').map(|(uri, _)| uri),
        None => value.split(';').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "192.0.2.1:5060";

    #[test]
    fn an_answer_and_its_ack_belong_to_the_invite() {
        let own = OWN.parse().expect("a literal address");
        let border = "192.0.2.100:5060".parse().expect("a literal address");
        let invite = invite(17, own, border, true);
        let request = Message::parse(&invite).expect("a message");
        assert_eq!(request.request(), Some(("INVITE", 17)));
        let answer = answer(&request, 17, own, true);
        let response = Message::parse(&answer).expect("a message");
        assert_eq!(
            (response.status(), response.number()),
            (Some(200), Some(17))
        );
        let ack = ack(&response, 17, own).expect("an ACK");
        let ack = Message::parse(&ack).expect("a message");
        assert_eq!(ack.request(), Some(("ACK", 17)));
        assert_eq!(ack.header("To"), Some("<sip:17@192.0.2.100:5060>;tag=d17"));
    }

    #[test]
    fn a_refusal_is_acknowledged_within_its_transaction() {
        let refusal = b"SIP/2.0 503 Service Unavailable\r\nTo: <sip:1@x>;tag=q\r\nFrom: <sip:load@y>;tag=c1\r\n\
                        Call-ID: 1@load\r\nContent-Length: 0\r\n\r\n";
        let response = Message::parse(refusal).expect("a message");
        let ack = ack(&response, 1, OWN.parse().expect("a literal address")).expect("an ACK");
        let text = String::from_utf8(ack).expect("ASCII");
        assert!(text.starts_with("ACK sip:1@x SIP/2.0\r\n"), "{text}");
        assert!(text.contains("branch=z9hG4bKi1\r\n"), "{text}");
    }
}

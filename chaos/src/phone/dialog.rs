//! One end of a dialog (RFC 3261 section 12): what every request inside it is made of.

use std::net::SocketAddr;

use rsip::prelude::UntypedHeader;
use rsip::{Header, Method, Uri};

use super::message;

/// The dialog, from the first INVITE on; it is confirmed once `remote_tag` is known.
#[derive(Debug)]
pub(super) struct Dialog {
    pub(super) call_id: String,
    /// Value of From in requests sent, tag included.
    pub(super) local: String,
    pub(super) local_tag: String,
    /// Value of To in requests sent, with the tag once known.
    pub(super) remote: String,
    pub(super) remote_tag: Option<String>,
    pub(super) local_cseq: u32,
    /// Highest CSeq received; None before the first request.
    pub(super) remote_cseq: Option<u32>,
    /// Values of Route, first hop first.
    pub(super) routes: Vec<String>,
    /// Request-URI of requests sent.
    pub(super) target: Uri,
    /// Where requests go whose next hop is not a literal address.
    pub(super) fallback: SocketAddr,
    /// The phone's own transport address.
    pub(super) here: SocketAddr,
    /// User part of the phone's Contact.
    pub(super) user: String,
}

impl Dialog {
    /// The Contact of this end.
    pub(super) fn contact(&self) -> Header {
        rsip::headers::Contact::new(format!("<sip:{}@{}>", self.user, self.here)).into()
    }

    /// Builds a request and names its next hop. An ACK takes the number of the INVITE it answers
    /// (RFC 3261 section 13.2.2.4), so `cseq` is the caller's to choose.
    pub(super) fn request(
        &self,
        method: Method,
        cseq: u32,
        branch: &str,
        extra: Vec<Header>,
        body: Vec<u8>,
    ) -> (Vec<u8>, SocketAddr) {
        let mut headers: Vec<Header> = vec![
            rsip::headers::Via::new(format!("SIP/2.0/UDP {};rport;branch={branch}", self.here))
                .into(),
            rsip::headers::From::new(self.local.clone()).into(),
            rsip::headers::To::new(self.remote.clone()).into(),
            rsip::headers::CallId::new(self.call_id.clone()).into(),
            rsip::headers::CSeq::new(format!("{cseq} {method}")).into(),
        ];
        headers.extend(
            self.routes
                .iter()
                .map(|route| rsip::headers::Route::new(route.clone()).into()),
        );
        headers.extend(extra);
        (
            message::request(method, self.target.clone(), headers, body),
            self.next_hop(),
        )
    }

    /// Next number for a request that starts a transaction.
    pub(super) fn next_cseq(&mut self) -> u32 {
        self.local_cseq += 1;
        self.local_cseq
    }

    /// Whether a request with these tags belongs to the confirmed dialog.
    pub(super) fn matches(&self, identity: &message::Identity) -> bool {
        identity.to_tag.as_deref() == Some(self.local_tag.as_str())
            && self.remote_tag.is_some()
            && identity.from_tag == self.remote_tag
    }

    fn next_hop(&self) -> SocketAddr {
        let uri = self
            .routes
            .first()
            .map_or(Some(self.target.clone()), |route| message::route_uri(route));
        uri.as_ref()
            .and_then(message::address)
            .unwrap_or(self.fallback)
    }
}

//! Watching the kernel for changes of the addresses and of the link.
//!
//! One task per watch, ended when the watch is dropped. It holds no state worth keeping: when its socket
//! fails it opens another one and reports a change, since it may have missed some. Changes coalesce: a
//! reader that is late sees one of each kind.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::mover::Change;
use crate::netlink::local_address;

/// Pause before a failed socket is opened again. The regular looks go on meanwhile.
const REOPEN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct AddressWatch {
    signals: Arc<Signals>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Signals {
    addresses: Notify,
    link_up: Notify,
}

impl AddressWatch {
    pub(crate) fn start(interface: String, addresses: Vec<IpAddr>) -> AddressWatch {
        let signals = Arc::new(Signals::default());
        let watcher = Watcher {
            interface,
            addresses,
            signals: signals.clone(),
            carrier: None,
        };
        AddressWatch {
            signals,
            task: tokio::spawn(watcher.run()),
        }
    }

    pub(crate) async fn changed(&self) -> Change {
        tokio::select! {
            () = self.signals.addresses.notified() => Change::Addresses,
            () = self.signals.link_up.notified() => Change::LinkUp,
        }
    }
}

impl Drop for AddressWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watcher {
    interface: String,
    addresses: Vec<IpAddr>,
    signals: Arc<Signals>,
    /// Whether the link had its carrier when last heard of.
    carrier: Option<bool>,
}

impl Watcher {
    async fn run(mut self) {
        loop {
            let error = match self.follow().await {
                Ok(()) => "the netlink socket closed".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(
                interface = self.interface,
                error,
                "watching the interface failed"
            );
            tokio::time::sleep(REOPEN).await;
        }
    }

    async fn follow(&mut self) -> std::io::Result<()> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, _handle, mut messages) = new_multicast_connection(&groups)?;
        let mut connection = std::pin::pin!(connection);
        self.signals.addresses.notify_one();
        loop {
            tokio::select! {
                () = &mut connection => return Ok(()),
                message = messages.next() => match message {
                    Some((message, _)) => self.handle(message.payload),
                    None => return Ok(()),
                },
            }
        }
    }

    fn handle(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) {
        match payload {
            NetlinkPayload::InnerMessage(message) => self.handle_message(&message),
            // The kernel dropped messages for us: anything may have changed.
            NetlinkPayload::Overrun(_) => self.signals.addresses.notify_one(),
            _ => {}
        }
    }

    fn handle_message(&mut self, message: &RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message)
                if self.is_watched(message) =>
            {
                self.signals.addresses.notify_one();
            }
            RouteNetlinkMessage::NewLink(link) if self.is_ours(link) => {
                let flags = link.header.flags;
                self.link(flags.contains(LinkFlags::LowerUp | LinkFlags::Up));
            }
            RouteNetlinkMessage::DelLink(link) if self.is_ours(link) => {
                self.link(false);
                self.signals.addresses.notify_one();
            }
            _ => {}
        }
    }

    fn link(&mut self, carrier: bool) {
        if carrier && self.carrier == Some(false) {
            self.signals.link_up.notify_one();
        }
        self.carrier = Some(carrier);
    }

    fn is_watched(&self, message: &AddressMessage) -> bool {
        local_address(message).is_some_and(|found| self.addresses.contains(&found))
    }

    fn is_ours(&self, link: &LinkMessage) -> bool {
        link.attributes.iter().any(
            |attribute| matches!(attribute, LinkAttribute::IfName(name) if *name == self.interface),
        )
    }
}

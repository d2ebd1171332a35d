//! Watching the kernel for changes of the addresses and of the link.
//!
//! One task per watch, ended when the watch is dropped. It holds no state worth keeping: when its socket
//! fails it opens another one and reports a change, since it may have missed some. Changes coalesce: a
//! reader that is late sees one of each kind.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
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
    /// The carrier when last heard of.
    carrier: Option<Carrier>,
}

#[derive(Clone, Copy)]
struct Carrier {
    up: bool,
    /// How often it came up so far: the kernel reports a short loss only after it is over.
    ups: Option<u32>,
}

impl Carrier {
    fn of(link: &LinkMessage) -> Carrier {
        let ups = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::CarrierUpCount(count) => Some(*count),
                _ => None,
            });
        Carrier {
            up: link
                .header
                .flags
                .contains(LinkFlags::LowerUp | LinkFlags::Up),
            ups,
        }
    }
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
        let (connection, handle, mut messages) = new_multicast_connection(&groups)?;
        let read = async {
            self.signals.addresses.notify_one();
            self.learn(&handle).await;
            while let Some((message, _)) = messages.next().await {
                self.handle(message.payload);
            }
        };
        tokio::select! {
            () = connection => {}
            () = read => {}
        }
        Ok(())
    }

    /// The link as it is now, so that the first change heard of is known to be one.
    async fn learn(&mut self, handle: &Handle) {
        let mut links = handle
            .link()
            .get()
            .match_name(self.interface.clone())
            .execute();
        if let Ok(Some(link)) = links.try_next().await {
            self.link(Carrier::of(&link));
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
                self.link(Carrier::of(link));
            }
            RouteNetlinkMessage::DelLink(link) if self.is_ours(link) => {
                self.link(Carrier {
                    up: false,
                    ups: None,
                });
                self.signals.addresses.notify_one();
            }
            _ => {}
        }
    }

    fn link(&mut self, carrier: Carrier) {
        let before = self.carrier.replace(carrier);
        let missed = before.is_some_and(|before| !before.up || before.ups != carrier.ups);
        if carrier.up && missed {
            self.signals.link_up.notify_one();
        }
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

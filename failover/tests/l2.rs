//! The L2 mover and its driver on a real link: a veth pair in a network namespace of the test's own.
//!
//! Needs the right to make a namespace (root). Without it each test says so on stderr and ends.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, bind, socket};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth};
use tandem_failover::{AddressTask, L2Mover, Mover, Settings, boottime, remove_addresses, spawn};
use tandem_failover_core::address::{AddressPhase, Presence, Source};
use tandem_failover_core::{AddressStatus, Desired, Epoch, Slot};
use tokio::net::UnixDatagram;
use tokio::sync::watch;

const NEAR: &str = "near";
const FAR: &str = "far";
const EPOCH: Epoch = Epoch(4);
/// Generous: only a failure waits this long.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs the test on a thread of its own with its own network namespace and a runtime that stays on it.
fn in_namespace<F: AsyncFnOnce(Lan) + Send + 'static>(test: F) {
    let body = move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            assert_eq!(errno, Errno::EPERM);
            eprintln!("SKIPPED: needs root to make a network namespace");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let lan = Lan::build().await;
            tokio::time::timeout(LIMIT * 3, test(lan))
                .await
                .expect("the test hangs");
        });
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

/// A veth pair: the mover works on `near`, the neighbour listens on `far`.
struct Lan {
    handle: Handle,
    near: u32,
    far: u32,
}

impl Lan {
    async fn build() -> Lan {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        handle
            .link()
            .add(LinkVeth::new(NEAR, FAR).build())
            .execute()
            .await
            .unwrap();
        let near = index(&handle, NEAR).await;
        let far = index(&handle, FAR).await;
        let lan = Lan { handle, near, far };
        lan.set(near, true).await;
        lan.set(far, true).await;
        lan
    }

    async fn set(&self, index: u32, up: bool) {
        let message = LinkMessageBuilder::<LinkUnspec>::new().index(index);
        let message = if up { message.up() } else { message.down() };
        self.handle
            .link()
            .set(message.build())
            .execute()
            .await
            .unwrap();
    }

    async fn add(&self, network: IpNet) {
        let request = self
            .handle
            .address()
            .add(self.near, network.addr(), network.prefix_len());
        request.execute().await.unwrap();
    }

    async fn delete(&self, address: IpAddr) {
        let request = self.handle.address().get().set_address_filter(address);
        let entries: Vec<_> = request.execute().try_collect().await.unwrap();
        assert!(!entries.is_empty(), "{address} is not there to be deleted");
        for entry in entries {
            self.handle.address().del(entry).execute().await.unwrap();
        }
    }
}

async fn index(handle: &Handle, name: &str) -> u32 {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    links.try_next().await.unwrap().unwrap().header.index
}

/// What the kernel has, by another way than the mover's.
fn addresses(interface: &str) -> Vec<(IpAddr, u8)> {
    let entries = getifaddrs()
        .unwrap()
        .filter(|entry| entry.interface_name == interface);
    let mut found: Vec<(IpAddr, u8)> = entries
        .filter_map(|entry| {
            let (address, mask) = (entry.address?, entry.netmask?);
            if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
                return Some((address.ip().into(), u32::from(mask.ip()).count_ones() as u8));
            }
            let (address, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
            let link_local = address.ip().is_unicast_link_local();
            let prefix = u128::from(mask.ip()).count_ones() as u8;
            (!link_local).then_some((address.ip().into(), prefix))
        })
        .collect();
    found.sort();
    found
}

fn network(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A neighbour that reads every frame arriving at `far`.
struct Neighbour {
    /// A packet socket. Its type only lends the runtime's `recv`, which is the same for both families.
    socket: UnixDatagram,
}

impl Neighbour {
    fn listen() -> Neighbour {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            flags,
            SockProtocol::EthAll,
        )
        .unwrap();
        let link = getifaddrs()
            .unwrap()
            .filter(|entry| entry.interface_name == FAR)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .unwrap();
        bind(socket.as_raw_fd(), &link).unwrap();
        Neighbour {
            socket: UnixDatagram::from_std(socket.into()).unwrap(),
        }
    }

    async fn frame(&self) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        let length = self.socket.recv(&mut buffer).await.unwrap();
        buffer.truncate(length);
        buffer
    }

    /// Waits for `count` frames that `accept` takes.
    async fn expect(&self, what: &str, count: usize, accept: impl Fn(&[u8]) -> bool) {
        let mut seen = 0;
        let all = async {
            while seen < count {
                seen += usize::from(accept(&self.frame().await));
            }
        };
        let result = tokio::time::timeout(LIMIT, all).await;
        assert!(result.is_ok(), "{seen} of {count} {what} seen");
    }
}

fn is_gratuitous_arp(frame: &[u8], operation: u8, address: [u8; 4]) -> bool {
    frame.len() >= 42
        && frame[..6] == [0xff; 6]
        && frame[12..14] == [0x08, 0x06]
        && frame[20..22] == [0, operation]
        && frame[28..32] == address
        && frame[38..42] == address
        && frame[22..28] == frame[6..12]
}

fn is_advertisement(frame: &[u8], address: std::net::Ipv6Addr) -> bool {
    frame.len() >= 86
        && frame[12..14] == [0x86, 0xdd]
        && frame[54] == 136
        && frame[58] & 0x20 != 0
        && frame[62..78] == address.octets()
}

fn start(addresses: &[&str]) -> (watch::Sender<Desired>, AddressTask) {
    let addresses = addresses.iter().map(|text| network(text)).collect();
    let mover = Arc::new(L2Mover::new(NEAR.to_owned(), addresses));
    let (sender, receiver) = watch::channel(Desired::Release);
    (
        sender,
        spawn(
            Settings {
                slot: Slot::A,
                seed: 1,
            },
            mover,
            receiver,
        ),
    )
}

async fn reach(task: &AddressTask, what: &str, condition: impl Fn(&AddressStatus) -> bool) {
    let mut status = task.status();
    let waited = tokio::time::timeout(LIMIT, status.wait_for(condition)).await;
    let current = task.status().borrow().clone();
    assert!(matches!(waited, Ok(Ok(_))), "never {what}: {current:#?}");
}

#[test]
fn claims_announces_repairs_and_releases() {
    in_namespace(async |lan| {
        let neighbour = Neighbour::listen();
        let (desired, task) = start(&["10.9.0.100/24", "2001:db8::64/64"]);
        reach(&task, "released at the start", |status| {
            status.phase == AddressPhase::Released
        })
        .await;

        let before = boottime();
        desired.send(Desired::Hold { epoch: EPOCH }).unwrap();
        reach(&task, "verified", |status| status.verified).await;
        eprintln!("verified after {:?}", boottime() - before);
        let both = [
            ("10.9.0.100".parse().unwrap(), 24),
            ("2001:db8::64".parse().unwrap(), 64),
        ];
        assert_eq!(addresses(NEAR), both);
        let v4 = [10, 9, 0, 100];
        let v6 = "2001:db8::64".parse().unwrap();
        let burst = async || {
            let any = |frame: &[u8]| {
                is_gratuitous_arp(frame, 1, v4)
                    || is_gratuitous_arp(frame, 2, v4)
                    || is_advertisement(frame, v6)
            };
            neighbour.expect("announcements", 15, any).await;
        };
        burst().await;

        // Someone deletes it: back at once, and announced again.
        lan.delete(v4.into()).await;
        reach(&task, "repaired", |status| {
            status.counters.drifts == 1 && status.verified
        })
        .await;
        assert_eq!(addresses(NEAR), both);
        burst().await;

        desired.send(Desired::Release).unwrap();
        reach(&task, "released", |status| {
            status.phase == AddressPhase::Released
        })
        .await;
        assert_eq!(addresses(NEAR), []);
    });
}

/// Both forms of gratuitous ARP, and the advertisement, five times each.
#[test]
fn the_burst_has_every_form() {
    in_namespace(async |_lan| {
        let neighbour = Neighbour::listen();
        let mover = L2Mover::new(
            NEAR.to_owned(),
            vec![network("10.9.0.100/24"), network("2001:db8::64/64")],
        );
        mover.announce(5).await.unwrap();
        let mut seen = [0; 3];
        while seen != [5, 5, 5] {
            let frame = tokio::time::timeout(LIMIT, neighbour.frame()).await;
            let frame = frame.unwrap_or_else(|_| panic!("only {seen:?} seen"));
            seen[0] += usize::from(is_gratuitous_arp(&frame, 1, [10, 9, 0, 100]));
            seen[1] += usize::from(is_gratuitous_arp(&frame, 2, [10, 9, 0, 100]));
            seen[2] += usize::from(is_advertisement(&frame, "2001:db8::64".parse().unwrap()));
        }
    });
}

#[test]
fn what_a_killed_predecessor_left_is_removed() {
    in_namespace(async |lan| {
        lan.add(network("10.9.0.100/32")).await;
        let (_desired, task) = start(&["10.9.0.100/24"]);
        reach(&task, "released", |status| {
            status.phase == AddressPhase::Released
        })
        .await;
        assert_eq!(addresses(NEAR), []);
    });
}

#[test]
fn the_guard_removes_only_the_floating_addresses() {
    in_namespace(async |lan| {
        lan.add(network("10.9.0.1/24")).await;
        lan.add(network("10.9.0.100/24")).await;
        lan.add(network("10.9.0.10/24")).await;
        let floating: [IpAddr; 1] = ["10.9.0.100".parse().unwrap()];
        assert_eq!(remove_addresses(NEAR, &floating).await.unwrap(), 1);
        assert_eq!(remove_addresses(NEAR, &floating).await.unwrap(), 0);
        assert_eq!(remove_addresses("absent", &floating).await.unwrap(), 0);
        let others: Vec<(IpAddr, u8)> = vec![
            ("10.9.0.1".parse().unwrap(), 24),
            ("10.9.0.10".parse().unwrap(), 24),
        ];
        assert_eq!(addresses(NEAR), others);
    });
}

#[test]
fn operations_are_idempotent_and_prefixes_matter() {
    in_namespace(async |lan| {
        let mover = L2Mover::new(NEAR.to_owned(), vec![network("10.9.0.100/24")]);
        assert_eq!(
            mover.observe(Source::Netlink).await.unwrap(),
            Presence::None
        );
        lan.add(network("10.9.0.100/32")).await;
        assert_eq!(
            mover.observe(Source::Netlink).await.unwrap(),
            Presence::Some
        );
        mover.claim(EPOCH).await.unwrap();
        mover.claim(EPOCH).await.unwrap();
        assert_eq!(mover.observe(Source::Netlink).await.unwrap(), Presence::All);
        mover.release().await.unwrap();
        mover.release().await.unwrap();
        assert_eq!(
            mover.observe(Source::Netlink).await.unwrap(),
            Presence::None
        );
    });
}

/// An interface that is not there is an error to claim on, in words, and nothing to release from.
#[test]
fn an_absent_interface_is_waited_for() {
    in_namespace(async |lan| {
        lan.handle.link().del(lan.near).execute().await.unwrap();
        let (desired, task) = start(&["10.9.0.100/24"]);
        desired.send(Desired::Hold { epoch: EPOCH }).unwrap();
        reach(&task, "failing", |status| status.attempts > 1).await;
        let error = task.status().borrow().last_error.clone().unwrap();
        assert_eq!(error, "there is no interface near");

        lan.handle
            .link()
            .add(LinkVeth::new(NEAR, FAR).build())
            .execute()
            .await
            .unwrap();
        reach(&task, "verified", |status| status.verified).await;
    });
}

#[test]
fn the_link_coming_back_is_noticed_and_announced() {
    in_namespace(async |lan| {
        let (desired, task) = start(&["10.9.0.100/24"]);
        desired.send(Desired::Hold { epoch: EPOCH }).unwrap();
        reach(&task, "verified", |status| status.verified).await;
        let announced = task.status().borrow().counters.announcements;
        // However short the loss is.
        lan.set(lan.far, false).await;
        lan.set(lan.far, true).await;
        reach(&task, "announced again", |status| {
            status.counters.announcements >= announced + 5
        })
        .await;
    });
}

/// The end of whoever desires something is the end of the address here.
#[test]
fn a_closed_watch_releases_and_ends() {
    in_namespace(async |_lan| {
        let (desired, task) = start(&["10.9.0.100/24"]);
        desired.send(Desired::Hold { epoch: EPOCH }).unwrap();
        reach(&task, "verified", |status| status.verified).await;
        drop(desired);
        tokio::time::timeout(LIMIT, task.finished())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(addresses(NEAR), []);
    });
}

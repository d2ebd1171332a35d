//! The whole mover under its driver: kernel and control plane, in a network namespace of the test's own.
//!
//! Needs the right to make a namespace (root). Without it each test says so on stderr and ends.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use tandem_failover::{AddressTask, Settings, spawn};
use tandem_failover_core::address::{AddressPhase, FailureKind, Source};
use tandem_failover_core::{AddressStatus, Desired, Epoch, Slot};
use tokio::sync::watch;

use super::responder::{Reply, Request, Responder, assigned, described, refused};
use super::{OWN, credentials, settings};
use crate::client::http_client;
use crate::mover::Ec2Mover;

const OTHER: &str = "eni-0b";
const EPOCH: Epoch = Epoch(4);
const FLOATING: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
/// Generous: only a failure waits this long.
const LIMIT: Duration = Duration::from_secs(20);

fn in_namespace<F: AsyncFnOnce() + Send + 'static>(test: F) {
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
            bring_up("lo").await;
            tokio::time::timeout(LIMIT * 2, test())
                .await
                .expect("the test hangs");
        });
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

async fn bring_up(name: &str) -> (rtnetlink::Handle, u32) {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    if name != "lo" {
        handle
            .link()
            .add(LinkVeth::new(name, "far").build())
            .execute()
            .await
            .unwrap();
    }
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let index = links.try_next().await.unwrap().unwrap().header.index;
    let up = LinkMessageBuilder::<LinkUnspec>::new()
        .index(index)
        .up()
        .build();
    handle.link().set(up).execute().await.unwrap();
    (handle, index)
}

/// Who holds which address.
type Holders = Arc<Mutex<BTreeMap<IpAddr, String>>>;

fn holders() -> Holders {
    Arc::new(Mutex::new(BTreeMap::from([(
        FLOATING.into(),
        OTHER.to_owned(),
    )])))
}

fn carry_out(holders: &Holders, request: &Request) -> Reply {
    let mut holders = holders.lock().unwrap();
    match request.action() {
        "AssignPrivateIpAddresses" => {
            let holder = request.parameter("NetworkInterfaceId");
            for address in request.list("PrivateIpAddress") {
                holders.insert(address.parse().unwrap(), holder.to_owned());
            }
            assigned()
        }
        "DescribeNetworkInterfaces" => {
            let own = holders.iter().filter(|(_, holder)| *holder == OWN);
            described(OWN, &own.map(|(address, _)| *address).collect::<Vec<_>>())
        }
        other => panic!("{other} is never called"),
    }
}

fn start(responder: &Responder) -> (watch::Sender<Desired>, AddressTask) {
    let settings = settings(&responder.endpoint, &["10.0.0.100/24"]);
    let mover = Ec2Mover::build(settings, http_client(), credentials()).unwrap();
    let (sender, receiver) = watch::channel(Desired::Release);
    (
        sender,
        spawn(
            Settings {
                slot: Slot::A,
                seed: 1,
            },
            Arc::new(mover),
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

fn local_prefix() -> Option<u32> {
    getifaddrs().unwrap().find_map(|entry| {
        let address = entry.address?.as_sockaddr_in()?.ip();
        let mask = entry.netmask?.as_sockaddr_in()?.ip();
        (address == FLOATING).then(|| u32::from(mask).count_ones())
    })
}

fn count(responder: &Responder, action: &str) -> usize {
    responder
        .requests()
        .iter()
        .filter(|request| request.action() == action)
        .count()
}

#[test]
fn takes_over_verifies_takes_back_and_lets_go() {
    in_namespace(async || {
        let holders = holders();
        let world = holders.clone();
        let responder = Responder::start(move |request| carry_out(&world, request)).await;
        let (desired, task) = start(&responder);
        reach(&task, "released", |status| {
            status.phase == AddressPhase::Released
        })
        .await;

        let before = Instant::now();
        desired.send(Desired::Hold { epoch: EPOCH }).unwrap();
        reach(&task, "verified", |status| status.verified).await;
        eprintln!("verified after {:?}", before.elapsed());
        let status = task.status().borrow().clone();
        assert_eq!(status.verified_by, [Source::Netlink, Source::Ec2Describe]);
        assert_eq!(holders.lock().unwrap()[&IpAddr::from(FLOATING)], OWN);
        assert_eq!(local_prefix(), Some(32));

        // An old owner wrote last: after the time a stale answer is given, it is taken back.
        holders
            .lock()
            .unwrap()
            .insert(FLOATING.into(), OTHER.to_owned());
        task.healer().heal();
        reach(&task, "taken back", |status| {
            status.counters.drifts == 1 && status.verified
        })
        .await;
        assert_eq!(holders.lock().unwrap()[&IpAddr::from(FLOATING)], OWN);

        desired.send(Desired::Release).unwrap();
        reach(&task, "released", |status| {
            status.phase == AddressPhase::Released
        })
        .await;
        assert_eq!(local_prefix(), None);
        assert_eq!(
            holders.lock().unwrap()[&IpAddr::from(FLOATING)],
            OWN,
            "left for its next owner"
        );
    });
}

/// The effect happens, the answer never comes.
#[test]
fn a_lost_answer_costs_one_more_attempt() {
    in_namespace(async || {
        let holders = holders();
        let mut lost = false;
        let responder = Responder::start(move |request| {
            let reply = carry_out(&holders, request);
            let assign = request.action() == "AssignPrivateIpAddresses";
            if assign && !std::mem::replace(&mut lost, true) {
                Reply::Hang
            } else {
                reply
            }
        })
        .await;
        let (desired, task) = start(&responder);
        desired.send(Desired::Hold { epoch: EPOCH }).unwrap();
        reach(&task, "verified", |status| status.verified).await;
        assert_eq!(count(&responder, "AssignPrivateIpAddresses"), 2);
        assert_eq!(task.status().borrow().counters.claim_failures, 1);
    });
}

#[test]
fn throttling_is_waited_out() {
    in_namespace(async || {
        let holders = holders();
        let mut refusals = 3;
        let responder = Responder::start(move |request| {
            if request.action() == "AssignPrivateIpAddresses" && refusals > 0 {
                refusals -= 1;
                return refused(503, "RequestLimitExceeded", "Request limit exceeded.");
            }
            carry_out(&holders, request)
        })
        .await;
        let (desired, task) = start(&responder);
        desired.send(Desired::Hold { epoch: EPOCH }).unwrap();
        reach(&task, "told", |status| {
            status.last_error_kind == Some(FailureKind::Throttled)
        })
        .await;
        reach(&task, "verified", |status| status.verified).await;
        assert_eq!(count(&responder, "AssignPrivateIpAddresses"), 4);
    });
}

/// A standby that could not take over says so before it has to.
#[test]
fn a_standby_without_permission_shows_it() {
    in_namespace(async || {
        let responder = Responder::always(refused(
            403,
            "UnauthorizedOperation",
            "You are not authorized.",
        ))
        .await;
        let (_desired, task) = start(&responder);
        reach(&task, "told", |status| {
            status.phase == AddressPhase::Released
                && status.last_error_kind == Some(FailureKind::Unauthorized)
        })
        .await;
        assert_eq!(count(&responder, "AssignPrivateIpAddresses"), 0);
    });
}

/// A host that swallows packets: the connection attempt is given up long before the kernel would.
#[test]
fn a_connection_that_does_not_come_is_given_up() {
    in_namespace(async || {
        let (handle, index) = bring_up("near").await;
        let own = Ipv4Addr::new(10, 77, 0, 1).into();
        handle
            .address()
            .add(index, own, 24)
            .execute()
            .await
            .unwrap();
        let api = super::api("http://10.77.0.2:7700", &["10.0.0.100"], credentials());
        let before = Instant::now();
        let error = api.assign().await.unwrap_err();
        assert_eq!(error.kind, FailureKind::Unreachable, "{error}");
        assert!(
            before.elapsed() < Duration::from_millis(900),
            "{:?}",
            before.elapsed()
        );
    });
}

//! What the calls say, and what is made of good answers.

use std::net::IpAddr;

use tandem_failover_core::address::{FailureKind, Presence};

use super::responder::{Reply, Responder, assigned, described};
use super::{OWN, REGION, api, credentials, settings};
use crate::mover::Ec2Mover;
use crate::settings::SettingsError;

fn parse(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn assigns_all_addresses_in_one_signed_call() {
    let responder = Responder::always(assigned()).await;
    let api = api(
        &responder.endpoint,
        &["10.0.0.100", "10.0.0.101"],
        credentials(),
    );
    api.assign().await.unwrap();
    let requests = responder.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].action(), "AssignPrivateIpAddresses");
    assert_eq!(requests[0].parameter("NetworkInterfaceId"), OWN);
    assert_eq!(requests[0].parameter("AllowReassignment"), "true");
    assert_eq!(
        requests[0].list("PrivateIpAddress"),
        ["10.0.0.100", "10.0.0.101"]
    );
    let scope = format!("/{REGION}/ec2/aws4_request");
    assert!(
        requests[0].authorization.contains(&scope),
        "{}",
        requests[0].authorization
    );
}

#[tokio::test]
async fn describes_the_own_network_interface() {
    let cases: [(&[&str], Presence); 4] = [
        (&["10.0.0.11", "10.0.0.100", "10.0.0.101"], Presence::All),
        (&["10.0.0.11", "10.0.0.101"], Presence::Some),
        (&["10.0.0.11"], Presence::None),
        // Neither is 10.0.0.100, though both contain one the other way round.
        (&["10.0.0.10", "110.0.0.100"], Presence::None),
    ];
    for (shown, presence) in cases {
        let responder = Responder::always(described(OWN, &parse(shown))).await;
        let api = api(
            &responder.endpoint,
            &["10.0.0.100", "10.0.0.101"],
            credentials(),
        );
        assert_eq!(api.presence().await.unwrap(), presence, "{shown:?}");
        let request = &responder.requests()[0];
        assert_eq!(request.action(), "DescribeNetworkInterfaces");
        assert_eq!(request.list("NetworkInterfaceId"), [OWN]);
    }
}

#[tokio::test]
async fn an_answer_about_another_network_interface_shows_nothing() {
    let responder = Responder::always(described("eni-0b", &parse(&["10.0.0.100"]))).await;
    let api = api(&responder.endpoint, &["10.0.0.100"], credentials());
    assert_eq!(
        api.presence().await.unwrap_err().kind,
        FailureKind::NotFound
    );
}

/// A takeover finds the connection that the slow look has kept.
#[tokio::test]
async fn one_connection_serves_all_calls() {
    let responder = Responder::start(|request| match request.action() {
        "DescribeNetworkInterfaces" => described(OWN, &[]),
        _ => assigned(),
    })
    .await;
    let api = api(&responder.endpoint, &["10.0.0.100"], credentials());
    api.presence().await.unwrap();
    api.presence().await.unwrap();
    api.assign().await.unwrap();
    assert_eq!(
        (responder.requests().len(), responder.connections()),
        (3, 1)
    );
}

/// A connection that died in silence must not be tried again and again.
#[tokio::test]
async fn a_connection_that_hangs_is_not_used_again() {
    let mut first = true;
    let responder = Responder::start(move |_| match std::mem::take(&mut first) {
        true => Reply::Hang,
        false => assigned(),
    })
    .await;
    let api = api(&responder.endpoint, &["10.0.0.100"], credentials());
    assert_eq!(api.assign().await.unwrap_err().kind, FailureKind::Timeout);
    api.assign().await.unwrap();
    assert_eq!(responder.connections(), 2);
}

#[tokio::test]
async fn settings_that_cannot_work_are_named() {
    let check = |change: &dyn Fn(&mut crate::Ec2Settings)| {
        let mut settings = settings("http://127.0.0.1:1", &["10.0.0.100/24"]);
        change(&mut settings);
        Ec2Mover::new(settings).map(|_| ()).unwrap_err()
    };
    let network = "2001:db8::1/64".parse().unwrap();
    assert_eq!(
        check(&|settings| settings.addresses.clear()),
        SettingsError::NoAddress
    );
    assert_eq!(
        check(&|settings| settings.addresses.push(network)),
        SettingsError::Ipv6("2001:db8::1".parse().unwrap())
    );
    assert_eq!(
        check(&|settings| settings.network_interface = "eth0".to_owned()),
        SettingsError::NetworkInterface("eth0".to_owned())
    );
    assert_eq!(
        check(&|settings| settings.region.clear()),
        SettingsError::NoRegion
    );
    assert_eq!(
        check(&|settings| settings.endpoint = Some("10.0.0.1:7700".to_owned())),
        SettingsError::Endpoint("10.0.0.1:7700".to_owned())
    );
}

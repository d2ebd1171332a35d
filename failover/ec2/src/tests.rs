//! The mover against a responder that speaks EC2's query protocol. Nothing here stands in for EC2's own
//! behaviour: that is the simulator's work.
#![allow(clippy::unwrap_used)]

mod calls;
mod failures;
mod moves;
mod responder;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;

use crate::api::Api;
use crate::client::{client, http_client};
use crate::settings::Ec2Settings;

const OWN: &str = "eni-0a";
const REGION: &str = "eu-central-1";

fn credentials() -> SharedCredentialsProvider {
    let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
    SharedCredentialsProvider::new(credentials)
}

fn settings(endpoint: &str, addresses: &[&str]) -> Ec2Settings {
    Ec2Settings {
        region: REGION.to_owned(),
        endpoint: Some(endpoint.to_owned()),
        network_interface: OWN.to_owned(),
        interface: "lo".to_owned(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

fn api(endpoint: &str, addresses: &[&str], credentials: SharedCredentialsProvider) -> Api {
    let client = client(
        REGION.to_owned(),
        Some(endpoint.to_owned()),
        http_client(),
        credentials,
    );
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Api::new(
        client,
        OWN.to_owned(),
        format!("{OWN} at {endpoint}"),
        addresses,
    )
}

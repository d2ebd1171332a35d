//! Every class of failure, with a text that says what failed and where.

use std::time::{Duration, Instant};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use tandem_failover_core::address::FailureKind;

use super::responder::{Reply, Responder, refused};
use super::{OWN, api, credentials};

#[tokio::test]
async fn refusals_are_classified() {
    use FailureKind::{NotFound, Other, Throttled, Unauthorized, Unreachable, WrongSubnet};
    let cases = [
        (
            503,
            "RequestLimitExceeded",
            "Request limit exceeded.",
            Throttled,
        ),
        (
            400,
            "RequestLimitExceeded",
            "Request limit exceeded.",
            Throttled,
        ),
        (
            403,
            "UnauthorizedOperation",
            "You are not authorized.",
            Unauthorized,
        ),
        (
            401,
            "AuthFailure",
            "AWS was not able to validate the credentials.",
            Unauthorized,
        ),
        (400, "RequestExpired", "Request has expired.", Unauthorized),
        (
            400,
            "InvalidNetworkInterfaceID.NotFound",
            "'eni-0a' does not exist",
            NotFound,
        ),
        (
            400,
            "InvalidParameterValue",
            "Address 10.9.0.100 does not fall within the subnet's address range",
            WrongSubnet,
        ),
        (
            400,
            "InvalidParameterValue",
            "Value for parameter is invalid",
            Other,
        ),
        (
            400,
            "PrivateIpAddressLimitExceeded",
            "Number of addresses exceeds the limit",
            Other,
        ),
        (
            500,
            "InternalError",
            "An internal error has occurred",
            Unreachable,
        ),
        (503, "Unavailable", "Service is not available", Unreachable),
    ];
    for (status, code, message, kind) in cases {
        let responder = Responder::always(refused(status, code, message)).await;
        let api = api(
            &responder.endpoint,
            &["10.0.0.100", "10.0.0.101"],
            credentials(),
        );
        for error in [
            api.assign().await.unwrap_err(),
            api.presence().await.unwrap_err(),
        ] {
            assert_eq!(error.kind, kind, "{error}");
            for part in [
                code,
                message,
                OWN,
                &responder.endpoint,
                &format!("HTTP {status}"),
                "r-3",
            ] {
                assert!(error.text.contains(part), "{part:?} is missing: {error}");
            }
        }
        assert_eq!(
            responder.requests().len(),
            2,
            "the client itself tries nothing again"
        );
    }
}

#[tokio::test]
async fn the_text_names_call_addresses_and_place() {
    let responder = Responder::always(refused(503, "RequestLimitExceeded", "Too many.")).await;
    let api = api(
        &responder.endpoint,
        &["10.0.0.100", "10.0.0.101"],
        credentials(),
    );
    let expected = format!(
        "AssignPrivateIpAddresses of 10.0.0.100, 10.0.0.101 to eni-0a at {}: \
         RequestLimitExceeded: Too many. (HTTP 503, request r-3)",
        responder.endpoint
    );
    assert_eq!(api.assign().await.unwrap_err().text, expected);
}

#[tokio::test]
async fn a_hung_call_ends_in_time() {
    let responder = Responder::always(Reply::Hang).await;
    let api = api(&responder.endpoint, &["10.0.0.100"], credentials());
    let start = Instant::now();
    let error = api.assign().await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Timeout, "{error}");
    assert!(
        start.elapsed() >= Duration::from_millis(900),
        "{:?}",
        start.elapsed()
    );
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn lost_connections_are_unreachable() {
    let responder = Responder::always(Reply::Close).await;
    let closing = api(&responder.endpoint, &["10.0.0.100"], credentials());
    let error = closing.assign().await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Unreachable, "{error}");

    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let error = api(&endpoint, &["10.0.0.100"], credentials())
        .assign()
        .await
        .unwrap_err();
    assert_eq!(error.kind, FailureKind::Unreachable, "{error}");
    assert!(
        error.text.contains("Connection refused"),
        "the cause is told: {error}"
    );
}

#[tokio::test]
async fn answers_that_are_not_of_ec2_are_told_apart() {
    for (status, kind) in [(200, FailureKind::Other), (502, FailureKind::Unreachable)] {
        let body = "<html>a captive portal".to_owned();
        let responder = Responder::always(Reply::Answer { status, body }).await;
        let api = api(&responder.endpoint, &["10.0.0.100"], credentials());
        let error = api.presence().await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
}

#[derive(Debug)]
struct Nothing;

impl ProvideCredentials for Nothing {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let error = CredentialsError::not_loaded("neither environment nor instance profile");
        future::ProvideCredentials::ready(Err(error))
    }
}

#[tokio::test]
async fn missing_credentials_are_said() {
    let responder = Responder::always(Reply::Hang).await;
    let nothing = SharedCredentialsProvider::new(Nothing);
    let error = api(&responder.endpoint, &["10.0.0.100"], nothing)
        .assign()
        .await
        .unwrap_err();
    assert_eq!(error.kind, FailureKind::NoCredentials, "{error}");
    assert!(
        error
            .text
            .contains("neither environment nor instance profile"),
        "{error}"
    );
    assert!(responder.requests().is_empty());
}

//! From the client's errors to classes an operator can act on.

use std::error::Error;
use std::fmt::Write;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::RequestId;
use tandem_failover::MoverError;
use tandem_failover_core::address::FailureKind;

/// `what` names the call and its object: it begins the text.
pub(crate) fn failure<E>(what: &str, error: &SdkError<E, HttpResponse>) -> MoverError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let (kind, reason) = match error {
        SdkError::ServiceError(refused) => {
            let status = refused.raw().status().as_u16();
            let code = refused.err().code().unwrap_or("no error code");
            let message = refused.err().message().unwrap_or("no message");
            let mut reason = format!("{code}: {message} (HTTP {status}");
            if let Some(request) = refused.err().meta().request_id() {
                // Writing to a string does not fail.
                let _ = write!(reason, ", request {request}");
            }
            reason.push(')');
            (classify(code, message, status), reason)
        }
        SdkError::TimeoutError(_) => (FailureKind::Timeout, "no answer in time".to_owned()),
        SdkError::DispatchFailure(lost) if lost.is_timeout() => {
            (FailureKind::Unreachable, chain(error))
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_)
            if is_credentials(error) =>
        {
            (FailureKind::NoCredentials, chain(error))
        }
        SdkError::DispatchFailure(_) => (FailureKind::Unreachable, chain(error)),
        SdkError::ResponseError(garbled) => {
            let status = garbled.raw().status().as_u16();
            let kind = if status >= 500 {
                FailureKind::Unreachable
            } else {
                FailureKind::Other
            };
            (
                kind,
                format!("not an answer of EC2 (HTTP {status}): {}", chain(error)),
            )
        }
        SdkError::ConstructionFailure(_) => (FailureKind::Other, chain(error)),
        // The enum is open: what a later client adds is still told in its own words.
        _ => (FailureKind::Other, chain(error)),
    };
    MoverError::new(kind, format!("{what}: {reason}"))
}

/// EC2's error codes; <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>.
fn classify(code: &str, message: &str, status: u16) -> FailureKind {
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "SlowDown"
        | "BandwidthLimitExceeded" => FailureKind::Throttled,
        "UnauthorizedOperation"
        | "AuthFailure"
        | "AccessDenied"
        | "AccessDeniedException"
        | "Blocked"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "OptInRequired"
        | "PendingVerification"
        | "RequestExpired"
        | "SignatureDoesNotMatch" => FailureKind::Unauthorized,
        "InvalidNetworkInterfaceID.NotFound"
        | "InvalidNetworkInterfaceId.Malformed"
        | "InvalidNetworkInterfaceID.Malformed"
        | "InvalidNetworkInterface.NotFound" => FailureKind::NotFound,
        "InvalidAddress.OutOfSubnet" => FailureKind::WrongSubnet,
        // EC2 has no code of its own for this one.
        "InvalidParameterValue" if message.to_ascii_lowercase().contains("subnet") => {
            FailureKind::WrongSubnet
        }
        "ServiceUnavailable" | "Unavailable" | "InternalError" | "InternalFailure" => {
            FailureKind::Unreachable
        }
        _ if status >= 500 => FailureKind::Unreachable,
        _ => FailureKind::Other,
    }
}

fn is_credentials(error: &(dyn Error + 'static)) -> bool {
    sources(error).any(|source| source.is::<CredentialsError>())
}

/// The causes, outermost first: the client's own text for them is only "dispatch failure".
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    for source in sources(error).skip(1) {
        let next = source.to_string();
        // Wrappers often repeat what they wrap.
        if next != last {
            let _ = write!(text, ": {next}");
        }
        last = next;
    }
    text
}

fn sources<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let current = next?;
        next = current.source();
        Some(current)
    })
}

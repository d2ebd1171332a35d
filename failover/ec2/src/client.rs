//! The AWS client with every default that waits too long replaced.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_ec2::config::{
    BehaviorVersion, IdentityCache, Region, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_ec2::{Client, Config};
use aws_smithy_http_client::tls;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

/// Inside a region a connection takes a few milliseconds: what takes longer will not come.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// The address engine tries again after this, so waiting longer for one answer only loses time.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// Credentials are renewed this long before they expire, by the slow look of an idle node.
const CREDENTIALS_BUFFER: Duration = Duration::from_secs(300);
/// Longer than the pause between two looks, so that a takeover finds the connection warm.
const IDLE_CONNECTION: Duration = Duration::from_secs(90);

pub(crate) fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .pool_idle_timeout(IDLE_CONNECTION)
        .tls_provider(tls::Provider::Rustls(
            tls::rustls_provider::CryptoMode::AwsLc,
        ))
        .build_https()
}

/// Credentials from the environment, else of the instance profile (IMDSv2 only; a token that is refused is
/// fetched anew).
pub(crate) fn usual_credentials(http: &SharedHttpClient) -> SharedCredentialsProvider {
    let config = ProviderConfig::without_region().with_http_client(http.clone());
    let metadata = imds::Client::builder()
        .configure(&config)
        .max_attempts(1)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(CONNECT_TIMEOUT)
        .build();
    let profile = ImdsCredentialsProvider::builder()
        .configure(&config)
        .imds_client(metadata)
        .build();
    let environment = EnvironmentVariableCredentialsProvider::new();
    let chain = CredentialsProviderChain::first_try("Environment", environment)
        .or_else("InstanceProfile", profile);
    SharedCredentialsProvider::new(chain)
}

pub(crate) fn client(
    region: String,
    endpoint: Option<String>,
    http: SharedHttpClient,
    credentials: SharedCredentialsProvider,
) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(ATTEMPT_TIMEOUT)
        .build();
    let identities = IdentityCache::lazy()
        .load_timeout(ATTEMPT_TIMEOUT)
        .buffer_time(CREDENTIALS_BUFFER)
        .build();
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(region))
        .http_client(http)
        .credentials_provider(credentials)
        .identity_cache(identities)
        .timeout_config(timeouts)
        // Attempts are the address engine's business: it knows whether the address is still wanted.
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    config.set_endpoint_url(endpoint);
    Client::from_conf(config.build())
}

//! What ends the worker from inside: a condition after which going on would be a guess.
//!
//! The worker then leaves in order, and the guard starts a fresh one from what is durable.

use tokio::sync::watch;
use tracing::error;

/// Anyone who may find such a condition holds one.
#[derive(Debug, Clone)]
pub(crate) struct Fatal(watch::Sender<Option<String>>);

/// The worker's end.
#[derive(Debug)]
pub(crate) struct Failed(watch::Receiver<Option<String>>);

impl Fatal {
    pub(crate) fn channel() -> (Fatal, Failed) {
        let (sender, receiver) = watch::channel(None);
        (Fatal(sender), Failed(receiver))
    }

    /// The first reason counts; it names what failed.
    pub(crate) fn raise(&self, reason: &str) {
        error!(reason, "the worker cannot go on");
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| reason.to_owned());
            is_first
        });
    }
}

impl Failed {
    /// Waits for the first reason; for ever when nobody is left to raise one.
    pub(crate) async fn raised(&mut self) -> String {
        match self.0.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}

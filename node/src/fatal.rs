//! What ends the worker from inside: a condition after which going on would be a guess.
//!
//! The worker then leaves in order, and the guard starts a fresh one from what is durable.

use std::panic::{AssertUnwindSafe, catch_unwind};

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

    /// Runs what must not end by a panic: half a node would keep the leadership and serve nobody.
    pub(crate) fn guarded(&self, what: &str, run: impl FnOnce()) {
        // What it touched is not used again: the worker leaves.
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            self.raise(&format!("{what} panicked"));
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_worker_and_the_first_reason_counts() {
        let (fatal, mut failed) = Fatal::channel();
        fatal.guarded("the engine", || panic!("on purpose"));
        fatal.raise("something later");
        assert_eq!(failed.raised().await, "the engine panicked");
    }
}

//! Whole calls through [`crate::core::Sip`], in virtual time.

#![allow(clippy::unwrap_used)]

mod calls;
mod failover;
mod golden;
mod hostile;
mod media;
mod numbering;
mod requests;
mod reveal;
mod topology;

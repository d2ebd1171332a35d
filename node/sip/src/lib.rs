//! The SIP core of Tandem: a back-to-back user agent whose calls are plain data. No sockets, clocks or threads.
//!
//! [`core::Sip`] is what the node's shell drives; [`message`] and [`transaction`] are the layers below it, and
//! [`record`] is the form in which a call is served, logged and handed over.

#![forbid(unsafe_code)]

mod b2bua;
pub mod cdr;
pub mod command;
pub mod config;
pub mod core;
pub mod counters;
mod dialog;
pub mod flow;
pub mod message;
#[cfg(any(test, feature = "phones"))]
pub mod phone;
pub mod record;
pub mod routing;
pub mod sdp;
pub mod time;
pub mod transaction;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

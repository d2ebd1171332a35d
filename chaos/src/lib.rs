//! Chaos drills for a Tandem pair: real processes on simulated hosts, cut, frozen and killed while
//! calls run.
//!
//! The fabrics are real Linux networking inside a [`sandbox`]: every [`host`] is a network
//! namespace, a [`fabric`] connects them like an EC2 VPC or like a LAN, and a [`capture`] on the
//! fabric's side of each node says who really sent from the floating address.

pub mod bench;
pub mod burn;
pub mod capture;
pub mod clock;
pub mod drill;
pub mod fabric;
pub mod host;
pub mod job;
pub mod load;
pub mod node_process;
pub mod phone;
pub mod report;
pub mod sandbox;
pub mod scenario;
pub mod simulate;
pub mod speech;

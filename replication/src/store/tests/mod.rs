//! The store against a model, against damage, and against kill -9.
#![allow(clippy::unwrap_used)]

mod damage;
mod golden;
mod kill;
mod model;
mod round_trip;

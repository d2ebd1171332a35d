//! The store against a model, against damage, against kill -9 and against power cuts.
#![allow(clippy::unwrap_used)]

mod damage;
mod durability;
mod full;
mod golden;
mod kill;
mod model;
mod power_cut;
mod round_trip;
mod workload;

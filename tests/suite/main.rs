//! The integration tests, one executable: the GPU bundle carries it to machines without Rust.
#![cfg(feature = "simt")]

mod arguments;
mod devices;
mod forward;
mod harness;
mod hopper;
mod hyper;
mod options;
mod paged;
mod pages;
mod plans;
mod raw;
mod schedules;
mod timings;
mod wide;

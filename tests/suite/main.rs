//! The integration tests, one executable: the GPU bundle carries it to machines without Rust.
#![cfg(feature = "simt")]

mod arguments;
mod block_max;
mod decode;
mod devices;
mod forward;
mod gate_expected;
mod gate_features;
mod gate_lists;
mod gate_vectors;
mod harness;
mod hopper;
mod hyper;
mod options;
mod paged;
mod pages;
mod plans;
mod raw;
mod s2;
mod s2_cache;
mod schedules;
mod seer_cache;
mod seer_calls;
mod seer_case;
mod seer_decode;
mod seer_lists;
mod timings;
mod wide;

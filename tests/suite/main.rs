//! The integration tests, one executable: the GPU bundle carries it to machines without Rust.
#![cfg(feature = "simt")]

mod arguments;
mod block_max;
mod decode;
mod decode_ragged;
mod decode_raw;
mod decode_scores;
mod devices;
mod forward;
mod gate_expected;
mod gate_extremes;
mod gate_features;
mod gate_lists;
mod gate_vectors;
mod harness;
mod hopper;
mod hyper;
mod options;
mod page_lists;
mod paged;
mod pages;
mod plans;
mod ragged;
mod raw;
mod schedules;
mod seer_cache;
mod seer_calls;
mod seer_case;
mod seer_decode;
mod seer_features;
mod seer_lists;
mod timings;
mod wide;

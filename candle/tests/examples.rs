//! The examples run.
#![cfg(feature = "simt")]

#[path = "../examples/llama_layer.rs"]
mod llama_layer;

#[test]
fn llama_layer() {
    llama_layer::main().unwrap();
}

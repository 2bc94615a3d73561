//! The numbered examples run.
#![cfg(feature = "simt")]

#[path = "../examples/06_gradients.rs"]
mod gradients;
#[path = "../examples/07_hyper_attention.rs"]
mod hyper_attention;
#[path = "../examples/05_plans.rs"]
mod plans;

#[test]
fn plans_05() {
    plans::main().unwrap();
}

#[test]
fn gradients_06() {
    gradients::main().unwrap();
}

#[test]
fn hyper_attention_07() {
    hyper_attention::main().unwrap();
}

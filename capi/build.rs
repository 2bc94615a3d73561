//! Gives the shared library its name for the loader. Before 1.0 each minor version is an ABI of its own.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") == "linux" {
        let [major, minor] = ["CARGO_PKG_VERSION_MAJOR", "CARGO_PKG_VERSION_MINOR"].map(variable);
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,liblacuna.so.{major}.{minor}");
    }
}

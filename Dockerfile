# Phasegate and its sample plugins: docker build -t phasegate . && docker run -p 8080:8080 phasegate
# A quicker build of a slower program, for trying things out: docker build --build-arg PROFILE=release -t phasegate .

FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/* \
    && rustup target add wasm32-wasip1 && rustup component add llvm-tools
WORKDIR /src
# Only what is built: another change, such as one of the documents, builds nothing again.
COPY wit wit
COPY crates crates
COPY wasm-plugins wasm-plugins
RUN cd wasm-plugins && cargo build --release --target wasm32-wasip1 --locked \
    && mkdir /plugins && cp target/wasm32-wasip1/release/*.wasm /plugins/
COPY Cargo.toml Cargo.lock Makefile ./
COPY src src
COPY benches benches
COPY tests/guests tests/guests
# dist: what is deployed, with a profile of which code is hot. release: the same program, less optimized.
ARG PROFILE=dist
RUN if [ "$PROFILE" = dist ]; then make dist; \
    else cargo build --locked --profile "$PROFILE" && install -D "target/$PROFILE/phasegate" target/dist/phasegate; fi

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin phasegate \
    && install --directory --owner phasegate /var/cache/phasegate
# Compiled plugins are kept here: a volume keeps them for the next container.
ENV XDG_CACHE_HOME=/var/cache
COPY --from=build /src/target/dist/phasegate /usr/local/bin/phasegate
COPY --from=build /plugins /etc/phasegate/plugins
COPY conf/docker.toml /etc/phasegate/phasegate.toml
USER phasegate
EXPOSE 8080 9901
STOPSIGNAL SIGTERM
ENTRYPOINT ["phasegate"]
CMD ["run", "-c", "/etc/phasegate/phasegate.toml"]

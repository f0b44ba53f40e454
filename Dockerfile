# Phasegate and its sample plugins: docker build -t phasegate . && docker run -p 8080:8080 phasegate

FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/* \
    && rustup target add wasm32-wasip1 && rustup component add llvm-tools
WORKDIR /src
COPY . .
RUN make dist
RUN cd wasm-plugins && cargo build --release --target wasm32-wasip1 --locked \
    && mkdir /plugins && cp target/wasm32-wasip1/release/*.wasm /plugins/

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

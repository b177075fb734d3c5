# The gateway in a small image: built from source, run as nobody in particular, checked by itself.
#
#   docker build -t keyward .
#   docker build -t keyward --build-arg PGO=yes .     # by profile: faster, and half an hour to build
#   docker run -p 8443:8443 -v ./etc:/etc/keyward:ro -v keyward:/var/lib/keyward keyward
#
# Store, master secret and state_dir belong below /var/lib/keyward. docs/OPERATIONS.md has a
# configuration that fits, and the `keyward init` that comes before the first run.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src ./src
COPY benches ./benches
COPY config ./config
COPY Makefile ./
ARG PGO=no
RUN if [ "$PGO" = yes ]; then \
        apt-get update && apt-get install -y --no-install-recommends nghttp2-client openssl python3 util-linux \
        && rustup component add llvm-tools && make release && cp target/pgo/keyward /usr/bin/keyward; \
    else \
        cargo build --release --locked --bin keyward && cp target/release/keyward /usr/bin/keyward; \
    fi

FROM debian:bookworm-slim
# The authorities by which a database and services over TLS are verified where no `ca` is named.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 keyward \
    && useradd --uid 10001 --gid keyward --no-create-home --home-dir /var/lib/keyward --shell /usr/sbin/nologin keyward \
    && install -d -o keyward -g keyward -m 0700 /var/lib/keyward \
    && install -d -m 0755 /etc/keyward
COPY --from=build /usr/bin/keyward /usr/bin/keyward
USER keyward
WORKDIR /var/lib/keyward
VOLUME /var/lib/keyward
EXPOSE 8443
# Answers where [ops] listens, whatever that is in the configuration.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["keyward", "health", "-c", "/etc/keyward/keyward.toml"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["keyward"]
CMD ["serve", "-c", "/etc/keyward/keyward.toml"]

# syntax=docker/dockerfile:1
# Build:  docker build -t pgsteer .
# Run:    docker run -v ./proxy.toml:/etc/pgsteer/proxy.toml:ro -v pgsteer:/var/lib/pgsteer -p 6432:6432 pgsteer
# Inside a container the file should say: [[listen]] address = "*:6432"

FROM rust:1.95-slim-bookworm AS build
# aws-lc, which does the cryptography, and mimalloc are built from C.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ gcc make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches keep downloaded and compiled dependencies between builds; the result has to be copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked --bin pgsteer \
    && install -D target/dist/pgsteer /out/pgsteer

FROM debian:bookworm-slim
# The authorities are for `verify-full` towards servers with public certificates.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 pgsteer \
    && useradd --uid 10001 --gid pgsteer --no-create-home --home-dir /var/lib/pgsteer --shell /usr/sbin/nologin pgsteer \
    && install --directory --owner=pgsteer --group=pgsteer --mode=0750 /var/lib/pgsteer /etc/pgsteer
COPY --from=build /out/pgsteer /usr/local/bin/pgsteer

USER 10001:10001
WORKDIR /var/lib/pgsteer
# The system identifier and the highest timeline must outlive the container.
VOLUME ["/var/lib/pgsteer"]
EXPOSE 6432 9632

# SIGTERM drains: no new clients, transactions finish, then the end.
STOPSIGNAL SIGTERM
# Asks /livez at admin.http of the same file.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["pgsteer", "healthcheck", "-c", "/etc/pgsteer/proxy.toml"]

ENTRYPOINT ["pgsteer"]
CMD ["run", "-c", "/etc/pgsteer/proxy.toml"]

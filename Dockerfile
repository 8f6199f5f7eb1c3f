# The image of Weft: weft, weft-control-plane and weft-proxy, with the tools that `weft-proxy init` needs.
#   docker build -t weft .
#   docker build -t weft-samples --target samples .      # the applications of deploy/compose.yaml
# Arguments: BUILDER and BASE are images, of one release of one distribution so that the C libraries fit; PROFILE is
# cargo's (release builds in half the time of dist). BINARIES may name an image with ready binaries under /out; then
# nothing is compiled (needs BuildKit, which leaves out the stages that are not used).
ARG BUILDER=rust:1-bookworm
ARG BASE=debian:bookworm-slim
ARG BINARIES=build

FROM ${BUILDER} AS build
ARG PROFILE=dist
WORKDIR /src
COPY . .
RUN cargo build --locked --profile "$PROFILE" --workspace --bins \
 && mkdir /out \
 && cd "target/$([ "$PROFILE" = dev ] && echo debug || echo "$PROFILE")" \
 && cp weft weft-control-plane weft-proxy weft-samples /out/ \
 && strip --strip-debug /out/*

FROM ${BINARIES} AS binaries

FROM ${BASE} AS base
# As the proxy's user by convention: `weft-proxy init` tells the proxy's connections by it.
RUN useradd --uid 2113 --no-create-home --shell /usr/sbin/nologin weft \
 && install -d -o weft -g weft -m 700 /var/lib/weft \
 && install -d -o weft -g weft -m 755 /run/weft

FROM base AS samples
COPY --from=binaries /out/weft-samples /usr/local/bin/
USER nobody
CMD ["weft-samples", "--help"]

FROM base AS weft
RUN apt-get update \
 && apt-get install -y --no-install-recommends iptables \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
COPY --from=binaries /out/weft /out/weft-control-plane /out/weft-proxy /usr/local/bin/
COPY deploy/docker/weft-health /usr/local/bin/
ENV WEFT_SOCKET=/run/weft/control.sock
# 15012 proxies, 15014 status of the control plane, 15020 status of a proxy.
EXPOSE 15012 15014 15020
USER weft
# Of a proxy; the control plane's is `weft-health 15014`.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s CMD ["weft-health", "15020"]
CMD ["weft", "--help"]

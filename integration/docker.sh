#!/usr/bin/env bash
# Runs deploy/compose.yaml: builds the images, brings the blog up, checks it, takes everything away again. Needs root and
# Debian or Ubuntu; installs what it lacks. Nothing is pulled: the base image is made by debootstrap, and a Docker engine of
# its own runs for as long as this does, the containers' part of it in a network namespace of its own.
# Usage: integration/docker.sh [--compile]
# By default the images get the programs of this machine's target directory. --compile has the Dockerfile compile them, in
# an image that holds this machine's Rust toolchain (takes minutes). PROFILE is cargo's (default: dev).
set -euo pipefail
cd "$(dirname "$0")/.."
PROFILE=${PROFILE:-dev}
compile=${1:-}
[ "$(id -u)" = 0 ] || { echo "integration/docker.sh needs root" >&2; exit 1; }

step() { echo "=== $* ($(date -u +%H:%M:%S))"; }
fail() { echo "integration/docker.sh: $*" >&2; exit 1; }

# until SECONDS WHAT COMMAND...: waits until the command succeeds.
until_true() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt $deadline ] || fail "$what: not within the time"
    sleep 0.2
  done
}

step "tools"
declare -A needed=([dockerd]=docker.io [docker-compose]=docker-compose [debootstrap]=debootstrap [curl]=curl [iptables]=iptables)
missing=()
for program in "${!needed[@]}"; do command -v "$program" >/dev/null || missing+=("${needed[$program]}"); done
if [ ${#missing[@]} -gt 0 ]; then
  policy=/usr/sbin/policy-rc.d # packages must not start services: the engine of the machine is not ours to run
  [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; trap 'rm -f "$policy"' EXIT; }
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
  [ ! -e "$policy" ] || rm -f "$policy"
fi
# The client of the same package: another one may lack a builder.
docker=/usr/bin/docker
[ -x $docker ] || docker=docker

work=$(mktemp -d /var/tmp/weft-docker.XXXXXX)
export DOCKER_HOST=unix://$work/docker.sock DOCKER_BUILDKIT=1 COMPOSE_PROJECT_NAME=weft-check COMPOSE_HTTP_TIMEOUT=120
export WEFT_IMAGE=weft-local/weft WEFT_SAMPLES_IMAGE=weft-local/samples
engine=

stop_engine() {
  [ -n "$engine" ] || return 0
  kill "$engine" 2>/dev/null || true
  wait "$engine" 2>/dev/null || true
  engine=
}

clean_up() {
  local result=$?
  if [ $result != 0 ] && [ -n "$engine" ]; then
    compose ps || true
    compose logs --tail=20 || true
    tail -n 20 "$work/engine.log" || true
  fi
  [ -z "$engine" ] || compose down -v --timeout 1 >/dev/null 2>&1 || true
  stop_engine
  awk -v at="$work/" 'index($2, at) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mount; do umount -l "$mount" || true; done
  rm -rf "$work"
  exit $result
}
trap clean_up EXIT
trap 'exit 1' INT TERM

# start_engine COMMAND...: an engine by this command, with what both kinds share.
start_engine() {
  "$@" -H "$DOCKER_HOST" --data-root "$work/data" --exec-root "$work/exec" -p "$work/pid" >>"$work/engine.log" 2>&1 &
  engine=$!
  until_true 60 "a Docker engine ($work/engine.log)" alive
}
alive() { kill -0 "$engine" || fail "the engine has ended: $(tail -n 3 "$work/engine.log")"; $docker version >/dev/null 2>&1; }
compose() { docker-compose -f deploy/compose.yaml "$@"; }

step "base image"
. /etc/os-release
base=target/docker-base-$VERSION_CODENAME.tar
if [ ! -e "$base" ]; then
  debootstrap --variant=minbase "$VERSION_CODENAME" "$work/root" >"$work/debootstrap.log" || fail "debootstrap: $(tail -n 5 "$work/debootstrap.log")"
  mkdir -p target
  tar -C "$work/root" -cf "$base.new" .
  mv "$base.new" "$base"
  rm -rf "$work/root"
fi

step "images"
# Only builds, on this machine's network, and touches none of its rules.
start_engine dockerd --bridge=none --iptables=false --ip6tables=false --ip-forward=false
$docker import "$base" weft-local/base >/dev/null
arguments=(--network=host --build-arg "PROFILE=$PROFILE" --build-arg BASE=weft-local/base)
if [ "$compile" = --compile ]; then
  # The toolchain, and the sources of the dependencies: nothing is fetched inside.
  cargo fetch --locked --quiet
  tar -c --transform "s,^\./,usr/local/," -C "$(rustc --print sysroot)" ./bin ./lib \
    --transform 's,^registry,usr/local/cargo/registry,' -C "${CARGO_HOME:-$HOME/.cargo}" registry/cache registry/index \
    | $docker import - weft-local/toolchain >/dev/null
  printf '%s\n' 'FROM weft-local/base' \
    'RUN apt-get update && apt-get install -y --no-install-recommends build-essential cmake' \
    'COPY --from=weft-local/toolchain /usr/local /usr/local' \
    'ENV CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true' \
    | $docker build --network=host -q -t weft-local/builder - >"$work/build.log" 2>&1 || fail "builder: $(tail -n 20 "$work/build.log")"
  arguments+=(--build-arg BUILDER=weft-local/builder)
else
  cargo build --locked --profile "$PROFILE" --workspace --bins
  programs=${CARGO_TARGET_DIR:-target}/$([ "$PROFILE" = dev ] && echo debug || echo "$PROFILE")
  mkdir -p "$work/binaries/out"
  for program in weft weft-control-plane weft-proxy weft-samples; do strip -o "$work/binaries/out/$program" "$programs/$program"; done
  tar -C "$work/binaries" -c . | $docker import - weft-local/binaries >/dev/null
  arguments+=(--build-arg BUILDER=weft-local/base --build-arg BINARIES=weft-local/binaries)
fi
$docker build "${arguments[@]}" -t $WEFT_IMAGE . >"$work/build.log" 2>&1 || fail "build: $(tail -n 20 "$work/build.log")"
$docker build "${arguments[@]}" -t $WEFT_SAMPLES_IMAGE --target samples . >"$work/build.log" 2>&1 || fail "build: $(tail -n 20 "$work/build.log")"
$docker images --format '{{.Repository}} {{.Size}}' | grep -E "^($WEFT_IMAGE|$WEFT_SAMPLES_IMAGE) "
for program in weft weft-control-plane weft-proxy; do
  $docker run --rm --network=none $WEFT_IMAGE $program --version
done
[ "$($docker run --rm --network=none $WEFT_IMAGE id -u)" = 2113 ] || fail "the image runs as another user than 2113"
stop_engine

step "up"
start_engine unshare --net dockerd
network=$(cat "$work/pid")
inside() { nsenter --target "$network" --net "$@"; }
inside ip link set lo up
compose up --no-build -d >"$work/up.log" 2>&1 || fail "up: $(tail -n 20 "$work/up.log")"
none_but_healthy() {
  local states
  states=$($docker ps --format '{{.Names}} {{.Status}}' | grep -E -- '-(net|proxy)_1|gateway|control-plane')
  [ "$(wc -l <<<"$states")" = 12 ] && ! grep -v '(healthy)' <<<"$states" >/dev/null
}
until_true 120 "all healthy" none_but_healthy

container() { echo "${COMPOSE_PROJECT_NAME}_$1_1"; }
get() { inside curl -sS --fail --max-time 10 http://127.0.0.1:8080/articles/1; }
all_good() { for _ in $(seq "$1"); do get >/dev/null || fail "request through the gateway failed $2"; done; }

step "requests"
until_true 30 "an answer of the blog" eval 'get 2>/dev/null | grep -q Ada'
all_good 30 "at the beginning"

step "names"
# name CONTAINER NAME: its address, as any program finds it.
name() { $docker exec "$(container "$1")" getent ahostsv4 "$2" | awk 'NR == 1 { print $1 }'; }
for one in store store.default store.default.svc.cluster.local; do
  [[ "$(name blog $one)" == 240.* ]] || fail "$one is $(name blog $one), which is no virtual address"
done
store=$(name blog store)
# Not the mesh's: the engine's own name server knows it.
address=$($docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$(container control-plane)")
[ "$(name blog control-plane)" = "$address" ] || fail "control-plane is $(name blog control-plane), not $address"
metrics=$(nsenter --target "$($docker inspect -f '{{.State.Pid}}' "$(container blog-net)")" --net curl -sS http://127.0.0.1:15020/metrics)
grep -q '^weft_dns_queries_total{outcome="loop"} 0$' <<<"$metrics" || fail "the resolver asks itself"

step "every hop is mutual TLS"
# has CONTAINER PEER: a record of this proxy names this peer, proved by a key exchange; and no record lacks one.
has() {
  local records
  records=$($docker logs "$(container "$1")" 2>/dev/null | grep '^{')
  grep -q "\"peer_id\":\"spiffe://cluster.local/ns/default/sa/$2\".*\"tls_group\":\"X25519MLKEM768\"" <<<"$records" || return 1
  ! grep -v '"tls_version":"TLSv1.3"' <<<"$records" || fail "$1 has a record without mutual TLS"
}
until_true 20 "records" has gateway blog
until_true 20 "records" has blog-proxy gateway
until_true 20 "records" has blog-proxy user
for one in 1 2 3; do
  until_true 20 "records" has user-$one-proxy blog
done
# The connections to the store are recorded when they end: with the applications that hold them.
compose restart -t 5 user-1 user-2 user-3 >"$work/restart.log" 2>&1
until_true 20 "records" has store-proxy user

step "powers"
[ "$($docker exec "$(container blog-net)" grep CapBnd /proc/1/status | tr -dc 0-9)" = 0000000000000000 ] || fail "blog-net keeps powers"
for one in blog-proxy blog gateway; do
  [ "$($docker exec "$(container $one)" grep CapPrm /proc/1/status | tr -dc 0-9)" = 0000000000000000 ] || fail "$one has powers"
done

step "control plane killed, and back"
until_true 30 "an answer of the blog" eval 'get >/dev/null 2>&1'
$docker kill "$(container control-plane)" >/dev/null
all_good 30 "while the control plane is down"
$docker start "$(container control-plane)" >/dev/null
until_true 60 "all healthy" none_but_healthy
all_good 30 "after the control plane came back"

step "proxy restarted without a token"
$docker exec -u root "$(container blog-proxy)" true
$docker run --rm --network=none --user root -v ${COMPOSE_PROJECT_NAME}_tokens:/tokens $WEFT_IMAGE rm /tokens/blog
$docker restart "$(container blog-proxy)" >/dev/null
until_true 60 "all healthy" none_but_healthy
until_true 30 "an answer of the blog" eval 'get >/dev/null 2>&1'
grep -q 'identity of an earlier run' <<<"$($docker logs "$(container blog-proxy)" 2>&1)" || fail "the identity was not kept"

step "nothing goes past a proxy that is down"
# By its address: the name is not resolved either.
reach_store() { $docker exec "$(container blog)" timeout 5 bash -c "exec 3<>/dev/tcp/$store/6379" 2>/dev/null; }
reach_store || fail "the store cannot be reached through the proxy"
$docker stop -t 5 "$(container blog-proxy)" >/dev/null
! reach_store || fail "the store was reached past the proxy"
$docker start "$(container blog-proxy)" >/dev/null
until_true 60 "all healthy" none_but_healthy

step "engine restarted"
stop_engine
start_engine unshare --net dockerd
network=$(cat "$work/pid")
inside ip link set lo up
for one in blog store user-1 user-2 user-3; do
  [ "$($docker inspect -f '{{.State.Running}}' "$(container $one)")" = false ] || fail "$one did not wait for its redirection"
done
compose up --no-build -d >"$work/up.log" 2>&1 || fail "up: $(tail -n 20 "$work/up.log")"
until_true 120 "all healthy" none_but_healthy
until_true 30 "an answer of the blog" eval 'get 2>/dev/null | grep -q Ada'
all_good 30 "after a restart of the engine"

step "down"
compose down -v --timeout 1 >"$work/down.log" 2>&1 || fail "down: $(tail -n 5 "$work/down.log")"
[ -z "$($docker ps -aq)" ] || fail "containers are left"
[ -z "$($docker volume ls -q)" ] || fail "volumes are left"
echo "integration/docker.sh: all is as promised"

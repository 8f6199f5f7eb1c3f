#!/usr/bin/env bash
# Every test: units, properties, and the scenarios in real network namespaces. Run as root (or with sudo).
# Arguments go to `cargo test`, for example: integration/test.sh --test e2e_http
set -euo pipefail
cd "$(dirname "$0")/.."
deploy/setup tests
# Scenarios start these as processes, so cargo does not know that tests need them.
cargo build --locked --workspace --bins
if [ "$(id -u)" != 0 ]; then
  echo "weft: the scenarios need root; running the tests by sudo" >&2
  exec sudo --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME,CARGO_TARGET_DIR cargo test --locked "${@:---workspace}"
fi
exec cargo test --locked "${@:---workspace}"

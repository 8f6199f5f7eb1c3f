#!/usr/bin/env bash
# Builds Weft and runs the demo: `deploy/demo.sh`, or `deploy/demo.sh --check` for the headless check.
# WEFT_PROFILE=release builds optimized binaries (slower to build).
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${WEFT_PROFILE:-dev}
directory=$([ "$profile" = dev ] && echo debug || echo "$profile")
deploy/setup demo
echo "weft: building ($profile); the first time takes some minutes" >&2
cargo build --quiet --locked --profile "$profile" --workspace --bins
weft=${CARGO_TARGET_DIR:-target}/$directory/weft
if [ "$(id -u)" = 0 ]; then exec "$weft" demo "$@"; fi
echo "weft: network namespaces need root; asking sudo" >&2
exec sudo "$weft" demo "$@"

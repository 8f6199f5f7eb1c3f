#!/usr/bin/env bash
# Runs a checking tool of the version pinned in tools.txt; installs it under target/tools first, where it is missing.
# Usage: integration/tool.sh cargo-deny|cargo-fuzz [argument…]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
tools=$root/target/tools
wanted=$(cat "$root/integration/tools.txt")
mkdir -p "$root/target"
# Whoever comes second waits until the first has installed everything.
exec {lock}>"$root/target/tools.lock"
flock "$lock"
if [ "$(cat "$tools/installed" 2>/dev/null)" != "$wanted" ]; then
  echo "installing the tools of integration/tools.txt into $tools" >&2
  rm -rf "$tools"
  python3 -m venv "$tools"
  "$tools/bin/pip" install -q --disable-pip-version-check --only-binary :all: --require-hashes -r "$root/integration/tools.txt" >&2
  printf '%s' "$wanted" >"$tools/installed"
fi
exec {lock}>&-
tool=$1
shift
exec "$tools/bin/$tool" "$@"

#!/usr/bin/env bash
# Fuzzes: runs each target of integration/fuzz under libFuzzer. Works with the stable toolchain (no sanitizer: the code
# under test is safe Rust) and brings its own cargo-fuzz; the first build takes some minutes.
# Usage: integration/fuzz.sh [--keep] [seconds] [target…]    (default: 600 seconds for each target)
#   --keep  afterwards add what was found to integration/fuzz/corpus, minimised
# An input that fails is written to target/fuzz/found/ and its name printed; run it again with
#   target/fuzz/<host>/release/<target> <file>
# then mend what it shows, make a unit test of it beside that code, and put the file into the corpus as found-….
set -euo pipefail
cd "$(dirname "$0")/.."
keep=
if [ "${1:-}" = --keep ]; then keep=yes; shift; fi
seconds=${1:-600}
shift || true
known=$(sed -n '/^\[\[bin\]\]/,$s/^name = "\(.*\)"/\1/p' integration/fuzz/Cargo.toml)
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets <<<"$known"

# Fast enough to find, slow enough to build soon; overflows and debug assertions are checked.
export CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
  CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
host=$(rustc -vV | sed -n 's/^host: //p')
out=target/fuzz
for target in "${targets[@]}"; do
  grep -qx "$target" <<<"$known" || { echo "no target $target; there are: ${known//$'\n'/ }" >&2; exit 2; }
  integration/tool.sh cargo-fuzz build --fuzz-dir integration/fuzz --features libfuzzer --sanitizer none \
    --target "$host" --target-dir "$out" "$target"
done

failed=()
mkdir -p "$out/found"
for target in "${targets[@]}"; do
  corpus=integration/fuzz/corpus/$target
  new=$out/corpus/$target
  dictionary=$(sed -n "s/^ *$target: .*\"\(.*\)\";/\1/p" integration/fuzz/src/lib.rs)
  program=$out/$host/release/$target
  mkdir -p "$new"
  echo "=== $target for $seconds s" >&2
  log=$out/$target.log
  if "$program" "$new" "$corpus" -max_total_time="$seconds" -max_len=8192 -timeout=25 -rss_limit_mb=1024 \
    -dict="integration/fuzz/dictionaries/$dictionary.dict" -artifact_prefix="$out/found/$target-" >"$log" 2>&1; then
    tail -n 1 "$log" >&2
  else
    failed+=("$target")
    grep -v '^#' "$log" | tail -n 25 >&2
  fi
  if [ -n "$keep" ]; then
    # One small input for each branch: every run of the tests goes over all of them. Inputs that once failed stay.
    rm -rf "$out/merged"
    mkdir "$out/merged"
    "$program" -set_cover_merge=1 -use_counters=0 -max_len=1024 -timeout=25 "$out/merged" "$new" "$corpus" >>"$log" 2>&1
    find "$corpus" -name 'found-*' -exec cp -t "$out/merged" {} +
    rm -rf "$corpus"
    mv "$out/merged" "$corpus"
    echo "    kept $(find "$corpus" -type f | wc -l) inputs" >&2
  fi
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}; see $out/found and $out/*.log" >&2; exit 1; }

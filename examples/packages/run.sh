#!/usr/bin/env bash
# Debian's package index as a data set: imports it into `kv-cli dev`, kills that with SIGKILL in the middle and again
# afterwards, and compares what is exported with what was imported.
#
#   examples/packages/run.sh [KV-CLI]      (by default target/release/kv-cli)
#
# Needs apt-cache with a package list (`apt-get update`) and python3. Port 7499 must be free.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kv_cli=$(realpath "${1:-$here/../../target/release/kv-cli}")
work=$(mktemp -d)
export MERIDIAN_ENDPOINT=127.0.0.1:7499
server=
trap '[[ -z $server ]] || kill -9 "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

start() {
    "$kv_cli" dev --data "$work/data" --listen "$MERIDIAN_ENDPOINT" --no-shell 2>>"$work/dev.log" &
    server=$!
    for _ in $(seq 200); do
        "$kv_cli" get started >/dev/null 2>&1 && return
        sleep 0.1
    done
    cat "$work/dev.log" >&2
    echo "the cluster does not start" >&2
    exit 1
}

crash() {
    kill -9 "$server"
    wait "$server" 2>/dev/null || true
}

apt-cache dumpavail | python3 "$here/to_jsonl.py" >"$work/packages.jsonl"
echo "$(wc -l <"$work/packages.jsonl") packages, $(stat -c %s "$work/packages.jsonl") bytes"

start
echo "== import, killed in the middle"
"$kv_cli" import --batch 100 --parallel 1 "$work/packages.jsonl" >"$work/first.out" 2>"$work/first.err" &
import=$!
until [[ $("$kv_cli" count --format json admin/ 2>/dev/null | tr -dc 0-9) -gt 100 ]]; do sleep 0.05; done
crash
wait "$import" || true
cat "$work/first.err"
acknowledged=$(sed -nE 's/.*--skip ([0-9]+).*/\1/p' "$work/first.err" | tail -1)
start
echo "== the first $acknowledged records were acknowledged, so they are there"
head -n "$acknowledged" "$work/packages.jsonl" >"$work/expected.jsonl"
"$kv_cli" export "$work/partial.jsonl"
[[ $acknowledged -gt 0 ]]
head -n "$acknowledged" "$work/partial.jsonl" | cmp - "$work/expected.jsonl"

echo "== the rest"
"$kv_cli" import --skip "$acknowledged" "$work/packages.jsonl"
crash
start
echo "== killed again; now everything is there"
"$kv_cli" count
"$kv_cli" count editors/
"$kv_cli" scan --keys --limit 3 editors/vim
"$kv_cli" export "$work/export.jsonl"
cmp "$work/export.jsonl" "$work/packages.jsonl"
echo "== the export equals the input"

"$kv_cli" -e 'begin; put editors/ed changed; del editors/vim; get editors/ed; commit'
crash
start
"$kv_cli" get editors/ed
if "$kv_cli" scan --keys editors/vim editors/vim0 --limit 1 | grep -qx 'editors/vim'; then exit 1; fi
echo "== changed in a transaction, killed, and still changed"

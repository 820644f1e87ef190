#!/usr/bin/env bash
# Faults on the three-region cluster of compose.yaml, while clients in both regions work; the checkers of the simulation judge
# what these clients saw.
#
#   deploy/chaos.sh --minutes 5 [--seed N] [--keep]
#
# Containers are killed, restarted, paused and cut off from the other regions, one by one and whole regions at a time. Exit code 0
# only if all held; the verdict is the last line. The cluster is the script's own (project meridian-chaos, other ports than those of
# compose.yaml), made anew and removed again; --keep leaves it and its volumes to be looked at.
#
# MERIDIAN_IMAGE=NAME takes that image instead of building one; CHAOS_BIN=FILE that program. Needs Docker with Compose (either one)
# and cargo.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
minutes=5
seed=$((RANDOM + 1))
keep=
while (($# > 0)); do
    case $1 in
        --minutes) minutes=${2:?--minutes needs a number}; shift 2 ;;
        --seed) seed=${2:?--seed needs a number}; shift 2 ;;
        --keep) keep=1; shift ;;
        *) echo "chaos.sh: unknown argument $1 (there are --minutes, --seed, --keep)" >&2; exit 2 ;;
    esac
done

fail() {
    echo "FAILED: $*"
    exit 2
}

docker version >/dev/null 2>&1 || fail "Docker Engine does not answer"
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
else
    fail "neither 'docker compose' nor 'docker-compose' is there"
fi

export MERIDIAN_NORTH_PORT=${MERIDIAN_NORTH_PORT:-7411} MERIDIAN_SOUTH_PORT=${MERIDIAN_SOUTH_PORT:-7412}
project=${CHAOS_PROJECT:-meridian-chaos}
work=$(mktemp -d)
history=${CHAOS_HISTORY:-$root/data/chaos-history.txt}
mkdir -p "$(dirname "$history")"

if [[ -z ${MERIDIAN_IMAGE:-} ]]; then
    "$root/deploy/image/build.sh" meridian:chaos
    export MERIDIAN_IMAGE=meridian:chaos
fi
if [[ -z ${CHAOS_BIN:-} ]]; then
    (cd "$root" && cargo build --locked --release -p sim-tests --bin chaos)
    CHAOS_BIN=${CARGO_TARGET_DIR:-$root/target}/release/chaos
fi

# Four ranges instead of two, by turns ordered in the north and in the south, through the middle of what the clients use: most of
# their transactions then cross ranges.
awk '
    /^\[\[cluster.range\]\]/ { skipping = 1; next }
    skipping && /^\[/ {
        skipping = 0
        print "[[cluster.range]]\nregion = \"north\"\n"
        print "[[cluster.range]]\nstart = \"bank/04\"\nregion = \"south\"\n"
        print "[[cluster.range]]\nstart = \"ledger/\"\nregion = \"north\"\n"
        print "[[cluster.range]]\nstart = \"pair/\"\nregion = \"south\"\n"
    }
    !skipping { print }
' "$root/deploy/compose/cluster.toml" >"$work/cluster.toml"
chmod 755 "$work"
chmod 644 "$work/cluster.toml"
export MERIDIAN_CLUSTER=$work/cluster.toml

cluster() {
    "${compose[@]}" -p "$project" -f "$root/deploy/compose.yaml" "$@"
}

finish() {
    if [[ -n $keep ]]; then
        echo "project $project is left as it is; '${compose[*]} -p $project down --volumes' removes it" >&2
    else
        cluster down --volumes --timeout 5 >/dev/null 2>&1 || true
        rm -rf "$work"
    fi
}
trap finish EXIT

cluster down --volumes --timeout 5 >/dev/null 2>&1 || true
cluster up -d >"$work/up.log" 2>&1 || { cat "$work/up.log" >&2; fail "the cluster could not be started"; }

result=0
"$CHAOS_BIN" --project "$project" --minutes "$minutes" --seed "$seed" --history "$history" \
    --routers "north=127.0.0.1:$MERIDIAN_NORTH_PORT" "south=127.0.0.1:$MERIDIAN_SOUTH_PORT" >"$work/verdict" || result=$?
if ((result != 0)); then
    # What the services said, and what the clients saw: beside each other.
    cluster logs --no-color --timestamps >"${history%.txt}.log" 2>&1 || true
    echo "seed $seed; services' logs: ${history%.txt}.log; clients' history, if something was wrong with it: $history" >&2
fi
cat "$work/verdict"
exit "$result"

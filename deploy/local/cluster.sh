#!/usr/bin/env bash
# Runs the cluster of cluster.toml on this machine, one process per node.
#
#   cluster.sh start            create it if need be, start every node that does not run, wait until all are ready
#   cluster.sh stop             stop every node cleanly, clients' side first
#   cluster.sh status           which nodes run
#   cluster.sh kill NAME        kill -9
#   cluster.sh restart NAME     stop cleanly if it runs, then start
#
# MERIDIAN_LOCAL_DIR   data, logs and pids             (default: data/local in the repository)
# MERIDIAN_BIN         the server                      (default: target/release/meridian, else target/debug/meridian)
# MERIDIAN_LOG         what the servers log            (default: info)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
dir=${MERIDIAN_LOCAL_DIR:-$root/data/local}
config=$dir/cluster.toml
ready_seconds=60
stop_seconds=20

fail() {
    echo "cluster.sh: $*" >&2
    exit 1
}

find_binary() {
    local candidate
    for candidate in "${MERIDIAN_BIN:-}" "${CARGO_TARGET_DIR:-$root/target}"/{release,debug}/meridian; do
        if [[ -n $candidate && -x $candidate ]]; then
            echo "$candidate"
            return
        fi
    done
    fail "no server found: run 'cargo build --release', or set MERIDIAN_BIN"
}

# The names in the order of the file, which is the order to start in.
nodes() {
    sed -n 's/^name *= *"\(.*\)" *$/\1/p' "$config"
}

require_node() {
    [[ -f $config ]] || fail "there is no cluster in $dir: run 'cluster.sh start'"
    nodes | grep -qxF -- "${1:-}" || fail "no node '${1:-}'; there are: $(nodes | xargs)"
}

# Prints the pid if the node runs. A pid that now belongs to another program does not count.
running_pid() {
    local pid
    pid=$(cat "$dir/$1.pid" 2>/dev/null) || return 1
    kill -0 "$pid" 2>/dev/null || return 1
    if [[ -r /proc/$pid/cmdline ]]; then
        tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -- "--node $1 " || return 1
    fi
    echo "$pid"
}

launch() {
    local name=$1
    # From here on the log is of this start.
    touch "$dir/$name.log"
    wc -c <"$dir/$name.log" >"$dir/$name.offset"
    MERIDIAN_LOG=${MERIDIAN_LOG:-info} nohup "$binary" serve --config "$config" --node "$name" \
        </dev/null >>"$dir/$name.log" 2>&1 &
    echo $! >"$dir/$name.pid"
}

log_of_this_start() {
    tail -c "+$(($(cat "$dir/$1.offset") + 1))" "$dir/$1.log"
}

wait_ready() {
    local name=$1 deadline=$((SECONDS + ready_seconds))
    until log_of_this_start "$name" | grep -qF ' ready node='; do
        running_pid "$name" >/dev/null || fail "$name ended: $(log_of_this_start "$name" | tail -n 3)"
        ((SECONDS < deadline)) || fail "$name is not ready after $ready_seconds s, see $dir/$name.log"
        sleep 0.05
    done
}

# Asks the given nodes to stop, all at once, and waits for them.
stop_nodes() {
    local name pid deadline=$((SECONDS + stop_seconds))
    for name in "$@"; do
        if pid=$(running_pid "$name"); then kill -TERM "$pid"; fi
    done
    for name in "$@"; do
        while running_pid "$name" >/dev/null; do
            ((SECONDS < deadline)) || fail "$name does not stop, see $dir/$name.log (cluster.sh kill $name)"
            sleep 0.05
        done
        rm -f "$dir/$name.pid"
    done
}

start() {
    binary=$(find_binary)
    mkdir -p "$dir"
    [[ -f $config ]] || cp "$here/cluster.toml" "$config"
    # A file with a cluster id was initialised before.
    grep -q '^id *=' "$config" || "$binary" init --config "$config"
    local name started=()
    for name in $(nodes); do
        running_pid "$name" >/dev/null || { launch "$name"; started+=("$name"); }
    done
    for name in "${started[@]}"; do wait_ready "$name"; done
    echo "running: $(nodes | wc -l | xargs) nodes, router at $(router_address), files in $dir" >&2
}

router_address() {
    grep -A1 '^name *= *"router-1"' "$config" | sed -n 's/^address *= *"\(.*\)" *$/\1/p'
}

stop() {
    [[ -f $config ]] || return 0
    # Clients' side first; the journal last, so that the others can hand over what they own.
    local role
    for role in router query storage adjudicator journal; do
        # shellcheck disable=SC2046 # names have no spaces
        stop_nodes $(nodes | grep "^$role-")
    done
}

status() {
    [[ -f $config ]] || fail "there is no cluster in $dir: run 'cluster.sh start'"
    local name pid
    for name in $(nodes); do
        if pid=$(running_pid "$name"); then echo "$name running $pid"; else echo "$name stopped"; fi
    done
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    status) status ;;
    kill)
        require_node "${2:-}"
        pid=$(running_pid "$2") || fail "$2 does not run"
        kill -KILL "$pid"
        while running_pid "$2" >/dev/null; do sleep 0.02; done
        ;;
    restart)
        require_node "${2:-}"
        binary=$(find_binary)
        stop_nodes "$2"
        launch "$2"
        wait_ready "$2"
        ;;
    *)
        sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac

#!/usr/bin/env bash
# Measures what a shell script can use instead of the command `tantara`, and prints Markdown tables.
#
#   cargo build --release && bench/shell/peers.sh [PEER...]
#
# The scenario, with each peer:
#   1. Five waiters start. One is killed (kill -9). Then the signal is given once. How many of the four are released?
#   2. The signal is given once. Then four waiters start. How many are released?
#   3. 25 times: four waiters start, and the signal is given at a random moment of the first 20 ms. How many of the
#      hundred are released?
# The first two are repeated $REPEATS times; if the numbers differ, the lowest and the highest are printed. Each waiter
# is a process of its own, and counts as released once the command after its wait has run. Whoever is not released
# after $LIMIT seconds is still waiting, and is killed. Peers that are not installed are named and left out.
#
# On Debian: apt install tmux s6 inotify-tools redis-server redis-tools etcd-server etcd-client
# Variables: TANTARA (the command), LIMIT (seconds, 3), REPEATS (3), ROUNDS (of the latencies, 100; 0 leaves them out).
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tantara=${TANTARA:-$root/target/release/tantara}
limit=${LIMIT:-3}
repeats=${REPEATS:-3}
rounds=${ROUNDS:-100}
work=$(mktemp -d "${TMPDIR:-/tmp}/peers.XXXXXX")
socket=peers-$$
groups=()   # process groups to be killed at the end
servers=()

clean_up() {
    kill_groups
    for server in "${servers[@]}"; do kill -9 "$server" 2>/dev/null; done
    command -v tmux >/dev/null && tmux -L "$socket" kill-server 2>/dev/null
    rm -rf "$work"
}
kill_groups() {
    local group
    for group in "${groups[@]}"; do kill -9 -- "-$group" 2>/dev/null; done
    groups=()
}
# Starts a command in a process group of its own. It is disowned, so that the shell does not report its end.
background() {
    setsid "$@" &
    groups+=($!)
    disown "$!" 2>/dev/null
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# A peer is five functions: NAME_needs prints what must be installed, NAME_start begins what it needs for the event $1
# (before the waiters), NAME_wait and NAME_signal are the commands, and NAME_version prints a version.
# Functions that a peer lacks do nothing.

tantara_needs() { echo "$tantara"; }
tantara_wait() { "$tantara" --dir "$work/events" wait "$1"; }
tantara_signal() { "$tantara" --dir "$work/events" set "$1"; }
tantara_version() { "$tantara" --version; }

tmux_needs() { echo tmux; }
tmux_start() { tmux -L "$socket" -f /dev/null new-session -d 2>/dev/null || true; }
tmux_wait() { tmux -L "$socket" wait-for "$1"; }
tmux_signal() { tmux -L "$socket" wait-for -S "$1"; }
tmux_version() { tmux -V; }

fifo_needs() { echo mkfifo; }
fifo_start() { mkfifo "$work/$1"; }
fifo_wait() { cat "$work/$1" >/dev/null; }
fifo_signal() { echo > "$work/$1"; }
fifo_version() { bash --version | sed -n '1s/,//g; 1s/(.*//p'; }

s6_needs() { echo s6-ftrig-wait; }
s6_start() { s6-mkfifodir "$work/$1"; }
s6_wait() { s6-ftrig-wait "$work/$1" s >/dev/null; }
s6_signal() { s6-ftrig-notify "$work/$1" s; }
s6_version() { dpkg-query -W -f '${Package} ${Version}\n' s6 2>/dev/null || echo s6; }

inotify_needs() { echo inotifywait; }
inotify_start() { mkdir "$work/$1"; }
inotify_wait() { inotifywait -qq -e create "$work/$1"; }
inotify_signal() { touch "$work/$1/set"; }
inotify_version() { inotifywait --help | head -n 1; }

testinotify_needs() { echo inotifywait; }
testinotify_start() { mkdir "$work/$1"; }
testinotify_wait() { [ -e "$work/$1/set" ] || inotifywait -qq -e create "$work/$1"; }
testinotify_signal() { touch "$work/$1/set"; }

poll_needs() { echo sleep; }
poll_wait() { until [ -e "$work/$1" ]; do sleep 0.1; done; }
poll_signal() { touch "$work/$1"; }

# The signaller is the holder of the lock, and the signal is its end.
flock_needs() { echo flock; }
flock_start() {
    background flock -x "$work/$1" sleep 3600
    echo "${groups[-1]}" > "$work/$1.holder"
    until ! flock -n -s "$work/$1" true; do sleep 0.01; done
}
flock_wait() { flock -s "$work/$1" true; }
flock_signal() { kill -9 -- "-$(cat "$work/$1.holder")"; }
flock_version() { flock --version; }

# The same, but the signaller comes after the waiters, as it does with all other peers.
lateflock_needs() { echo flock; }
lateflock_wait() { flock -s "$work/$1" true; }
lateflock_signal() { flock -x "$work/$1" true; }

redis_server() {
    [ -S "$work/redis" ] && return
    redis-server --port 0 --unixsocket "$work/redis" --save '' --dir "$work" >/dev/null & servers+=($!)
    disown "$!" 2>/dev/null
    until redis-cli -s "$work/redis" ping >/dev/null 2>&1; do sleep 0.05; done
}
blpop_needs() { echo redis-server; }
blpop_start() { redis_server; }
blpop_wait() { redis-cli -s "$work/redis" BLPOP "$1" 0 >/dev/null; }
blpop_signal() { redis-cli -s "$work/redis" LPUSH "$1" 1 >/dev/null; }
blpop_version() { redis-cli --version; }

xread_needs() { echo redis-server; }
xread_start() { redis_server; }
xread_wait() { redis-cli -s "$work/redis" XREAD COUNT 1 BLOCK 0 STREAMS "$1" 0 >/dev/null; }
xread_signal() { redis-cli -s "$work/redis" XADD "$1" '*' set 1 >/dev/null; }

subscribe_needs() { echo redis-server; }
subscribe_start() { redis_server; }
subscribe_wait() { redis-cli -s "$work/redis" SUBSCRIBE "$1" | grep -q -m1 signal; }
subscribe_signal() { redis-cli -s "$work/redis" PUBLISH "$1" signal >/dev/null; }

# A port of the loopback on which nobody listens.
free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}
etcdctl_needs() { echo etcd etcdctl; }
etcdctl_start() {
    [ -d "$work/etcd" ] && return
    local client peer
    client=http://127.0.0.1:$(free_port) peer=http://127.0.0.1:$(free_port)
    export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=$client
    etcd --data-dir "$work/etcd" --listen-client-urls "$client" --advertise-client-urls "$client" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" \
        >/dev/null 2>&1 & servers+=($!)
    disown "$!" 2>/dev/null
    until etcdctl endpoint health >/dev/null 2>&1; do sleep 0.1; done
}
etcdctl_wait() { etcdctl watch "$1" | grep -q -m1 PUT; }
etcdctl_signal() { etcdctl put "$1" 1 >/dev/null; }
etcdctl_version() { ETCDCTL_API=3 etcdctl version | head -n 1; }

# Each peer, and how its row is called.
peers=(
    'tantara|**`tantara wait`, `tantara set`**'
    'tmux|`tmux wait-for`'
    'fifo|FIFO: `cat`, `echo`'
    's6|`s6-ftrig-wait`, `s6-ftrig-notify`'
    'inotify|`inotifywait -e create`, `touch`'
    'testinotify|`test -e` before `inotifywait`, `touch`'
    'poll|`until test -e`, `sleep 0.1`'
    'flock|`flock -s`, a holder that starts first and ends'
    'lateflock|`flock -s`, then `flock -x`'
    'blpop|`redis-cli BLPOP`, `LPUSH`'
    'xread|`redis-cli XREAD BLOCK`, `XADD`'
    'subscribe|`redis-cli SUBSCRIBE` into `grep -m1`'
    'etcdctl|`etcdctl watch` into `grep -m1`'
)

optional() { if declare -F "$1" >/dev/null; then "$@"; fi; }

missing() {
    local program
    for program in $("$1_needs"); do command -v "$program" >/dev/null || echo "$program"; done
}

released() { find "$work" -name "released.$1.*" | wc -l; }
failed() { find "$work" -name "failed.$1.*" | wc -l; }

# Starts waiter number $3 of the peer $1 for the event $2.
begin() {
    background bash -c '"$1_wait" "$2" 2>/dev/null && : > "$4/released.$2.$3" || : > "$4/failed.$2.$3"' \
        waiter "$1" "$2" "$3" "$work"
}

# Gives the signal, in the background, as some peers block.
signal() {
    rm -f "$work/signalled"
    background bash -c '"$1_signal" "$2" 2>/dev/null; : > "$3/signalled"' signaller "$1" "$2" "$work"
}

# Waits until a command succeeds, for $1 tenths of a second at most.
until_or() {
    local tenths
    for ((tenths = 0; tenths < $1; tenths++)); do
        "${@:2}" && return
        sleep 0.1
    done
    return 1
}

all_out() { [ "$(released "$1")" -ge "$2" ]; }
signalled() { [ -e "$work/signalled" ]; }

# What became of the waiters for $1 that were not released, of $2.
ending() {
    local bad left words=()
    bad=$(failed "$1") left=$(($2 - $(released "$1") - $(failed "$1")))
    [ "$bad" -gt 0 ] && words+=("$bad failed")
    [ "$left" -gt 0 ] && words+=("$left wait for ever")
    signalled || words+=('the signaller blocks')
    local text=${words[*]/%/,}
    echo "${text%,}"
}

# The scenarios. Each prints the number of released waiters, and what became of the others.
waiters_first() {
    local peer=$1 event=$1-1-$2 number early
    optional "${peer}_start" "$event"
    for number in 1 2 3 4 5; do begin "$peer" "$event" "$number"; done
    sleep 1
    early=$(released "$event")
    if [ "$early" -gt 0 ]; then
        echo "0|$early do not wait for the signal"
    else
        kill -9 -- "-${groups[-1]}"
        sleep 0.2
        signal "$peer" "$event"
        until_or $((limit * 10)) all_out "$event" 4
        until_or 10 signalled
        echo "$(released "$event")|$(ending "$event" 4)"
    fi
    kill_groups
}
signal_first() {
    local peer=$1 event=$1-2-$2 number
    optional "${peer}_start" "$event"
    signal "$peer" "$event"
    until_or 10 signalled
    for number in 1 2 3 4; do begin "$peer" "$event" "$number"; done
    until_or $((limit * 10)) all_out "$event" 4
    echo "$(released "$event")|$(ending "$event" 4)"
    kill_groups
}
signal_meanwhile() {
    local peer=$1 event number round
    for ((round = 0; round < 25; round++)); do
        event=$1-3-$round
        optional "${peer}_start" "$event"
        for number in 1 2 3 4; do begin "$peer" "$event" "$number"; done
        sleep "$(printf '0.%03d' $((RANDOM % 20)))"
        signal "$peer" "$event"
    done
    until_or $((limit * 10)) all_out "$peer-3-*" 100
    until_or 10 signalled
    echo "$(released "$peer-3-*")|$(ending "$peer-3-*" 100)"
    kill_groups
}

# Runs a scenario $3 times, and prints the numbers of released waiters, and the last ending that is not empty.
repeatedly() {
    local scenario=$1 peer=$2 repeat
    : > "$work/outcomes"
    # Not in a subshell, which would keep the process groups and the servers to itself.
    for ((repeat = 0; repeat < $3; repeat++)); do "$scenario" "$peer" "$repeat" >> "$work/outcomes"; done
    awk -F'|' 'NR == 1 {least = most = $1} $1 < least {least = $1} $1 > most {most = $1} $2 {why = $2}
        END {print (least == most ? least : least "–" most) "|" why}' "$work/outcomes"
}

# From the start of the signalling command to the first output of the waiting one, in microseconds. `date` is that
# output, so each figure contains the start of one program; the first row is nothing but that.
declare -A after=(
    [nothing]=''
    [tantara]='exec "$tantara" --dir "$work/events" wait "$1" -- date +%s%N'
    [tmux]='tmux -L "$socket" wait-for "$1" && exec date +%s%N'
    [fifo]='read -r _ < "$work/$1"; exec date +%s%N'
    [s6]='s6-ftrig-wait "$work/$1" s >/dev/null && exec date +%s%N'
    [inotify]='inotifywait -qq -e create "$work/$1" && exec date +%s%N'
    [xread]='redis-cli -s "$work/redis" XREAD COUNT 1 BLOCK 0 STREAMS "$1" 0 >/dev/null && exec date +%s%N'
)
latency() {
    local peer=$1 event=$1-latency-$2 began ended
    if [ "$peer" = nothing ]; then
        began=${EPOCHREALTIME/[.,]/}
        ended=$(date +%s%N)
        echo $((ended / 1000 - began))
        return
    fi
    optional "${peer}_start" "$event"
    timeout 10 bash -c "${after[$peer]}" waiter "$event" > "$work/stamp" &
    local waiter=$!
    sleep 0.15
    began=${EPOCHREALTIME/[.,]/}
    "${peer}_signal" "$event"
    wait "$waiter" && echo $(($(cat "$work/stamp") / 1000 - began))
}

mkdir "$work/events"
export tantara work socket
# shellcheck disable=SC2046
export -f $(declare -F | sed -n 's/^declare -f \(.*_\(wait\|signal\)\)$/\1/p')

wanted=" $* "
present=()
versions=()
rows=()
for peer in "${peers[@]}"; do
    name=${peer%%|*} title=${peer#*|}
    [ $# -eq 0 ] || [[ $wanted == *" $name "* ]] || continue
    lacks=$(missing "$name")
    if [ -n "$lacks" ]; then
        echo "$name is left out: $(echo $lacks) is not installed" >&2
        continue
    fi
    echo "$name" >&2
    present+=("$name")
    declare -F "${name}_version" >/dev/null && versions+=("$("${name}_version" 2>&1)")
    row="| $title"
    for scenario in 'waiters_first 4' 'signal_first 4' 'signal_meanwhile 100'; do
        times=$repeats
        [ "${scenario#* }" = 100 ] && times=1
        repeatedly "${scenario% *}" "$name" "$times" > "$work/cell"
        IFS='|' read -r number why < "$work/cell"
        row+=" | $number of ${scenario#* }${why:+: $why}"
    done
    rows+=("$row |")
done

printf 'Measured %s at commit %s on %s, %s processors, Linux %s, by `bench/shell/peers.sh`, with %s.\n\n' \
    "$(date +%F)" "$(git -C "$root" rev-parse --short HEAD)" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" "$(uname -r)" \
    "$(printf '%s, ' "${versions[@]}" | sed 's/, $//')"
echo '| | one killed, one signal | the signal first | the signal while they start |'
echo '|---|---|---|---|'
printf '%s\n' "${rows[@]}"

[ "$rounds" -gt 0 ] || exit 0
for ((round = 0; round < rounds; round++)); do
    for name in nothing "${present[@]}"; do
        [ -n "${after[$name]+known}" ] && latency "$name" "$round" >> "$work/latencies.$name"
    done
done
printf '\nFrom the start of the signalling command to the first output of the waiting one, in µs, %s rounds:\n\n' "$rounds"
echo '| | median | 90 % | ratio to tantara |'
echo '|---|--:|--:|--:|'
quantile() { sort -n "$work/latencies.$1" | awk -v q="$2" '{a[NR] = $1} END {print a[int((NR - 1) * q) + 1]}'; }
for name in nothing "${present[@]}"; do
    [ -s "$work/latencies.$name" ] || continue
    ratio=-
    [ -s "$work/latencies.tantara" ] &&
        ratio=$(awk "BEGIN {printf \"%.2f\", $(quantile "$name" 0.5) / $(quantile tantara 0.5)}")
    echo "| $name | $(quantile "$name" 0.5) | $(quantile "$name" 0.9) | $ratio |"
done

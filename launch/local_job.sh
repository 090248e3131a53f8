#!/usr/bin/env bash
# A job of several processes on this machine: 'llama3 train' N times, joined over localhost.
set -euo pipefail
# shellcheck source=launch/_environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

usage="usage: launch/local_job.sh N RUN.yaml [a.b=c ...] [options of llama3 train]

Makes a Python environment in .venv of the checkout (once), then starts
  llama3 train RUN.yaml ... --coordinator localhost:PORT --num-processes N --process-id 0..N-1
A signal to this script goes to all of them; where one fails, all end. What is said on the screen is process 0's, and errors.
On a CPU, JAX_NUM_CPU_DEVICES is what each process emulates. Where nvidia-smi lists GPUs, each process gets its share of them.

LLAMA3_PYTHON  the Python to use        LLAMA3_VENV  where the environment goes
exit codes: 2 wrong command line, 3 no suitable Python, 4 too little disk space, 5 no network, 6 installation failed,
else that of the first llama3 to end with one that is not 0"

case ${1:-} in
    -h | --help) printf '%s\n' "$usage"; exit 0 ;;
    '' | 0* | *[!0-9]*) die 2 "How many processes? It is '${1:-}'.
$usage" ;;
esac
[ $# -ge 2 ] || die 2 "Which run file?
$usage"
processes=$1
shift

prepare
port=$("$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')

# The GPUs of process $1, or nothing where there are none.
share_of_gpus() {
    local gpus count each
    mapfile -t gpus < <(if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
        tr , '\n' <<<"$CUDA_VISIBLE_DEVICES"
    else
        nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true
    fi)
    count=${#gpus[@]}
    [ "$count" -gt 0 ] || return 0
    [ $((count % processes)) -eq 0 ] || die 2 "$count GPUs cannot be shared among $processes processes; choose a divisor."
    each=$((count / processes))
    (IFS=,; printf '%s' "${gpus[*]:$1*each:each}")
}

set -m # each in a process group of its own: Ctrl-C reaches this script, which passes it on, once
pids=() told=
for signal in INT TERM USR1; do
    # shellcheck disable=SC2064
    trap "told=$signal; kill -$signal \"\${pids[@]}\" 2>/dev/null || true" "$signal"
done
trap 'kill -KILL "${pids[@]}" 2>/dev/null || true' EXIT
for ((id = 0; id < processes; id++)); do
    gpus=$(share_of_gpus "$id")
    env ${gpus:+CUDA_VISIBLE_DEVICES="$gpus"} "$venv/bin/llama3" train "$@" --coordinator "localhost:$port" \
        --num-processes "$processes" --process-id "$id" &
    pids+=($!)
done

# Where one fails, llama3 ends the others itself. A 'wait' that a signal cut short is begun again.
status=0
for pid in "${pids[@]}"; do
    while told='' code=0; do
        wait "$pid" || code=$?
        [ -n "$told" ] || break
    done
    [ "$status" -ne 0 ] || status=$code
done
exit "$status"

#!/usr/bin/env bash
# From a fresh checkout to a trained small Llama and its samples: installs what is missing, then trains.
set -euo pipefail
# shellcheck source=launch/_environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

usage="usage: launch/quickstart.sh [a.b=c ...] [--runs DIR]

Makes a Python environment in .venv of the checkout (once), then runs
  llama3 train configs/quickstart.yaml --runs runs [a.b=c ...]
with the run directory under runs/ of the checkout unless --runs says otherwise. All arguments go to 'llama3 train'.

LLAMA3_PYTHON  the Python to use        LLAMA3_VENV  where the environment goes
exit codes: 3 no suitable Python, 4 too little disk space, 5 no network, 6 installation failed, else those of llama3"

runs=default
for argument in "$@"; do
    case $argument in
        -h | --help) printf '%s\n' "$usage"; exit 0 ;;
        --runs | --runs=*) runs=given ;;
    esac
done

[ $runs = given ] || set -- --runs "$repo/runs" "$@"
prepare
exec "$venv/bin/llama3" train "$repo/configs/quickstart.yaml" "$@"

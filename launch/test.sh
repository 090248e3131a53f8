#!/usr/bin/env bash
# Runs the tests of this checkout, installing what they need.
set -euo pipefail
# shellcheck source=launch/_environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

usage="usage: launch/test.sh [pytest arguments ...]

Makes a Python environment in .venv of the checkout (once), then runs pytest there, in a process for each core ('-n 0': in one);
'-m slow' runs the long tests, '-m compiled' those that take the compilers of TPU and H100
(pip install libtpu; jax-cuda13-plugin, jax-cuda13-pjrt and nvidia-cuda-nvdisasm, --no-deps).

LLAMA3_PYTHON  the Python to use        LLAMA3_VENV  where the environment goes
exit codes: 3 no suitable Python, 4 too little disk space, 5 no network, 6 installation failed, else those of pytest"

case ${1:-} in
    -h | --help) printf '%s\n' "$usage"; exit 0 ;;
esac

prepare test
cd "$repo"
exec "$venv/bin/python" -m pytest -n auto --dist loadfile "$@"

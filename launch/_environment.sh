# Sourced by the scripts beside it: finds a Python, makes a virtual environment, installs this checkout into it.
#
# LLAMA3_PYTHON   the Python to use (default: the newest of 3.13, 3.12, 3.11 that works; every dependency has wheels
#                 for these three, and they are the ones we test)
# LLAMA3_VENV     where the environment goes (default: .venv in the checkout)
# Exit codes: 3 no suitable Python, 4 too little disk space, 5 no network, 6 installation failed.
# shellcheck shell=bash

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
need_gb=3

say() { printf '%s\n' "$*" >&2; }
die() { local code=$1; shift; say "$*"; exit "$code"; }

# Prints the version of a Python; fails if it does not run or lacks what an environment needs. A shim on PATH can
# exist and yet not run, so only running it tells.
probe_python() { "$1" -c 'import sys; print(sys.version.split()[0]); import ssl, venv, ensurepip' 2>/dev/null; }

# Every candidate for a version such as 3.12, best first.
list_pythons() {
    type -aP "python$1" python3 python || true
    printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1."*/bin/python \
        "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}/cpython-$1."*/bin/python3 | grep -v '[*]' | sort -rV || true
}

# find_python VERSION...: prints the first working Python of the first version that has one.
find_python() {
    local version candidate
    for version in "$@"; do
        while read -r candidate; do
            case $(probe_python "$candidate" || echo broken) in
                *broken) ;;
                "$version".*) printf '%s\n' "$candidate"; return 0 ;;
            esac
        done < <(list_pythons "$version")
    done
    return 1
}

choose_python() {
    local found
    if [ -n "${LLAMA3_PYTHON:-}" ]; then
        found=$(probe_python "$LLAMA3_PYTHON") || die 3 "LLAMA3_PYTHON=$LLAMA3_PYTHON does not run, or lacks ssl, \
venv or ensurepip${found:+ (it says $found)}. Point it at a complete Python 3.11 or newer, or unset it."
        case $found in
            3.1[1-9].* | 3.[2-9][0-9].*) command -v "$LLAMA3_PYTHON"; return ;;
        esac
        die 3 "LLAMA3_PYTHON=$LLAMA3_PYTHON is Python $found; llama3_jax needs 3.11 or newer."
    fi
    find_python 3.13 3.12 3.11 && return
    say "llama3_jax needs Python 3.13, 3.12 or 3.11, with ssl, venv and ensurepip. Found here:"
    list_pythons 3 | awk '!seen[$0]++' | while read -r candidate; do
        found=$(probe_python "$candidate") || found="${found:+$found, }does not run, or is incomplete"
        say "  $candidate: $found"
    done
    say "Install one, for example:"
    say "  sudo apt install python3.12 python3.12-venv      Debian, Ubuntu"
    say "  brew install python@3.12                         macOS"
    say "  uv python install 3.12                           anywhere with uv"
    say "or name one: LLAMA3_PYTHON=/path/to/python3.12 $0"
    exit 3
}

check_disk() {
    local where=$1 free_kb
    while [ ! -d "$where" ]; do where=$(dirname "$where"); done
    free_kb=$(df -Pk "$where" | awk 'NR == 2 { print $4 }')
    [ "$free_kb" -ge $((need_gb * 1024 * 1024)) ] || die 4 "The environment needs $need_gb GB free for $1; there are \
$((free_kb / 1024)) MB. Free some, or put it elsewhere: LLAMA3_VENV=/big/disk/venv $0"
}

# Makes $venv unless a sound one is there. The mark $unfinished lives from before the first file of an environment
# until its first complete installation, so an interrupted one is known and made anew.
make_venv() {
    local python
    if [ -e "$unfinished" ] || { [ -e "$venv/pyvenv.cfg" ] && ! probe_python "$venv/bin/python" >/dev/null; }; then
        say "The environment in $venv was left half made; making it again."
        rm -rf "$venv"
    elif [ -e "$venv/pyvenv.cfg" ]; then
        return 0
    elif [ -n "$(ls -A "$venv" 2>/dev/null)" ]; then
        die 6 "$venv exists and is not a Python environment; choose another place: LLAMA3_VENV=/path $0"
    fi
    python=$(choose_python)
    check_disk "$venv"
    say "Making an environment in $venv with Python $(probe_python "$python")"
    mkdir -p "$venv"
    touch "$unfinished"
    "$python" -m venv "$venv" >"$venv/install.log" 2>&1 || { tail -n 8 "$venv/install.log" >&2; die 6 "venv failed."; }
}

# Shows the output of pip as one line that changes in place, and nothing where no terminal would see it change.
show_progress() {
    local line
    while IFS= read -r line; do
        [ ! -t 2 ] || printf '\r\033[K  %.*s' "$((${COLUMNS:-80} - 3))" "$line" >&2
    done
    [ ! -t 2 ] || printf '\r\033[K' >&2
}

# pip_install ARGUMENT...: pip in $venv, quietly; its full output is kept in install.log.
pip_install() {
    local log=$venv/install.log network='NewConnectionError|name resolution|Max retries|unreachable|Connection (refused'
    network+='|reset|broken|aborted)|timed out|ProxyError|nodename nor servname|ConnectTimeout'
    if ! (cd "$repo" && "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@" 2>&1) |
        tee "$log" | show_progress; then
        tail -n 8 "$log" >&2
        grep -Eiq "$network" "$log" && die 5 "pip could not reach the package index: check the network or proxy, then \
run this again. Full log: $log"
        die 6 "pip could not install the packages; the reason is above. Full log: $log"
    fi
}

# prepare [EXTRA]: $venv holds this checkout, editable, with the given extra. A second call installs nothing.
prepare() {
    local extra=${1:-} stamp version key start=$SECONDS
    venv=${LLAMA3_VENV:-$repo/.venv}
    case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
    unfinished=$venv/.unfinished
    stamp=$venv/.installed-${extra:-core}
    make_venv
    version=$(probe_python "$venv/bin/python")
    if [ -n "${LLAMA3_PYTHON:-}" ] && [ "$(probe_python "$LLAMA3_PYTHON")" != "$version" ]; then
        die 3 "$venv holds Python $version, LLAMA3_PYTHON=$LLAMA3_PYTHON is another; remove it, or set LLAMA3_VENV too."
    fi
    key="$repo $version $(cat "$repo/setup.py" "$repo/pyproject.toml" | cksum)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$key" ]; then
        say "Installing llama3_jax${extra:+[$extra]} (some minutes the first time)"
        pip_install -e ".${extra:+[$extra]}"
        printf '%s\n' "$key" >"$stamp"
        rm -f "$unfinished"
        say "Installed in $((SECONDS - start)) s"
    fi
}

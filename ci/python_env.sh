#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Makes, or re-uses, the virtual environment that quickstart.sh and runtests.sh run in.
#
#   source ci/python_env.sh && hybridmim_python_env requirements.lock [requirements-test.lock ...]
#   ci/python_env.sh requirements.lock [requirements-test.lock ...]
#
# Lock files are named relative to the repository root. The function leaves the environment activated: `python` is the
# environment's own afterwards. Each variable below is optional.
#
#   HYBRIDMIM_VENV    the environment's folder, relative to the repository root or absolute (default: .venv)
#   HYBRIDMIM_PYTHON  the interpreter to make it with (default: python3.11 where there is one, else python3)

HYBRIDMIM_ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)" || exit 1

_hybridmim_error() {
    printf 'python_env: error: %s\n' "$@" >&2
}

# Prints the interpreter to make the environment with.
_hybridmim_find_python() {
    local candidate version candidates=(python3.11 python3)
    if [ -n "${HYBRIDMIM_PYTHON:-}" ]; then
        candidates=("$HYBRIDMIM_PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        # Run it: some version managers have a python3.11 on PATH that only says that there is none.
        version="$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" || continue
        if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            _hybridmim_error "$candidate is Python $version, but the versions in the lock files need 3.11 or newer;" \
                "install Python 3.11, or name it with HYBRIDMIM_PYTHON"
            return 1
        fi
        if [ "$version" != 3.11 ]; then
            echo "python_env: no python3.11 in use; Python $version is untested here" >&2
        fi
        if ! "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
            _hybridmim_error "Python $version ($candidate) lacks its venv module;" \
                "on Debian or Ubuntu: apt-get install python3-venv (or python$version-venv)"
            return 1
        fi
        printf '%s\n' "$candidate"
        return 0
    done
    _hybridmim_error "none of these runs: ${candidates[*]}; install Python 3.11, or name it with HYBRIDMIM_PYTHON"
    return 1
}

# Prints one "name sha256" line for each file that decides what is installed, and one for the checkout itself.
_hybridmim_fingerprint() {
    "$1" - "$HYBRIDMIM_ROOT" "${@:2}" <<'PYTHON'
import hashlib
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
print("checkout", hashlib.sha256(str(root).encode()).hexdigest())
for name in ["pyproject.toml", *sys.argv[2:]]:
    print(name, hashlib.sha256((root / name).read_bytes()).hexdigest())
PYTHON
}

# True where each line of $1 is in the stamp file $2.
_hybridmim_up_to_date() {
    local line
    [ -f "$2" ] || return 1
    while IFS= read -r line; do
        grep -qxF -- "$line" "$2" || return 1
    done <<<"$1"
}

# Quiet twice: errors are shown, warnings are not.
_hybridmim_pip() {
    "$1" -m pip --disable-pip-version-check --no-input install --quiet --quiet "${@:2}"
}

hybridmim_python_env() {
    local venv="${HYBRIDMIM_VENV:-.venv}" lock python base stamp wanted torch line started=$SECONDS
    local requirements=() kept=""
    case "$venv" in /*) ;; *) venv="$HYBRIDMIM_ROOT/$venv" ;; esac
    if [ $# -eq 0 ]; then
        _hybridmim_error "name at least one lock file"
        return 2
    fi
    for lock in "$@"; do
        if [ ! -f "$HYBRIDMIM_ROOT/$lock" ]; then
            _hybridmim_error "there is no lock file $HYBRIDMIM_ROOT/$lock"
            return 2
        fi
        requirements+=(-r "$HYBRIDMIM_ROOT/$lock")
    done
    python="$venv/bin/python"
    stamp="$venv/hybridmim_stamp"

    # An environment without a working pip is one whose making was cut short.
    if ! { [ -x "$python" ] && "$python" -m pip --version >/dev/null 2>&1; }; then
        if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv" 2>/dev/null || echo file)" ]; then
            _hybridmim_error "$venv exists and is not a virtual environment; name another with HYBRIDMIM_VENV"
            return 1
        fi
        base="$(_hybridmim_find_python)" || return 1
        echo "python_env: making the virtual environment $venv"
        if ! "$base" -m venv "$venv"; then
            _hybridmim_error "could not make the virtual environment (see above); if there is a broken one, remove $venv"
            return 1
        fi
    fi

    wanted="$(_hybridmim_fingerprint "$python" "$@")" || return 1
    if _hybridmim_up_to_date "$wanted" "$stamp"; then
        echo "python_env: $venv is up to date"
    else
        echo "python_env: installing ${*} into $venv (minutes the first time)"
        if [ -f "$stamp" ]; then
            # Lock files installed earlier and not named now stay installed, so their lines stay true.
            while IFS= read -r line; do
                grep -q "^${line%% *} " <<<"$wanted" || kept="$kept$line"$'\n'
            done <"$stamp"
            rm -f -- "$stamp"
        fi
        # torch first and by its exact version: an open range would let pip fetch a newer build of several GB.
        torch="$(cd -- "$HYBRIDMIM_ROOT" && cat -- "$@" | grep '^torch==' || true)"
        if [ -n "$torch" ]; then
            _hybridmim_pip "$python" "$torch" ||
                { _hybridmim_error "could not install $torch (see above)"; return 1; }
        fi
        _hybridmim_pip "$python" "${requirements[@]}" ||
            { _hybridmim_error "could not install $* (see above)"; return 1; }
        _hybridmim_pip "$python" --no-deps --no-build-isolation -e "$HYBRIDMIM_ROOT" ||
            { _hybridmim_error "could not install hybridmim_components (see above)"; return 1; }
        printf '%s\n%s' "$wanted" "$kept" >"$stamp" || return 1
        echo "python_env: installed in $((SECONDS - started)) s"
    fi

    export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
    unset PYTHONHOME
    hash -r
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    hybridmim_python_env "$@"
fi

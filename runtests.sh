#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Installs what the tests need, then lints, type-checks and tests; see ./runtests.sh --help.

set -euo pipefail

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"

usage() {
    cat <<'TEXT'
Usage: ./runtests.sh [--quick | --full] [--no-install] [--help] [-- PYTEST_ARGUMENTS...]

Runs ruff check, ruff format --check, mypy and pytest: all of them, even after one has failed.
Ends with a non-zero status if any of them failed.

  --quick       leave out the tests marked slow or full (under a minute)
  (default)     leave out the tests marked full
  --full        run every test
  --no-install  use the `python` on PATH as it is, instead of making a virtual environment
  --help        print this and stop
  -- ...        hand what follows to pytest, for example: ./runtests.sh --quick -- tests/method/test_masking.py -k shape

Environment:
  HYBRIDMIM_REAL_DATA     folder of real images; the tests marked real_data are skipped where it is unset
  HYBRIDMIM_TEST_WORKERS  pytest processes (default 2; 0: one, in the foreground)
  HYBRIDMIM_VENV          the virtual environment's folder (default .venv)
  HYBRIDMIM_PYTHON        the interpreter to make it with (default python3.11, else python3)
TEXT
}

marks="not full"
install=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --quick) marks="not slow and not full" ;;
        --full) marks="" ;;
        --no-install) install=no ;;
        -h | --help)
            usage
            exit 0
            ;;
        --)
            shift
            break
            ;;
        *)
            echo "runtests: unknown argument: $1" >&2
            usage >&2
            exit 2
            ;;
    esac
    shift
done

if [ -z "${HYBRIDMIM_REAL_DATA:-}" ]; then
    echo "runtests: HYBRIDMIM_REAL_DATA is unset; the tests on real images are skipped"
else
    # Relative to where the caller stands, not to this file.
    if real_data="$(cd -- "$HYBRIDMIM_REAL_DATA" 2>/dev/null && pwd -P)"; then
        echo "runtests: HYBRIDMIM_REAL_DATA is $real_data"
        export HYBRIDMIM_REAL_DATA="$real_data"
    else
        echo "runtests: HYBRIDMIM_REAL_DATA is $HYBRIDMIM_REAL_DATA, which is not a folder;" \
            "the tests on real images are skipped" >&2
    fi
fi

cd -- "$ROOT"
if [ "$install" = yes ]; then
    # shellcheck source=ci/python_env.sh
    source ci/python_env.sh
    if ! hybridmim_python_env requirements.lock requirements-test.lock requirements-deployment.lock \
        requirements-docs.lock; then
        echo "runtests: FAILED: the installation" >&2
        exit 1
    fi
fi

failed=""

# stage NAME COMMAND...: runs one stage and remembers whether it failed.
stage() {
    local name="$1" started=$SECONDS status=0
    shift
    printf '\n=== %s\n' "$name"
    "$@" || status=$?
    if [ "$status" -ne 0 ]; then
        echo "=== $name: FAILED with status $status" >&2
        failed="$failed${failed:+, }$name"
    else
        echo "=== $name: passed in $((SECONDS - started)) s"
    fi
}

workers="${HYBRIDMIM_TEST_WORKERS:-2}"
pytest_arguments=(-n "$workers")
if [ "$workers" != 0 ]; then
    # One thread in each worker: many small tests finish sooner so than with the workers' threads in each other's way.
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"
    # Contiguous shares, so that most modules keep to one worker and make their fixtures once.
    pytest_arguments+=(--dist worksteal)
fi
if [ -n "$marks" ]; then
    pytest_arguments+=(-m "$marks")
fi

stage "ruff check" python -m ruff check .
stage "ruff format" python -m ruff format --check .
stage "mypy" python -m mypy
stage "pytest" python -m pytest "${pytest_arguments[@]}" "$@"

echo
if [ -n "$failed" ]; then
    echo "runtests: FAILED: $failed" >&2
    exit 1
fi
echo "runtests: all stages passed"

#!/usr/bin/env bash
# tools/run_tests.sh [PYTEST ARGUMENTS]: all tests (those in tests/gpu when there is a GPU), or what the arguments name, with what mpirun needs.
# tests/conftest.py ends the output with the numbers of tests by ranks and groups and writes them to build/test-groups.json.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/mpi_env.sh
source tools/mpi_env.sh
export PATH=$PATH:/usr/sbin:/sbin  # Debian keeps slurmctld there, off the path of ordinary users

if (($# == 0)); then
    # Quick ones first, and what is built on others after them: one pytest run takes the folders in the order given.
    set -- tests/unit tests/parallel
    for path in tests/*/ tests/test_*.py; do
        case ${path%/} in
            tests/unit | tests/parallel | tests/__pycache__ | 'tests/test_*.py') ;;
            tests/gpu)
                if nvidia-smi -L >/dev/null 2>&1; then set -- "$@" tests/gpu; else echo "test: tests/gpu left out: no NVIDIA GPU here"; fi ;;
            *) set -- "$@" "${path%/}" ;;
        esac
    done
fi

mkdir -p build
rm -f build/test-groups.json  # of an earlier run: it must not speak for this one
echo "test: pytest $*"
exec python -m pytest --durations=25 --durations-min=15 "$@"

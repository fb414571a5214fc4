#!/usr/bin/env bash
# A smoke run of the tests on every other supported Python that this machine has.
# PYTHON names the interpreter that runs the whole suite elsewhere and is left out here.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/pythons.sh
main=$("${PYTHON:-python}" -c "$version")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for wanted in 3.11 3.12 3.13; do
    [ "$wanted" = "$main" ] && continue
    python=$(find_python "$wanted")
    if [ -z "$python" ]; then
        echo "== Python $wanted: not on this machine, not tested"
        continue
    fi
    echo "== Python $wanted"
    "$python" -m venv "$scratch/$wanted"
    # What these tests need of the extra test, without the compilers for GPUs.
    "$scratch/$wanted/bin/python" -m pip install --quiet -e '.[cli,ml-dtypes]' hypothesis mpmath scipy pytest pytest-timeout pytest-xdist
    NUMBA_CACHE_DIR=$(mktemp -d -p "$scratch") "$scratch/$wanted/bin/python" -m pytest -q \
        tests/test_golden.py tests/test_initializers.py tests/test_npy.py
done

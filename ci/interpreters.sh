#!/usr/bin/env bash
# A smoke run of the tests on every other supported Python that this machine has, or Debian's next release does.
# PYTHON names the interpreter that runs the whole suite elsewhere and is left out here.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/pythons.sh
source ci/debian.sh
main=$("${PYTHON:-python}" -c "$version")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for wanted in 3.11 3.12 3.13 3.14; do
    [ "$wanted" = "$main" ] && continue
    python=$(find_python "$wanted")
    [ -n "$python" ] || python=$(debian_python "$wanted" "$scratch/debian-$wanted")
    if [ -z "$python" ]; then
        echo "== Python $wanted: not on this machine, not tested"
        continue
    fi
    echo "== Python $wanted"
    "$python" -m venv --without-pip "$scratch/$wanted"
    # What these tests need of the extra test, without the compilers for GPUs.
    "${PYTHON:-python}" -m pip --python "$scratch/$wanted/bin/python" install --quiet --no-compile -e '.[cli,ml-dtypes]' hypothesis mpmath scipy pytest pytest-timeout pytest-xdist
    # One dtype of each compute path, and no rounding by NumPy: the kernels' text is the same on every Python. No
    # framework is there: so what the documents' tests do without one is tried here. One process compiles each kernel once.
    NUMBA_CACHE_DIR=$(mktemp -d -p "$scratch") "$scratch/$wanted/bin/python" -m pytest -q -n0 -k "not float8 and not float16 and not every_value" \
        tests/api/test_golden.py tests/api/test_initializers.py tests/api/test_npy.py tests/api/test_thread_pool.py tests/robustness/test_threads_stress.py \
        tests/docs/test_checkpoints_page.py tests/docs/test_packaging.py::test_the_examples_of_a_document_run
done

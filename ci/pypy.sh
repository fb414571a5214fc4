#!/usr/bin/env bash
# NumPy alone on PyPy: Debian's, unpacked into a scratch folder. About 3 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/debian.sh
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=$(debian_python pypy3 "$folder")
[ -n "$python" ] || { echo "expected Debian's apt on x86-64, to unpack its PyPy"; exit 1; }
# PyPy has no tracemalloc, which test_tape.py counts memory with.
PYTHON=$python ci/numpy_only.sh tests/api/test_numpy_alone.py tests/api/test_threads.py tests/api/test_thread_pool.py \
    tests/robustness/test_threads_stress.py tests/robustness/test_machine.py

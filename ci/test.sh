#!/usr/bin/env bash
# All tests but the slow ones, with the coverage of the Python code. In three parts, since measuring takes time.
# PYTHON names the interpreter whose environment has the extra test.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
rm -f .coverage .coverage.*

# Child processes do most of the work of these, and are measured too. In other tests they are not: they are timed.
in_children=(
    tests/robustness/test_without_jit.py tests/cli/test_cli.py tests/cli/test_cli_fill.py
    tests/robustness/test_stacks.py tests/robustness/test_forks.py tests/robustness/test_reentry.py
)
# What these run is the tests' own code, the benchmarks' or that of children. Measuring would slow them down by a
# quarter and find nothing. The last three run twice, for what measuring might hide.
unmeasured=(
    tests/bench/test_feeds.py tests/bench/test_instructions.py tests/bench/test_quality*.py
    tests/cuda/test_cuda_ptx.py tests/cuda/test_cuda_source.py tests/cuda/test_ptx_*.py
    tests/kernels/test_targets.py tests/robustness/test_leaks.py tests/robustness/test_load.py
    tests/robustness/test_stacks.py tests/robustness/test_forks.py tests/robustness/test_reentry.py
)
left_out=("${in_children[@]}" "${unmeasured[@]}")

echo "== tests in child processes, measured"
# Compiled loops leave no trace; here they run as Python, in a child.
COVERAGE_PROCESS_START=$PWD/pyproject.toml "$python" -m pytest -q --cov --cov-report= --cov-fail-under=0 \
    "${in_children[@]}"

echo "== tests that are not measured"
"$python" -m pytest "${unmeasured[@]}"

echo "== all other tests, measured"
"$python" -m pytest --cov --cov-append --cov-report=term:skip-covered --cov-fail-under=95 "${left_out[@]/#/--ignore=}"

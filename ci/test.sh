#!/usr/bin/env bash
# All tests but the slow ones, by the README's command, with the coverage of the Python code.
# PYTHON names the interpreter whose environment has the extra test.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
rm -f .coverage .coverage.*

echo "== tests in child processes, for their coverage"
# Compiled loops leave no trace; here they run as Python, in a child. Not so in the whole run: there children are timed.
COVERAGE_PROCESS_START=$PWD/pyproject.toml "$python" -m pytest -q --cov --cov-report= --cov-fail-under=0 \
    tests/robustness/test_without_jit.py tests/cli/test_cli.py tests/cli/test_cli_fill.py \
    tests/robustness/test_stacks.py tests/robustness/test_forks.py tests/robustness/test_reentry.py

echo "== tests"
"$python" -m pytest --cov --cov-append --cov-report=term:skip-covered --cov-fail-under=95

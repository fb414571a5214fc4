#!/usr/bin/env bash
# All tests but the slow ones, by the README's command, with the coverage of the Python code.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "== tests"
"${PYTHON:-python}" -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=95

#!/usr/bin/env bash
# The statistics of the kernels' own output, in their quick form: a minute.
# PYTHON names the interpreter whose environment has the extra test.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "== quality"
"${PYTHON:-python}" benchmarks/quality.py --quick

#!/usr/bin/env bash
# The quick benchmark, its result kept: bench.json and pictures in OUT (default: bench-results/), held against the
# result that BASELINE names, if any. PYTHON names the interpreter whose environment has the extra bench.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-bench-results}
echo "== benchmark"
"${PYTHON:-python}" -m fanfill bench --quick --device cpu --out "$out" ${BASELINE:+--compare "$BASELINE" --threshold "${THRESHOLD:-0.25}"}

#!/usr/bin/env bash
# Types; PYTHON names the interpreter whose environment has the extras test and dev.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "== types"
"${PYTHON:-python}" -m mypy

#!/usr/bin/env bash
# Lint and format; PYTHON names the interpreter whose environment has the extra dev.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "== lint"
"${PYTHON:-python}" -m ruff check .
"${PYTHON:-python}" -m ruff format --check .

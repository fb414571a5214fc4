#!/usr/bin/env bash
# Types, of what each system has; PYTHON names the interpreter whose environment has the extras test and dev.
set -euo pipefail
cd "$(dirname "$0")/.."
for platform in linux win32 darwin; do
    echo "== types on $platform"
    "${PYTHON:-python}" -m mypy --platform "$platform"
done

#!/usr/bin/env bash
# The tests of fanfill.torch with other releases of torch than CI's: the oldest supported and the newest, or those that
# the arguments name (`ci/torch.sh 2.9.1`). Not in CI: PyPI's releases bring CUDA along, some 3 GB each. About 4
# minutes a release. TMPDIR must have 8 GB. PYTHON names the interpreter that makes the environments.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONDONTWRITEBYTECODE=1
unset FANFILL_CACHE_DIR FANFILL_BACKEND

[ $# -gt 0 ] || set -- 2.6.0 newest
failed=()
for release in "$@"; do
    wanted=torch==$release
    [ "$release" = newest ] && wanted=torch
    "${PYTHON:-python3}" -m venv "$scratch/venv"
    "$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wanted" transformers \
        -e '.[cli,ml-dtypes]' hypothesis pytest pytest-timeout pytest-xdist scipy
    echo "== $("$scratch/venv/bin/python" -c \
        'import torch, transformers; print("torch", torch.__version__ + ", transformers", transformers.__version__)')"
    NUMBA_CACHE_DIR="$scratch/numba" "$scratch/venv/bin/python" -m pytest -q -p no:cacheprovider -o addopts= -n 2 \
        tests/torch || failed+=("$release")
    rm -rf "$scratch/venv"
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed with torch ${failed[*]}"
    exit 1
fi

#!/usr/bin/env bash
# Build sdist and wheel without network, install the wheel in empty environments and use it from outside the tree: once
# with the newest dependencies, once with the oldest that pyproject.toml allows.
# PYTHON names the interpreter whose environment has the extras test and dev.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

echo "== wheel"
"$python" -m build --no-isolation --outdir "$scratch/dist" . >"$scratch/build.log" || { cat "$scratch/build.log"; exit 1; }
"$python" -m twine check --strict "$scratch"/dist/*

smoke() { # name of the environment, arguments for pip
    local name=$1
    shift
    "$python" -m venv --without-pip "$scratch/$name"
    "$python" -m pip --python "$scratch/$name/bin/python" install --quiet --no-compile "$@" "$(echo "$scratch"/dist/*.whl)[cli,ml-dtypes]"
    mkdir "$scratch/$name/cache"
    (
        cd "$scratch/$name"
        export NUMBA_CACHE_DIR=$PWD/cache
        bin/python -I "$root/ci/smoke.py"
        bin/fanfill info
        bin/fanfill fill he_normal 512x512 --seed 1 --out weights.npy
        bin/fanfill fill he_normal 512x512 --seed 1 --backend numpy --json >numpy.json
        # The same bits by either backend, in memory or in a file.
        bin/python -I - <<'CHECK'
import hashlib, json, numpy
stored = hashlib.sha256(numpy.load("weights.npy").tobytes()).hexdigest()
assert stored == json.load(open("numpy.json"))["sha256"], stored
CHECK
    )
}

smoke newest
smoke oldest --constraint ci/oldest.txt

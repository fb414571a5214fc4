#!/usr/bin/env bash
# Build the documentation site, strictly, into OUT (default: a folder that goes away). With --browser: then look at
# every page in a headless Chromium (ci/site_check.py). PYTHON names an interpreter whose environment has the extra
# docs, and playwright for --browser; without it an environment is made.
set -euo pipefail
cd "$(dirname "$0")/.."
export NO_MKDOCS_2_WARNING=1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
out=${OUT:-$scratch/site}
python=${PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$scratch/venv"
    python=$scratch/venv/bin/python
    # The extra alone: docstrings are read from the sources, so neither fanfill nor Numba is needed.
    python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
        >"$scratch/docs.txt"
    "$python" -m pip install --quiet --no-compile -r "$scratch/docs.txt" ${1:+playwright}
fi

echo "== site"
"$python" -m mkdocs build --quiet --strict --config-file ci/site/mkdocs.yml --site-dir "$out"
if [ "${1:-}" = --browser ]; then
    "$python" ci/site_check.py "$out"
fi

#!/usr/bin/env bash
# NumPy alone: the golden hashes in an environment without Numba, installed as where PyPI has no Numba (musl, and
# interpreters and processors that the markers in pyproject.toml leave out). PYTHON names the interpreter.
# Arguments: other tests than those below.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset FANFILL_BACKEND

"${PYTHON:-python3}" -m venv --without-pip "$scratch/venv"
python=$scratch/venv/bin/python
pip() { # this machine's, since Debian's interpreters bring none
    python3 -m pip --python "$python" --disable-pip-version-check --quiet "$@"
}
pip install --no-deps . numpy
pip install pytest
echo "== NumPy alone: $("$python" -c 'import platform as p, numpy
print(p.python_implementation(), p.python_version(), p.machine(), "NumPy", numpy.__version__)')"
for absent in numba llvmlite ml_dtypes; do
    if "$python" -c "import $absent" 2>/dev/null; then
        echo "expected an environment without $absent"
        exit 1
    fi
done
[ $# -gt 0 ] || set -- tests/api/test_numpy_alone.py tests/api/test_threads.py tests/api/test_thread_pool.py \
    tests/kernels/test_tape.py tests/robustness/test_machine.py
# pyproject.toml sets an option of pytest-timeout.
"$python" -m pytest -q -p no:cacheprovider -o addopts= -W 'ignore:Unknown config option' "$@"

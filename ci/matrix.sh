#!/usr/bin/env bash
# The same bits on other machines, as far as this one can be them. Golden hashes, and compiled kernels against NumPy:
#   targets       for each instruction set that this processor has (NUMBA_CPU_NAME and NUMBA_CPU_FEATURES);
#   modes         under python -O, with NUMBA_DISABLE_JIT=1, and while the processor flushes subnormals to zero;
#   dependencies  with older and newer releases of NumPy and Numba, on every supported Python that is here.
# Arguments: which of the three (none: all). PYTHON names an interpreter whose environment has the extra test; for the
# others environments are made and removed. About a quarter of an hour on two cores. AArch64: ci/aarch64.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
source ci/pythons.sh
source ci/debian.sh
python=${PYTHON:-python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH="$root/src:$root/kernels:$root/tests/helpers" PYTHONDONTWRITEBYTECODE=1
unset FANFILL_CACHE_DIR FANFILL_BACKEND ${!NUMBA_@}
failed=()

check() { # name of the run, then a command; kernels come from nowhere but this run
    local name=$1
    shift
    echo "== $name"
    FANFILL_CACHE_DIR=$(mktemp -d -p "$scratch") "$@" || failed+=("$name")
}

tests=(-m pytest -q -p no:cacheprovider -o addopts= -m 'not slow' -n 2 --dist load)
golden=("${tests[@]}" tests/api/test_golden.py tests/kernels/test_kernels.py tests/api/test_bitgenerator.py)

targets() {
    check "every target: bits, and registers in the assembly" \
        env FANFILL_TEST_TARGETS=all "$python" "${tests[@]}" --dist loadfile tests/kernels/test_targets.py
    local name cpu features
    while IFS=$'\t' read -r name cpu features; do
        check "target $name" \
            env NUMBA_CPU_NAME="$cpu" NUMBA_CPU_FEATURES="$features" "$python" "${golden[@]}" tests/kernels/test_streaming.py -k 'not numpy'
    done < <(FANFILL_TEST_TARGETS=all "$python" -c "
from tests.kernels.test_targets import TARGETS
for name, settings in TARGETS.items():
    if settings:
        print(name, *settings.values(), sep='\t')")
}

modes() {
    check "python -O" "$python" -O "${golden[@]}" -W 'ignore:assertions not in test modules'
    check "without a compiler" "$python" "${tests[@]}" tests/robustness/test_without_jit.py
    check "subnormals flushed to zero" "$python" "${tests[@]}" tests/robustness/test_flush_to_zero.py
}

dependencies() { # Python, then what pip is to install beside the tests' own needs; one environment for each Python
    local version found wanted environment
    while read -r version wanted; do
        environment=$scratch/$version
        if [ ! -d "$environment" ]; then
            found=$(find_python "$version")
            [ -n "$found" ] || found=$(debian_python "$version" "$scratch/debian-$version")
            if [ -z "$found" ]; then
                echo "== Python $version: not on this machine, not tested"
                continue
            fi
            "$found" -m venv --without-pip "$environment"
        fi
        # shellcheck disable=SC2086
        "$python" -m pip --python "$environment/bin/python" install --quiet --disable-pip-version-check --upgrade $wanted \
            'ml_dtypes>=0.5' hypothesis mpmath pytest pytest-timeout pytest-xdist
        check "Python $version, $("$environment/bin/python" -c \
            'import numpy, numba; print("NumPy", numpy.__version__ + ", Numba", numba.__version__)')" \
            "$environment/bin/python" "${golden[@]}"
    done <<'TABLE'
3.11 numpy numba -c ci/oldest.txt
3.11 numpy==2.1.* numba==0.61.*
3.12 numpy==2.0.* numba
3.12 numpy numba
3.13 numpy==2.3.* numba==0.63.*
3.13 numpy numba
3.14 numpy numba
TABLE
}

[ $# -gt 0 ] || set -- targets modes dependencies
for part in "$@"; do
    case $part in
        targets | modes | dependencies) "$part" ;;
        *) echo "expected targets, modes or dependencies; got $part" && exit 2 ;;
    esac
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "== the same bits everywhere"

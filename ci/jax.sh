#!/usr/bin/env bash
# The tests of fanfill.jax with other releases of JAX than CI's: the oldest supported and the newest, or those that the
# arguments name (`ci/jax.sh 0.9.2`); and JAX's own tests of its initializers, with fanfill's functions in their place.
# Not in CI: those tests come from JAX's repository. PYTHON names the interpreter that makes the environments.
#
# `ci/jax.sh --quick 0.8.2` is for CI: it lays that release over PYTHON's own environment, and runs there what depends most
# on JAX's inner workings: the transformations, shards and the custom call.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset FANFILL_CACHE_DIR FANFILL_BACKEND

if [ "${1:-}" = --quick ]; then
    "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps \
        --target "$scratch/jax" "jax==$2" "jaxlib==$2"
    export PYTHONPATH="$scratch/jax${PYTHONPATH:+:$PYTHONPATH}"
    echo "== $("${PYTHON:-python3}" -c 'import jax; print("jax", jax.__version__)')"
    "${PYTHON:-python3}" -m pytest -q -p no:cacheprovider -o addopts= -n0 -m 'not slow' \
        tests/jax/test_jax_values.py tests/jax/test_jax_sharding.py tests/jax/test_jax_ffi.py \
        --deselect tests/jax/test_jax_ffi.py::test_a_second_process_finds_the_firsts_programs_and_ends_at_work \
        --deselect tests/jax/test_jax_values.py::test_torch_numpy_and_jax_start_from_the_same_weights
    exit
fi

[ $# -gt 0 ] || set -- 0.8.2 newest
failed=()
for release in "$@"; do
    wanted="jax==$release jaxlib==$release"
    [ "$release" = newest ] && wanted=jax
    "${PYTHON:-python3}" -m venv "$scratch/venv"
    python=$scratch/venv/bin/python
    # shellcheck disable=SC2086
    "$python" -m pip install --quiet --disable-pip-version-check $wanted -e '.[cli,ml-dtypes]' \
        absl-py flatbuffers hypothesis pytest pytest-timeout pytest-xdist scipy
    version=$("$python" -c 'import jax; print(jax.__version__)')
    echo "== jax $version"
    "$python" -m pytest -q -p no:cacheprovider -o addopts= -n 2 tests/jax || failed+=("$version")

    echo "== jax $version: its own tests"
    mkdir "$scratch/theirs"
    curl --silent --show-error --fail --location --output "$scratch/theirs/nn_test.py" \
        "https://raw.githubusercontent.com/jax-ml/jax/jax-v$version/tests/nn_test.py"
    cp ci/jax_in_place.py "$scratch/theirs/conftest.py"
    (cd "$scratch/theirs" && "$python" -m pytest -q -p no:cacheprovider -k NNInitializersTest nn_test.py) \
        || failed+=("$version's own")
    rm -rf "$scratch/venv" "$scratch/theirs"
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed with jax ${failed[*]}"
    exit 1
fi

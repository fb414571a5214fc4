#!/usr/bin/env bash
# The tests of fanfill.keras with other releases of Keras than CI's: the oldest supported and the newest, or those that the
# arguments name (`ci/keras.sh 3.12.0`); and Keras' own tests of its random initializers, with fanfill's classes in their
# place. Not in CI: older wheels lack those tests, which then come from Keras' repository. Each release is laid over the
# environment of PYTHON, which has fanfill, pytest and the backends; BACKENDS are those of Keras' own tests.
#
# `ci/keras.sh --quick 3.10.0` is for CI: what is checked on each backend, without Keras' own tests.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset FANFILL_CACHE_DIR FANFILL_BACKEND KERAS_BACKEND
export KERAS_HOME="$scratch/home"

lay_over() {
    wanted=keras==$1
    [ "$1" = newest ] && wanted=keras
    "$python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --target "$scratch/keras" "$wanted"
    export PYTHONPATH="$scratch/keras${given:+:$given}"
    version=$("$python" -c 'from importlib.metadata import version; print(version("keras"))')
    echo "== Keras $version"
}
given=${PYTHONPATH:-}

if [ "${1:-}" = --quick ]; then
    lay_over "$2"
    "$python" -m pytest -q -p no:cacheprovider -o addopts= -n0 -m 'not slow' tests/keras/test_keras_backends.py
    exit
fi

# It stands for a conftest of Keras' repository, too, which the wheel leaves out.
mkdir "$scratch/theirs"
cat >"$scratch/theirs/conftest.py" <<'PLUGIN'
import fanfill.keras as fk
import pytest
from keras.src import initializers
from keras.src.initializers import random_initializers

for name, ours in vars(fk).items():
    if getattr(ours, "__module__", "") == "fanfill.keras.initializers" and isinstance(ours, type):
        setattr(initializers, name, ours)
        setattr(random_initializers, name, ours)


def skip_if_backend(name, reason):
    import keras

    return pytest.mark.skipif(keras.config.backend() == name, reason=reason)
PLUGIN

[ $# -gt 0 ] || set -- 3.10.0 newest
failed=()
for release in "$@"; do
    lay_over "$release"
    "$python" -m pytest -q -p no:cacheprovider -o addopts= -n0 tests/keras || failed+=("$version")

    tests=keras/src/initializers/random_initializers_test.py
    if ! cp "$scratch/keras/$tests" "$scratch/theirs" 2>/dev/null; then
        curl --silent --show-error --fail --location --output "$scratch/theirs/${tests##*/}" \
            "https://raw.githubusercontent.com/keras-team/keras/v$version/$tests"
    fi
    for backend in ${BACKENDS:-numpy jax torch}; do
        echo "== Keras $version: its own tests on $backend"
        (cd "$scratch/theirs" && KERAS_BACKEND=$backend PYTHONPATH="$scratch/theirs:$PYTHONPATH" \
            "$python" -m pytest -q -p no:cacheprovider "${tests##*/}") || failed+=("$version's own on $backend")
    done
    rm -rf "$scratch/keras"
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed with Keras ${failed[*]}"
    exit 1
fi

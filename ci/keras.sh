#!/usr/bin/env bash
# Keras' own tests of its random initializers, with fanfill's classes in their place, on each backend that is named
# (`ci/keras.sh numpy`; default: numpy, jax and torch). Not in CI: the tests are Keras', of the release that is installed.
# PYTHON names the interpreter whose environment has fanfill, Keras, its backends and pytest.
set -euo pipefail
python=${PYTHON:-python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export KERAS_HOME="$scratch/home" PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$scratch"

# It stands for a conftest of Keras' repository, too, which the wheel leaves out.
cat >"$scratch/conftest.py" <<'PLUGIN'
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
[ $# -gt 0 ] || set -- numpy jax torch
cd "$scratch"
for backend in "$@"; do
    export KERAS_BACKEND=$backend
    tests=$("$python" -c 'from keras.src.initializers import random_initializers as r; print(r.__file__[:-3] + "_test.py")')
    cp "$tests" "$scratch/random_initializers_test.py"
    echo "== Keras' tests on $backend"
    "$python" -m pytest -q -p no:cacheprovider random_initializers_test.py
done

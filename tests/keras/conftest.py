"""The backend of this process, and children that run the checks of `keras_checks` on the others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Before anything imports Keras, which reads them once. A user's own settings are no affair of tests.
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("KERAS_HOME", str(Path(os.devnull) / "keras"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each backend saves its model; this process's is there first."""
    import keras_checks

    made = tmp_path_factory.mktemp("keras")
    keras_checks.save(made)
    return made


@pytest.fixture(scope="session")
def results(folder: Path) -> Callable[[str], dict[str, Any]]:
    """What each check gives on a backend: one child for each, the first time that it is asked for."""
    import keras_checks
    from processes import assert_ends, python, start

    known: dict[str, dict[str, Any]] = {keras_checks.BACKEND: keras_checks.run_all(folder)}

    def ask(backend: str) -> dict[str, Any]:
        if backend not in known:
            environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
            # Optimised, Keras' own draws take XLA 20 of 29 s to compile. Ours it only calls.
            environment["XLA_FLAGS"] = (
                "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
            )
            child = start(python(keras_checks.__file__, str(folder)), environment=environment)
            ended = assert_ends(child, 400)
            assert ended.code == 0, ended.err
            known[backend] = json.loads(ended.out.splitlines()[-1])
        return known[backend]

    return ask

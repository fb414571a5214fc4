"""The literal types of signatures are the tables that the functions read."""

from __future__ import annotations

import inspect
import sys
from typing import get_args

import fanfill as ff
from fanfill import literals
from fanfill.checkpoints import ModelRecipe, writing
from fanfill.distributions import DISTRIBUTIONS
from fanfill.dtypes import STORAGES


def test_the_types_name_what_the_tables_hold() -> None:
    assert get_args(literals.DtypeName) == tuple(STORAGES)
    assert get_args(literals.BackendName) == tuple(sys.modules["fanfill.backends"].MODULES)
    assert get_args(literals.FormatName) == writing.FORMATS
    assert get_args(literals.ScaledName) == tuple(sorted(n for n, d in DISTRIBUTIONS.items() if d.scaled))
    for mode in get_args(literals.Mode):
        assert ff.variance_scaling(mode=mode).scaling.mode == mode


def test_public_signatures_say_them() -> None:
    for function, argument, kind in (
        (ff.fill, "backend", "BackendName"),
        (ff.draw, "backend", "BackendName"),
        (ff.draw, "dtype", "DtypeName"),
        (ff.draw, "device", "DeviceName"),
        (ff.words, "backend", "BackendName"),
        (ff.fill_many, "backend", "BackendName"),
        (ff.variance_scaling, "mode", "Mode"),
        (ff.variance_scaling, "distribution", "ScaledName"),
        (ff.he_normal, "mode", "Mode"),
        (ff.he_uniform, "mode", "Mode"),
        (ff.Initializer.bounds, "dtype", "DtypeName"),
        (ModelRecipe.write, "format", "FormatName"),
    ):
        assert kind in inspect.signature(function).parameters[argument].annotation, (function, argument)

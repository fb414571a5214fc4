"""From a law to a tensor of Keras' backend, and from laws to the variables of a model."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from fanfill.dtypes import storage_named
from fanfill.initializers import Initializer

__all__ = ["Task", "drawn", "fill_variables", "in_symbolic_scope"]

try:
    # Private. Without it, values are drawn where Keras asks for shapes alone.
    from keras.src.backend.common.symbolic_scope import in_symbolic_scope
except ImportError:  # pragma: no cover  no release so far

    def in_symbolic_scope() -> bool:
        """Whether Keras infers shapes, and throws values away."""
        return False


class Task(NamedTuple):
    """A variable to fill, and how."""

    name: str
    variable: Any
    law: Initializer


def drawn(law: Initializer, shape: tuple[int, ...], dtype: Any, seed: Any, layout: Any) -> Any:
    """A tensor of the backend: the values of `fanfill.draw`.

    Parameters
    ----------
    law
        A fanfill initializer.
    shape, dtype, layout
        As Keras gives them to an initializer; a layout is for JAX alone.
    seed
        An integer or a `keras.random.SeedGenerator`.

    Raises
    ------
    TypeError, ValueError
        A dtype that is not drawn; what `fanfill.draw` refuses.
    """
    dtype = keras.backend.standardize_dtype(dtype)
    storage_named(dtype)  # refuses
    draw: Callable[..., Any] = _backend().draw
    return draw(law, shape, dtype, seed, layout)


def fill_variables(tasks: Sequence[Task], seed: int) -> None:
    """Give each variable of a list the values of its law, by its name."""
    _backend().fill(tasks, seed)


def _backend() -> Any:
    """The module that serves Keras' backend: one function for tensors, one for variables."""
    return importlib.import_module(f"fanfill.keras.on_{keras.config.backend()}")

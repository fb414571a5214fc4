"""Keras' NumPy backend: tensors are ndarrays. Keras copies them into its variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanfill.cpu.threads import get_threads
from fanfill.fill import fill as fill_buffer
from fanfill.initializers import Initializer
from fanfill.job import Job
from fanfill.keras.drawing import Task, in_symbolic_scope
from fanfill.keras.seeds import number_of

__all__ = ["draw", "fill"]


def draw(law: Initializer, shape: tuple[int, ...], dtype: str, seed: Any, layout: Any) -> NDArray[Any]:
    """An array of values; of zeros, where Keras asks for a shape."""
    if in_symbolic_scope():
        return np.zeros(shape, dtype)
    return fill_buffer(np.empty(shape, dtype), law, seed=number_of(seed))


def fill(tasks: Sequence[Task], seed: int) -> None:
    """Fill variables where they lie, all of them at once."""
    job = Job(seed, None)
    job.extend([(task.variable.value, task.law, task.name) for task in tasks])
    job.run(get_threads(), None)

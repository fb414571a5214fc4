"""Keras' TensorFlow backend: tensors on aligned memory of NumPy's, handed over by DLPack without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fanfill.cpu.buffers import aligned
from fanfill.fill import fill as fill_buffer
from fanfill.initializers import Initializer
from fanfill.keras.drawing import Task, in_symbolic_scope
from fanfill.keras.seeds import number_of

__all__ = ["draw", "fill"]


def draw(law: Initializer, shape: tuple[int, ...], dtype: str, seed: Any, layout: Any) -> tf.Tensor:
    """A tensor of values; of zeros, where Keras asks for a shape.

    Not to execute eagerly does not mean to infer shapes: ``fit`` of a model that is not built makes its
    variables inside of a graph. The values are then made outside of it.
    """
    if in_symbolic_scope():
        return tf.zeros(shape, dtype)
    with tf.init_scope():
        return _tensor(law, shape, dtype, number_of(seed), 0)


def fill(tasks: Sequence[Task], seed: int) -> None:
    """Assign new tensors, which the variables keep."""
    for name, variable, law in tasks:
        dtype = str(variable.dtype)
        variable.assign(_tensor(law, tuple(variable.shape), dtype, seed, name))


def _tensor(law: Initializer, shape: tuple[int, ...], dtype: str, seed: int, name: str | int) -> tf.Tensor:
    # Aligned, or TensorFlow ends the process: not here, but at some later operation.
    out = fill_buffer(aligned(shape, tf.as_dtype(dtype).as_numpy_dtype), law, seed=seed, name=name)
    if dtype.startswith(
        "float8"
    ):  # NumPy exports none by DLPack, and TensorFlow's bitcast takes none: a copy
        return tf.convert_to_tensor(out)
    if dtype == "bfloat16":
        return tf.bitcast(tf.experimental.dlpack.from_dlpack(out.view(np.uint16).__dlpack__()), dtype)
    return tf.experimental.dlpack.from_dlpack(out.__dlpack__())

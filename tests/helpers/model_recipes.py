"""A model recipe with everything that one can have, and what a folder of files holds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

import fanfill as ff
from fanfill.checkpoints import ModelRecipe, Part, Source, TensorRecipe
from fanfill.checkpoints.tensors import Joined

drawn = TensorRecipe.drawn


def every_kind() -> ModelRecipe:
    whole = Part(ff.normal(), (0, 0), (4, 6))
    box = TensorRecipe(
        (7, 30, 5),
        "float32",
        (Part(ff.normal(), (0, 0, 0), (7, 30, 5)),),
        source=Source("w", (5, 9, 40, 30), (0, 2, 3, 0), (1, 3, 0)),
    )
    halves = Joined(1, (drawn((3, 2), "float16", ff.uniform(0, 1)), drawn((3, 5), "float16", ff.constant(1))))
    return ModelRecipe(
        {
            "ä": drawn((300, 70), "bfloat16", ff.normal(0, 0.02)),
            "parts": TensorRecipe((4, 6), "float32", (whole, Part(ff.constant(0), (1, 2), (2, 3)))),
            "values": TensorRecipe((3,), "int64", values=np.arange(3)),
            "many": TensorRecipe((100,), "float64", values=np.arange(100.0)),
            "infinite values": TensorRecipe((2,), "float32", values=np.array([-np.inf, 1], np.float32)),
            "scalar": drawn((), "float64", ff.truncated_normal(lower=-math.inf)),
            "empty": drawn((0, 3), "float32", ff.normal()),
            "box": box,
            "infinite": drawn((8,), "float32", -math.inf),
            "mask": drawn((9,), "bool", 1),
            "joined": TensorRecipe((3, 7), "float16", joined=halves),
        },
        {"tied": "ä"},
    )


def contents(folder: Path) -> dict[str, bytes]:
    """What each file of a folder holds, by its path there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

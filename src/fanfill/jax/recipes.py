"""Model recipes of trees: what `materialize` draws, as a value that can be written as a checkpoint."""

from __future__ import annotations

from typing import Any

from fanfill.checkpoints.recipe import ModelRecipe
from fanfill.checkpoints.tensors import TensorRecipe
from fanfill.dtypes import storage_of
from fanfill.jax.trees import Rules, tasks_of

__all__ = ["recipe"]


def recipe(abstract: Any, rules: Rules) -> ModelRecipe:
    """What `materialize` draws for a tree of shapes: leaf name -> shape, dtype and law.

    The recipe of a seed has the bits of ``materialize(abstract, seed, rules)``, by the same names. Written to
    a folder, it is a start checkpoint, of which no tensor was ever in memory.

    Parameters
    ----------
    abstract, rules
        As of `fanfill.jax.materialize`. A leaf whose rule is None is not in the recipe.

    Raises
    ------
    ValueError, TypeError
        As `fanfill.jax.materialize`.

    Examples
    --------
    >>> import jax, numpy as np, fanfill.jax as fj
    >>> made = fj.recipe({"w": jax.ShapeDtypeStruct((8, 4), np.float32)}, {"w": fj.normal(0.02)})
    >>> made.tensors["w"].whole_law()
    normal(0.0, 0.02)
    """
    tasks = tasks_of(abstract, rules)
    return ModelRecipe(
        {task.name: TensorRecipe.drawn(task.shape, storage_of(task.dtype).name, task.law) for task in tasks}
    ).check()

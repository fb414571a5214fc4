"""fanfill for JAX: jax.nn.initializers' functions, inside and outside of jit, and whole trees, sharded.

The functions have the names, arguments and distributions of ``jax.nn.initializers``; the values are those of
`fanfill.draw`, whatever transformation, device or sharding they are drawn under. ``docs/jax.md`` has recipes.
"""

import fanfill.jax.available  # noqa: F401  before what needs jax
from fanfill.jax.drawing import draw_words
from fanfill.jax.ffi import TARGET
from fanfill.jax.initializers import (
    JaxInitializer,
    constant,
    delta_orthogonal,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    ones,
    orthogonal,
    truncated_normal,
    uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
    zeros,
)
from fanfill.jax.memory import aligned
from fanfill.jax.recipes import recipe
from fanfill.jax.trees import materialize

__all__ = [
    "TARGET",
    "JaxInitializer",
    "aligned",
    "constant",
    "delta_orthogonal",
    "draw_words",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "materialize",
    "normal",
    "ones",
    "orthogonal",
    "recipe",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

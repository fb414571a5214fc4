"""fanfill for Keras 3: Keras' random initializers with fanfill's bits on every backend, and whole models.

The classes have the names, arguments, distributions and seeds of those in ``keras.initializers``, and derive
from them. With this module imported, Keras takes them by name too: ``kernel_initializer="fanfill>HeNormal"``.
``docs/keras.md`` has recipes.
"""

import fanfill.keras.available  # noqa: F401  before what needs Keras
from fanfill.keras.initializers import (
    Constant,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    Identity,
    LecunNormal,
    LecunUniform,
    Ones,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    TruncatedNormal,
    VarianceScaling,
    Zeros,
)
from fanfill.keras.models import init_model

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "init_model",
]

"""Recipes that are made anew at every call, for tests of how they are made."""

import math

from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES
from fanfill.initializers import Initializer
from fanfill.recipes import Recipe

INF = math.inf
DTYPES = list(STORAGES)


def bare(init: Initializer, dtype: str, shape: tuple[int, ...] = ()) -> Recipe:
    """The recipe, not from the cache."""
    return recipe.__wrapped__(init, shape, dtype)

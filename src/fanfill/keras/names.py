"""The names of a model's variables by its structure: the same on every backend and for every build.

``variable.path`` is not enough. Keras numbers layers that have no name of their own by a counter of the
process, so a model that is built twice has ``dense/kernel`` and then ``dense_1/kernel``.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

__all__ = ["Named", "named_variables"]

# Before a layer's own name, in those that Bidirectional makes.
_DIRECTIONS = ("", "forward_", "backward_")


class Named(NamedTuple):
    """A variable, its name, and the layers around it, the innermost first."""

    name: str
    variable: Any
    around: list[Any]


def named_variables(model: Any) -> list[Named]:
    """Each of ``model.weights`` with its name: its path, where steps that Keras numbered are numbered anew.

    The model's own name is no part of it. A step ``dense_7``, or ``dense``, is Keras' own if the model has a
    layer of a class Dense; such siblings become ``dense``, ``dense_1`` and so on, in the order of the
    weights. A layer that its user has named otherwise keeps its name, and its values when others come and go.

    Raises
    ------
    ValueError
        If two variables have one name.
    """
    around: dict[int, list[Any]] = {}
    _walk(model, [], around)
    layers = {id(layer): layer for chain in around.values() for layer in chain}
    kinds = {"variable"} | {
        direction + _snake(type(layer).__name__) for layer in layers.values() for direction in _DIRECTIONS
    }
    numbers: dict[tuple[str, str], dict[str, int]] = {}
    found: dict[str, Named] = {}
    for variable in model.weights:
        steps = variable.path.split("/")
        if len(steps) > 1 and steps[0] == model.name:
            del steps[0]
        name = ""
        for step in steps:
            kind = step if step in kinds else re.sub(r"_\d+$", "", step)
            if kind in kinds:
                siblings = numbers.setdefault((name, kind), {})
                number = siblings.setdefault(step, len(siblings))
                step = f"{kind}_{number}" if number else kind
            name = f"{name}/{step}" if name else step
        if name in found:
            raise ValueError(
                f"expected a name for each variable; got two that are called {name!r}; give the layers that "
                "they belong to different names"
            )
        found[name] = Named(name, variable, around.get(id(variable), [model]))
    return list(found.values())


def _walk(layer: Any, outside: list[Any], around: dict[int, list[Any]]) -> None:
    """Note the layers around each variable of a layer and of those in it; the first way to it counts."""
    inside = [layer, *outside]
    # Private, as is everything in Keras that tells a layer's sublayers, or its own variables from theirs.
    for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
        around.setdefault(id(variable), inside)
    for sublayer in layer._layers:
        if not any(sublayer is outer for outer in inside):
            _walk(sublayer, inside, around)


def _snake(name: str) -> str:
    """As Keras makes a layer's name of its class's."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()

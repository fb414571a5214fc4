"""Initializers as text: what `repr` of one writes, and what people type, such as ``normal(std=0.02)``.

The text is parsed, never evaluated: a known name, and arguments that are numbers, names of modes or axes.
"""

from __future__ import annotations

import ast
import inspect
from typing import Any

from fanfill.fans import Scaling
from fanfill.initializers import Initializer
from fanfill.messages import shown
from fanfill.named import CONSTANTS, NAMED, initializer
from fanfill.structures import STRUCTURES

__all__ = ["initializer_from", "with_torch_axes"]

_LONGEST = 500  # characters; no initializer comes near, and the parser recurses


def initializer_from(text: str) -> Initializer:
    """The initializer that a text describes: ``he_normal``, ``normal(0.0, 0.02)``, ``zeros``, ``ones``.

    `repr` of any initializer leads back to it.

    Raises
    ------
    ValueError
        Anything but a known name with literal arguments; what the initializer itself refuses.
    TypeError
        Arguments that the initializer does not take.
    """
    given_text: object = text
    if not isinstance(given_text, str) or len(text) > _LONGEST:
        raise _refused(text)
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _refused(text) from None
    if isinstance(node, ast.Name):
        return CONSTANTS.get(node.id) or initializer(node.id)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise _refused(text)
    name = node.func.id
    given = [_literal(argument, text) for argument in node.args]
    named = {keyword.arg: _literal(keyword.value, text) for keyword in node.keywords}
    names = _positional(name)
    if len(given) > len(names) or set(names[: len(given)]) & named.keys() or None in named:
        raise TypeError(
            f"expected at most the {len(names)} arguments {', '.join(names)} for {name} by position, each "
            f"once; got {shown(text)}"
        )
    return initializer(name, **dict(zip(names, given, strict=False)), **{str(k): v for k, v in named.items()})


def with_torch_axes(law: Initializer) -> Initializer:
    """An initializer whose axes are the default ones, with those of torch's layout (out, in, \\*k)."""
    if not law.default_axes:
        return law
    if law.scaling is None:
        return Initializer(law.distribution, STRUCTURES[law.distribution].of_torch(law.params))
    scale, mode, _, _, batch = law.scaling
    return Initializer(law.distribution, (), Scaling(scale, mode, 1, 0, batch))


def _positional(name: str) -> list[str]:
    """The arguments that an initializer's function takes by position; none for a name that is not known."""
    if name not in NAMED:
        initializer(name)  # raises
    signature = inspect.signature(NAMED[name])
    return [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]


def _literal(node: ast.expr, text: str) -> Any:
    """A number, text, bool or tuple of these; ``float('inf')``, as `repr` writes what has no literal."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "float"
        and len(node.args) == 1
        and not node.keywords
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value in ("inf", "-inf")
    ):
        return float(node.args[0].value)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise _refused(text) from None


def _refused(text: object) -> ValueError:
    return ValueError(
        "expected an initializer as text, such as he_normal, normal(0.0, 0.02) or "
        f"uniform(-1.0, 1.0, endpoint=False); got {shown(text)}; write a known name with literal arguments"
    )

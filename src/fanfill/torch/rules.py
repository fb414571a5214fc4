"""init_module's rules: which parameter gets which draws."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from fanfill.expressions import with_torch_axes
from fanfill.initializers import Initializer
from fanfill.messages import shown
from fanfill.named import CONSTANTS, initializer
from fanfill.torch.defaults import Draw, norm_draws, shape_of

if TYPE_CHECKING:
    from fanfill.torch.walking import Parameter

__all__ = ["Book", "Rules", "Value"]

Index = int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]
Law = Initializer | str | None
Boxes = Sequence[tuple[Index, Law]]
Function = Callable[[str, tuple[int, ...], nn.Module], Any]
Value = Law | Boxes | Function
Rules = Mapping[str | re.Pattern[str] | type[nn.Module], Value | Mapping[str, Value]] | Function

_LEFT: list[Draw] = []


class _Rule(NamedTuple):
    """A key, whether it fits, and the value; a type's values go by the parameters' own names."""

    key: Any
    fits: Callable[[Parameter], bool]
    values: Mapping[str, Any] | None
    value: Any


class Book:
    """The rules in order, and which of them have fitted a parameter."""

    def __init__(self, rules: Rules) -> None:
        self.everything = callable(rules)
        if callable(rules):
            rules = {"*": rules}
        if not isinstance(rules, Mapping):
            raise TypeError(
                "rules: expected a mapping from names or module types to initializers, or a function of "
                f"(name, shape, module); got {shown(rules)}"
            )
        self.rules = [_rule(key, value) for key, value in rules.items()]
        self.used = [self.everything] * len(self.rules)

    def draws(self, parameter: Parameter, lazy: bool) -> list[Draw] | None:
        """The draws that fill a parameter; [] to leave it as it is; None if nothing covers it.

        One that is lazy has no shape: no function is asked, no box is found and no default covers it.
        """
        if self.rules:
            found = self._by_rules(parameter, lazy)
            if found is not NotImplemented:
                return found  # type: ignore[no-any-return]
        _, path, own, tensor, owner, ruled, magnitude = parameter
        if lazy or magnitude is not None:  # which is computed
            return None
        for rule, module, begin in ruled:  # what torch.nn's layers draw, the outermost that covers it first
            draws = rule(module, path[begin:], tensor)
            if draws is not None:
                return draws
        return norm_draws(owner, own)

    def _by_rules(self, parameter: Parameter, lazy: bool) -> Any:
        """What `draws` returns, by the first rule that fits; NotImplemented if there is none."""
        for number, (key, fits, values, value) in enumerate(self.rules):
            if fits(parameter):
                self.used[number] = True
                chosen = value if values is None else values[parameter.own]
                if callable(chosen):
                    if lazy:
                        return None
                    chosen = chosen(parameter.name, shape_of(parameter.tensor), parameter.owner)
                    if chosen is NotImplemented:
                        continue
                    chosen = _prepared(key, chosen)
                if isinstance(chosen, list):
                    return chosen
                return None if lazy else _boxed(key, chosen, shape_of(parameter.tensor))
        return NotImplemented

    def assert_used(self) -> None:
        """Raise an error for an unused key: a misspelt pattern would give a model that does not train."""
        for used, rule in zip(self.used, self.rules, strict=True):
            if not used:
                raise ValueError(
                    "rules: expected each key to fit a parameter that no key before it fits; got "
                    f"{shown(rule.key)}, which fits none; correct it, or leave it out"
                )


def _rule(key: Any, value: Any) -> _Rule:
    if isinstance(key, type) and issubclass(key, nn.Module):
        given = value if isinstance(value, Mapping) else {"weight": value}
        values = {name: _prepared(key, law) for name, law in given.items()}
        return _Rule(key, lambda p: isinstance(p.owner, key) and p.own in values, values, None)
    if not isinstance(key, str | re.Pattern):
        raise TypeError(
            f"rules: expected a name, a compiled regular expression or a type of module; got {shown(key)}"
        )
    if isinstance(value, Mapping):
        raise TypeError(f"rules: expected one initializer for the name {shown(key)}; got {shown(value)}")
    match = re.compile(fnmatch.translate(key)).match if isinstance(key, str) else key.fullmatch
    return _Rule(key, lambda p: match(p.name) is not None, None, _prepared(key, value))


def _prepared(key: object, value: Any) -> list[Draw] | tuple[Any, ...] | Function:
    """A value as draws, as a tuple of (box, draws), or as a function; raise for anything else."""
    if value is None:
        return _LEFT
    if isinstance(value, str | Initializer):
        return [Draw(_law(value))]
    if callable(value) and not isinstance(value, type):
        function: Function = value
        return function
    if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray):
        raise TypeError(
            "rules: expected an Initializer, the name of one, a list of (box, initializer), a function or "
            f"None for {shown(key)}; got {shown(value)}"
        )
    for entry in value:
        if not (isinstance(entry, tuple) and len(entry) == 2):
            raise TypeError(
                f"rules: expected pairs of a box and an initializer for {shown(key)}; got {shown(entry)}; "
                "for example (slice(0, 8), 'zeros')"
            )
        if not (entry[1] is None or isinstance(entry[1], str | Initializer)):
            raise TypeError(
                f"rules: expected an Initializer, the name of one or None for a box of {shown(key)}; got "
                f"{shown(entry[1])}"
            )
    return tuple((box, _prepared(key, law)) for box, law in value)


def _boxed(key: object, value: Any, shape: tuple[int, ...]) -> list[Draw]:
    """The draws of boxes."""
    draws = []
    for index, laws in value:
        box = _box(key, index, shape)
        draws += [Draw(_of_box(key, law, tuple(s.stop - s.start for s in box)), box) for law, _ in laws]
    return draws


def _law(value: Any) -> Initializer:
    """An initializer; with torch's layout, if its axes are the default ones."""
    made = value if isinstance(value, Initializer) else CONSTANTS.get(value)
    return with_torch_axes(initializer(value) if made is None else made)


def _of_box(key: object, law: Initializer, shape: tuple[int, ...]) -> Initializer:
    """The same with the box's own fans: a third of a fused weight is a weight."""
    if law.structured:
        raise ValueError(
            f"rules: expected an initializer of single values for a box of {shown(key)}; got {law!r}, whose "
            "values follow from their places in the whole tensor; give the whole tensor this initializer, or "
            "fill the box by fanfill.fill under a name of its own"
        )
    return law if law.scaling is None else Initializer(*law.law(shape))


def _box(key: object, index: Any, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """An index as slices with both ends, one for each axis."""
    entries = index if isinstance(index, tuple) else (index,)
    if sum(entry is ... for entry in entries) > 1 or len(entries) - (... in entries) > len(shape):
        raise _no_box(key, index, shape)
    at = entries.index(...) if ... in entries else len(entries)
    gap = (slice(None),) * (len(shape) - len(entries) + (... in entries))
    box = []
    for entry, n in zip((*entries[:at], *gap, *entries[at + 1 :]), shape, strict=True):
        if isinstance(entry, int) and not isinstance(entry, bool) and -n <= entry < n:
            box.append(slice(entry % n, entry % n + 1))
            continue
        if not isinstance(entry, slice) or entry.step not in (None, 1):
            raise _no_box(key, index, shape)
        try:
            first, last, _ = entry.indices(n)
        except TypeError:
            raise _no_box(key, index, shape) from None
        if first >= last and n:
            raise _no_box(key, index, shape)
        box.append(slice(first, max(first, last)))
    return tuple(box)


def _no_box(key: object, index: object, shape: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"rules: expected a box of the shape {shape} for {shown(key)}: integers, slices without a step and "
        f"..., with something in it; got {shown(index)}"
    )

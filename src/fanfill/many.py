"""fill_many: all tensors of a model in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fanfill.cpu import threads as pool
from fanfill.fill import watched
from fanfill.job import Job
from fanfill.messages import shown

if TYPE_CHECKING:
    from fanfill.literals import BackendName

__all__ = ["fill_many"]

Items = TypeVar("Items", bound=Mapping[Any, Any] | Iterable[Any])

_FORM = "(buffer, initializer, name), or with global_shape and offset behind the name"
_NAMED_FORM = "(buffer, initializer), or with global_shape and offset behind it"


def fill_many(
    items: Items,
    *,
    seed: int,
    backend: BackendName | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], object] | bool | None = None,
) -> Items:
    """Fill many buffers in place, each with its own initializer and name, as one job.

    The values are those of a `fill` of each. Thousands of small tensors use every thread, and no thread waits
    for another between two tensors. Nothing is written unless all items can be filled.

    Parameters
    ----------
    items
        A sequence of ``(buffer, initializer, name)``, or a mapping from names to ``(buffer, initializer)``.
        To fill a part of a tensor, append its ``global_shape`` and, if it does not begin at the origin, its
        ``offset``. Buffers, initializers and the rest are as in `fill`; an initializer may also be "zeros" or
        "ones". Buffers may lie in host memory and on GPUs.
    seed, backend, threads
        As in `fill`, for all items.
    progress
        As in `fill`, for all items together.

    Returns
    -------
    items
        The very object that was given.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError
        As `fill`, before anything is written; the message begins with the item that it is about. Also if two
        items have one name, unless they are parts of one tensor that do not overlap (two tensors of one name
        would hold the same values); or if two items share memory.

    Examples
    --------
    >>> import numpy as np, fanfill as ff
    >>> w, b = np.empty((4, 3), np.float32), np.empty(3, np.float32)
    >>> _ = ff.fill_many({"dense.w": (w, ff.he_normal()), "dense.b": (b, "zeros")}, seed=0)
    >>> bool((w == ff.draw((4, 3), ff.he_normal(), seed=0, name="dense.w")).all()), b.tolist()
    (True, [0.0, 0.0, 0.0])
    """
    watch = watched(progress)
    count = pool.resolve(threads)
    job = Job(seed, backend, numbered=not isinstance(items, Mapping))
    entries = _named(items) if isinstance(items, Mapping) else _numbered(items)
    job.extend(entries, lambda at: f"item {job.label(at)}: ")
    job.assert_apart()
    with watch as follow:
        job.run(count, follow)
    return items


def _numbered(items: object) -> Sequence[Any]:
    """The entries of a sequence."""
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise TypeError(
            f"items: expected a sequence of {_FORM}, or a mapping from names to {_NAMED_FORM}; got "
            f"{shown(items)}"
        )
    entries = items if type(items) is list or type(items) is tuple else list(items)
    if {*map(type, entries)} <= {tuple} and {*map(len, entries)} <= {3}:
        return entries
    for at, entry in enumerate(entries):
        if not isinstance(entry, tuple | list) or not 3 <= len(entry) <= 5:
            named = isinstance(entry, tuple | list) and len(entry) > 2
            label = f"{at} ({shown(entry[2])})" if named else f"{at}"
            raise TypeError(f"item {label}: expected {_FORM}; got {shown(entry)}")
    return entries


def _named(items: Mapping[Any, Any]) -> Sequence[Any]:
    """The entries of a mapping, each with its name at the place where a sequence has it."""
    for name, entry in items.items():
        if not isinstance(entry, tuple | list) or not 2 <= len(entry) <= 4:
            raise TypeError(f"item {shown(name)}: expected {_NAMED_FORM}; got {shown(entry)}")
    return [(entry[0], entry[1], name, *entry[2:]) for name, entry in items.items()]

"""materialize: draws a whole tree of parameters, each by its name."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fanfill.distributions import recipe
from fanfill.dtypes import storage_of
from fanfill.errors import BackendUnavailableError
from fanfill.initializers import Initializer
from fanfill.jax import initializers, on_cuda
from fanfill.jax.initializers import JaxInitializer
from fanfill.jax.keys import seed_of, words_of
from fanfill.jax.memory import draw_shards, on_devices
from fanfill.jax.shardings import known
from fanfill.messages import shown
from fanfill.named import CONSTANTS
from fanfill.streams import key_of

__all__ = ["Task", "materialize", "name_of", "tasks_of"]

Rules = Mapping[str, JaxInitializer | Initializer | str | None]

# Those that need no argument.
_NAMED = tuple(
    f"{prefix}_{kind}"
    for prefix in ("glorot", "he", "kaiming", "lecun", "xavier")
    for kind in ("normal", "uniform")
)


class Task(NamedTuple):
    """A leaf that is to be drawn."""

    law: Initializer
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sharding: Any


def materialize(abstract: Any, seed: Any, rules: Rules, *, through_host: bool = False) -> Any:
    """Arrays for a tree of shapes, each drawn by its own name.

    A value depends on the seed, the leaf's name, the element's index in the whole tensor, the rule and the
    dtype: not on the order of the leaves, nor on how they are sharded. Each process draws its own shards:
    no tensor is ever whole anywhere, nothing is communicated, and replicas on CPU devices share memory.

    Parameters
    ----------
    abstract : pytree
        Of `jax.ShapeDtypeStruct` or anything else that has a shape and a dtype, as `jax.eval_shape`,
        `flax.nnx.eval_shape` and `equinox.filter_eval_shape` give it. A leaf whose ``sharding`` is not None
        is made with that sharding, any other on JAX's default device.
    seed : int or key
        In [0, 2^64); or a JAX key, which stands for the seed that it stands for in an initializer.
    rules : mapping
        From a name or a pattern of names, with ``*``, ``?`` and ``[...]`` as in `fnmatch` (slashes are not
        special), to what fills the leaf: an initializer of this module or of `fanfill`, the name of one of
        this module's, "zeros", "ones", or None, which leaves the leaf as it is. The first key that fits is
        used. A leaf's name is its path, as ``params/Dense_0/kernel``; what boxes it (``nnx.Variable``,
        ``linen.Partitioned``) is no part of it.
    through_host : bool
        CUDA devices draw their shards themselves, into memory of CuPy's; there a leaf without a sharding is
        committed to the default device. With this the host draws them and sends them, as it always does for
        other accelerators.

    Raises
    ------
    BackendUnavailableError
        If fanfill cannot draw on the CUDA devices that leaves are for; the message says what is missing.
    ValueError
        If a leaf has no rule, or one that cannot fill it; if a rule fits nothing.
    TypeError
        If an argument is none of the above; if a leaf has a dtype that is not drawn, or float64 without
        ``jax_enable_x64``.

    Errors are raised before anything is drawn.
    """
    number = _seed(seed)
    tasks, tree = _tasks(abstract, _laws(rules))
    if not through_host:
        _assert_usable({task.sharding for task in tasks if isinstance(task, Task)})
    return tree.unflatten(
        [
            draw_shards(task.law, number, *task[1:], through_host=through_host)
            if isinstance(task, Task)
            else task
            for task in tasks
        ]
    )


def _tasks(abstract: Any, laws: dict[str, Initializer | None]) -> tuple[list[Any], Any]:
    """The tree's leaves, each as a task or, if its rule leaves it, as it is; and its structure."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)
    used: set[str] = set()
    missing: list[str] = []
    tasks: list[Any] = []
    for path, leaf in leaves:
        name = name_of(path)
        rule = next((pattern for pattern in laws if fnmatch.fnmatchcase(name, pattern)), None)
        if rule is None:
            missing.append(name)
            continue
        used.add(rule)
        law = laws[rule]
        tasks.append(leaf if law is None else _task(name, leaf, law))
    if missing:
        raise ValueError(
            f"expected a rule for every leaf; got none for {', '.join(missing)}; name them in rules (None "
            "leaves one as it is)"
        )
    for rule in laws:
        if rule not in used:
            raise ValueError(
                f"rules: expected each key to fit a leaf that no key before it fits; got {shown(rule)}, "
                "which fits none; correct it, or leave it out"
            )
    return tasks, tree


def tasks_of(abstract: Any, rules: Rules) -> list[Task]:
    """The leaves that `materialize` draws; its errors, but for those of devices."""
    return [task for task in _tasks(abstract, _laws(rules))[0] if isinstance(task, Task)]


def _assert_usable(shardings: set[Any]) -> None:
    """Raise unless the devices of these shardings can be drawn on."""
    reason = on_cuda.unusable() if any(map(on_devices, shardings)) else None
    if reason is not None:
        raise BackendUnavailableError(
            f"expected CUDA devices that fanfill can draw on; got {reason}; or draw on the host and send the "
            "values: through_host=True"
        )


def name_of(path: Any) -> str:
    """A leaf's name: its path in the tree, without the ``value`` of a box around it."""
    last = path[-1] if path else None
    if isinstance(last, jax.tree_util.GetAttrKey) and last.name == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")  # type: ignore[no-any-return]


def _seed(seed: Any) -> int:
    dtype = getattr(seed, "dtype", None)
    if dtype is not None and (seed.ndim == 1 or jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)):
        words = words_of(seed)
        if isinstance(words, jax.core.Tracer):
            raise TypeError(
                "seed: expected a key that is known; got one that is being traced; call materialize outside "
                "of jax.jit, or the initializers within"
            )
        return seed_of(words)
    key_of(seed, 0)  # refuses what is no seed
    return int(seed)


def _laws(rules: Any) -> dict[str, Initializer | None]:
    if not isinstance(rules, Mapping):
        raise TypeError(f"rules: expected a mapping from names to initializers; got {shown(rules)}")
    for pattern in rules:
        if not isinstance(pattern, str):
            raise TypeError(f"rules: expected names, or patterns of names, as keys; got {shown(pattern)}")
    return {pattern: _law(pattern, value) for pattern, value in rules.items()}


def _law(pattern: str, value: Any) -> Initializer | None:
    if isinstance(value, str):
        if value in CONSTANTS:
            return CONSTANTS[value]
        if value not in _NAMED:
            raise ValueError(
                f"rules: expected the name of an initializer for {pattern!r}; got {shown(value)}; the names "
                f"are {', '.join([*CONSTANTS, *_NAMED])}"
            )
        value = getattr(initializers, value)()
    if isinstance(value, JaxInitializer):
        return value.law
    if value is None or isinstance(value, Initializer):
        return value
    raise TypeError(
        f"rules: expected an initializer of fanfill.jax or fanfill, a name or None for {pattern!r}; got "
        f"{shown(value)}"
    )


def _task(name: str, leaf: Any, law: Initializer) -> Task:
    """Check everything that could fail, with the leaf's name in the error."""
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is None or dtype is None:
        raise TypeError(
            f"leaf {name!r}: expected a shape and a dtype, as of jax.ShapeDtypeStruct; got {shown(leaf)}; "
            "make the tree with jax.eval_shape"
        )
    try:
        if not isinstance(dtype, np.dtype):  # a key, which is of JAX's own kind
            raise TypeError(f"expected a floating-point dtype; got {dtype}; its rule may be None")
        storage = storage_of(dtype).name
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:  # JAX would round the values of float64 to float32
            raise TypeError(
                f"expected a dtype that JAX holds; got {storage}; set jax_enable_x64, or cast the tree"
            )
        recipe(law, tuple(shape), storage)
        sharding = known(getattr(leaf, "sharding", None))
        if sharding is not None:
            sharding.shard_shape(tuple(shape))
    except (TypeError, ValueError) as error:
        raise type(error)(f"leaf {name!r}: {error}") from error
    return Task(law, name, tuple(shape), dtype, sharding)

"""Mean and variance of what each layer of a model makes of standard normal samples: torch, Keras and flax.

The libraries are looked up among the modules that the model's code has imported; none is imported here.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple

import numpy as np

from fanfill.fill import draw
from fanfill.imports import module
from fanfill.initializers import Initializer, normal
from fanfill.messages import type_name

__all__ = ["Layer", "propagation_of"]

Array = np.ndarray[Any, Any]
Record = Callable[[str, str, Any], None]


class Layer(NamedTuple):
    """Moments of one layer's output, over units and samples."""

    name: str
    kind: str
    mean: float
    variance: float


def propagation_of(
    model: Any,
    inputs: Any = None,
    *,
    initializer: Initializer | None = None,
    shape: Sequence[int] | None = None,
    batch: int = 64,
    seed: int = 0,
) -> list[Layer]:
    """Mean and variance of each layer's output, in the order in which the model calls its layers.

    Parameters
    ----------
    model : torch.nn.Module, keras.Model, flax.linen.Module or flax.nnx.Module
        A layer is what has no layers in it. A torch model runs in evaluation mode and is put back; a Keras
        model with ``training=False``. A linen module may come as a pair with its variables; without, it is
        initialised by a key of the seed.
    inputs : array, optional
        A batch; by default standard normal samples of `shape`.
    initializer : Initializer, optional
        First fill the parameters of two axes and more with it, each by its own name: of a linen module in a
        copy, of any other model in place. The others get what `fanfill.torch.init_module` and
        `fanfill.keras.init_model` give them.
    shape : sequence of int, optional
        Of one sample. By default what the model says: a Keras model's own, a torch model's first Linear's or
        an nnx model's first kernel's.
    batch : int
        Samples.
    seed : int

    Raises
    ------
    TypeError
        A model of another kind.
    ValueError
        A model that says no shape; what the model or the initializer refuses.
    """
    bare, variables = model if isinstance(model, tuple) else (model, None)
    framework = next((known for known in _FRAMEWORKS if known.has(bare)), None)
    if framework is None:
        kinds = ", ".join(f"{known.root}.{known.kind}" for known in _FRAMEWORKS)
        raise TypeError(f"model: expected a model of one of the types {kinds}; got a {type_name(bare)}")
    found: list[Layer] = []

    def record(name: str, kind: str, output: Any) -> None:
        values = np.asarray(output, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            found.append(Layer(name, kind, float(values.mean()), float(values.var())))

    def samples() -> Any:
        if inputs is not None:
            return inputs
        sizes = framework.shape(bare) if shape is None else tuple(shape)
        if sizes is None:
            raise ValueError(
                f"shape: expected the shape of one sample, which a {type_name(bare)} does not say; got none; "
                "give it, as (64,) or (3, 32, 32), or a batch of your own"
            )
        return draw((batch, *sizes), normal(), seed=seed, name="input")

    framework.run(bare, variables, samples(), initializer, seed, record)
    return found


# PyTorch


def _torch_shape(model: Any) -> tuple[int, ...] | None:
    linear = sys.modules["torch"].nn.Linear
    first = next((layer for layer in model.modules() if isinstance(layer, linear)), None)
    return None if first is None else (first.in_features,)


def _torch(model: Any, _: Any, inputs: Any, law: Initializer | None, seed: int, record: Record) -> None:
    torch: Any = sys.modules["torch"]
    if law is not None:
        rules = {glob.escape(name): law for name, tensor in model.named_parameters() if tensor.ndim > 1}
        module("fanfill.torch").init_module(model, seed, rules=rules)
    parameter = next(model.parameters(), torch.empty(0))
    given = torch.as_tensor(inputs)
    if given.is_floating_point():
        given = given.to(parameter.dtype)

    def hook(name: str, layer: Any, output: Any) -> None:
        if torch.is_tensor(output) and output.is_floating_point():
            record(name, type(layer).__name__, output.detach().double().cpu().numpy())

    modes = [(layer, layer.training) for layer in model.modules()]
    with ExitStack() as stack:
        for name, layer in model.named_modules():
            if next(layer.children(), None) is None:
                handle = layer.register_forward_hook(
                    lambda layer, given, output, name=name: hook(name, layer, output)
                )
                stack.callback(handle.remove)
        for layer, mode in modes:
            stack.callback(setattr, layer, "training", mode)
        model.eval()
        with torch.no_grad():
            model(given.to(parameter.device))


# Keras


def _keras_shape(model: Any) -> tuple[int, ...] | None:
    found = getattr(model, "input_shape", None)
    if not isinstance(found, tuple) or not all(isinstance(size, int) for size in found[1:]):
        return None  # several inputs, or axes of any length
    return found[1:]


def _keras_layers(model: Any) -> Iterator[Any]:
    """The layers that have none in them, without those that only state an input."""
    inside = list(model._flatten_layers(include_self=False, recursive=False))
    if not inside and type(model).__name__ != "InputLayer":
        yield model
    for layer in inside:
        yield from _keras_layers(layer)


def _keras(model: Any, _: Any, inputs: Any, law: Initializer | None, seed: int, record: Record) -> None:
    keras: Any = sys.modules["keras"]
    if law is not None:
        weights = module("fanfill.keras.names").named_variables(model)
        rules = {glob.escape(each.name): law for each in weights if len(each.variable.shape) > 1}
        module("fanfill.keras").init_model(model, seed, rules=rules)

    @contextmanager
    def watched(layer: Any) -> Iterator[None]:
        call = layer.call

        def recording(*words: Any, **options: Any) -> Any:
            output = call(*words, **options)
            if hasattr(output, "shape"):
                record(layer.path or layer.name, type(layer).__name__, keras.ops.convert_to_numpy(output))
            return output

        # Past Keras, which would track it as the layer's state. Its call looks at the signature of its class.
        object.__setattr__(layer, "call", recording)
        try:
            yield
        finally:
            object.__delattr__(layer, "call")

    with ExitStack() as stack:
        for layer in _keras_layers(model):
            stack.enter_context(watched(layer))
        model(keras.ops.convert_to_tensor(inputs), training=False)


# flax


def _named(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    """A tree's leaves by name, and its structure."""
    tree_util: Any = sys.modules["jax"].tree_util
    leaves, structure = tree_util.tree_flatten_with_path(tree)
    name_of = module("fanfill.jax.trees").name_of
    return [(name_of(path), leaf) for path, leaf in leaves], structure


def _refilled(tree: Any, law: Initializer, seed: int) -> Any:
    """A tree of arrays with those of two axes and more drawn anew."""
    leaves, structure = _named(tree)
    rules = {glob.escape(name): law if leaf.ndim > 1 else None for name, leaf in leaves}
    return module("fanfill.jax").materialize(structure.unflatten([leaf for _, leaf in leaves]), seed, rules)


def _linen(
    model: Any, variables: Any, inputs: Any, law: Initializer | None, seed: int, record: Record
) -> None:
    jax: Any = sys.modules["jax"]
    linen: Any = sys.modules["flax"].linen
    given = jax.numpy.asarray(inputs)
    state = model.init(jax.random.key(seed), given) if variables is None else variables
    if law is not None:
        state = {**state, "params": _refilled(state["params"], law, seed)}
    calls: list[bool] = []  # of those that are open: whether another was made within

    def watch(next_function: Any, words: Any, options: Any, context: Any) -> Any:
        if context.method_name != "__call__":
            return next_function(*words, **options)
        calls[:] = [True] * len(calls)
        calls.append(False)
        output = next_function(*words, **options)
        if not calls.pop() and hasattr(output, "dtype"):
            record("/".join(context.module.path), type(context.module).__name__, output)
        return output

    with linen.intercept_methods(watch):
        model.apply(state, given)


def _nnx_shape(model: Any) -> tuple[int, ...] | None:
    nnx: Any = sys.modules["flax"].nnx
    first = next((layer for _, layer in nnx.iter_modules(model) if isinstance(layer, nnx.Linear)), None)
    return None if first is None else (first.in_features,)


def _nnx(model: Any, _: Any, inputs: Any, law: Initializer | None, seed: int, record: Record) -> None:
    nnx: Any = sys.modules["flax"].nnx
    if law is not None:
        nnx.update(model, _refilled(nnx.state(model, nnx.Param), law, seed))
    layers = dict(nnx.iter_modules(model))
    forward = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)
    _, found = forward(sys.modules["jax"].numpy.asarray(inputs))
    for path, output in nnx.to_flat_state(found):
        *place, method = path
        inside = any(other[: len(place)] == tuple(place) != other for other in layers)
        if method == "__call__" and not inside:
            layer = layers[tuple(place)]
            for value in output.get_value():
                record("/".join(map(str, place)), type(layer).__name__, value)


class _Framework(NamedTuple):
    """How one framework's models are known, asked for their samples' shape, and run."""

    root: str
    kind: str
    shape: Callable[[Any], tuple[int, ...] | None]
    run: Callable[[Any, Any, Any, Initializer | None, int, Record], None]

    def has(self, model: Any) -> bool:
        """Whether a model is of this kind."""
        known: Any = sys.modules.get(self.root)
        for step in self.kind.split("."):
            known = getattr(known, step, None)
        return known is not None and isinstance(model, known)


# Keras first: on torch its models are torch modules, too.
_FRAMEWORKS: Final = (
    _Framework("keras", "Model", _keras_shape, _keras),
    _Framework("torch", "nn.Module", _torch_shape, _torch),
    _Framework("flax", "linen.Module", lambda model: None, _linen),
    _Framework("flax", "nnx.Module", _nnx_shape, _nnx),
)

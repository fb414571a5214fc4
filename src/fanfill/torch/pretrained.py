"""Checkpoints of transformers' models, from a configuration: transformers' own save_pretrained, run dry.

The model is traced on the meta device, and ``save_pretrained`` runs on it with the writer of safetensors
replaced by a recorder. So file names, ties, left-out keys, conversions of experts, configuration files and
index are transformers' own. Each recorded tensor is a box of a parameter, a copy of one, or several
joined; its values are then those of the parameter, by the name that it has in a running model.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fanfill.checkpoints import safetensors, writing
from fanfill.checkpoints.recipe import ModelRecipe
from fanfill.checkpoints.tensors import Joined, Part, Source, TensorRecipe
from fanfill.initializers import Initializer
from fanfill.messages import shown
from fanfill.torch.recipes import Place, retrying, tensor_recipe, view_in
from fanfill.torch.tracing import Box, Record, tracing

__all__ = ["Pretrained", "job", "plan"]

_WHOLE = 10**18  # bytes: all in one file
_ONE_FILE = "model.safetensors"


class Pretrained(NamedTuple):
    """What a configuration leads to.

    Attributes
    ----------
    recipe : ModelRecipe
        Of the stored tensors, in the order of ``save_pretrained``.
    metadata : dict
        Of the header.
    files : dict
        Names and bytes of the files beside the tensors: ``config.json`` and the like.
    parameters : int
        How many there are, which the index says.
    restated : list of str
        Stored tensors that are no box of a parameter, and are drawn under their stored names.
    """

    recipe: ModelRecipe
    metadata: dict[str, str]
    files: dict[str, bytes]
    parameters: int
    restated: list[str]


def plan(
    config: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    rules: Sequence[tuple[str, Initializer]] = (),
) -> Pretrained:
    """Plan the checkpoint of a configuration, without allocating the model.

    Parameters
    ----------
    config : path-like
        A ``config.json``, or the folder that holds one. Code that it names is never loaded.
    dtype : str, optional
        Of the floating-point parameters. None: transformers' choice.
    rules : sequence of (pattern, initializer)
        As in `ModelRecipe.with_rules`, by stored names.

    Raises
    ------
    ValueError
        If what a tensor holds cannot be expressed, or there is no such configuration; it names the tensor.
    ModuleNotFoundError
        Without transformers.
    """
    import transformers

    read = transformers.AutoConfig.from_pretrained(os.fspath(config), trust_remote_code=False)
    kind = _class(transformers, read)
    chosen = {} if dtype is None else {"dtype": getattr(torch, dtype)}

    def build() -> Any:
        # A copy: building changes a configuration, and a trace may have to be repeated.
        again = transformers.AutoConfig.from_pretrained(os.fspath(config), trust_remote_code=False)
        return kind._from_config(again, **chosen)

    def traced(small: int) -> Pretrained:
        with tracing(small) as record:
            model = build()
            recorded, files = _saved(model)
        return _planned(model, record, recorded, files, rules)

    planned: Pretrained = retrying(traced, build)
    return planned


def job(planned: Pretrained, seed: int, max_shard_size: int | str = "5GB") -> writing.Job:
    """The files of a planned checkpoint: tensors, configuration, index."""
    recipe = planned.recipe
    files = safetensors.plan(
        recipe,
        seed,
        max_shard_size=max_shard_size,
        metadata=writing.metadata(recipe, seed, planned.metadata),
    )
    last = {writing.RECIPE_NAME: recipe.dumps().encode(), **planned.files}
    if len(files) > 1:
        index = safetensors.index(files, recipe, planned.parameters)
        last[f"{_ONE_FILE}.index.json"] = writing.index_text(index)
    return writing.Job(files, last)


def _class(transformers: Any, config: Any) -> Any:
    """The class of the model: the configuration's own, or that of a language model, or of a bare one."""
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, name, None)
        if found is not None:
            return found
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoModel):
        found = auto._model_mapping.get(type(config), None)
        if found is not None:
            return found[0] if isinstance(found, tuple | list) else found
    raise ValueError(
        f"config: expected one of a model that transformers {transformers.__version__} knows; got model_type "
        f"{shown(getattr(config, 'model_type', None))}; name its class in architectures"
    )


class _Recorded(NamedTuple):
    tensors: Mapping[str, torch.Tensor]
    metadata: dict[str, str]


def _saved(model: Any) -> tuple[_Recorded, dict[str, bytes]]:
    """What save_pretrained would write: its tensors, and its other files."""
    utils: Any = importlib.import_module("transformers.modeling_utils")

    saved: list[_Recorded] = []

    def record(tensors: Mapping[str, torch.Tensor], filename: str, metadata: Any = None) -> None:
        saved.append(_Recorded(dict(tensors), dict(metadata or {})))

    logging: Any = importlib.import_module("transformers.utils.logging")
    shown_bars = logging.is_progress_bar_enabled()
    with tempfile.TemporaryDirectory() as folder:
        real, utils.safe_save_file = utils.safe_save_file, record
        logging.disable_progress_bar()  # nothing is written that takes any time
        try:
            # In one file: huggingface_hub sizes a view by its whole storage, and on the meta device each
            # expert of a mixture would get a shard of its own.
            model.save_pretrained(folder, max_shard_size=_WHOLE)
        finally:
            utils.safe_save_file = real
            if shown_bars:
                logging.enable_progress_bar()
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}
    if len(saved) != 1:
        raise ValueError(
            f"expected save_pretrained to write one file of safetensors; got {len(saved)}; this release of "
            "transformers saves differently"
        )
    return saved[0], files


def _planned(
    model: Any,
    record: Record,
    recorded: _Recorded,
    files: dict[str, bytes],
    rules: Sequence[tuple[str, Initializer]],
) -> Pretrained:
    planner = _Planner(model, record)
    tensors = {name: planner.stored(name, tensor) for name, tensor in recorded.tensors.items()}
    recipe = ModelRecipe(tensors).with_rules(rules).check()
    return Pretrained(recipe, recorded.metadata, files, model.num_parameters(), planner.restated)


class _Planner:
    """Finds of which parameter a stored tensor is a box."""

    def __init__(self, model: Any, record: Record) -> None:
        self.record = record
        self.names: dict[int, str] = {}
        self.tensors: dict[int, torch.Tensor] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            key = tensor.untyped_storage()._cdata
            self.names.setdefault(key, name)
            self.tensors.setdefault(key, tensor)
        self.restated: list[str] = []

    def stored(self, name: str, tensor: torch.Tensor) -> TensorRecipe:
        own = tensor_recipe(name, tensor, self.record)
        key, box = tensor.untyped_storage()._cdata, Box.of(tensor)
        joining = self.record.joined.get(key)
        if key not in self.names and joining is not None and joining.shape == own.shape:
            parts = tuple(self.stored(name, each) for each in joining.tensors)
            return TensorRecipe(own.shape, own.dtype, joined=Joined(joining.axis, parts))
        while key not in self.names and key in self.record.origins:
            view, shape, strides = self.record.origins[key]
            place = view_in(box, Box(0, shape, strides))
            if place is None:
                break
            key, box = view.untyped_storage()._cdata, _box_of_view(Box.of(view), place, box)
        found = self._in_parameter(name, own, key, box)
        if found is not None:
            return found
        if own.unknown or own.values is not None:
            return own
        self.restated.append(name)
        # Not the plain name: another parameter may have it in a running model.
        return TensorRecipe(own.shape, own.dtype, own.parts, source=own.itself(f"file:{name}"))

    def _in_parameter(self, stored: str, own: TensorRecipe, key: int, box: Box) -> TensorRecipe | None:
        """The stored tensor as a box of the parameter with that storage."""
        if key not in self.names:
            return None
        name, parameter = self.names[key], self.tensors[key]
        place = view_in(box, Box.of(parameter))
        whole = tensor_recipe(name, parameter, self.record)
        if place is None or whole.unknown or whole.values is not None:
            return None
        parts = []
        for part in whole.parts:
            inside = _inside(part, place)
            if inside is not None:
                parts.append(inside)
        shape, axes = tuple(parameter.shape), place.axes
        itself = name == stored and own.shape == shape and axes == tuple(range(len(shape)))
        source = None if itself else Source(name, shape, place.start, axes)
        return TensorRecipe(own.shape, own.dtype, tuple(parts), source=source)


def _box_of_view(view: Box, place: Place, box: Box) -> Box:
    """The box of a copy as the same box of what was copied."""
    return Box(
        view.offset + sum(i * step for i, step in zip(place.start, view.strides, strict=True)),
        box.shape,
        tuple(view.strides[axis] for axis in place.axes),
    )


def _inside(part: Part, place: Place) -> Part | None:
    """A part of a parameter as a part of a box of it, with the box's axes; None where they do not meet."""
    start, lengths = [], []
    for a, n, b, m in zip(part.start, part.shape, place.start, place.lengths, strict=True):
        low, high = max(a, b), min(a + n, b + m)
        if low >= high:
            return None
        start.append(low - b)
        lengths.append(high - low)
    return Part(
        part.law, tuple(start[axis] for axis in place.axes), tuple(lengths[axis] for axis in place.axes)
    )

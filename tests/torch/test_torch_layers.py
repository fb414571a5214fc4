"""init_module, layer by layer: torch's default distributions."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import samples

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill.torch as ft  # noqa: E402

nn = torch.nn
VALUES = 3000

# Every layer of torch.nn that owns parameters, in shapes where a mistaken fan shows; of such a size that some
# 70 models have VALUES of the least parameter.
LAYERS: dict[str, Callable[[], Any]] = {
    "Linear": lambda: nn.Linear(40, 25),
    "Linear without bias": lambda: nn.Linear(40, 25, bias=False),
    "Linear of nothing": lambda: nn.Linear(0, 25),
    "Bilinear": lambda: nn.Bilinear(10, 30, 47),
    "Conv1d": lambda: nn.Conv1d(12, 49, 5),
    "Conv2d": lambda: nn.Conv2d(12, 48, (3, 2), groups=4),
    "Conv3d": lambda: nn.Conv3d(4, 47, 3),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(12, 49, 5),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(12, 48, 3, groups=4),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(4, 47, 3),
    "Embedding": lambda: nn.Embedding(50, 8),
    "Embedding with padding": lambda: nn.Embedding(50, 8, padding_idx=-3),
    "EmbeddingBag": lambda: nn.EmbeddingBag(50, 8, padding_idx=0),
    "BatchNorm1d": lambda: nn.BatchNorm1d(9),
    "BatchNorm2d": lambda: nn.BatchNorm2d(9, affine=False),
    "BatchNorm3d": lambda: nn.BatchNorm3d(9),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(9),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(9, affine=True),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(9),
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(9, affine=True),
    "LayerNorm": lambda: nn.LayerNorm((5, 4)),
    "GroupNorm": lambda: nn.GroupNorm(3, 9),
    "RMSNorm": lambda: nn.RMSNorm(9),
    "RNN": lambda: nn.RNN(16, 41, 2, bidirectional=True),
    "LSTM": lambda: nn.LSTM(16, 21, 2, proj_size=5),
    "GRU": lambda: nn.GRU(16, 21, bias=False),
    "RNNCell": lambda: nn.RNNCell(16, 41),
    "LSTMCell": lambda: nn.LSTMCell(16, 21),
    "GRUCell": lambda: nn.GRUCell(16, 21),
    "MultiheadAttention": lambda: nn.MultiheadAttention(48, 3, add_bias_kv=True),
    "MultiheadAttention of other sizes": lambda: nn.MultiheadAttention(48, 3, kdim=25, vdim=35),
    "MultiheadAttention without bias": lambda: nn.MultiheadAttention(48, 3, bias=False),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(48, 3, 80, batch_first=True),
    "TransformerDecoderLayer": lambda: nn.TransformerDecoderLayer(48, 3, 80),
    "Transformer": lambda: nn.Transformer(96, 3, 1, 1, 160, batch_first=True),
    "PReLU": lambda: nn.PReLU(5, init=0.125),
    "AdaptiveLogSoftmaxWithLoss": lambda: nn.AdaptiveLogSoftmaxWithLoss(12, 30, [10, 20]),
}


Values = dict[str, np.ndarray]


def drawn(models: Iterable[Any]) -> Values:
    """At least VALUES of each parameter, and of a large one ten times as many, from two models or more. A
    parameter that holds one value in all of them needs no more.
    """
    values: dict[str, list[np.ndarray]] = {}
    for number, model in enumerate(models, 1):
        for name, parameter in model.named_parameters():
            kept = values.setdefault(name, [])
            if sum(map(len, kept)) < 10 * VALUES:
                kept.append(parameter.detach().numpy().reshape(-1).copy())
        if number > 1 and all(sum(map(len, p)) >= VALUES or is_constant(p) for p in values.values()):
            break
    return {name: np.concatenate(kept) for name, kept in values.items()}


def is_constant(parts: list[np.ndarray]) -> bool:
    return all((part == parts[0][:1]).all() for part in parts)


def by_torch(layer: str) -> Iterator[Any]:
    while True:
        yield LAYERS[layer]()  # its constructor draws


def by_fanfill(layer: str) -> Iterator[Any]:
    model = LAYERS[layer]()
    for seed in itertools.count():
        yield filled(model, seed)


def filled(model: Any, seed: int) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)  # what is left out shows
    return ft.init_module(model, seed)


def same(x: np.ndarray, y: np.ndarray) -> bool:
    if x.std() == 0.0 or y.std() == 0.0:
        return bool((x[0] == x).all() and (y == x[0]).all())
    zeros = abs((x == 0).mean() - (y == 0).mean()) < 1e-3  # rows of padding
    return bool(zeros and samples.same(x, y))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("layer", LAYERS)
def test_default_distributions_are_torchs(layer: str) -> None:
    torch.manual_seed(5)
    theirs, ours = drawn(by_torch(layer)), drawn(by_fanfill(layer))
    assert theirs.keys() == ours.keys()
    for name in theirs:
        if len(theirs[name]):
            assert same(theirs[name], ours[name]), name
            if ours[name].std():
                assert not same(theirs[name], 1.12 * ours[name]), f"{name}: the test cannot fail"
            else:
                assert not same(theirs[name], ours[name] + 1), f"{name}: the test cannot fail"


def test_every_layer_that_owns_parameters_is_covered() -> None:
    resets = {"reset_parameters", "_reset_parameters"}
    classes = {
        name
        for name, kind in vars(nn).items()
        if inspect.isclass(kind) and issubclass(kind, nn.Module) and resets & set(dir(kind))
    }
    # Lazy layers become the others with their first input; the two bases cannot be made by themselves.
    expected = {name for name in classes if not name.startswith("Lazy")} - {"RNNBase", "RNNCellBase"}
    assert expected <= {name.split(" ")[0] for name in LAYERS}


def test_transposed_padding_is_where_torch_has_it() -> None:
    model = filled(nn.Embedding(50, 8, padding_idx=-3), 0)
    zero = (model.weight == 0).all(1)
    assert zero.nonzero().tolist() == [[47]]

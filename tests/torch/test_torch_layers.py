"""init_module, layer by layer: torch's default distributions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill.torch as ft  # noqa: E402

nn = torch.nn
LEVEL = 1e-4
VALUES = 3000

# Every layer of torch.nn that owns parameters, in shapes where a mistaken fan shows.
LAYERS: dict[str, Callable[[], Any]] = {
    "Linear": lambda: nn.Linear(40, 25),
    "Linear without bias": lambda: nn.Linear(40, 25, bias=False),
    "Linear of nothing": lambda: nn.Linear(0, 25),
    "Bilinear": lambda: nn.Bilinear(10, 30, 7),
    "Conv1d": lambda: nn.Conv1d(12, 9, 5),
    "Conv2d": lambda: nn.Conv2d(12, 8, (3, 2), groups=4),
    "Conv3d": lambda: nn.Conv3d(4, 7, 3),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(12, 9, 5),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(12, 8, 3, groups=4),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(4, 7, 3),
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
    "RNN": lambda: nn.RNN(6, 11, 2, bidirectional=True),
    "LSTM": lambda: nn.LSTM(6, 11, 2, proj_size=5),
    "GRU": lambda: nn.GRU(6, 11, bias=False),
    "RNNCell": lambda: nn.RNNCell(6, 11),
    "LSTMCell": lambda: nn.LSTMCell(6, 11),
    "GRUCell": lambda: nn.GRUCell(6, 11),
    "MultiheadAttention": lambda: nn.MultiheadAttention(12, 3, add_bias_kv=True),
    "MultiheadAttention of other sizes": lambda: nn.MultiheadAttention(12, 3, kdim=5, vdim=7),
    "MultiheadAttention without bias": lambda: nn.MultiheadAttention(12, 3, bias=False),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(12, 3, 20, batch_first=True),
    "TransformerDecoderLayer": lambda: nn.TransformerDecoderLayer(12, 3, 20),
    "Transformer": lambda: nn.Transformer(24, 3, 1, 1, 40, batch_first=True),
    "PReLU": lambda: nn.PReLU(5, init=0.125),
    "AdaptiveLogSoftmaxWithLoss": lambda: nn.AdaptiveLogSoftmaxWithLoss(12, 30, [10, 20]),
}


def samples(make: Callable[[], Any], fill: Callable[[Any, int], Any]) -> dict[str, np.ndarray]:
    """Values of each parameter, from as many models as it takes."""
    values: dict[str, list[np.ndarray]] = {}
    for number in range(200):
        model = fill(make(), number)
        for name, parameter in model.named_parameters():
            values.setdefault(name, []).append(parameter.detach().numpy().reshape(-1).copy())
        if all(sum(map(len, kept)) >= VALUES or not len(kept[0]) for kept in values.values()):
            break
    return {name: np.concatenate(kept) for name, kept in values.items()}


def by_torch(model: Any, number: int) -> Any:
    return model  # its constructor has drawn


def by_fanfill(model: Any, number: int) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)  # what is left out shows
    return ft.init_module(model, number)


def same(x: np.ndarray, y: np.ndarray) -> bool:
    if x.std() == 0.0 or y.std() == 0.0:
        return bool((x[0] == x).all() and (y == x[0]).all())
    zeros = abs((x == 0).mean() - (y == 0).mean()) < 1e-3  # rows of padding
    fits = stats.ks_2samp(x, y, method="asymp").pvalue > LEVEL
    spread = stats.ttest_ind(x.astype(float) ** 2, y.astype(float) ** 2, equal_var=False).pvalue > LEVEL
    return bool(zeros and fits and spread)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("layer", LAYERS)
def test_default_distributions_are_torchs(layer: str) -> None:
    torch.manual_seed(5)
    theirs, ours = samples(LAYERS[layer], by_torch), samples(LAYERS[layer], by_fanfill)
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
    model = by_fanfill(nn.Embedding(50, 8, padding_idx=-3), 0)
    zero = (model.weight == 0).all(1)
    assert zero.nonzero().tolist() == [[47]]

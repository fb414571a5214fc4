"""fanfill.torch's functions: the project's bits, in any tensor that torch can hold them in."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from forked import forked
from processes import assert_right, run

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402

AXES = {"in_axis": 1, "out_axis": 0}
EQUAL: list[tuple[Callable[..., Any], ff.Initializer]] = [
    (ft.uniform_, ff.uniform(0.0, 1.0, endpoint=False)),
    (ft.normal_, ff.normal()),
    (ft.trunc_normal_, ff.truncated_normal(0.0, 1.0, -2.0, 2.0)),
    (ft.xavier_uniform_, ff.xavier_uniform(**AXES)),
    (ft.xavier_normal_, ff.xavier_normal(**AXES)),
    (ft.kaiming_uniform_, ff.he_uniform(**AXES)),
    (ft.kaiming_normal_, ff.he_normal(**AXES)),
    (ft.lecun_uniform_, ff.lecun_uniform(**AXES)),
    (ft.lecun_normal_, ff.lecun_normal(**AXES)),
    (ft.variance_scaling_, ff.variance_scaling(**AXES)),
    (ft.constant_, ff.constant(0.3)),
]
NAMES = [function.__name__ for function, _ in EQUAL]

DTYPES = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
    torch.float8_e4m3fn: np.dtype(ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: np.dtype(ml_dtypes.float8_e5m2),
}


def bits(tensor: Any) -> np.ndarray:
    """A tensor's bytes in C order, by torch alone: no view of NumPy's is trusted to test one."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().copy()


def expected(law: ff.Initializer, shape: tuple[int, ...], dtype: Any, **key: Any) -> np.ndarray:
    return ff.fill(np.empty(shape, DTYPES[dtype]), law, **key).reshape(-1).view(np.uint8)


@pytest.mark.parametrize("case", EQUAL, ids=NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(33, 7), (257, 300, 2)], ids=str)
def test_values_are_those_of_fill(case: Any, dtype: Any, shape: Any) -> None:
    function, law = case
    extra = {"val": 0.3} if function is ft.constant_ else {"seed": 5, "name": "w"}
    if function is ft.kaiming_normal_ or function is ft.kaiming_uniform_:
        extra["nonlinearity"] = "relu"
    tensor = torch.empty(shape, dtype=dtype)
    assert function(tensor, **extra) is tensor
    assert np.array_equal(bits(tensor), expected(law, shape, dtype, seed=5, name="w"))


def test_truncated_lecun_is_that_of_keras_and_jax() -> None:
    w = ft.lecun_normal_(torch.empty(30, 20), truncated=True, seed=1)
    assert np.array_equal(w.numpy(), ff.draw((30, 20), ff.lecun_normal(truncated=True, **AXES), seed=1))


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "C": lambda t: t(6, 8, 10, 12),
    "transposed": lambda t: t(12, 8, 10, 6).transpose(0, 3),
    "channels_last": lambda t: t(6, 8, 10, 12).contiguous(memory_format=torch.channels_last),
    "sliced": lambda t: t(9, 20, 12, 14)[1:7, ::2, 2:, 1:13][:, :8],
    "parameter": lambda t: torch.nn.Parameter(t(6, 8, 10, 12)),
    "view of a parameter": lambda t: torch.nn.Parameter(t(7, 8, 10, 12))[1:],
    "no grad needed": lambda t: torch.nn.Parameter(t(6, 8, 10, 12), requires_grad=False),
    "buffer": lambda t: torch.nn.Buffer(t(6, 8, 10, 12)) if hasattr(torch.nn, "Buffer") else t(6, 8, 10, 12),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_layout_does_not_matter(layout: str, dtype: Any) -> None:
    tensor = LAYOUTS[layout](lambda *shape: torch.zeros(*shape, dtype=dtype))
    assert tuple(tensor.shape) == (6, 8, 10, 12)
    ft.normal_(tensor, seed=5, name="w")
    assert np.array_equal(bits(tensor), expected(ff.normal(), (6, 8, 10, 12), dtype, seed=5, name="w"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_neighbours_in_memory_are_left_alone(dtype: Any) -> None:
    whole = torch.full((20, 30), 9.0, dtype=dtype)
    ft.uniform_(whole[3:17:2, 5:25].t(), seed=1)
    inside = torch.zeros(20, 30, dtype=torch.bool)
    inside[3:17:2, 5:25] = True
    assert (whole[~inside] == 9.0).all()
    assert (whole[inside] != 9.0).all()


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 4), (3, 0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tiny_shapes(shape: Any, dtype: Any) -> None:
    tensor = ft.normal_(torch.zeros(shape, dtype=dtype), seed=5, name="w")
    assert np.array_equal(bits(tensor), expected(ff.normal(), shape, dtype, seed=5, name="w"))


def test_inference_tensors_are_filled_in_inference_mode() -> None:
    with torch.inference_mode():
        w = ft.normal_(torch.empty(30, 20), seed=5)
    assert w.is_inference()
    assert np.array_equal(w.numpy(), ff.draw((30, 20), ff.normal(), seed=5))


def test_a_thread_that_begins_in_inference_mode_goes_on_outside() -> None:
    errors: list[Exception] = []

    def work() -> None:
        try:
            with torch.inference_mode():
                ft.normal_(torch.empty(9))
            ft.normal_(torch.empty(9))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_version_counter_moves_and_no_graph_is_made(dtype: Any) -> None:
    w = torch.nn.Parameter(torch.zeros(8, 8, dtype=dtype))
    view = w[:4]
    before, seen = w._version, view._version
    for function, _ in EQUAL[:-1]:
        function(w, seed=0)
    assert w._version >= before + len(EQUAL) - 1
    assert view._version > seen
    assert w.is_leaf
    assert w.grad_fn is None
    assert w.requires_grad


def test_a_backward_through_overwritten_values_is_refused_as_after_torchs_own() -> None:
    w = torch.nn.Parameter(torch.ones(8))
    loss = (w * w).sum()
    ft.normal_(w, seed=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_meta_and_fake_tensors_stay_as_they_are() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    state = torch.get_rng_state()
    with FakeTensorMode():
        fake = torch.empty(4, 4)
        layer = torch.nn.Linear(4, 4)
        for function, _ in EQUAL[:-1]:
            assert function(fake) is fake
            assert function(layer.weight) is layer.weight
    meta = torch.empty(4, 4, device="meta")
    for function, _ in EQUAL[:-1]:
        assert function(meta) is meta
    assert torch.equal(torch.get_rng_state(), state)


# What fanfill imports of torch is noted, and refused: to have it would take 2 s.
IMPORTING = """
import sys
asked = []
class Refuses:
    def find_spec(self, name, *_):
        if name == "torch":
            asked.append(name)
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuses())
import fanfill
assert not asked
try:
    import fanfill.torch
except ImportError:
    pass
assert asked and "torch" not in sys.modules
print("right")
"""


def test_importing_fanfill_does_not_import_torch() -> None:
    assert_right(run(IMPORTING))


def memory(what: str) -> int:
    return int(re.findall(what + r":\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024


def assert_growths() -> None:
    def growth(function: Any, tensor: Any) -> float:
        function(tensor)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
        before = memory("VmRSS")
        function(tensor)
        return (memory("VmHWM") - before) / (tensor.numel() * tensor.element_size())

    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.zeros(12000 // dtype.itemsize, 3001, dtype=dtype)
        for view in (tensor, tensor.t(), tensor[:, 1:]):
            assert growth(lambda t: ft.normal_(t, seed=0), view) < 0.1
        assert growth(lambda t: t.copy_(t * 2), tensor) > 0.5  # the control


def test_no_copy_of_the_tensors_size_is_made() -> None:
    """In another process, whose memory is all its own."""
    assert_right(forked(assert_growths), "")


def test_truncated_values_lie_within_the_absolute_bounds() -> None:
    generator = np.random.default_rng(0)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for number in range(200):
            mean, std = generator.normal(), generator.exponential()
            a, b = sorted(mean + std * generator.normal(size=2))
            if b - a < 0.05 * std:
                continue
            if dtype is torch.bfloat16:
                a, b = (float(torch.tensor(x, dtype=dtype)) for x in (a, b))
            w = ft.trunc_normal_(torch.empty(64, dtype=dtype), mean, std, a, b, seed=number)
            assert float(w.min()) >= a
            assert float(w.max()) <= b


def test_the_ends_that_a_kernel_clamps_to_are_the_bounds() -> None:
    """In float64 too, where mean + cut * std may pass the bound by its last bit, which few values show."""
    from fanfill.distributions import recipe
    from fanfill.torch import laws

    generator = np.random.default_rng(1)
    naive = 0
    for _ in range(300):
        mean, std = generator.normal(), generator.exponential()
        a, b = mean - std * generator.uniform(0.5, 3), mean + std * generator.uniform(0.5, 3)
        low, high = recipe(laws.trunc_normal(mean, std, a, b, torch.float64), (9,), "float64").params[-2:]
        step = 4 * (abs(mean) + 3 * std) * 2.0**-53
        assert a <= low <= a + step
        assert b - step <= high <= b
        plain = ff.truncated_normal(mean, std, (a - mean) / std, (b - mean) / std)
        low, high = recipe(plain, (9,), "float64").params[-2:]
        naive += low < a or high > b
    assert naive > 20  # the control: plain quotients do pass them


@pytest.mark.parametrize("dtype", list(DTYPES)[3:], ids=str)
def test_bounds_that_are_values_of_a_narrow_dtype_occur(dtype: Any) -> None:
    """The bounds are no multiples of the std: a cut just inside of one would take its share of the values."""
    w = ft.trunc_normal_(torch.empty(20000, dtype=dtype), 0.1, 0.3, -0.5, 0.5, seed=0)
    assert float(w.double().min()) == -0.5
    assert float(w.double().max()) == 0.5


def test_bounds_beyond_any_float_of_stds_do_not_cut() -> None:
    w = ft.trunc_normal_(torch.empty(40, dtype=torch.float64), 0.0, 1e-200, -1e200, 1e200, seed=2)
    law = ff.truncated_normal(0.0, 1e-200, -math.inf, math.inf)
    assert np.array_equal(w.numpy(), ff.draw(40, law, seed=2, dtype="float64"))


def test_subclasses_and_modes_see_the_call() -> None:
    seen = []

    class Loud(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    w = torch.zeros(30, 20).as_subclass(Loud)
    assert ft.normal_(w, seed=5) is w
    assert seen[0] is ft.normal_
    assert np.array_equal(
        bits(w.as_subclass(torch.Tensor)), expected(ff.normal(), (30, 20), torch.float32, seed=5)
    )
    assert ft.xavier_normal_(w, seed=5) is w
    assert ft.uniform_(w, seed=5) is w
    seen.clear()
    assert ft.kaiming_uniform_(w, seed=5) is w
    assert seen[0] is ft.kaiming_uniform_
    with torch.device("cpu"):  # a mode of torch's own
        assert torch.equal(ft.uniform_(torch.empty(9), seed=1), ft.uniform_(torch.empty(9), seed=1))

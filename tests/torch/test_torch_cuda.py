"""torch tensors on a real CUDA device: ``pytest -m cuda``. Skipped, and counted as skipped, where there is
none."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill.torch as ft  # noqa: E402
from fanfill.backends import get  # noqa: E402

REASON = get("cuda").unusable() or (None if torch.cuda.is_available() else "this torch sees no CUDA device")
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(REASON is not None, reason=f"no CUDA device: {REASON}")]

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)


def bits(tensor: Any) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("function", [ft.uniform_, ft.trunc_normal_, ft.kaiming_normal_])
def test_the_bits_are_those_of_the_cpu(function: Any, dtype: Any) -> None:
    for make in (lambda w: w, lambda w: w.t(), lambda w: w[::2, 3:], torch.nn.Parameter):
        here, there = (make(torch.zeros(300, 303, dtype=dtype, device=device)) for device in ("cpu", "cuda"))
        before = there._version
        assert function(there, seed=1, name="w") is there
        assert there._version > before
        assert torch.equal(bits(there), bits(function(here, seed=1, name="w")))


def test_matrices_are_those_of_the_cpu() -> None:
    for function, args in ((ft.orthogonal_, ()), (ft.sparse_, (0.3,)), (ft.eye_, ()), (ft.dirac_, (2,))):
        shape = (30, 20, 3) if function is ft.dirac_ else (30, 20)
        key = {"seed": 1, "name": "w"} if function in (ft.orthogonal_, ft.sparse_) else {}
        here, there = (
            function(torch.zeros(shape, device=device), *args, **key) for device in ("cpu", "cuda")
        )
        assert torch.equal(bits(there), bits(here))
    here, there = (
        ft.init_module(
            torch.nn.Linear(9, 8, device=device), 1, rules={"weight": "orthogonal", "bias": "zeros"}
        )
        for device in ("cpu", "cuda")
    )
    assert torch.equal(bits(here.weight), bits(there.weight))


def test_the_work_is_on_torchs_current_stream() -> None:
    w = torch.empty(1 << 26, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)
        w.fill_(0.0)
        ft.uniform_(w, 1.0, 2.0, seed=1)
        ones = (w >= 1.0).all()
    stream.synchronize()
    assert bool(ones)


def test_generators_of_either_device_govern() -> None:
    for device in ("cpu", "cuda"):
        one, two = (
            ft.normal_(torch.empty(99, device="cuda"), generator=torch.Generator(device).manual_seed(3))
            for _ in range(2)
        )
        assert torch.equal(one, two)
    torch.manual_seed(3)
    assert torch.equal(
        ft.normal_(torch.empty(99, device="cuda")),
        ft.normal_(torch.empty(99, device="cuda"), generator=torch.Generator().manual_seed(3)),
    )


def test_models_and_blocks() -> None:
    here, there = (
        ft.init_module(torch.nn.LSTM(30, 40, device=device, dtype=torch.bfloat16), seed=1)
        for device in ("cpu", "cuda")
    )
    for one, two in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.equal(bits(one), bits(two))
    with ft.accelerated(seed=1):
        two = torch.nn.Linear(30, 40, device="cuda")
    with ft.accelerated(seed=1):
        one = torch.nn.Linear(30, 40)
    assert torch.equal(bits(one.weight), bits(two.weight))

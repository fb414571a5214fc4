"""Initializers of whole matrices on emulated devices: identity and dirac by constants, the others refused."""

from __future__ import annotations

from itertools import product
from typing import Any

import cupy
import numpy as np
import pytest
from cuda_on_cpu.arrays import on_host
from cuda_on_cpu.fixtures import cubins, emulated, gpu  # noqa: F401

import fanfill as ff
from fanfill import selftest
from fanfill.selftest import golden

KEY: dict[str, Any] = {"seed": 3, "name": "w"}
TORCH = {"in_axis": 1, "out_axis": 0}
CASES = [
    (ff.identity(0.3), (9, 14)),
    (ff.identity(), (14, 9)),
    (ff.dirac(3, **TORCH), (12, 3, 3, 2)),
    (ff.dirac(12, **TORCH), (12, 1, 5)),
    (ff.dirac(2), (3, 5, 6)),
]


@pytest.mark.parametrize(("law", "shape"), CASES, ids=lambda case: str(case))
def test_parts_and_layouts_have_the_bits_of_the_host(gpu: Any, law: ff.Initializer, shape: Any) -> None:
    whole = on_host(shape, law, **KEY)
    assert np.array_equal(gpu.host(ff.fill(cupy.empty(shape, np.float32), law, **KEY)), whole)
    assert len(gpu.launches) == 2  # all of the groups at once
    turned = cupy.empty(shape[::-1], np.float32).T
    assert np.array_equal(gpu.host(ff.fill(turned, law, **KEY)), whole)
    for low, high in product((0, 1, 4), (0, 1, 3)):
        box = tuple(slice(min(low, n - 1), max(n - high, min(low, n - 1) + 1)) for n in shape)
        part = cupy.empty(whole[box].shape, np.float32)
        ff.fill(part, law, global_shape=shape, offset=[side.start for side in box], **KEY)
        assert np.array_equal(gpu.host(part), whole[box]), box
    for first, last in ((0, 1), (5, whole.size - 3), (whole.size // 2, whole.size)):
        flat = cupy.empty(2 * (last - first), np.float32)[::-2]
        ff.fill(flat, law, global_shape=shape, offset=first, **KEY)
        assert np.array_equal(gpu.host(flat), whole.reshape(-1)[first:last])
    gpu.assert_guards()


def test_many_at_once_are_zeroed_before_their_places_are_written(gpu: Any) -> None:
    items = {
        f"{number}": (cupy.empty(shape, np.float32), law)
        for number, (law, shape) in enumerate([*CASES, (ff.identity(), (1, 4)), (ff.zeros(), (3, 3))])
    }
    ff.fill_many(items, seed=3)
    for name, (array, law) in items.items():
        assert np.array_equal(gpu.host(array), on_host(array.shape, law, seed=3, name=name))


@pytest.mark.parametrize(
    ("law", "shape"),
    [(ff.sparse(0.5), (4, 3)), (ff.orthogonal(2.0), (4, 3)), (ff.delta_orthogonal(), (3, 3, 4))],
    ids=str,
)
def test_what_is_no_work_for_a_kernel_is_refused(gpu: Any, law: ff.Initializer, shape: Any) -> None:
    message = (
        rf"expected host memory for {law.distribution}\(.*\), which is computed there; got a buffer on a "
    )
    message += "CUDA device; draw it on the CPU and copy it"
    array = cupy.empty(shape, np.float32)
    for call in (
        lambda: ff.fill(array, law, **KEY),
        lambda: ff.fill_many({"w": (array, law)}, seed=3),
        lambda: ff.draw(shape, law, device="cuda", **KEY),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert gpu.launches == []


def test_the_selftest_draws_what_a_device_draws(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        case for case in golden.cases() if case.initializer in golden.MATRICES and case.dtype == "float32"
    ]
    monkeypatch.setattr(golden, "cases", lambda: iter(cases))
    checks = list(selftest.run(selftest.Subject("cuda", 0)))
    assert {check.case.initializer for check in checks} == {"identity", "dirac"}
    assert len(checks) == 2 * 3 * 4
    assert [check for check in checks if check.problem] == []

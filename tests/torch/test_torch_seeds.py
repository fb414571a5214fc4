"""Where the values of fanfill.torch's functions come from: seeds, names, and torch's generators."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402


def test_a_generator_governs_the_values_by_the_recipe() -> None:
    generator = torch.Generator().manual_seed(7)
    first, second = (ft.normal_(torch.empty(40), generator=generator) for _ in range(2))
    words = torch.empty(2, dtype=torch.int64)
    again = torch.Generator().manual_seed(7)
    for values in (first, second):
        seed, name = (word % 2**64 for word in words.random_(-(2**63), None, generator=again).tolist())
        assert np.array_equal(values.numpy(), ff.draw(40, ff.normal(), seed=seed, name=name))
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(ft.normal_(torch.empty(40)), first)


def test_the_recipe_has_known_answers() -> None:
    """Should a release of torch change its generator's numbers, this is where it shows."""
    from fanfill.torch.seeding import from_generator

    assert from_generator(torch.Generator().manual_seed(7)) == (
        1407639518939636932,
        14386962423634995702,
    )


def test_the_default_name_is_zero_and_names_differ() -> None:
    one, two, three = (
        ft.normal_(torch.empty(40), seed=3),
        ft.normal_(torch.empty(40), seed=3, name=0),
        ft.normal_(torch.empty(40), seed=3, name="a"),
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_integers_of_numpy_are_seeds() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        one, two = (ft.normal_(torch.empty(9, dtype=dtype), seed=s) for s in (7, np.uint64(7)))
        assert torch.equal(one, two)


def test_threads_draw_seeds_of_their_own_generators() -> None:
    def drawn(seed: int) -> Any:
        return ft.normal_(torch.empty(40), generator=torch.Generator().manual_seed(seed))

    expected_ = [drawn(seed) for seed in range(8)]
    got: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda s=s: got.__setitem__(s, drawn(s))) for s in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(got[seed], expected_[seed]) for seed in range(8))

"""benchmarks/quality.py --device cuda on an emulated device: its kernels count what the CPU counts."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import quality
import quality_device
import quality_sources
import quality_tally
from cuda_on_cpu.cupy_on_host import Machine
from cuda_on_cpu.fixtures import cubins, emulated, gpu  # noqa: F401
from quality_controls import CONTROLS
from quality_device import Device, can_draw
from quality_laws import Law
from quality_sources import NAME, SEED, Altered, FanfillSource, Flaw, Mixed
from quality_tally import EVERY, PASSES, Source, Tally, tallied

import fanfill as ff
from fanfill.dtypes import dtype_of

COUNTS = ("values", "levels", "cells", "pairs", "small", "last", "apart", "beside")
SUMS = ("sums", "lags", "square_lags", "crossed")
INTEGERS = frozenset({"levels", "cells", "last"})
NORMAL = Law("normal", 1.0, "float32")
SMALL = 1 << 14  # values of a block that the emulation takes no second for; lags are up to 11,008


class DrawnOnHost(Device):
    """An emulated device that gets any source's values from the host: the counting is what is tried."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(0)
        self.machine = machine

    def draw(self, source: Any, pointer: Any, first: int, blocks: int, apart: int = 1) -> None:
        draw = source()
        for k in range(blocks):
            out = np.empty(quality_tally.BLOCK, self.lanes)
            draw(first + k * apart, out)
            self.machine.bytes(int(pointer) + k * out.nbytes, out.nbytes)[:] = out.view(np.uint8)

    def tallied(self, law: Law, *arguments: Any, **how: Any) -> Tally:
        self.lanes = law.storage.lanes
        return super().tallied(law, *arguments, **how)


def by_numpy(law: Law, seed: int = SEED, name: str | int = NAME) -> Source:
    """fanfill's values without its compiled kernels, which would be one more to compile for each law."""

    def draw(number: int, out: Any) -> None:
        values = out.view(dtype_of(law.dtype))
        where = {"global_shape": (2**40,), "offset": number * out.size}
        ff.fill(values, law.initializer, seed=seed, name=name, backend="numpy", **where)

    return lambda: draw


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks and batches of which the emulation draws and counts many."""
    for module in (quality_device, quality_sources, quality_tally):
        monkeypatch.setattr(module, "BLOCK", SMALL)
    monkeypatch.setattr(quality_device, "BATCH", EVERY)
    monkeypatch.setattr(quality_device, "AHEAD", 1)
    return SMALL


@pytest.fixture
def device(gpu: Machine) -> DrawnOnHost:
    return DrawnOnHost(gpu)


def assert_same(found: Tally, expected: Tally, wanted: frozenset[str] = PASSES) -> None:
    """Counts bit for bit, sums but for their rounding, which is nothing beside a noise of some hundred."""
    for name in COUNTS:
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    for name in SUMS:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6, abs=0.05), name
    assert found.done == expected.done == wanted


@pytest.mark.parametrize("law", quality.LAWS, ids=lambda law: f"{law.label} {law.dtype}")
def test_the_counts_of_every_law_are_the_cpus_bit_for_bit(
    small_blocks: int, device: DrawnOnHost, law: Law
) -> None:
    source, draws = by_numpy(law), small_blocks
    found = device.tallied(law, source, draws, wanted=INTEGERS)
    assert_same(found, tallied(law, source, draws, wanted=INTEGERS, threads=1), INTEGERS)
    assert found.cells.sum() == found.last.sum() == 2 * found.pairs.sum() == draws


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "float8_e5m2"])
def test_any_bits_are_counted_as_on_the_cpu(small_blocks: int, device: DrawnOnHost, dtype: str) -> None:
    """Infinities, NaN, subnormals, both zeros and all exponents among them."""
    law = Law("uniform", 0.1, dtype)

    def draw(number: int, out: Any) -> None:
        out.view(np.uint8)[:] = np.random.default_rng(number).integers(0, 256, out.nbytes, np.uint8)

    found = device.tallied(law, lambda: draw, small_blocks, wanted=INTEGERS)
    assert_same(found, tallied(law, lambda: draw, small_blocks, wanted=INTEGERS, threads=1), INTEGERS)
    assert found.levels[7] > 0
    assert np.count_nonzero(found.small) > (0 if dtype.startswith("float8") or dtype == "float16" else 10)


def test_batches_and_neighbours_add_up_to_the_cpus_tally(small_blocks: int, device: DrawnOnHost) -> None:
    """10 blocks: a whole batch, and two blocks of another, the first of which has neighbours."""
    source, first, second = by_numpy(NORMAL), by_numpy(NORMAL, SEED + 1), by_numpy(NORMAL, SEED, "layer.0")
    neighbours = ((first, None), (first, second))
    draws, done = 10 * small_blocks, []
    found = device.tallied(NORMAL, source, draws, neighbours, progress=done.append)
    assert_same(found, tallied(NORMAL, source, draws, neighbours, threads=1))
    assert found.beside == 2 * small_blocks
    assert done == [8 * small_blocks, draws]
    assert not np.isclose(found.crossed[0], found.crossed[1], atol=1).any()


def test_moments_of_float64_and_only_what_is_wanted(small_blocks: int, device: DrawnOnHost) -> None:
    law, x = Law("uniform", 0.5, "float64", 1.5), np.empty(small_blocks)
    by_numpy(law)()(0, x)
    found = device.tallied(law, by_numpy(law), small_blocks, wanted=frozenset({"moments"}))
    z = (x - law.middle) / (law.scale * law.std)
    assert found.sums == pytest.approx([(z**k).sum() for k in range(1, 9)], rel=1e-9, abs=1e-6)
    for name in ("levels", "cells", "pairs", "last", "lags", "apart", "crossed"):
        assert not getattr(found, name).any(), name


# Draws


def drawn(machine: Machine, device: Device, source: Any, first: int, blocks: int, apart: int) -> bytes:
    """What a device puts into its memory."""
    with machine.use(0):
        memory = machine.allocate(4 * blocks * SMALL)
        device.draw(source, np.uint64(memory.ptr), first, blocks, apart)
        return machine.read(memory.ptr, 4 * blocks * SMALL)


def on_host(source: Any, numbers: range) -> bytes:
    draw, blocks = source(), np.empty((len(numbers), SMALL), np.float32)
    for number, block in zip(numbers, blocks, strict=True):
        draw(number, block)
    return blocks.tobytes()


def test_a_device_draws_the_blocks_of_the_host_by_fanfills_kernels(
    gpu: Machine, small_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FanfillSource, "__call__", lambda self: by_numpy(*self)())
    gpu.by_family = True
    device, source = Device(0), FanfillSource(NORMAL)
    assert drawn(gpu, device, source, 3, 2, 1) == on_host(source, range(3, 5))
    assert drawn(gpu, device, source, 16, 2, 8) == on_host(source, range(16, 32, 8))
    mixed = Mixed(FanfillSource(NORMAL, 5), source, 64)
    assert drawn(gpu, device, mixed, 8, 2, 8) == on_host(mixed, range(8, 24, 8))
    flawed = next(control.source for control in CONTROLS if control.name == "each pair again, swapped")
    assert drawn(gpu, device, flawed, 3, 1, 1) == on_host(flawed, range(3, 4))
    assert {launch.kernel for launch in gpu.launches} == {
        "run_normal_centred_float32",
        "box_normal_centred_float32",
        "swapped",
    }


def test_flaws_are_the_same_on_a_device(gpu: Machine, small_blocks: int) -> None:
    device, kernels = Device(0), set()
    block = np.random.default_rng(1).normal(0, 3, SMALL).astype(np.float32)  # beyond what is cut, too
    with gpu.use(0):
        memory = gpu.allocate(block.nbytes)
        for control in CONTROLS:
            if not isinstance(control.source, Altered):
                continue
            flaw, there, here = control.source.change, gpu.bytes(memory.ptr, block.nbytes), block.copy()
            assert isinstance(flaw, Flaw)
            there[:] = block.view(np.uint8)
            flaw(here)
            device.start(flaw.kernel, 2, np.uint64(memory.ptr), np.float32(flaw.by))
            assert there.tobytes() == here.tobytes() != block.tobytes(), control.name
            kernels.add(flaw.kernel)
    assert kernels == set(re.findall(r"^FLAW\((\w+), ", quality_device.source(), re.MULTILINE))


def test_what_numpy_makes_is_refused(gpu: Machine, small_blocks: int) -> None:
    other = next(control.source for control in CONTROLS if not can_draw(control.source))
    with pytest.raises(
        TypeError, match=r"a source that a device draws, .*; got <function .*; count it on the CPU"
    ):
        Device(0).tallied(NORMAL, other, 1)


# What would be noticed

MUTATIONS = {  # of the text of quality_tally.cu, by what they spoil
    "levels": ("m >= Bits(limits.level[k])", "m > Bits(limits.level[k])"),
    "cells": ("how.copies + copy, 1ull", "how.copies + copy, 1ull + (i == 4)"),
    "pairs": ("256 * octet[0] + octet[1]", "256 * octet[1] + octet[0]"),
    "small": ("if (cell == 0)", "if (cell == 1)"),
    "last": ("j < OWN; ++j) {\n    const Lane m", "j < OWN - 1; ++j) {\n    const Lane m"),
    "sums": ("{a, b, b * a, c,", "{a, b, b * b, c,"),
    "lags": ("own * other", "own * own"),
    "square_lags": ("own_square * square(other", "own_square * square(own"),
}


def test_a_kernel_that_counts_wrongly_is_noticed(
    small_blocks: int, gpu: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each count and sum has a mutation of its kernel, and differs from the CPU's."""
    text = quality_device.source()
    for old, new in MUTATIONS.values():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    monkeypatch.setattr(quality_device, "source", lambda: text)
    law = Law("uniform", 1.0, "float8_e4m3fn")  # whose values lie on the levels, and 32 of which are zeros
    source = by_numpy(law)
    found = DrawnOnHost(gpu).tallied(law, source, 2 * SMALL)
    expected = tallied(law, source, 2 * SMALL, threads=1)
    for name in MUTATIONS:
        a, b = np.ravel(getattr(found, name)), np.ravel(getattr(expected, name))
        assert not np.allclose(a, b, rtol=1e-6, atol=0.05), name


@pytest.mark.parametrize("name", ["one NaN a block", "each pair again, swapped"])
def test_a_corrupted_draw_is_rejected_as_on_the_cpu(
    small_blocks: int, device: DrawnOnHost, name: str
) -> None:
    control = next(control for control in CONTROLS if control.name == name)
    change = control.source.change  # type: ignore[attr-defined]

    def begin() -> Any:
        draw = by_numpy(NORMAL)()
        return lambda number, out: (draw(number, out), change(out))

    flawed = control._replace(source=begin, draws=2 * small_blocks, wanted=frozenset({"levels", "lags"}))
    assert control.fails <= {check.group for check in flawed.checks(device.tallied) if check.failed}
    right = flawed._replace(source=by_numpy(NORMAL))
    assert not [check for check in right.checks(device.tallied) if check.failed]


# The script


@pytest.fixture
def by_script(gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's values, by either engine."""
    monkeypatch.setattr(quality, "Device", lambda number: DrawnOnHost(gpu))
    monkeypatch.setattr(FanfillSource, "__call__", lambda self: by_numpy(*self)())


def test_the_script_prints_the_cpus_row_and_names_the_device(
    small_blocks: int, by_script: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quality, "LEAST", 8 * small_blocks)
    words, rows = ["--draws", "131072", "--streams", "normal@1/float8_e5m2"], []
    for device in ("cpu", "cuda"):
        assert quality.main([*words, "--device", device]) == 0
        out, _ = capsys.readouterr()
        rows.append([line for line in out.splitlines() if line.startswith("| fanfill |")])
    assert len(rows[0]) == 2
    assert rows[0] == rows[1]
    assert out.rstrip().endswith(" s on cuda:0 (gpu emulated sm_90).")


def test_controls_that_numpy_makes_are_left_out(
    small_blocks: int, by_script: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("one NaN a block", "Philox of 3 rounds")
    few = [c._replace(draws=2**14, wanted=frozenset({"levels"})) for c in CONTROLS if c.name in names]
    monkeypatch.setattr(quality, "CONTROLS", few)
    device = quality.device_of("cuda:1", "none")
    assert device is not None
    lines, missed = quality.controls(device.tallied, device)
    assert missed == 0
    assert len(lines) == 3
    assert lines[2].startswith("| one NaN a block | normal float32 | 1.6e4 | finite")
    assert "control: Philox of 3 rounds: left out: NumPy makes it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "gpu"], r"--device: expected cpu, cuda or cuda:N; got 'gpu'"),
        (
            ["--device", "cuda:7"],
            r"--device cuda:7: device: expected one of the 2 CUDA devices, .*got cuda:7",
        ),
        (
            ["--device", "cuda", "--peers", "torch"],
            r"--peers: expected none with --device cuda, .*got 'torch'",
        ),
    ],
)
def test_what_no_device_does_is_refused(gpu: Machine, words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        quality.main(words)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_error_says_what_is_missing() -> None:
    with pytest.raises(SystemExit, match="--device cuda: backend 'cuda' is not usable: no device; get one"):
        quality.main(["--device", "cuda", "--draws", "1e6"])

"""``fanfill compile``: what it compiles is what fills ask for, here, on another processor and on a GPU."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cupy
import llvmlite.binding as llvm
import numpy as np
import pytest
from command_line import Capture, assert_refused
from cuda_on_cpu.arrays import on_host
from cuda_on_cpu.fixtures import compilations, cubins, emulated  # noqa: F401
from equality import assert_same_bits
from processes import BEGIN, END, Ended, assert_ends, assert_right, fanfill, run

import fanfill as ff
from fanfill import ahead
from fanfill.cli import main
from fanfill.dtypes import STORAGES
from fanfill_kernels.compile import ahead as kernel_compiler
from fanfill_kernels.forms import forms_of
from fanfill_kernels.store import cache

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="users and modes as Linux has them")
WORDS = ("compile", "--dtypes", "float32", "--initializers", "normal", "--json")
AVX2 = bool(llvm.get_host_cpu_features().get("avx2"))


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """A folder that another user may read: what an image holds."""
    made = Path(tempfile.mkdtemp(prefix="fanfill-image-"))
    (made / "home").mkdir()
    # Two kernels are left to the command; the others are those that this run's tests have, too.
    kernels = kernel_compiler.kernels_of([("normal", "float32")], [4])
    stored = {kept.key: cache.load(kept.key) for kept in kernel_compiler.keep(kernels[2:])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FANFILL_CACHE_DIR", str(made / "kernels"))
        for key, data in stored.items():
            assert data is not None
            cache.store(key, data)
    ended = assert_ends(fanfill(*WORDS, environment={"FANFILL_CACHE_DIR": str(made / "kernels")}), 300)
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert found["folder"] == str(made / "kernels")
    assert (found["compiled"], len(found["kernels"])) == (2, 8)
    assert [kernel["compiled"] for kernel in found["kernels"]] == [True] * 2 + [False] * 6
    assert all(kernel["seconds"] > 0 for kernel in found["kernels"])
    assert {kernel["device"] for kernel in found["kernels"]} == {"cpu"}
    for path in (made, made / "home", made / "kernels"):
        path.chmod(0o555)
    for path in (made / "kernels").iterdir():
        path.chmod(0o444)
    yield made
    for path in (made, made / "home", made / "kernels"):
        path.chmod(0o755)
    shutil.rmtree(made)


# Every way from a fill to a kernel: small and past the caches, parts of tensors, strides of each kind.
FILLS = """
def fills(law, backend):
    found = []
    for buffer in (
        np.empty(1000, np.float32),
        np.empty(3 << 20, np.float32),
        np.empty((300, 500), np.float32).T,
        np.empty((50, 60, 7), np.float32)[::-1, ::2, ::-1],
        np.empty((40, 50, 6), np.float32).transpose(2, 1, 0),
        np.empty((2048, 2048), np.float32).T,
        np.empty(999, np.float32)[::-1],
    ):
        for view in (buffer, buffer[::2]):
            found.append(ff.fill(view, law, seed=3, backend=backend).tobytes())
        for offset in ((3, 5), (0, 0)):
            part = np.empty((30, 40), np.float32)
            ff.fill(part, law, seed=3, global_shape=(90, 91), offset=offset, backend=backend)
            found.append(part.tobytes())
    return found
if sys.argv[1:]:
    ff.fill(np.empty(1000, np.float32), ff.uniform(-1, 1), seed=3)
    assert "numba" not in sys.modules, "Numba was imported"
wanted = fills(ff.normal(), "numpy")
if os.getuid() == 0:  # who may write anywhere; another user may perhaps not read the interpreter's files
    from fanfill_kernels.compile import cpu, probe
    from fanfill_kernels.store import keys
    keys.of_compiler()
    os.setgid(65534)
    os.setuid(65534)
assert not os.access(os.environ["HOME"], os.W_OK)
from fanfill_kernels.store import cache
assert cache.refused() is None and cache.passed_over() is None
assert fills(ff.normal(), None) == wanted
assert ff.select_backend(np.empty(1)).name == "numba"
assert "numba" not in sys.modules, "Numba was imported"
"""


def filled(image: Path, *words: str) -> Ended:
    environment = {"FANFILL_CACHE_DIR": str(image / "kernels"), "HOME": str(image / "home")}
    return run(BEGIN + FILLS + END, *words, seconds=300.0, environment=environment)


@LINUX
def test_with_a_read_only_home_and_such_a_folder_no_fill_imports_numba(image: Path) -> None:
    assert_right(filled(image))


@LINUX
def test_a_kernel_that_was_not_compiled_is_noticed(image: Path) -> None:
    ended = filled(image, "another law")
    assert ended.code == 1
    assert "AssertionError: Numba was imported" in ended.err


def test_what_is_kept_is_not_compiled_again(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(image / "kernels"))
    assert main([word for word in WORDS if word != "--json"]) == 0
    out, err = capsys.readouterr()
    kept = (
        f"cpu             0 kernels compiled in 0.0 s, 8 kept before\nfolder          {image}/kernels\ntook "
    )
    assert out.startswith(kept)
    assert err == ""


@pytest.mark.skipif(not AVX2, reason="a processor to compile for that this one can stand in for")
def test_kernels_for_a_named_processor_are_found_where_it_is_named(tmp_path: Path) -> None:
    # Words need no kernels that copy, at 0.3 to 0.9 s each.
    words = ("compile", "--initializers", "words", "--json", "--cpu", "x86-64-v3")
    settings: dict[str, str | None] = {"FANFILL_CACHE_DIR": str(tmp_path / "kept")}
    ended = assert_ends(fanfill(*words, environment=settings), 300)
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert found["environment"] == {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": "+avx2"}
    assert {kernel["device"] for kernel in found["kernels"]} == {"cpu x86-64-v3"}
    assert len(found["kernels"]) == 5
    program = """
found = ff.words(np.empty(300_000, np.uint32), seed=3, backend="numba")
wanted = ff.words(np.empty(300_000, np.uint32), seed=3, backend="numpy")
assert found.tobytes() == wanted.tobytes()
assert ('numba' in sys.modules) == bool(sys.argv[1:]), 'Numba'
"""
    assert_right(run(BEGIN + program + END, environment=settings | found["environment"]))
    assert_right(run(BEGIN + program + END, "not this one's", environment=settings))


def test_a_gpu_that_is_not_here_asks_for_no_compiler(
    emulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    gpu = emulated(90)
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "kept"))
    words = ("--dtypes", "float32", "--initializers", "normal,constant", "--device", "cuda:sm_90")
    assert main(["compile", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {kernel["device"] for kernel in found["kernels"]} == {"cuda:sm_90"}
    asked = compilations(monkeypatch)
    for law in (ff.normal(), ff.constant(3)):
        buffer = ff.fill(cupy.empty((30, 40), np.float32), law, seed=1)
        assert_same_bits(gpu.host(buffer), on_host((30, 40), law, seed=1))
    assert [pair for pair in asked if not pair[1]] == []  # PTX is what the emulation runs
    ff.fill(cupy.empty(9, np.float32), ff.uniform(-1, 1), seed=1)
    assert [pair for pair in asked if not pair[1]] == [(90, False)]
    assert main(["compile", *words]) == 0
    assert capsys.readouterr().out.startswith("cuda:sm_90      0 kernels compiled in 0.0 s, ")


def test_the_gpus_of_this_machine(emulated) -> None:
    emulated(80, 90, 80)
    assert ahead.job(["normal"], ["float32"], ["cuda"], None).architectures == (80, 90)


def test_without_options_all_kernels_are_compiled() -> None:
    everything = ahead.job(None, None, ["cpu"], None).forms
    wanted = {(form, dtype) for dtype in STORAGES for form in forms_of(dtype) if form != "words"}
    constants = {("constant", dtype) for dtype in STORAGES}
    assert set(everything) == wanted | constants | {("words", "uint32")}


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("he_normal", {"normal", "truncated_central"}),
        ("xavier_uniform", {"uniform_clamped"}),
        ("uniform", {"uniform_clamped", "uniform_range"}),
        ("truncated_normal", {"truncated_central", "truncated"}),
        ("variance_scaling", {"normal", "truncated_central", "uniform_clamped"}),
        ("constant", {"constant"}),
        ("words", {"words"}),
    ],
)
def test_an_initializer_stands_for_each_kernel_that_it_may_ask_for(name: str, forms: set[str]) -> None:
    assert {form for form, _ in ahead.job([name], ["float16"], ["cpu"], None).forms} == forms


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--dtypes", "float31"],
            "--dtypes: expected names joined .*, out of float32, .*got 'float31'",
        ),
        (["--initializers", ","], "--initializers: expected names .*got none; leave it out for all of them"),
        (["--device", "gpu"], r"--device: expected cpu, cuda .* or cuda:sm_NN .*got 'gpu'"),
        (["--device", ""], r"--device: expected cpu, cuda .*got ''"),
        (["--device", "cuda:sm_90", "--cpu", "x"], "--cpu: expected cpu among the devices .*; leave one out"),
        (
            ["--cpu", "p4004"],
            "expected a processor that LLVM knows for .*; got 'p4004'; llc -mcpu",
        ),
        (
            ["--device", "cuda:sm_3"],
            "expected a device that NVRTC .* compiles for, .*; got sm_3; take",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "kept"))
    assert_refused(capsys, message, "compile", *words)
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_its_architecture_must_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from fanfill.cuda import backend as cuda_backend

    monkeypatch.setattr(cuda_backend, "_found", lambda: "there is none")
    assert_refused(
        capsys,
        "--device cuda: .*there is none; to compile without a GPU name its architecture, as in cuda:sm_90",
        "compile",
        "--device",
        "cuda",
    )


def test_a_folder_that_is_not_used_is_refused_before_anything_is_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("FANFILL_CACHE_DIR", "here")
    assert_refused(
        capsys,
        "expected a folder where compiled kernels are kept; got here, unusable: 'here' depends on .*; name",
        *WORDS,
    )


@pytest.mark.parametrize("device", ["cpu", "cuda:sm_90"])
def test_a_kernel_that_cannot_be_kept_is_an_error(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(cache, "store", lambda key, data: None)
    assert_refused(
        capsys, "expected to keep .*normal_float32 in .*kept; got no file", *WORDS, "--device", device
    )


def test_progress_counts_to_the_end(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(image / "kernels"))
    work = ahead.job(["normal"], ["float32"], ["cpu"], None)
    assert [total for _, total in ahead.carry_out(work)] == [8] * 8
    assert os.listdir(image / "home") == []

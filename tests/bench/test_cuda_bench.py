"""``fanfill bench --device cuda`` on emulated devices: its logic; what it would measure here is no figure."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import cuda_kernels
import numpy as np
import pytest
from command_line import assert_refused, run_json, sha256
from cuda_on_cpu.fixtures import cubins, emulated, gpu  # noqa: F401

import fanfill as ff
from fanfill import selftest
from fanfill.bench import cuda, noise, report, suite
from fanfill.bench.measure import Case
from fanfill.cli import bench as benching
from fanfill.cli import main
from fanfill.cuda import backend
from fanfill.errors import BackendUnavailableError


@pytest.fixture
def small(monkeypatch):
    """Contests of two cases, scaling of one distribution."""
    monkeypatch.setattr(cuda, "CONTESTS", (("normal", "float32"), ("normal", "bfloat16")))
    monkeypatch.setattr(cuda, "DISTRIBUTIONS", ("words",))
    monkeypatch.setattr(cuda, "SAMPLE_SECONDS", 1e-6)
    monkeypatch.setattr(noise, "BYTES", 1 << 12)


def test_the_command_measures_shows_and_keeps(gpu, small, tmp_path, capsys):
    words = ["bench", "--device", "cuda:1", "--quick", "--sizes", "3000", "--out", str(tmp_path)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "cudaMemset" in out
    assert "emulated sm_90" in out
    assert not list(tmp_path.glob("*.png"))
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["machine"]["gpu"] == "emulated sm_90"
    assert found["machine"]["nvrtc"]
    assert found["machine"]["noise"]["before"]["limit"] > 0
    result = report.load(tmp_path / "bench.json")
    ours = [row for row in result.rows if row.subject == "fanfill"]
    assert {(row.group, row.distribution, row.dtype, row.values) for row in ours} == {
        ("peers", "normal", "float32", 3000),
        ("peers", "normal", "bfloat16", 3000),
        ("scaling", "words", "uint32", 3000),
    }
    for row in result.rows:
        assert (row.seconds is None) == (row.missing is not None)
        if row.seconds is not None:
            assert row.share > 0
            assert row.rounds == 5
    assert {row.subject for row in result.rows if row.missing} <= {"torch", "cupy", "curand"}
    assert {launch.device for launch in gpu.launches} == {1}


def test_values_that_are_not_the_oracle_s_are_not_timed(gpu, monkeypatch):
    def wrong(*arguments):
        gpu.launch(*arguments)
        gpu.latest.bytes(gpu.latest.pointer, 4)[0] ^= 1

    monkeypatch.setattr(backend, "_found", lambda: gpu.driver._replace(launch=wrong))
    with pytest.raises(RuntimeError, match="expected the values of the NumPy oracle; got others for uniform"):
        cuda.run(cuda.settings(0, True, [], [4000]))


def test_settings_stand_for_the_options():
    chosen = cuda.settings(1, False, None, None)
    assert (chosen.device, chosen.peers, chosen.sizes) == (1, ("torch", "cupy", "curand"), (2**30,))
    assert chosen.scaling[-1] == 2**30
    assert cuda.settings(quick=True).sizes == (2**26,)
    with pytest.raises(
        ValueError,
        match=r"on a GPU among torch, .*; got numpy; leave .* or measure the host with --device cpu",
    ):
        cuda.settings(peers=["numpy"])


def test_devices_that_are_not_there(gpu, capsys):
    with pytest.raises(BackendUnavailableError, match="one of the 2 CUDA devices, cuda:0 and up; got cuda:2"):
        cuda.run(cuda.settings(2))
    assert main(["bench", "--device", "gpu"]) == 2
    assert "--device: expected auto, cpu, cuda or cuda:N; got 'gpu'" in capsys.readouterr().err


def test_samples_are_medians_of_turns_each_long_enough(monkeypatch):
    took = iter([9e-2, 1e-2, 9e-2, 1e-3, 2e-2, 9e-2, 4e-2, 8e-2, 3e-2, 7e-2])  # two warm-ups each first
    counted = []

    def seconds(run, stream):
        assert stream == 5
        run()
        return next(took)

    memory = cuda.GpuMemory(SimpleNamespace(seconds=seconds), 0, 0, 5)
    runs = [lambda: counted.append("a"), lambda: counted.append("b")]
    first, second = cuda.race(memory, 3)(runs)
    assert (first.rounds, second.rounds) == (3, 3)
    assert first.seconds == pytest.approx(3e-2 / 2)  # a call of 10 ms: two make a sample
    assert second.seconds == pytest.approx(8e-2 / 20)
    assert counted.count("a") == 3 + 3 * 2
    assert counted.count("b") == 3 + 3 * 20


class Torch:
    """What a peer calls of torch, writing down which."""

    float32, bfloat16 = "float32", "bfloat16"

    def __init__(self, pointer):
        self.asked, self.pointer = [], pointer
        self.nn = SimpleNamespace(
            init=SimpleNamespace(trunc_normal_=lambda *a: self.asked.append(("trunc", *a[1:])))
        )

    def as_tensor(self, buffer, device):
        self.asked.append((buffer.__cuda_array_interface__["typestr"], device))
        return self

    def view(self, dtype):
        self.asked.append(dtype)
        return self

    def data_ptr(self):
        return self.pointer

    def uniform_(self, low, high):
        self.asked.append(("uniform", low, high))

    def normal_(self, mean, std):
        self.asked.append(("normal", mean, std))


@pytest.mark.parametrize(
    ("case", "method", "asked"),
    [
        (Case("uniform", "float32", 10), "Tensor.uniform_", ["<i4", "float32", ("uniform", -0.05, 0.05)]),
        (Case("normal", "bfloat16", 10), "Tensor.normal_", ["<i2", "bfloat16", ("normal", 0.0, 0.02)]),
        (
            Case("truncated", "float32", 10),
            "nn.init.trunc_normal_",
            ["<i4", "float32", ("trunc", 0.0, 0.02, -0.04, 0.04)],
        ),
    ],
)
def test_torch_draws_into_the_same_memory(monkeypatch, case, method, asked):
    fake = Torch(640)
    monkeypatch.setitem(__import__("sys").modules, "torch", fake)
    arena = cuda.GpuMemory(SimpleNamespace(), 1, 640, 0)
    (entrant,) = cuda.entrants("torch", arena, case)
    entrant.run()
    assert entrant.method == method
    assert fake.asked == [(asked[0], "cuda:1"), *asked[1:]]
    fake.pointer = 1
    (entrant,) = cuda.entrants("torch", arena, case)
    assert (entrant.run, entrant.missing) == (None, "RuntimeError: torch made a copy of the memory")


def test_cupy_and_curand_draw_the_case_s_scale(monkeypatch):
    class Generator:
        def __init__(self, bits):
            pass

        def random(self, dtype, out):
            out[...] = np.linspace(0, 1, out.size, dtype=dtype)

        def standard_normal(self, dtype, out):
            out[...] = 1

    drawn, asked = np.empty(10, np.float32), []
    library = SimpleNamespace(
        createGenerator=lambda kind: asked.append(kind) or len(asked),
        setStream=lambda generator, stream: asked.append(stream),
        setPseudoRandomGeneratorSeed=lambda generator, seed: None,
        CURAND_RNG_PSEUDO_PHILOX4_32_10="philox",
        CURAND_RNG_PSEUDO_XORWOW="xorwow",
        generateNormal=lambda *a: asked.append(("normal", *a[1:])),
        generateUniform=lambda *a: asked.append(("uniform", *a[1:])),
    )
    fake = SimpleNamespace(
        asarray=lambda buffer: drawn,
        random=SimpleNamespace(Generator=Generator, XORWOW=int, Philox4x3210=int),
        cuda=SimpleNamespace(curand=library),
    )
    modules = __import__("sys").modules
    monkeypatch.setitem(modules, "cupy", fake)
    monkeypatch.setitem(modules, "cupy.cuda", fake.cuda)
    arena = cuda.GpuMemory(SimpleNamespace(), 0, 640, 9)
    for entrant in cuda.entrants("cupy", arena, Case("uniform", "float32", 10)):
        entrant.run()
        np.testing.assert_allclose(drawn, np.linspace(-0.05, 0.05, 10), atol=1e-7)
    for entrant in cuda.entrants("cupy", arena, Case("normal", "float32", 10)):
        entrant.run()
        np.testing.assert_allclose(drawn, 0.02)
    assert cuda.entrants("cupy", arena, Case("truncated", "float32", 10)) == []
    assert cuda.entrants("curand", arena, Case("normal", "bfloat16", 10)) == []
    for kind in ("normal", "uniform"):
        for entrant in cuda.entrants("curand", arena, Case(kind, "float32", 10)):
            entrant.run()
    assert asked.count(("normal", 640, 10, 0.0, 0.02)) == asked.count(("uniform", 640, 10)) == 2
    assert asked.count(9) == 4


def test_a_peer_that_fails_is_a_row_that_says_so(monkeypatch):
    monkeypatch.setitem(cuda.PEERS, "broken", lambda arena, case: iter([][0]))
    memory, case = cuda.GpuMemory(SimpleNamespace(), 0, 0, 0), Case("normal", "float32", 1)
    (entrant,) = cuda.entrants("broken", memory, case)
    assert entrant.missing == "IndexError: list index out of range"
    (row,) = cuda.timed("peers", [(case, entrant)], cuda.race(memory, 3))
    assert (row.subject, row.missing, row.seconds) == ("broken", entrant.missing, None)


def test_nothing_is_measured_without_a_device(monkeypatch):
    monkeypatch.setattr(backend, "_found", lambda: "no device; get one")
    with pytest.raises(ff.BackendUnavailableError, match="no device; get one"):
        cuda.run(cuda.settings(0, True, [], [10]))


def test_auto_measures_a_usable_gpu_and_else_the_host(gpu):
    assert benching.chosen(True, None, None) == cuda.settings(0, True, None, None)
    assert benching.chosen(True, None, None, "cpu") == suite.settings(True)


@pytest.mark.usefixtures("no_gpu")
def test_auto_measures_the_host_where_no_gpu_is():
    assert benching.chosen(True, None, None) == suite.settings(True)
    assert [str(subject) for subject in selftest.subjects()] == ["numba", "numpy"]


def test_auto_tests_all_that_is_usable(gpu):
    assert [str(subject) for subject in selftest.subjects("auto")] == ["numba", "numpy", "cuda:0", "cuda:1"]
    with pytest.raises(ValueError, match="device: expected auto, cpu, cuda or cuda:N; got 'gpu'"):
        selftest.subjects("gpu")


def test_a_fill_on_a_gpu_has_the_same_bits_and_its_own_limit(gpu, capsys, tmp_path):
    """``fanfill fill --device``, which measures as the benchmark does."""
    out = tmp_path / "w.npy"
    found = run_json(capsys, "normal", "30x20", "--seed", "3", "--device", "cuda:1", "-o", str(out))
    drawn = ff.draw((30, 20), ff.normal(), seed=3, device="cpu")
    assert found["sha256"] == sha256(drawn)
    assert found["backend"] == "cuda"
    assert found["memset_share"] > 0
    assert list(found["phases"]) == ["compiling", "warming", "filling", "copying", "checking", "writing"]
    assert np.array_equal(np.load(out), drawn)
    assert {launch.device for launch in gpu.launches} == {1}
    assert main(["fill", "normal", "7", "--device", "auto"]) == 0
    assert "of the device's memset" in capsys.readouterr().out
    assert run_json(capsys, "normal", "0", "--device", "cuda")["memset_share"] is None
    message = "--device: expected one of the . CUDA devices"
    assert_refused(capsys, message, "fill", "normal", "9", "--device", "cuda:9")
    assert_refused(capsys, "std >= 0", "fill", "normal", "9", "--std", "-1", "--device", "cuda")


@pytest.fixture
def kernels(gpu, monkeypatch):
    """benchmarks/cuda_kernels.py on an emulated device, without torch, which sees no such device."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(cuda, "SAMPLE_SECONDS", 1e-6)
    monkeypatch.setattr(cuda_kernels, "KERNELS", [k for k in cuda_kernels.KERNELS if k.wanted][:2])
    return gpu


def test_the_kernels_are_timed_next_to_memset(kernels, monkeypatch, capsys, tmp_path):
    file = tmp_path / "kernels.json"
    monkeypatch.setattr(sys, "argv", ["", "--values", "9000", "--rounds", "1", "--json", str(file)])
    cuda_kernels.main()
    found = json.loads(file.read_text())["kernels"]
    assert set(found) == {"uniform, bfloat16", "normal of mean 0, float32"}
    for row in found.values():
        assert row["fanfill"] > 0
        assert row["torch"] is None
        assert row["of memset"] > 0
    assert "   600  normal of mean 0, float32" in capsys.readouterr().out


def test_for_a_profiler_each_kernel_runs_once(kernels, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", "--values", "9000", "--once"])
    kernels.launches.clear()
    cuda_kernels.main()
    assert [launch.kernel for launch in kernels.launches] == [
        "run_uniform_clamped_bfloat16",
        "run_normal_centred_float32",
    ]


def test_wrong_values_are_not_timed(kernels, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", "--values", "9000", "--rounds", "1"])
    real = cuda.ff.fill

    def other(*given, seed, backend, **more):
        return real(*given, seed=seed + (backend == "cuda"), backend=backend, **more)

    monkeypatch.setattr(cuda.ff, "fill", other)
    with pytest.raises(
        RuntimeError, match="values of the NumPy oracle; got others for uniform, bfloat16, in elem"
    ):
        cuda_kernels.main()

"""The fast path of a fill on a device: the bits of the long way, and what does not take it."""

from __future__ import annotations

import sys
import threading
import warnings
from typing import Any

import cupy
import numpy as np
import pytest
from cuda_on_cpu.arrays import LAWS, on_host
from cuda_on_cpu.fixtures import cubins, emulated, gpu  # noqa: F401
from equality import assert_same_bits

import fanfill as ff
from fanfill.cuda import plans
from fanfill.cuda import run as cuda_run
from fanfill.dtypes import STORAGES

fills: Any = sys.modules["fanfill.fill"]
NAMES = (0, 2**63 + 5, "model.layers.3.mlp.up_proj.weight")
SEEDS = (0, 2**64 - 1, 0x1234567887654321)
LAW = ff.normal(0.0, 0.02)


@pytest.fixture
def by_plan(monkeypatch):
    """Forget nothing, and forbid the long way from a moment on."""

    def forbid():
        def long(*given, **named):
            raise AssertionError("the long way")

        monkeypatch.setattr(cuda_run, "fill_target", long)

    return forbid


@pytest.fixture
def tensor(gpu, monkeypatch):
    """Make a torch tensor that says it is on device 0, whose type is among those that have plans."""
    torch = pytest.importorskip("torch")

    class OnDevice(torch.Tensor):
        device = torch.device("cuda", 0)
        is_cuda = True

        def get_device(self):
            return 0

    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda number: 0xB00, raising=False)
    monkeypatch.setitem(fills.on_devices, OnDevice, plans.fill_torch)
    gpu.streams[0].add(0xB00)
    kept = []

    def make(shape, dtype=torch.float32, skip=0):
        size = int(np.prod(shape)) * torch.empty((), dtype=dtype).element_size() + skip
        memory = gpu.allocate(size)
        kept.append(memory)
        flat = torch.from_numpy(gpu.bytes(memory.ptr, size))[skip:].view(dtype)
        return flat.reshape(shape).as_subclass(OnDevice)

    return make


def bits(made: Any) -> bytes:
    torch = sys.modules["torch"]
    plain = made.detach().as_subclass(torch.Tensor).resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", STORAGES)
def test_torch_tensors_have_the_bits_of_the_host(gpu, tensor, by_plan, dtype):
    torch = sys.modules["torch"]
    made = tensor((12, 17), getattr(torch, dtype))
    laws = [LAWS[form] for form in ("normal", "truncated", "uniform_range", "constant")]
    with gpu.use(0):
        for law in laws:
            ff.fill(made, law, seed=9)
        by_plan()
        for law in laws:
            for seed, name in zip(SEEDS, NAMES, strict=True):
                before = made._version
                gpu.launches.clear()
                with gpu.capture():
                    assert ff.fill(made, law, seed=seed, name=name) is made
                assert made._version > before
                assert bits(made) == on_host((12, 17), law, dtype, seed=seed, name=name).tobytes()
                assert [(one.device, one.stream) for one in gpu.launches] == [(0, 0xB00)]


def test_a_repeated_call_of_fanfill_torch_goes_to_its_plan(gpu, tensor, by_plan, monkeypatch):
    torch = sys.modules["torch"]
    import fanfill.torch as ft
    from fanfill.torch import drawing, laws

    made = tensor((12, 17))
    kind = type(made)
    kind.__torch_function__ = torch._C._disabled_torch_function_impl
    monkeypatch.setattr(drawing, "_PLAIN", (torch.Tensor, kind))
    law = ff.he_normal(in_axis=1, out_axis=0)
    on_cpu = torch.empty(12, 17)
    with gpu.use(0):
        ff.fill(made, law, seed=9)
        ft.kaiming_normal_(made, seed=9)
        by_plan()
        monkeypatch.setattr(laws, "kaiming", None)  # the way of a first call
        for seed, name in zip(SEEDS, NAMES, strict=True):
            before = made._version
            gpu.launches.clear()
            assert ft.kaiming_normal_(made, seed=seed, name=name) is made
            assert made._version > before
            assert bits(made) == on_host((12, 17), law, seed=seed, name=name).tobytes()
            assert len(gpu.launches) == 1
        first, second = (
            bits(ft.kaiming_normal_(made, generator=torch.Generator().manual_seed(seed))) for seed in (3, 4)
        )
        assert first != second
        # Refused in the very words of a first call, and nothing is launched.
        gpu.launches.clear()
        with pytest.raises(TypeError, match="expected a seed with the name"):
            drawing.again(made, ("kaiming_normal", 0, "fan_in", "leaky_relu"), None, None, "a")
        assert not gpu.launches
    # Another place, shape or argument is no repetition: the first call's way, which is not there.
    for other, arguments in ((on_cpu, {}), (tensor((17, 12)), {}), (made, {"a": 1})):
        with pytest.raises(TypeError, match="NoneType"):
            ft.kaiming_normal_(other, **arguments, seed=1)


def test_cupy_arrays_have_the_bits_of_the_host_on_cupy_s_stream(gpu, by_plan):
    for dtype in (np.float32, np.float64, np.float16):
        array = cupy.empty((9, 1000), dtype)
        with gpu.use(0):
            ff.fill(array, LAW, seed=1)
    by_plan()
    with gpu.on_stream(0x700):
        for seed, name in zip(SEEDS, NAMES, strict=True):
            assert ff.fill(array, LAW, seed=seed, name=name) is array
            assert_same_bits(gpu.host(array), on_host((9, 1000), LAW, "float16", seed=seed, name=name))
    assert [one.stream for one in gpu.launches[-3:]] == [0x700] * 3


def test_what_needs_a_further_question_goes_the_long_way(gpu, tensor):
    torch = sys.modules["torch"]
    first = tensor((8, 6))
    with gpu.use(0):
        ff.fill(first, LAW, seed=1)
        assert plans.plan_of_torch(first, LAW) is not None
        want = on_host((8, 6), LAW, seed=1).tobytes()
        kind = type(first)
        strided = tensor((6, 8)).t()
        for other in (tensor((8, 6), skip=4), strided, tensor((16, 6))[::2]):
            assert plans.plan_of_torch(other, LAW) is None
            assert bits(ff.fill(other, LAW, seed=1)) == want
        for other in (tensor((6, 8)), tensor((8, 6), torch.float64), tensor((48,))):
            assert plans.plan_of_torch(other, LAW) is None
        assert plans.plan_of_torch(first, ff.normal()) is None
        negated = torch._neg_view(first)
        assert plans.plan_of_torch(negated, LAW) is None
        with pytest.raises(TypeError, match="negated view of others"):
            ff.fill(negated, LAW, seed=1)
        with torch.inference_mode():
            inference = torch.empty(8, 6).as_subclass(kind)
        assert plans.plan_of_torch(inference, LAW) is None
        freed = torch.zeros(8, 6).as_subclass(kind)
        freed.untyped_storage().resize_(188)
        assert plans.plan_of_torch(freed, LAW) is None
        with pytest.raises(ValueError, match="reaches byte 192 of a storage of 188"):
            ff.fill(freed, LAW, seed=1)
        ((law, shape, dtype, _), plan), *_ = plans._of_torch.items()
        plans._of_torch[law, shape, dtype, -1] = plan  # as if tensors in host memory had one
        assert plans.plan_of_torch(torch.zeros(8, 6), LAW) is plan
        assert plans.plan_of_torch(torch.zeros(8, 6).to_sparse(), LAW) is None
        with warnings.catch_warnings(action="ignore"):  # of a prototype
            nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
        assert plans.plan_of_torch(nested, LAW) is None
        part = ff.fill(first[:4], LAW, seed=1, global_shape=(8, 6), offset=(4, 0))
        assert bits(part) == want[96:]
        array = cupy.empty((8, 6), np.float32)
        ff.fill(array, LAW, seed=1)
        assert plans.plan_of_cupy(array, LAW) is not None
        for view in (array[:, ::-1], cupy.empty(49, np.float32)[1:].reshape(8, 6), array.T):
            assert plans.plan_of_cupy(view, LAW) is None
            ff.fill(view, LAW, seed=1)
            assert_same_bits(gpu.host(view), on_host(view.shape, LAW, seed=1))


def test_a_thread_without_the_kernel_s_context_goes_the_long_way(gpu):
    array = cupy.empty((8, 6), np.float32)
    with gpu.use(0):
        ff.fill(array, LAW, seed=1)
        assert plans.plan_of_cupy(array, LAW) is not None
    with gpu.use(1):
        assert plans.plan_of_cupy(array, LAW) is None
    found = []

    def work():
        found.append(plans.plan_of_cupy(array, LAW))
        ff.fill(array, LAW, seed=2)
        found.append(plans.plan_of_cupy(array, LAW))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert found[0] is None
    assert found[1] is not None
    assert_same_bits(gpu.host(array), on_host((8, 6), LAW, seed=2))


def test_default_axes_are_refused_for_torch_whatever_cupy_has_filled(gpu, tensor):
    law = ff.he_normal()
    with gpu.use(0):
        ff.fill(cupy.empty((8, 6), np.float32), law, seed=1)
        with pytest.raises(ValueError, match="expected explicit axes on a torch tensor"):
            ff.fill(tensor((8, 6)), law, seed=1)


def test_a_fill_in_the_middle_of_a_fill_has_memory_of_its_own(gpu, monkeypatch):
    """As a signal handler may: between the packing of parameters and their launch."""
    outer, inner = cupy.empty(40, np.float32), cupy.empty(40, np.float32)
    with gpu.use(0):
        ff.fill(outer, LAW, seed=1)
        (key,) = plans._of_cupy
        plan = plans._of_cupy[key]

        def stream(number):
            plans._of_cupy[key] = plan
            ff.fill(inner, LAW, seed=3)
            return plan.stream(number)

        plans._of_cupy[key] = plan._replace(stream=stream)
        ff.fill(outer, LAW, seed=2)
    for array, seed in ((outer, 2), (inner, 3)):
        assert_same_bits(gpu.host(array), on_host(40, LAW, seed=seed))


def test_plans_are_forgotten_before_they_fill_the_memory(gpu, monkeypatch):
    monkeypatch.setattr(sys.modules["fanfill.fill"], "_MOST_PLANS", 2)
    with gpu.use(0):
        for size in (16, 32, 48):
            ff.fill(cupy.empty(size, np.float32), LAW, seed=1)
    assert [key[1] for key in plans._of_cupy] == [(48,)]


def test_functions_of_torch_and_accelerated_take_plans(gpu, tensor, by_plan):
    torch = sys.modules["torch"]
    ft = pytest.importorskip("fanfill.torch")
    seeding = pytest.importorskip("fanfill.torch.seeding")
    made = tensor((24, 10), torch.bfloat16)
    law = ff.he_normal(in_axis=1, out_axis=0)
    relu = {"nonlinearity": "relu"}
    with gpu.use(0):
        for given in (law, LAW):
            ff.fill(made, given, seed=1)
        # As if tensors in host memory had plans: a subclass is not what these functions ask for one.
        plans._of_torch.update({(*key[:3], -1): plan for key, plan in plans._of_torch.items()})
        made = made.as_subclass(torch.Tensor)
        by_plan()
        before = made._version
        assert ft.kaiming_normal_(made, **relu, seed=2, name="w") is made
        assert made._version > before
        assert bits(made) == on_host((24, 10), law, "bfloat16", seed=2, name="w").tobytes()
        torch.manual_seed(5)
        ft.normal_(made, 0.0, 0.02)
        torch.manual_seed(5)
        seed, name = seeding.from_generator(None)
        assert bits(made) == on_host((24, 10), LAW, "bfloat16", seed=seed, name=name).tobytes()
        with pytest.raises(TypeError, match="expected a seed with the name"):
            ft.normal_(made, 0.0, 0.02, name="w")
        with pytest.raises(TypeError, match="name: expected an integer"):
            ft.normal_(made, 0.0, 0.02, seed=1, name=[1])
        with ft.accelerated(seed=7):
            made.normal_(0.0, 0.02)
            assert bits(made) == on_host((24, 10), LAW, "bfloat16", seed=7, name=0).tobytes()
            torch.nn.init.normal_(made, 0.0, 0.02)
            assert bits(made) == on_host((24, 10), LAW, "bfloat16", seed=7, name=1).tobytes()


def test_a_tensor_that_autograd_has_computed_has_no_plan(gpu, tensor):
    torch = sys.modules["torch"]
    ft = pytest.importorskip("fanfill.torch")
    made = tensor((24, 10))
    with gpu.use(0):
        ff.fill(made, LAW, seed=1)
        plans._of_torch.update({(*key[:3], -1): plan for key, plan in plans._of_torch.items()})
        ft.normal_(made.as_subclass(torch.Tensor), 0.0, 0.02, seed=1)
        lost = torch.nn.Parameter(torch.ones(24, 10)) * 2
        for _ in range(2):
            with pytest.raises(RuntimeError, match="computed from others"):
                ft.normal_(lost, 0.0, 0.02, seed=1)
        assert (lost == 2).all()
        with ft.accelerated(seed=0):  # torch's own, which autograd sees
            lost.normal_(0.0, 0.02)
        assert "Normal" in type(lost.grad_fn).__name__
        layer = torch.nn.Linear(10, 24)
        parametrize = torch.nn.utils.parametrize
        parametrize.register_parametrization(layer, "weight", torch.nn.Tanh())
        with torch.no_grad(), parametrize.cached(), pytest.raises(RuntimeError, match="by a parametrization"):
            ft.normal_(layer.weight, 0.0, 0.02, seed=1)

"""Numba is tried out before a fill depends on it; where it cannot be used, NumPy fills and says why."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

import numba
import pytest
from processes import assert_fails, child

from fanfill.cpu import numba as backend
from fanfill_kernels.compile import cpu, numba_internals, probe
from fanfill_kernels.store import keys, objects

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and memory as Linux has it")

# What is asked of Numba's objects, beside what numba_internals.py imports or takes from modules.
ATTRIBUTES = [
    ("numba.core.base", "BaseContext.create_module"),
    ("numba.core.base", "BaseContext.get_data_type"),
    ("numba.core.base", "BaseContext.get_abi_sizeof"),
    ("numba.core.base", "BaseContext.get_dummy_value"),
    ("numba.core.base", "BaseContext.make_tuple"),
    ("numba.core.base", "BaseContext.refresh"),
    ("numba.core.cgutils", "_StructProxy._getvalue"),
    ("numba.core.codegen", "CPUCodegen._tm_features"),
    ("numba.core.codegen", "CPUCodegen.create_library"),
    ("numba.core.codegen", "JITCodeLibrary._final_module"),
    ("numba.core.codegen", "JITCodeLibrary._linking_libraries"),
    ("numba.core.codegen", "JITCodeLibrary.add_ir_module"),
    ("numba.core.codegen", "JITCodeLibrary.add_linking_library"),
    ("numba.core.codegen", "JITCodeLibrary.enable_object_caching"),
    ("numba.core.codegen", "JITCodeLibrary.get_pointer_to_function"),
    ("numba.core.codegen", "JITCodeLibrary.serialize_using_object_code"),
    ("numba.core.compiler", "CompileResult.library"),
    ("numba.core.compiler", "CompileResult.fndesc"),
    ("numba.core.cpu", "CPUContext.codegen"),
    ("numba.core.funcdesc", "FunctionDescriptor.llvm_func_name"),
    ("numba.core.registry", "CPUTarget.typing_context"),
    ("numba.core.registry", "CPUTarget.target_context"),
]
# Fields of an array, published in its model; what `compiler.operation` alone needs, which no kernel does.
OTHERS = {"data", "type", "dtype", "get_value_type"}


def interfaces() -> list[tuple[str, str]]:
    """What numba_internals.py takes from Numba's own modules."""
    tree = ast.parse(inspect.getsource(numba_internals))
    found, modules = [], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numba."):
            for alias in node.names:
                if f"{node.module}.{alias.name}" in sys.modules:
                    modules[alias.name] = f"{node.module}.{alias.name}"
                elif node.module != "numba.extending":
                    found.append((str(node.module), alias.name))
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return found + [
        (modules[node.value.id], node.attr)
        for node in taken
        if isinstance(node.value, ast.Name) and node.value.id in modules
    ]


REMOVED = """
import importlib
import numba
from contextlib import suppress
from numba.core.registry import cpu_target
cpu_target.target_context
# What each attempt would import and record anew.
with suppress(ImportError):
    import cupy
draw(5000, backend="numpy")
ff.fill(np.empty((40, 40), np.float32).T, LAW, seed=3, backend="numpy")
def take(module, path):
    owner = importlib.import_module(module)
    kind, _, name = path.rpartition(".")
    if not kind:
        return delattr(owner, name)
    owner = getattr(owner, kind)
    find = owner.__getattribute__
    def hidden(self, asked):  # from fanfill alone: Numba goes on with what it has under other names
        if asked == name and sys._getframe(1).f_globals["__name__"].endswith(".numba_internals"):
            raise AttributeError(f"{kind} has no {name}")
        return find(self, asked)
    owner.__getattribute__ = hidden
def attempt(module, path):
    if module:
        take(module, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert draw(5000) == draw(5000, backend="numpy", threads=1)
        right_reversed(1600)
    status = ff.backends()[0]
    assert not status.usable, (module, path, "usable")
    name = path.rpartition(".")[2]
    assert f"Numba {numba.__version__} does not compile what fanfill needs" in status.reason, status
    assert name in status.reason, (path, status)
    assert "or reinstall numba and llvmlite" in status.reason
    (warning,) = caught
    assert status.reason in str(warning.message)
    assert not list(Path(os.environ["FANFILL_CACHE_DIR"]).glob("*"))
for module, path in INTERFACES:
    pid = os.fork()
    if not pid:
        try:
            attempt(module, path)
        except BaseException as error:
            print(module, path, repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, (module, path)
"""


def test_numpy_fills_and_the_reason_is_said_if_any_private_interface_of_numba_is_gone(tmp_path: Path) -> None:
    wanted = [*interfaces(), *ATTRIBUTES]
    assert ("numba.core.compiler", "compile_extra") in wanted
    assert ("numba.np.arrayobj", "make_array") in wanted
    settings = {"FANFILL_CACHE_DIR": str(tmp_path), "FANFILL_BACKEND": None}
    child(f"INTERFACES = {wanted!r}" + REMOVED, seconds=300, **settings)
    control = [("numba.core.compiler", "compile_ir")]  # which fanfill does not use
    assert_fails(f"INTERFACES = {control!r}" + REMOVED, "usable", FANFILL_CACHE_DIR=str(tmp_path / "control"))


def test_everything_that_is_asked_of_numbas_objects_is_tried_without() -> None:
    tree = ast.parse(inspect.getsource(numba_internals))
    modules = {"types", "ir", "keys", "models", "compiler", "cgutils"}
    ours = modules | {"self", "builder", "body", "name", "f", "flags", "function", "kind", "draft"}
    asked = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and not (isinstance(node.value, ast.Name) and node.value.id in ours)
    }
    tried = {path.rpartition(".")[2] for _, path in ATTRIBUTES}
    published = {"register", "__init__", "functions", "startswith", "is_declaration", "split", "bitcast"}
    published |= {"link_in", "get_function", "name"}  # of llvmlite's modules
    assert asked - published - OTHERS == tried


def test_wrong_numbers_from_the_tiny_kernel_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(address: int, layout: object) -> object:
        def call(out: object, *arguments: object) -> None:
            out[:] = 7  # type: ignore[index]

        return call

    monkeypatch.setenv("FANFILL_CACHE_DIR", "/dev/null/nowhere")
    monkeypatch.setattr(objects, "caller", wrong)
    monkeypatch.setattr(cpu, "_proofs", set())  # what other tests of this process have tried out
    with pytest.raises(ArithmeticError, match=r"expected \[3298534883328, .*\]; got \[7, 7, "):
        probe.try_out()
    reason = backend._unusable.__wrapped__()
    assert reason is not None
    assert re.search(r"does not compile what fanfill needs \(ArithmeticError: expected .* take Numba", reason)


def test_a_numba_newer_than_those_that_were_tested_is_noted_once_and_no_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fanfill as ff
    from fanfill.cli import info
    from fanfill.cli.outcome import Output

    assert ff.backends()[0].note is None
    monkeypatch.setattr(keys, "numba_version", lambda: "9.70.1rc1")
    status = ff.backends()[0]
    assert (status.usable, status.reason) == (True, None)
    assert (
        status.note
        == f"Numba 9.70.1rc1 is newer than {backend.TESTED}, the last that fanfill was tested with"
    )
    assert info.usability(status) == f"usable; {status.note}"
    info.command(Output())
    assert f"backend numba   usable; {status.note}\n" in capsys.readouterr().out


def test_the_numba_that_runs_these_tests_is_no_newer_than_the_one_that_is_stated() -> None:
    assert backend._release("0.60.0") < backend._release(backend.TESTED)
    assert backend._release(numba.__version__) <= backend._release(backend.TESTED)


# Executable memory

FORBID = {
    "by the system": """
import ctypes
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    raise SystemExit(os.strerror(ctypes.get_errno()))
""",
    "as llvmlite says": """
from llvmlite import binding
def refuse():
    raise OSError(13, "cannot allocate executable memory")
binding.check_jit_execution = refuse
""",
}
STANDS_IN = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    right()
    right_reversed()
(warning,) = caught
status = ff.backends()[0]
assert not status.usable
assert status.reason in str(warning.message)
assert "expected that this process may run code that it makes; the system forbids it" in status.reason
assert "allow it, or set FANFILL_BACKEND=numpy" in status.reason
"""
LATER = """
buffer = np.full(300_000, 7, np.float32)
try:
    ff.fill(buffer, ff.uniform(0.5, 2), seed=3, threads=3)
except OSError as error:
    assert "the system forbids it" in str(error) and (buffer == 7).all()
else:
    raise SystemExit("not refused")
right()  # a kernel that is in memory
"""
STORED = "right(); right_reversed(); right(law=ff.uniform(0.5, 2))"


def has_mdwe() -> bool:
    """Whether this system can forbid a process to run what it has written (Linux 6.3)."""
    import ctypes

    return ctypes.CDLL(None).prctl(66, 0, 0, 0, 0) >= 0  # PR_GET_MDWE


WAYS = [
    pytest.param(
        how, marks=pytest.mark.skipif(how == "by the system" and not has_mdwe(), reason="Linux 6.3 has it")
    )
    for how in FORBID
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with all kernels that these processes ask for."""
    folder = str(tmp_path_factory.mktemp("stored"))
    child(STORED, FANFILL_CACHE_DIR=folder, FANFILL_BACKEND=None)
    return folder


@pytest.mark.parametrize("how", WAYS)
def test_where_executable_memory_is_forbidden_numpy_fills_whether_kernels_are_stored_or_not(
    tmp_path: Path, stored: str, how: str
) -> None:
    settings = {"FANFILL_CACHE_DIR": str(tmp_path), "FANFILL_BACKEND": None}
    child(FORBID[how] + STANDS_IN, **settings)
    settings["FANFILL_CACHE_DIR"] = stored
    child(FORBID[how] + STANDS_IN, **settings)
    assert_fails(STANDS_IN, "not enough values to unpack", **settings)
    # Forbidden after the first fill, with another kernel stored: an error, and no crash.
    child("right()" + FORBID[how] + LATER, **settings)

"""The package as shipped: what the wheel holds, what imports what, whether the documents tell the truth."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import warnings
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import fanfill as ff
from fanfill import system
from fanfill.cli import main

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Where each optional or heavy package may be imported; everywhere else it may not.
FRAMEWORKS = ("torch", "jax", "keras", "dask", "tensorflow")
ALLOWED = {
    "typer": ("src/fanfill/cli/",),
    "rich": ("src/fanfill/cli/", "src/fanfill/progress.py"),
    "cupy": ("src/fanfill/cuda/backend.py",),
    "PyInstaller": ("src/fanfill/_pyinstaller/",),
    "numba": ("kernels/fanfill_kernels/compile/numba_internals.py",),
    "fanfill": ("src/",),
    **{
        # Keras' backends have a module each.
        framework: tuple(
            f"src/fanfill/{place}"
            for place in (f"{framework}.py", f"{framework}/", f"keras/on_{framework}.py")
        )
        for framework in FRAMEWORKS
    },
}
# What the kernels may import beside the standard library.
KERNELS_MAY = {"numpy", "numba", "llvmlite", "fanfill_kernels"}


parsed = functools.cache(ast.parse)


def imports(source: str) -> set[str]:
    """The top-level packages that a source imports anywhere in it."""
    found = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def trespasses(path: str, source: str) -> set[str]:
    """The packages that the source at `path` imports and should not."""
    found = imports(source)
    strangers = {package for package in found & ALLOWED.keys() if not path.startswith(ALLOWED[package])}
    if path.startswith("kernels/"):
        strangers |= found - KERNELS_MAY - sys.stdlib_module_names
    return strangers


SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for folder in ("src", "kernels")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def test_a_source_imports_only_what_its_room_may() -> None:
    found = {path: trespasses(path, source) for path, source in SOURCES.items()}
    assert {path: strangers for path, strangers in found.items() if strangers} == {}


@pytest.mark.parametrize(
    ("path", "source", "package"),
    [
        ("src/fanfill/fill.py", "import rich.console", "rich"),
        ("src/fanfill/report.py", "def f():\n    from typer import Option", "typer"),
        ("src/fanfill/cpu/numba.py", "import cupy", "cupy"),
        ("src/fanfill/cpu/buffers.py", "import torch", "torch"),
        ("src/fanfill/cpu/numba.py", "import numba", "numba"),
        ("kernels/fanfill_kernels/compile/compiler.py", "from numba.core import compiler", "numba"),
        ("src/fanfill/torch.py", "import jax", "jax"),
        ("kernels/fanfill_kernels/compile/cpu.py", "from fanfill.fans import gain", "fanfill"),
        ("kernels/fanfill_kernels/compile/cpu.py", "import ml_dtypes", "ml_dtypes"),
    ],
)
def test_the_import_check_can_fail(path: str, source: str, package: str) -> None:
    assert trespasses(path, source) == {package}


def module_of(path: str) -> str:
    """The dotted name of the source at a path."""
    return ".".join(Path(path).with_suffix("").parts[1:]).removesuffix(".__init__")


def imported(source: str, modules: Iterable[str]) -> set[str]:
    """The modules of this project that a source imports when it is imported itself."""
    found: set[str] = set()
    statements = list(parsed(source).body)
    while statements:
        node = statements.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = names & set(modules)
            found |= inside | ({node.module} if len(inside) < len(names) else set())
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            statements += node.body + node.orelse
        elif isinstance(node, ast.Try):
            statements += node.body
    return found & set(modules)


def circle(sources: dict[str, str]) -> list[str] | None:
    """Modules that import each other in a circle, if there are any."""
    modules = {module_of(path): source for path, source in sources.items()}
    arrows = {name: imported(source, modules) for name, source in modules.items()}
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str] | None:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return None
        found = (visit(other, [*way, name]) for other in sorted(arrows[name]))
        circle = next((c for c in found if c), None)
        done.add(name)
        return circle

    return next((c for c in (visit(name, []) for name in sorted(arrows)) if c), None)


def test_no_modules_import_each_other() -> None:
    assert circle(SOURCES) is None


def test_a_circle_of_imports_is_noticed() -> None:
    path = "src/fanfill/dtypes.py"
    found = circle(SOURCES | {path: "from fanfill.fill import fill\n" + SOURCES[path]})
    assert found is not None
    assert found[0] == found[-1]
    assert {"fanfill.dtypes", "fanfill.fill"} <= set(found)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel, built without network."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


def test_the_wheel_holds_both_packages_typed_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = message_from_bytes(archive.read(f"fanfill-{ff.__version__}.dist-info/METADATA"))
        entry_points = archive.read(f"fanfill-{ff.__version__}.dist-info/entry_points.txt").decode()
    expected = {path.removeprefix("src/").removeprefix("kernels/") for path in SOURCES}
    expected |= {"fanfill/py.typed", "fanfill_kernels/py.typed"}
    shipped = {name for name in names if ".dist-info/" not in name}
    assert expected <= shipped
    assert {name.partition("/")[0] for name in shipped} == {"fanfill", "fanfill_kernels"}
    assert not [name for name in shipped if "__pycache__" in name]
    assert f"fanfill-{ff.__version__}.dist-info/licenses/LICENSE" in names
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) >= {"cli", "ml-dtypes", "test", "dev"}
    assert "fanfill = fanfill.cli:main" in entry_points
    assert "hook-dirs = fanfill._pyinstaller:get_hook_dirs" in entry_points


def test_the_sdist_can_be_tested_and_built_from(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".ci/run", "ci/test.sh"} <= names
    assert {"CONTRIBUTING.md", ".pre-commit-config.yaml"} <= names
    assert {
        "src/fanfill/py.typed",
        "kernels/fanfill_kernels/py.typed",
        "tests/docs/test_packaging.py",
    } <= names


def test_the_oldest_dependencies_that_ci_tries_are_the_lower_bounds() -> None:
    project = PROJECT["project"]
    stated = [
        *project["dependencies"],
        *(r for extra in ("cli", "ml-dtypes") for r in project["optional-dependencies"][extra]),
    ]
    pinned = dict(
        line.split("==") for line in (ROOT / "ci/oldest.txt").read_text().splitlines() if "==" in line
    )
    for requirement in map(Requirement, stated):
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        assert re.fullmatch(rf"{re.escape(bound.version)}(\.\d+)*", pinned[requirement.name]), requirement


@pytest.mark.parametrize("package", ["numba", "llvmlite"])
@pytest.mark.parametrize("implementation", ["CPython", "PyPy", "GraalVM"])
@pytest.mark.parametrize(
    "machine", [*sorted(system.NUMBA_MACHINES), "riscv64", "ppc64le", "s390x", "i686", "armv7l"]
)
def test_numba_is_asked_for_where_it_has_wheels(
    package: str, implementation: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (requirement,) = (r for r in map(Requirement, PROJECT["project"]["dependencies"]) if r.name == package)
    place = {"platform_python_implementation": implementation, "platform_machine": machine}
    assert requirement.marker is not None
    asked = requirement.marker.evaluate(place)
    assert asked == (implementation == "CPython" and machine in system.NUMBA_MACHINES)
    # What the backend says when Numba is missing is said of the same places.
    monkeypatch.setattr(system, "glibc", lambda: True)
    monkeypatch.setattr(system.platform, "python_implementation", lambda: implementation)
    monkeypatch.setattr(system.platform, "machine", lambda: machine)
    assert asked == (system.without_numba() is None)


def test_the_ci_scripts_can_be_run_and_what_they_source_cannot() -> None:
    scripts = [ROOT / ".ci/run", *(ROOT / "ci").glob("*.sh")]
    sourced = {name for s in scripts for name in re.findall(r"^source (\S+)", s.read_text(), re.MULTILINE)}
    for script in scripts:
        starts_with_a_shebang = script.read_text().startswith("#!")
        assert starts_with_a_shebang == (str(script.relative_to(ROOT)) not in sourced), script
        assert (script.stat().st_mode & 0o111 == 0o111) == starts_with_a_shebang, script
        subprocess.run(["bash", "-n", str(script)], check=True)


# The documents


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


EXAMPLES = [
    pytest.param(document, example, id=f"{document}-{number}")
    for document in ("README.md", "docs/initializers.md")
    for number, example in enumerate(blocks(document, "python"))
]


@pytest.mark.parametrize(("document", "example"), EXAMPLES)
def test_the_examples_of_a_document_run(document: str, example: str) -> None:
    for framework in FRAMEWORKS:
        if f"import {framework}" in example:
            pytest.importorskip(framework)
    exec(compile(example, document, "exec"), {})


def test_documents_have_examples() -> None:
    assert {parameter.values[0] for parameter in EXAMPLES} == {"README.md", "docs/initializers.md"}


def test_the_first_command_of_the_readme_does_the_main_job(capsys: pytest.CaptureFixture[str]) -> None:
    setup, install, job = blocks("README.md", "sh")[0].strip().split(" && ")
    assert setup == "python3 -m venv .venv"
    assert install == ".venv/bin/python -m pip install -e '.[cli]'"
    command, *words = shlex.split(job)
    assert command == ".venv/bin/fanfill"
    assert words == ["fill", "he_normal", "32768x32768"]
    assert main(["fill", "he_normal", "327x327"]) == 0  # the same, a ten-thousandth of its size
    assert "SHA-256" in capsys.readouterr().out


def test_the_second_command_of_the_readme_runs_the_tests() -> None:
    setup, install, job = blocks("README.md", "sh")[1].strip().split(" && ")
    assert setup == "python3 -m venv .venv"
    assert install == ".venv/bin/python -m pip install -e '.[test,frameworks]'"
    assert shlex.split(job) == [".venv/bin/python", "-m", "pytest"]


def test_the_table_of_the_interface_has_every_public_name() -> None:
    table = (ROOT / "docs/reference.md").read_text().partition("## Using fanfill")[0]
    for name in set(ff.__all__) - {"__version__"}:
        family = re.sub(r"^(glorot|kaiming)_.*", r"\1_*", name)
        assert re.search(rf"`{re.escape(family)}[`(.]", table), name


def figures(document: str) -> dict[str, list[str]]:
    """The rows of a document's table of throughput, without shares of the limit."""
    _, _, rest = (ROOT / document).read_text().partition("| uniform float32 |")
    rows = re.findall(r"^\| (.+?) \| (.*) \|$", rest.split("\n\n")[0], re.MULTILINE)
    return {re.sub(r"[*]", "", name): re.sub(r" \(.*?\)|[*]", "", row).split(" | ") for name, row in rows}


def test_the_figures_of_the_readme_are_those_of_the_page() -> None:
    shown, measured = figures("README.md"), figures("docs/performance.md")
    names = {"memset": "memset, one thread", "fanfill": "fanfill, numba, 2 threads", "torch": "torch"}
    assert shown.keys() == {*names, "NumPy"}
    for name, row in shown.items():
        for here, there in zip(row, measured[names.get(name, "numpy")], strict=False):
            if here != "-":
                assert float(here) == pytest.approx(float(there), rel=0.02), name


def test_links_between_the_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_s_links_work_wherever_it_is_shown_and_lead_to_files_of_this_repository() -> None:
    """On PyPI a relative link leads nowhere."""
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / "README.md").read_text())
    home = PROJECT["project"]["urls"]["Homepage"]
    bases = f"{home}/blob/main/", f"{home.replace('github.com', 'raw.githubusercontent.com')}/main/"
    assert len(targets) > 20
    for target in targets:
        base = next((base for base in bases if target.startswith(base)), None)
        assert base is not None, target
        assert (ROOT / target.removeprefix(base)).exists(), target


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_the_files_that_a_page_for_contributors_names_are_there(document: str) -> None:
    named = set(
        re.findall(
            r"(?<![\w/.])(?:[\w.-]+/)*[\w-]+\.(?:py|cu|cuh|md|json|toml|sh)\b", (ROOT / document).read_text()
        )
    )
    roots = (ROOT, ROOT / "docs", ROOT / "src/fanfill", ROOT / "src", ROOT / "kernels/fanfill_kernels")
    assert not sorted(name for name in named if not any((root / name).exists() for root in roots))
    assert len(named) > 5


@pytest.mark.parametrize("linter", ["mypy", "ruff"])
def test_a_release_of_a_linter_stops_no_run(linter: str) -> None:
    (asked,) = (
        r for r in map(Requirement, PROJECT["project"]["optional-dependencies"]["dev"]) if r.name == linter
    )
    (pin,) = asked.specifier
    assert (pin.operator, pin.version.count("*")) == ("==", 0)


def test_every_promise_names_a_test() -> None:
    section = (
        (ROOT / "docs/trust.md").read_text().partition("## What you can rely on")[2].partition("\n## ")[0]
    )
    proofs = re.findall(r"\| `(test_\w+\.py)::(test_\w+)` \|", section)
    assert len(proofs) == len(re.findall(r"^\| [^-p]", section, re.MULTILINE)) > 15
    for file, name in proofs:
        (path,) = (ROOT / "tests").glob(f"*/{file}")
        assert f"\ndef {name}(" in path.read_text(), (file, name)


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text or f"## [{ff.__version__}]" in text
    headings = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_pytest_benchmark_beside_xdist_stops_no_run() -> None:
    """Its releases before 5.3 say this at the start of every parallel run, where warnings are errors."""
    text = "Benchmarks are automatically disabled because xdist plugin is active."
    warnings.warn(
        f"{text}Benchmarks cannot be performed reliably in a parallelized environment.", stacklevel=1
    )
    with pytest.raises(UserWarning, match="another"):
        warnings.warn("another", stacklevel=1)

"""What the site shows beside docs/*.md: README, the project's files and docstrings.

No file is copied or linked: MkDocs gets these pages from memory, and links between files lead to pages. So
all of them stay plain files for a forge.
"""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
HOME = "https://github.com/fanfill/fanfill"
# Where a file of the repository is on the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    ".github/SECURITY.md": "security.md",
}
API = {
    "fanfill": "fanfill",
    "torch": "fanfill.torch",
    "jax": "fanfill.jax",
    "keras": "fanfill.keras",
    "dask": "fanfill.dask",
    "checkpoints": "fanfill.checkpoints",
    "show": "fanfill.show",
}
DIAGRAM = ROOT / "docs/pictures/architecture.svg"
CSS = """
.md-grid { max-width: 70rem; }
.md-typeset table:not([class]) { display: block; overflow-x: auto; }
.md-typeset code { overflow-wrap: anywhere; }
.md-typeset h2 .doc-object-name { overflow-wrap: anywhere; }
"""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    made = {target: (ROOT / source).read_text(encoding="utf-8") for source, target in PAGES.items()}
    made |= {f"api/{name}.md": reference(module) for name, module in API.items()}
    made["site.css"] = CSS
    for target, content in made.items():
        files.append(File.generated(config, target, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links and fences as the site needs them."""
    source = {target: source for source, target in PAGES.items()}.get(page.file.src_uri)
    folder = Path("docs") if source is None else Path(source).parent
    markdown = re.sub(r"^```python notest$", "```python", markdown, flags=re.MULTILINE)
    markdown = re.sub(r"^```mermaid\n(.*?)^```$", diagram, markdown, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\]\(([^)\s]+)\)", lambda found: f"]({target(found[1], folder)})", markdown)


def target(link: str, folder: Path) -> str:
    """A link of a file of the repository as one of the site's pages."""
    path, mark, anchor = link.partition("#")
    for prefix in (
        f"{HOME}/blob/main/",
        f"{HOME}/raw/main/",
        "https://raw.githubusercontent.com/fanfill/fanfill/main/",
    ):
        if path.startswith(prefix):
            path, folder = path.removeprefix(prefix), Path()
    if not path or re.match(r"[a-z]+:", path):
        return link
    place = (ROOT / folder / path).resolve()
    if not place.is_relative_to(ROOT):
        return link
    inside = place.relative_to(ROOT).as_posix()
    if inside in PAGES:
        return f"{PAGES[inside]}{mark}{anchor}"
    if inside.startswith("docs/"):
        return f"{inside.removeprefix('docs/')}{mark}{anchor}"
    return f"{HOME}/blob/main/{inside}{mark}{anchor}"


def tree_of(module: str) -> ast.Module:
    """A module's source, parsed."""
    path = ROOT / "src" / Path(*module.split("."))
    source = path.with_suffix(".py")
    if not source.exists():  # a package; a folder alone may be left of an older state
        source = path / "__init__.py"
    return ast.parse(source.read_text(encoding="utf-8"))


def reference(module: str) -> str:
    """A page of docstrings: the module's, and those of its public functions and classes."""
    names: list[str] = []
    homes: dict[str, str] = {}
    for node in ast.walk(tree := tree_of(module)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ast.literal_eval(node.value)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fanfill."):
            homes |= {alias.name: node.module for alias in node.names}
    if not names:
        raise PluginError(f"expected __all__ in {module}; got none")

    def documented(name: str) -> bool:
        body = tree.body if name not in homes else tree_of(homes[name]).body
        return any(isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name for node in body)

    page = f"# {module}\n\n::: {module}\n    options: {{members: [], show_root_heading: false}}\n"
    # By the module that defines it: fanfill.fill is a module as well as a function.
    return page + "".join(f"\n::: {homes.get(name, module)}.{name}\n" for name in names if documented(name))


def digest(source: str) -> str:
    """What a drawn diagram carries of its source."""
    return hashlib.sha256(source.encode()).hexdigest()


def diagram(found: re.Match[str]) -> str:
    """A Mermaid diagram as the picture of it: drawn beforehand, since drawing takes a browser."""
    if digest(found[1]) not in DIAGRAM.read_text(encoding="utf-8"):
        raise PluginError(f"expected {DIAGRAM} to be of the page's diagram; draw it by ci/site/diagram.py")
    return "![How a fill reaches memory](pictures/architecture.svg)"

"""Write the table of docs/performance.md, and its picture, from a result of ``fanfill bench``.

    python benchmarks/readme_table.py bench.json [--readme docs/performance.md] [--pictures docs] [--force]

Without --readme the text goes to stdout. With it, it replaces what stands between the comments
``<!-- benchmark:begin -->`` and ``<!-- benchmark:end -->``. With --pictures, benchmark.png and benchmark.svg
are drawn into that folder and the text shows the latter. ``fanfill bench --readme`` measures and prints the
text. Figures of a busy machine are refused, unless --force is given.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from fanfill.bench import markdown, noise, picture, report

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"


def replaced(document: str, new: str) -> str:
    """The document with `new` between the two comments; ValueError if it has not each of them once."""
    if document.count(BEGIN) != 1 or document.count(END) != 1 or document.index(END) < document.index(BEGIN):
        raise ValueError(
            f"expected {BEGIN} and, after it, {END}, each once; add them where the table belongs"
        )
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n\n{new}\n{END}{rest.split(END)[1]}"


def main(words: Iterable[str] | None = None) -> None:
    """Read a result, write the text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--readme", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--force", action="store_true", help="publish a busy machine's figures, too")
    chosen = parser.parse_args(None if words is None else list(words))
    result = report.load(chosen.result)
    doubts = noise.doubts(result)
    if doubts and not chosen.force:
        raise ValueError(
            f"expected figures of an idle machine; got {chosen.result}, of which {'; '.join(doubts)}; "
            "measure again, or add --force"
        )
    shown = None
    if chosen.pictures:
        drawn = picture.draw(result, chosen.pictures, "benchmark")[-1]
        shown = Path(os.path.relpath(drawn, chosen.readme.parent if chosen.readme else Path())).as_posix()
    new = markdown.text(result, shown)
    if chosen.readme:
        chosen.readme.write_text(replaced(chosen.readme.read_text(), new))
    else:
        sys.stdout.write(new)


if __name__ == "__main__":
    main()

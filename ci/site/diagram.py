"""Draw the diagram of docs/architecture.md for the site, which runs no Mermaid.

    npm pack mermaid@11 && tar xzf mermaid-*.tgz
    python ci/site/diagram.py package/dist/mermaid.min.js [--browser /usr/bin/chromium]

Needs Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from hooks import DIAGRAM, ROOT, digest
from playwright.sync_api import sync_playwright

# As the other pictures: its own ground, and the reader's colours.
STYLE = """<style>svg{background:#fff}@media (prefers-color-scheme: dark){svg{background:#14171c;filter:none}
text,tspan{fill:#e4e8ec!important}rect{fill:#222831!important;stroke:#6b7480!important}
path{stroke:#8a94a0!important}.edgeLabel rect{fill:#14171c!important;stroke:none!important}}</style>"""


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mermaid", type=Path)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    chosen = parser.parse_args()
    (source,) = re.findall(
        r"^```mermaid\n(.*?)^```$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE | re.DOTALL
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chosen.browser, args=["--no-sandbox"])
        page = browser.new_page()
        page.add_script_tag(path=str(chosen.mermaid))
        page.evaluate(
            "mermaid.initialize({startOnLoad: false, theme: 'neutral', htmlLabels: false,"
            " flowchart: {htmlLabels: false}})"
        )
        svg = page.evaluate("async s => (await mermaid.render('fill', s)).svg", source)
        browser.close()
    head, close, rest = svg.partition(">")
    DIAGRAM.write_text(f"{head}{close}<!-- made from SHA-256 {digest(source)} -->{STYLE}{rest}\n")


if __name__ == "__main__":
    main()

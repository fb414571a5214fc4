"""Look at every page of the built site in a headless Chromium, as ci/site.sh --browser does.

    python ci/site_check.py SITE [--browser /usr/bin/chromium]

Serves the folder on this host and fails if, on any page: the console shows an error, something is asked of
another host, a request fails, a picture has no size, a link inside the site leads nowhere (its anchor
included), or the page is wider than a phone's 390 pixels. Then it searches, in light and in dark.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from playwright.sync_api import ConsoleMessage, Page, Request, TimeoutError, sync_playwright

PHONE = {"width": 390, "height": 844}
# Words, and the title of a page that must be among the first results.
SEARCHES = {
    "truncated normal": "The number contract",
    "torchrun": "Using fanfill with PyTorch",
    "init_module": "fanfill.torch",
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that reports no requests."""

    def log_message(self, format: str, *words: object) -> None:
        pass


def watch(page: Page, home: str, faults: list[str]) -> None:
    """Add what goes wrong on a page from now on."""

    def said(message: ConsoleMessage) -> None:
        if message.type == "error":
            faults.append(f"{page.url}: {message.text}")

    def asked(request: Request) -> None:
        if not request.url.startswith((home, "data:", "blob:")):
            faults.append(f"{page.url}: asked for {request.url}")

    def failed(request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # by going on to the next page
            faults.append(f"{page.url}: {request.url} failed: {request.failure}")

    page.on("console", said)
    page.on("request", asked)
    page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
    page.on("requestfailed", failed)


def look(page: Page, address: str, faults: list[str]) -> tuple[set[str], set[str]]:
    """One page: its faults are added; its anchors and links are returned."""
    page.goto(address, wait_until="load")
    width = page.evaluate("document.documentElement.scrollWidth")
    if width > PHONE["width"]:
        faults.append(f"{address}: {width} pixels wide on a phone of {PHONE['width']}")
    blind = page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)")
    faults += [f"{address}: {source} shows nothing" for source in blind]
    if not page.locator("h1").first.is_visible():
        faults.append(f"{address}: no title is shown")
    anchors = set(page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
    links = page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href'))")
    return anchors, {urljoin(address, link) for link in links}


def search(page: Page, home: str, faults: list[str]) -> None:
    """What is searched for is found, with no server behind it."""
    page.goto(home)
    for words, found in SEARCHES.items():
        page.locator("label.md-header__button[for=__search]").first.click()
        page.locator(".md-search__input").press_sequentially(words)
        first = page.locator(".md-search-result__link").first
        try:
            first.wait_for(timeout=20_000)
        except TimeoutError:
            faults.append(f"a search for {words!r} finds nothing")
            continue
        results = page.locator(".md-search-result__list").inner_text()
        if found not in results:
            faults.append(f"a search for {words!r} does not find {found!r}")
        page.goto(home)


def main() -> int:
    """Check a site; the number of faults is shown, each in a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    chosen = parser.parse_args()
    handler = functools.partial(Quiet, directory=str(chosen.site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_address[1]}/"
    pages = sorted(path.relative_to(chosen.site) for path in chosen.site.rglob("*.html"))
    addresses = [
        home + path.as_posix().removesuffix("index.html") for path in pages if path.name != "404.html"
    ]
    faults: list[str] = []
    anchors: dict[str, set[str]] = {}
    links: dict[str, set[str]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chosen.browser, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport=PHONE, color_scheme=scheme)
            watch(page, home, faults)
            if scheme == "light":
                for address in addresses:
                    anchors[address], links[address] = look(page, address, faults)
            search(page, home, faults)
            page.close()
        browser.close()
    server.shutdown()
    for address, found in links.items():
        for link in sorted(found):
            place, anchor = urldefrag(link)
            if not place.startswith(home):
                continue
            if place in anchors:
                if anchor and unquote(anchor) not in anchors[place]:
                    faults.append(f"{address}: {link} has no such anchor")
            elif not (chosen.site / unquote(urlsplit(place).path).lstrip("/")).is_file():
                faults.append(f"{address}: {link} leads nowhere")
    for fault in dict.fromkeys(faults):
        print(fault, file=sys.stderr)
    print(f"{len(addresses)} pages, {sum(map(len, links.values()))} links, {len(faults)} faults")
    return min(len(faults), 1)


if __name__ == "__main__":
    sys.exit(main())

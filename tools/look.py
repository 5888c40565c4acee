"""Look at the built documentation in a browser: screenshots, and the faults that axe finds.

    pip install playwright
    npm install axe-core
    python tools/look.py site shots --axe node_modules/axe-core/axe.min.js --chromium /usr/bin/chromium

It takes one page of each kind, or those that are named, at the widths of a desktop and of a phone. The exit status is 1 after a
fault that axe calls serious or critical. Nothing of it is needed for the tests.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

PAGES = (
    "",
    "quickstart/",
    "tutorial/",
    "troubleshooting/",
    "howto/work/",
    "howto/deploy/",
    "howto/managed-postgres/",
    "howto/coming-from/",
    "concepts/errors/",
    "concepts/layout/",
    "internals/leases/",
    "decisions/0006-claims-and-leases/",
    "benchmarks/vectors/",
    "reference/cli/",
    "reference/configuration/",
    "reference/diagrams/",
    "reference/models/tasks/",
    "reference/repositories/tasks/",
    "404.html",
)
"""One page of each kind."""
WIDTHS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
SERIOUS = ("serious", "critical")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Print no line for each file."""


@contextmanager
def served(site: Path) -> Generator[str]:
    """Serve a folder; the search of the theme works over HTTP only."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def look(tab: Any, address: str, shot: Path, axe: Path | None) -> list[str]:
    """Take a screenshot of a page; return what is wrong with it."""
    tab.goto(address, wait_until="networkidle")
    tab.screenshot(path=str(shot))
    faults: list[str] = []
    wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if wide > 0:
        faults.append(f"it is {wide} pixels wider than the screen")
    if axe is not None:
        tab.add_script_tag(path=str(axe))
        for fault in tab.evaluate("axe.run().then((found) => found.violations)"):
            where = "; ".join(str(node["target"][0]) for node in fault["nodes"][:3])
            line = f"{fault['impact']}: {fault['id']}: {len(fault['nodes'])} x, {where}"
            if fault["impact"] in SERIOUS:
                faults.append(line)
            else:
                print(f"  {line}")
    return faults


def main() -> int:
    """Look at each page at each width; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("site", type=Path)
    parser.add_argument("shots", type=Path)
    parser.add_argument("--axe", type=Path)
    parser.add_argument("--chromium")
    parser.add_argument("--page", action="append", dest="pages")
    given = parser.parse_args()
    given.shots.mkdir(parents=True, exist_ok=True)
    found = 0
    with served(given.site) as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        for width, options in WIDTHS.items():
            tab = browser.new_context(**options).new_page()
            for page in given.pages or PAGES:
                name = page.strip("/").replace("/", "-") or "front"
                faults = look(tab, home + page, given.shots / f"{name}-{width}.png", given.axe)
                print(f"{page or 'front page'} ({width}): {len(faults)} serious faults")
                for fault in faults:
                    print(f"  {fault}")
                found += len(faults)
        browser.close()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

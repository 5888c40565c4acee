"""Rank guides above the reference in the search of the documentation; a hook of MkDocs.

A word that a user types, such as a tenant or a schedule, stands in the titles of hundreds of methods and columns.
"""

from __future__ import annotations

from typing import Any

_BOOSTS = {
    "howto": 4.0,
    "troubleshooting.md": 3.0,
    "concepts": 2.0,
    "tutorial.md": 2.0,
    "quickstart.md": 2.0,
    "internals": 0.5,
    "decisions": 0.5,
    "benchmarks": 0.5,
}
"""How much more a page counts, by the first part of its path."""


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> None:
    """Set what the search plugin of the theme reads when it adds the page."""
    boost = _BOOSTS.get(page.file.src_uri.partition("/")[0])
    if boost is not None:
        page.meta.setdefault("search", {"boost": boost})

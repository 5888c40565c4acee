"""Write llms.txt and the pages as Markdown beside the built documentation; a hook of MkDocs.

`llms.txt` lists all pages in the order of the navigation, each with its first sentence, for programs that read documentation. It
is made at each build, so that it has every page. Guides are linked as Markdown, which is copied; pages of the reference, whose
text is made from docstrings, as HTML.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_pages: dict[str, str] = {}
"""The Markdown of each page, by its path."""
_navigation: list[Any] = []


def on_nav(nav: Any, **_: Any) -> None:
    """Remember the navigation."""
    _navigation[:] = nav.items


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> None:
    """Remember the text of a page."""
    _pages[page.file.src_uri] = markdown


def on_post_build(*, config: Any, **_: Any) -> None:
    """Write the files into the site."""
    site, docs = Path(config["site_dir"]), Path(config["docs_dir"])
    lines = [f"# {config['site_name']}", "", f"> {config['site_description']}", *written(_navigation)]
    (site / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for path in _pages:
        if not _is_reference(path):
            shutil.copyfile(docs / path, site / path)


def written(items: list[Any], section: str = "") -> Iterator[str]:
    """Yield the lines of the navigation: a heading for each section, and an item for each page."""
    heading = section or "Start"
    pages = [item for item in items if item.is_page]
    if pages:
        yield from ("", f"## {heading}", "")
        yield from (_line(page) for page in pages)
    for item in items:
        if item.is_section:
            yield from written(item.children, f"{section}: {item.title}" if section else item.title)


def _line(page: Any) -> str:
    path: str = page.file.src_uri
    address = page.file.dest_uri if _is_reference(path) else path
    sentence = first_sentence(_pages.get(path, ""))
    return f"- [{page.title or path}]({address})" + (f": {sentence}" if sentence else "")


def _is_reference(path: str) -> bool:
    return path.startswith("reference/") and path not in ("reference/cli.md", "reference/configuration.md")


def first_sentence(markdown: str) -> str:
    """Return the first sentence of the first paragraph that is text, as plain text."""
    for paragraph in re.split(
        r"\n\s*\n", re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    ):
        text = " ".join(paragraph.split())
        if text and not re.match(r"[#|<!:>*+-]|\d+\. ", text):
            plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").replace("**", "")
            return re.split(r"(?<=[.:]) (?=[A-Z])", plain)[0]
    return ""

"""Bar charts as small SVG files, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

__all__ = ["bars"]

WIDTH, LABELS, VALUES = 760, 190, 110
BAR, GAP, HEAD, SPACE = 18, 6, 34, 22
OURS, CEILING, OTHERS = "#3b6fd4", "#8a94a6", "#c3cad6"


def bars(
    path: Path,
    title: str,
    panels: Mapping[str, Mapping[str, float]],
    *,
    ours: str = "alfred-db",
    ceiling: str | None = None,
) -> None:
    """A panel for each group: a bar for each name, from 0 to the panel's largest, with its value at the end.

    The panel's name says the unit. `ours` and `ceiling` are the starts of names, which get colours of their own.
    """
    parts: list[str] = []
    height = 52
    for heading, values in panels.items():
        parts.append(f'<text x="20" y="{height + 14}" class="h">{escape(heading)}</text>')
        height += HEAD - 8
        largest = max(values.values(), default=1.0) or 1.0
        for name, value in values.items():
            length = max(1.5, (WIDTH - LABELS - VALUES) * value / largest)
            colour = OURS if name.startswith(ours) else OTHERS
            if ceiling is not None and name.startswith(ceiling):
                colour = CEILING
            middle = height + BAR - 5
            parts += [
                f'<text x="{LABELS - 8}" y="{middle}" class="n">{escape(name)}</text>',
                f'<rect x="{LABELS}" y="{height}" width="{length:.1f}" height="{BAR}" rx="3" fill="{colour}"/>',
                f'<text x="{LABELS + length + 7:.1f}" y="{middle}" class="v">{_short(value)}</text>',
            ]
            height += BAR + GAP
        height += SPACE
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-label="{escape(title)}">'
    )
    style = (
        "<style>text{font:13px system-ui,sans-serif;fill:#2b3240}.t{font-size:17px;font-weight:600}"
        ".h{font-weight:600}.n{text-anchor:end}.v{fill:#5a6373}</style>"
    )
    background = f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>'
    text = "\n".join(
        [head, style, background, f'<text x="20" y="32" class="t">{escape(title)}</text>', *parts, "</svg>"]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

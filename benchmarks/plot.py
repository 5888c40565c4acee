"""Bar charts as small SVG files, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

__all__ = ["bars", "lines"]

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


LINES = ("#3b6fd4", "#d4663b", "#3b9d6a", "#8a5fc7", "#8a94a6")


def lines(path: Path, title: str, panels: Mapping[str, Mapping[str, Mapping[float, float]]]) -> None:
    """A panel for each group, with a line for each name: points from x to y, y from the panel's least to its largest."""
    across, high = WIDTH - 120, 180
    parts: list[str] = []
    top = 62
    for heading, series in panels.items():
        values = [y for points in series.values() for y in points.values()] or [0.0]
        places = [x for points in series.values() for x in points] or [0.0]
        least, most = min(values), max(values)
        left, right = min(places), max(places)
        parts.append(f'<text x="20" y="{top}" class="h">{escape(heading)}</text>')
        top += 16

        def at(
            x: float, y: float, top: int = top, area: tuple[float, ...] = (left, right, least, most)
        ) -> str:
            first, last, low, up = area
            return (
                f"{60 + across * (x - first) / ((last - first) or 1):.1f},"
                f"{top + high - high * (y - low) / ((up - low) or 1):.1f}"
            )

        parts.append(f'<path d="M{at(left, most)} V{top + high} H{60 + across}" class="a"/>')
        for value, where in ((most, top + 10), (least, top + high)):
            parts.append(f'<text x="54" y="{where}" class="n">{value:.3f}</text>')
        for place in (left, (left + right) / 2, right):
            x = 60 + across * (place - left) / ((right - left) or 1)
            parts.append(f'<text x="{x:.0f}" y="{top + high + 16}" class="m">{place:g}</text>')
        for number, (name, points) in enumerate(series.items()):
            drawn = " ".join(at(x, y) for x, y in sorted(points.items()))
            tint = LINES[number % len(LINES)]
            parts.append(f'<polyline points="{drawn}" fill="none" stroke="{tint}" stroke-width="2"/>')
            parts.append(
                f'<text x="{80 + 180 * number}" y="{top + high + 34}" fill="{tint}" class="k">{escape(name)}</text>'
            )
        top += high + 66
    style = (
        "<style>text{font:13px system-ui,sans-serif;fill:#2b3240}.t{font-size:17px;font-weight:600}"
        ".h{font-weight:600}.n{text-anchor:end;fill:#5a6373}.m{text-anchor:middle;fill:#5a6373}"
        ".a{fill:none;stroke:#c3cad6}</style>"
    )
    text = "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
            f' role="img" aria-label="{escape(title)}">',
            style,
            f'<rect width="{WIDTH}" height="{top}" rx="8" fill="#ffffff"/>',
            f'<text x="20" y="32" class="t">{escape(title)}</text>',
            *parts,
            "</svg>",
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")

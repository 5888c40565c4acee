"""Draw the house from the code: the picture of the rooms and the list of their modules on the layout page.

    python tools/layout.py           write
    python tools/layout.py --check   fail when the page or the picture is stale

The diagrams of the tables (tools/diagrams.py) are written or checked with them.

The order of the rooms is the import contract's in pyproject.toml; the words are the first lines of the docstrings.
"""

from __future__ import annotations

import ast
import html
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "alfred_db"
PAGE = ROOT / "docs/concepts/layout.md"
PICTURE = ROOT / "docs/concepts/layout.svg"
BEGIN, END = "<!-- modules: written by tools/layout.py -->\n", "<!-- end of modules -->\n"

ROW, WIDTH, NAMES, WORDS = 30, 1000, 150, 620


def layers() -> list[list[str]]:
    """The rooms of each layer, from the top, as the import contract orders them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if one["type"] == "layers"]
    return [layer.split(" | ") for layer in contract["layers"]]


def rooms() -> list[str]:
    """All rooms, from the top."""
    return [room for layer in layers() for room in layer]


def summary(path: Path) -> str:
    """The first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.partition("\n")[0].rstrip(":.")


def is_folder(room: str) -> bool:
    """Whether a room is a package; else it is one module."""
    return (PACKAGE / room).is_dir()


def file_of(room: str) -> Path:
    """The file whose docstring describes a room."""
    return PACKAGE / room / "__init__.py" if is_folder(room) else PACKAGE / f"{room}.py"


def files(room: str) -> list[Path]:
    """All files of a room."""
    return sorted((PACKAGE / room).rglob("*.py")) if is_folder(room) else [file_of(room)]


def modules(room: str) -> Iterator[Path]:
    """The modules of a room that people write: no generated half, and no `__init__.py`."""
    return (path for path in files(room) if path.name != "__init__.py" and "_sync" not in path.parts)


def imported(path: Path) -> Iterator[str]:
    """The rooms that a module imports from."""
    package = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *filter(None, (node.module or "").split("."))]
            yield from base[:1] or [alias.name for alias in node.names]


def arrows() -> dict[str, set[str]]:
    """What each room imports, without what it also reaches through another one."""
    known = rooms()
    direct = {
        room: {other for path in files(room) for other in imported(path) if other in known} - {room}
        for room in known
    }
    reached: dict[str, set[str]] = {}
    for room in TopologicalSorter(direct).static_order():
        reached[room] = direct[room].union(*(reached[other] for other in direct[room]))
    return {
        room: {other for other in others if not any(other in reached[way] for way in others - {other})}
        for room, others in direct.items()
    }


def picture() -> str:
    """The rooms from top to bottom, with an arc for each import that no other one implies."""
    place = {room: 10 + ROW * number + ROW // 2 for number, room in enumerate(rooms())}
    height = ROW * len(place) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
        ' font-size="13">',
        "<title>The rooms of alfred_db, and what each imports</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path d="M0 0 8 4 0 8z" fill="#4a6fa5"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for room, y in place.items():
        name = room + ("/" if is_folder(room) else ".py")
        words = html.escape(summary(file_of(room)).replace("`", ""), quote=False)
        parts += [
            f'<rect x="10" y="{y - 12}" width="{NAMES - 20}" height="24" rx="5" fill="#eef3fa" stroke="#4a6fa5"/>',
            f'<text x="20" y="{y + 5}" font-weight="bold" fill="#1d3557">{name}</text>',
            f'<text x="{NAMES}" y="{y + 5}" fill="#444">{words}</text>',
        ]
    left = NAMES + WORDS
    for room, others in arrows().items():
        for other in sorted(others, key=place.__getitem__):
            top, bottom = place[room] + 3, place[other] - 3
            bulge = round(left + 20 + min(200.0, (bottom - top) * 0.55))
            parts.append(
                f'<path d="M{left} {top}C{bulge} {top} {bulge} {bottom} {left} {bottom}" fill="none"'
                ' stroke="#4a6fa5" stroke-opacity="0.7" marker-end="url(#tip)"/>'
            )
    return "\n".join([*parts, "</svg>", ""])


def listing() -> str:
    """Each room with its modules, and the first line of each."""
    lines: list[str] = []
    for room in rooms():
        name = room + ("/" if is_folder(room) else ".py")
        lines += ["", f"### `{name}`", "", f"{summary(file_of(room))}."]
        if is_folder(room):
            lines += ["", "| module | |", "|---|---|"]
            lines += [
                f"| `{path.relative_to(PACKAGE / room)}` | {summary(path).replace('|', '&#124;')} |"
                for path in modules(room)
            ]
    return "\n".join([*lines, "", ""])


def main(check: bool) -> int:
    """Write the page and the picture, or print which is stale."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    wanted = {PAGE: f"{head}{BEGIN}{listing()}{END}{rest.partition(END)[2]}", PICTURE: picture()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)}: is stale; run `make docs`")
        else:
            path.write_text(wanted[path])
    return 1 if stale and check else 0


if __name__ == "__main__":
    tables = subprocess.run([sys.executable, ROOT / "tools/diagrams.py", *sys.argv[1:]], check=False)
    sys.exit(main("--check" in sys.argv[1:]) or tables.returncode)

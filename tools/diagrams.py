"""Draw the entity-relationship diagrams of the documentation from the models: one for each noun, and one of all tables.

python tools/diagrams.py           write
python tools/diagrams.py --check   fail when the page or a diagram is stale
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Column, ForeignKeyConstraint, Table
from sqlalchemy.dialects import postgresql

from alfred_db.models import Base

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs/reference/diagrams"
PAGE = ROOT / "docs/reference/diagrams.md"

LINE, LETTER, PAD, GAP, BETWEEN = 18, 7.3, 10, 24, 110
SHORT = {
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
    "DOUBLE PRECISION": "double",
    "INTEGER": "integer",
}
HEAD = """# Diagrams

Drawn from the models. A line leads from the column of a foreign key to the table that it refers to; it is dashed where the column may be NULL. `PK` is a column of the
primary key, `FK` one of a foreign key, and `?` one that may be NULL. Tables of other nouns have their names only. `alfred-db erd memories` prints the same as
[Mermaid](https://mermaid.js.org), with your choice of tables.
"""


@dataclass(frozen=True)
class Box:
    """A table in a diagram."""

    table: Table
    x: float
    y: float
    width: float
    height: float
    whole: bool
    """Whether its columns are shown."""


def nouns() -> dict[str, list[Table]]:
    """The tables of each module of models, in the order of their names."""
    found: dict[str, list[Table]] = {}
    for mapper in Base.registry.mappers:
        table = mapper.local_table
        assert isinstance(table, Table)
        found.setdefault(mapper.class_.__module__.rpartition(".")[2], []).append(table)
    return {noun: sorted(set(found[noun]), key=lambda table: table.fullname) for noun in sorted(found)}


def links(tables: Iterable[Table]) -> list[ForeignKeyConstraint]:
    """The foreign keys of the tables, in a fixed order."""
    return [
        one
        for table in tables
        for one in sorted(table.foreign_key_constraints, key=lambda key: str(key.name))
    ]


def kind(column: Column[object]) -> str:
    """The type of a column as PostgreSQL names it."""
    text = column.type.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    return SHORT.get(text, text).lower()


def keys(column: Column[object]) -> str:
    """Whether a column belongs to the primary key or to a foreign key."""
    return " ".join([*(["PK"] if column.primary_key else []), *(["FK"] if column.foreign_keys else [])])


def ranks(tables: Sequence[Table]) -> dict[Table, int]:
    """How many foreign keys lead from each table to one that refers to no other; circles are cut."""
    found: dict[Table, int] = {}

    def rank(table: Table, above: frozenset[Table]) -> int:
        if table not in found:
            parents = [key.referred_table for key in links([table])]
            known = [one for one in parents if one in tables and one is not table and one not in above]
            found[table] = 1 + max((rank(one, above | {table}) for one in known), default=-1)
        return found[table]

    for table in tables:
        rank(table, frozenset())
    return found


def placed(tables: Sequence[Table], whole: frozenset[Table]) -> list[Box]:
    """Put the tables into columns by their ranks, each beside those that it refers to."""
    rank = ranks(tables)
    boxes: dict[Table, Box] = {}
    x = 10.0
    for number in range(max(rank.values()) + 1):
        column = [table for table in tables if rank[table] == number]

        def height_of_parents(table: Table) -> tuple[float, str]:
            above = [boxes[key.referred_table].y for key in links([table]) if key.referred_table in boxes]
            return sum(above) / len(above) if above else 0.0, table.fullname

        y, widest = 10.0, 0.0
        for table in sorted(column, key=height_of_parents):
            texts = [table.fullname]
            if table in whole:
                texts += [f"{one.name}  {kind(one)}?  {keys(one)}" for one in table.columns]
            width = max(map(len, texts)) * LETTER + 2 * PAD
            lines = len(texts)
            boxes[table] = Box(table, x, y, width, lines * LINE + 10, table in whole)
            y += lines * LINE + 10 + GAP
            widest = max(widest, width)
        x += widest + BETWEEN
    return list(boxes.values())


def drawn(title: str, tables: Sequence[Table], whole: frozenset[Table]) -> str:
    """Return a diagram as SVG."""
    boxes = placed(tables, whole)
    place = {box.table: box for box in boxes}
    width = max(box.x + box.width for box in boxes) + 40
    height = max(box.y + box.height for box in boxes) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
        ' font-family="monospace" font-size="12">',
        f"<title>{html.escape(title)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path d="M0 0 8 4 0 8z" fill="#4a6fa5"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
    ]
    for key in links(tables):
        if key.referred_table in place:
            parts.append(line(key, place[key.table], place[key.referred_table]))
    for box in boxes:
        parts += box_parts(box)
    return "\n".join([*parts, "</svg>", ""])


def line(key: ForeignKeyConstraint, child: Box, parent: Box) -> str:
    """Return the line of a foreign key, from its first column to the head of the other table."""
    first = next(iter(key.columns))
    down = list(child.table.columns).index(first) + 1 if child.whole else 0
    y1, y2 = child.y + 5 + LINE * down + LINE / 2, parent.y + 5 + LINE / 2
    x1, x2 = child.x, parent.x + parent.width
    if child is parent:
        x1 = child.x + child.width
        way = f"M{x1:.0f} {y1:.0f}C{x1 + 30:.0f} {y1:.0f} {x1 + 30:.0f} {y2:.0f} {x1:.0f} {y2:.0f}"
    else:
        bend = max(40.0, abs(x1 - x2) / 2)
        way = f"M{x1:.0f} {y1:.0f}C{x1 - bend:.0f} {y1:.0f} {x2 + bend:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    dashes = ' stroke-dasharray="5 4"' if any(column.nullable for column in key.columns) else ""
    return f'<path d="{way}" fill="none" stroke="#4a6fa5"{dashes} marker-end="url(#tip)"/>'


def box_parts(box: Box) -> list[str]:
    """Return a table: its name, and its columns if they are shown."""
    x, y, head = box.x, box.y, "#eef3fa" if box.whole else "#f4f4f4"
    parts = [
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" rx="5" fill="#fff" stroke="#4a6fa5"/>',
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{box.width:.0f}" height="{LINE + 8}" rx="5" fill="{head}" stroke="#4a6fa5"/>',
        f'<text x="{x + PAD:.0f}" y="{y + 5 + LINE - 4:.0f}" font-weight="bold" fill="#1d3557">{html.escape(box.table.fullname)}</text>',
    ]
    for number, column in enumerate(box.table.columns if box.whole else (), 1):
        at = f'y="{y + 5 + LINE * (number + 1) - 4:.0f}"'
        words = f"{kind(column)}{'?' if column.nullable else ''}"
        parts.append(f'<text x="{x + PAD:.0f}" {at} fill="#222">{html.escape(column.name)}</text>')
        middle = x + PAD + (len(column.name) + 2) * LETTER
        parts.append(f'<text x="{middle:.0f}" {at} fill="#5a5a5a">{html.escape(words)}</text>')
        if keys(column):
            right = x + box.width - PAD
            parts.append(
                f'<text x="{right:.0f}" {at} text-anchor="end" font-weight="bold" fill="#4a6fa5">{keys(column)}</text>'
            )
    return parts


def sentences(tables: Sequence[Table]) -> list[str]:
    """Say in words what a diagram shows."""
    return [
        f"- {', '.join(f'`{key.table.fullname}.{column.name}`' for column in key.columns)} refers to `{key.referred_table.fullname}`"
        for key in links(tables)
    ]


def wanted() -> dict[Path, str]:
    """Return the text of each file."""
    every = Base.metadata.sorted_tables
    linked = {table for key in links(every) for table in (key.table, key.referred_table)}
    files = {
        FOLDER / "all.svg": drawn(
            "All tables with foreign keys", [t for t in every if t in linked], frozenset()
        )
    }
    page = [
        HEAD,
        "## All tables",
        "",
        f"![The {len(linked)} tables with foreign keys, and the lines between them](diagrams/all.svg)",
        "",
    ]
    alone = ", ".join(
        f"`{table.fullname}`" for table in sorted(every, key=lambda one: one.fullname) if table not in linked
    )
    page += [f"Without foreign keys: {alone}.", ""]
    for noun, own in nouns().items():
        title = noun.replace("_", " ").capitalize()
        near = {key.referred_table for key in links(own)} - set(own)
        tables = [table for table in every if table in near or table in own]
        files[FOLDER / f"{noun}.svg"] = drawn(f"The tables of {title}", tables, frozenset(own))
        names = ", ".join(table.fullname for table in own)
        page += [f"## {title}", "", f"![The columns of {names}](diagrams/{noun}.svg)", ""]
        if said := sentences(own):
            page += [*said, ""]
    files[PAGE] = "\n".join(page)
    return files


def main(check: bool) -> int:
    """Write the page and the diagrams, or print which is stale."""
    files = wanted()
    stale = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    gone = [path for path in FOLDER.glob("*.svg") if path not in files]
    if check:
        for path in [*stale, *gone]:
            print(f"{path.relative_to(ROOT)}: is stale; run `make docs`")
        return 1 if stale or gone else 0
    FOLDER.mkdir(exist_ok=True)
    for path in gone:
        path.unlink()
    for path in stale:
        path.write_text(files[path], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))

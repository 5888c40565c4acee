"""Every call of a repository as each kind of role: none needs more than is documented, and none can do more.

With ALFRED_DB_WRITE_RIGHTS=1 the numbers are written into docs/howto/production.md.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from granted import Roles, calls, granted, refused
from sqlalchemy import URL
from test_grants import OWNERS

from alfred_db import Database
from alfred_db.migrate.grants import KINDS

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "production.md"
BEGIN, END = "<!-- rights: tests/test_rights.py writes what follows -->\n", "<!-- end of rights -->\n"

NOUNS = {"broker_catalog": "broker"}
"""The noun of a repository's tables, where it is not the repository's name and a kind has rights on it."""

TOUCHES_NOTHING = {
    "conversations.lock",
    "events.horizon",
    "memories.prune",
    *(
        f"{log}.{method}"
        for log in ("broker_requests", "events")
        for method in (
            "due_partitions",
            "make_partitions",
            "old_partitions",
            "partition_readers",
            "partitions",
        )
    ),
}
"""Calls that read and write no table: an advisory lock, PostgreSQL's own catalog, and nothing to prune or to create."""

WITHOUT_CRON = ("schedule_maintenance", "unschedule_maintenance")
"""Methods that the server of the suite has no extension for."""


@dataclass
class Numbers:
    """What became of the calls of one kind of role."""

    calls: int
    allowed: int
    needs_more: list[str]
    can_more: list[str]


def documented(kind: str, call: str, writing: bool) -> bool:
    """Whether docs/howto/production.md lets this kind of role do it."""
    rights, method = KINDS[kind], call.partition(",")[0]
    repository = method.partition(".")[0]
    noun = NOUNS.get(repository, repository)
    if rights.writes is None:
        return True
    if noun in rights.writes:
        return method not in OWNERS
    return not writing and method not in OWNERS and (rights.reads is None or noun in rights.reads)


def numbers(roles: Roles, kind: str, writing: set[str]) -> Numbers:
    with roles.database(kind) as database:
        failed = refused(roles, database)
    names = {name for name in calls(roles.ground) if not name.endswith(WITHOUT_CRON)}
    allowed = {name for name in names if documented(kind, name, name in writing)}
    return Numbers(
        len(names),
        len(allowed),
        sorted(f"{name}: {failed[name]}" for name in allowed & failed.keys()),
        sorted(names - allowed - failed.keys() - TOUCHES_NOTHING),
    )


@pytest.mark.parametrize("schema", [None, "acme"], ids=["default", "tenant"])
def test_no_call_needs_more_or_can_do_more_than_documented(
    database_url: URL, tmp_path: Path, schema: str | None
) -> None:
    found: dict[str, Numbers] = {}
    with granted(database_url, schema, tmp_path) as roles:
        with Database(roles.url, schema=schema) as owner:
            writing = set(refused(roles, owner, read_only=True))
        for kind in roles.names:
            found[kind] = numbers(roles, kind, writing)
    lines = [
        f"| {kind} | {'a named tenant' if schema else 'the default tenant'} | {one.calls} | {one.allowed} |"
        f" {one.calls - one.allowed} | {len(one.needs_more)} | {len(one.can_more)} |"
        for kind, one in found.items()
    ]
    print("\n".join(lines))
    if os.environ.get("ALFRED_DB_WRITE_RIGHTS"):
        _write(lines)
    assert {kind: one.needs_more for kind, one in found.items() if one.needs_more} == {}
    assert {kind: one.can_more for kind, one in found.items() if one.can_more} == {}


HEAD = (
    "| role | in | calls | allowed | refused | need more than documented | can do more |",
    "|---|---|---|---|---|---|---|",
)


def _write(lines: list[str]) -> None:
    """Replace the lines of these roles and this tenant, and keep the others."""
    page = PAGE.read_text()
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    keys = {re.match(r"\| \w+ \| [\w ]+ \|", line)[0] for line in lines}  # type: ignore[index]
    kept = [
        line
        for line in page[start:end].splitlines()
        if line and line not in HEAD and not any(line.startswith(key) for key in keys)
    ]
    PAGE.write_text(page[:start] + "\n".join([*HEAD, *sorted([*kept, *lines])]) + "\n" + page[end:])

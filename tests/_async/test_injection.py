"""Hostile values in every text and JSON parameter: stored as they are or refused, never executed, and nothing else changes.

The calls are in tests/injection/, and tests/unit/test_injection.py holds them to the signatures of the repositories.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
from injection import HOSTILE, NO_JSON, Path, hostile, leaf, paths, replaced
from injection.ground import Ground
from injection.signatures import choices, plain
from injection.specimens import FORMATS, SPECIMENS, cleaned
from sqlalchemy import URL, text
from thinned import one_in

from alfred_db import AsyncDatabase
from alfred_db.errors import ConflictError, InvalidInputError, NotFoundError
from alfred_db.repositories import AsyncUnitOfWork

Changes = dict[str, tuple[int, ...]]
"""Rows inserted, updated and deleted, by table; those of the server's catalog too, where a DROP or a GRANT shows."""

_CHANGES = text("""
    SELECT oid::regclass::text, pg_stat_get_xact_tuples_inserted(oid), pg_stat_get_xact_tuples_updated(oid),
        pg_stat_get_xact_tuples_deleted(oid)
    FROM pg_class WHERE relkind IN ('r', 'p') AND relpersistence = 'p' AND oid <> 'pg_statistic'::regclass
        AND pg_stat_get_xact_tuples_inserted(oid) + pg_stat_get_xact_tuples_updated(oid)
            + pg_stat_get_xact_tuples_deleted(oid) > 0
""")
REFUSALS = (InvalidInputError, NotFoundError, ConflictError)


@pytest.fixture
def ground(grounds: tuple[URL, dict[str | None, Ground]], schema: str | None) -> Ground:
    """What the calls refer to."""
    return grounds[1][schema]


@pytest.fixture
async def uow(
    grounds: tuple[URL, dict[str | None, Ground]], schema: str | None
) -> AsyncIterator[AsyncUnitOfWork]:
    """A unit of work on the ground, rolled back at the end."""
    async with AsyncDatabase(grounds[0], schema=schema) as database, database.session() as session:
        yield AsyncUnitOfWork(session)


class Attempts:
    """Calls of one method, each in a savepoint that is rolled back."""

    def __init__(self, uow: AsyncUnitOfWork, name: str) -> None:
        noun, _, method = name.partition(",")[0].partition(".")
        self._session = uow.session
        self._call = getattr(getattr(uow, noun), method)
        self._before: Changes | None = None

    async def run(self, arguments: Mapping[str, Any], value: Any = None) -> tuple[Changes, bool]:
        """What the call changed, and whether the value is in a row that it wrote."""
        given = dict(arguments)
        before = self._before or await self._counts()
        self._before = None
        # A COMMIT that got through would leave nothing to roll back to.
        savepoint = await self._session.begin_nested()
        try:
            await self._call(*given.pop("names", ()), **given)
            self._before = after = await self._counts()
            changes = {
                name: tuple(now - then for now, then in zip(counts, before.get(name, (0, 0, 0)), strict=True))
                for name, counts in after.items()
                if counts != before.get(name, (0, 0, 0))
            }
            return changes, await self._stored(changes, value)
        finally:
            await savepoint.rollback()

    async def _counts(self) -> Changes:
        rows = await self._session.execute(_CHANGES)
        return {name: tuple(counts) for name, *counts in rows}

    async def _stored(self, changes: Changes, value: Any) -> bool:
        for table in changes:
            if table.startswith("pg_"):
                continue
            newest = text(f"SELECT to_jsonb(t) FROM (SELECT * FROM {table} ORDER BY ctid DESC LIMIT 10) AS t")
            if any(leaf(row, value) for row in await self._session.scalars(newest)):
                return True
        return False


def among(changes: Changes, usual: Changes) -> bool:
    """Whether no more rows of any table were changed than usually; the partitions of knowledge count as one."""
    for table, counts in changes.items():
        part = "knowledge_points_"
        same = [one for one in usual if part in one] if part in table else [table]
        most = [
            max(column)
            for column in zip((0, 0, 0), *(usual.get(one, (0, 0, 0)) for one in same), strict=True)
        ]
        if any(count > limit for count, limit in zip(counts, most, strict=True)):
            return False
    return True


def values(name: str, path: Path) -> Iterator[tuple[str, Any, Any]]:
    """Kind, what the call is given, and what is to be found in the database."""
    for kind, value in hostile("_async").items():
        # COPY may repeat it in 1,001 rows; elsewhere to send it takes most of the time of a call.
        if kind == "megabyte" and (name.endswith("by COPY") or not one_in(4, name, path)):
            value = HOSTILE["long"]
        yield kind, value, value
        if path == ("after",):
            for columns in (1, 2, 3):
                cursor = base64.urlsafe_b64encode(json.dumps([value] * columns).encode()).decode()
                yield kind, cursor, value
    if path[-1] == "k" and path[0] != "source":  # a file of JSON lines cannot hold anything else
        for kind, given in NO_JSON.items():
            yield kind, given, given


@pytest.mark.parametrize("name", SPECIMENS)
async def test_hostile_values_are_data(uow: AsyncUnitOfWork, ground: Ground, name: str) -> None:
    attempts, arguments = Attempts(uow, name), SPECIMENS[name](ground)
    usual, _ = await attempts.run(arguments)
    wrong: list[str] = []
    for path in dict.fromkeys([*paths(arguments), *choices(name)]):
        for kind, given, value in values(name, path):
            said = await outcome(attempts, name, arguments, path, kind, given, value, usual)
            if said is not None:
                wrong.append(f"{'.'.join(map(str, path))}, {kind}: {said}")
    assert not wrong, "\n".join(wrong)


async def outcome(
    attempts: Attempts,
    name: str,
    arguments: Mapping[str, Any],
    path: Path,
    kind: str,
    given: Any,
    value: Any,
    usual: Changes,
) -> str | None:
    """What is wrong with how the call ended."""
    choice = path[:1] in choices(name)
    from_outside = cleaned(name, path[-1]) and kind in ("nul", "surrogate")
    free = path[-1] == "k" or (plain(name, path) and path[0] not in FORMATS.get(name, ()))
    try:
        changes, stored = await attempts.run(replaced(arguments, path, given), value)
    except REFUSALS as error:
        message = str(error)
        if len(message) > 1000 or not message.isprintable():
            return f"the message has {len(message)} characters: {message[:200]!r}"
        if isinstance(value, str) and len(value) > 60 and value in message:
            return f"the message repeats it: {message[:200]}"
        if free and not choice and isinstance(error, InvalidInputError) and (kind == "text" or from_outside):
            return f"is refused: {message}"
        return None
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]!r}"
    if (choice and given is value) or kind in NO_JSON:
        return "is accepted"
    if not among(changes, usual):
        return f"changes {changes}, and usually {usual}"
    if changes and not stored and kind != "empty" and not from_outside:
        return f"changes {changes}, and is not stored"
    return None

"""Methods that take a `limit` and write: each call writes at most so many rows, so that its transaction is short."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from chunked import CASES, limited, prepare
from injection.ground import Ground, build
from injection.signatures import repositories
from injection.specimens import SPECIMENS
from sqlalchemy import URL, text

from alfred_db import Database, UnitOfWork
from alfred_db.engine.chunks import number_of
from alfred_db.errors import NotFoundError

ROWS, LIMIT = 25, 10

ALLOWED = {
    "rate_limits.hit": "its limit is how much is allowed",
    "rate_limits.check": "its limit is how much is allowed",
}
"""Methods whose `limit` is no number of rows, and why."""

WRITTEN = text(
    "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_xact_user_tables"
)


@pytest.fixture(scope="module")
def database(migrated_url: URL) -> Iterator[Database]:
    with Database(migrated_url) as one:
        yield one


@pytest.mark.parametrize("name", CASES)
def test_a_call_writes_at_most_limit_rows(database: Database, name: str) -> None:
    case = CASES[name]
    with database.session() as session:
        uow = UnitOfWork(session)
        key = prepare(uow, case, ROWS)
        done: list[int] = []
        while not done or (done[-1] == LIMIT and not (case.once and len(done) == 3)):
            before = session.scalars(WRITTEN).one()
            done.append(number_of(case.call(uow, LIMIT, key)))
            assert session.scalars(WRITTEN).one() - before <= done[-1] * case.each + case.also, name
            assert done[-1] <= LIMIT
        if not case.once:
            assert (
                ROWS - 1 <= sum(done) <= ROWS + 1
            )  # with the root of a tree, or without the entry that is kept
        session.rollback()


@pytest.fixture
def ground(database_url: URL, tmp_path: Path) -> Iterator[tuple[Database, Ground]]:
    with Database(database_url) as one:
        with one.begin() as uow:
            made = build(uow, tmp_path)
        yield one, made


def test_every_method_with_a_limit_only_reads_or_has_a_case(ground: tuple[Database, Ground]) -> None:
    database, made = ground
    others = {name: specimen for name, specimen in SPECIMENS.items() if "," not in name}
    for name in sorted({*limited()} - {*CASES, *ALLOWED}):
        noun, _, method = name.partition(".")
        parameters = list(inspect.signature(getattr(repositories()[noun], method)).parameters.values())[1:]
        needed = [
            one.name for one in parameters if one.default is one.empty and one.kind.name != "VAR_POSITIONAL"
        ]
        assert name in others or not needed, (
            f"{name}: add a specimen to tests/injection, or a case to tests/chunked.py"
        )
        given = others[name](made) if name in others else {}
        positional = given.pop("names", ())
        with database.session() as session:
            with suppress(NotFoundError):
                getattr(getattr(UnitOfWork(session), noun), method)(*positional, **given)
            wrote = session.scalar(text("SELECT pg_current_xact_id_if_assigned()::text")) is not None
            session.rollback()
        assert not wrote, f"{name} writes: add a case to tests/chunked.py"

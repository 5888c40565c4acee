"""What tests assert about statements: how many a block runs, and whether one can use an index."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from psycopg._cursor_base import BaseCursor
from sqlalchemy import event, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from ..errors import InvalidInputError
from ..queries.shapes.explain import Explain

__all__ = ["Statements", "assert_query_count", "assert_uses_index"]


class Statements(list[str]):
    """The statements of a block, in their order."""


@contextmanager
def assert_query_count(expected: int) -> Generator[Statements]:
    """Assert that a block runs this number of statements, in any thread or asyncio task of the process.

    Statements of SQLAlchemy and of the library's own path count alike; SAVEPOINT counts, BEGIN and COMMIT do not, nor
    does what sets up a new connection.

        with assert_query_count(1):
            uow.tasks.get(id)

    Args:
        expected: The number of statements.

    Raises:
        AssertionError: It was another number; the message has the statements.
    """
    seen: list[tuple[int, str]] = []
    opened: set[int] = set()
    cursor: Any = BaseCursor  # where all kinds of statements of all kinds of cursors begin
    start = cursor._start_query

    def started(self: Any, query: Any = None) -> Any:
        seen.append((id(self.connection), _text(query)))
        return start(self, query)

    def connected(_dbapi_connection: Any, record: Any) -> None:
        opened.add(id(record.driver_connection))

    def checked_out(_dbapi_connection: Any, record: Any, _proxy: Any) -> None:
        # What ran so far on a connection that was opened in the block has set it up.
        connection = id(record.driver_connection)
        if connection in opened:
            opened.discard(connection)
            seen[:] = [one for one in seen if one[0] != connection]

    event.listen(Pool, "connect", connected)
    event.listen(Pool, "checkout", checked_out)
    cursor._start_query = started
    found = Statements()
    try:
        yield found
    finally:
        cursor._start_query = start
        event.remove(Pool, "connect", connected)
        event.remove(Pool, "checkout", checked_out)
        found += [statement for _, statement in seen]
    if len(found) != expected:
        listed = "".join(f"\n  {' '.join(statement.split())[:200]}" for statement in found) or "\n  none"
        raise AssertionError(f"expected {expected} statements, {len(found)} were run:{listed}")


def _text(query: Any) -> str:
    if query is None:
        return "COPY"
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    return str(query)


def assert_uses_index(
    session: Session,
    statement: Any,
    *names: str,
    parameters: Mapping[str, Any] | None = None,
) -> None:
    """Assert that the server can run a statement with these indexes.

    The table of a test is small, so that to read all of it would be faster: the planner is kept from that. An index of a
    partition counts as the index that it is a part of. The statement is not run.

        assert_uses_index(uow.session, select(Task).where(Task.task_id == "t-1"), "uq_tasks_task_id")

    Args:
        session: A session; of a unit of work, `uow.session`.
        statement: The statement, or its text.
        *names: The names of the indexes, at least one.
        parameters: The parameters of the statement.

    Raises:
        AssertionError: The plan does not use one of them; the message has the plan.
    """
    if not names:
        raise InvalidInputError("assert_uses_index: pass the name of an index")
    built = text(statement) if isinstance(statement, str) else statement
    before = {name: session.scalar(text(f"SHOW {name}")) for name in ("enable_seqscan", "enable_sort")}
    for name in before:
        session.execute(text(f"SET LOCAL {name} = off"))
    plan = "\n".join(session.scalars(Explain(built), dict(parameters or {})))
    for name, value in before.items():
        session.execute(text(f"SET LOCAL {name} = {value}"))
    used = set(re.findall(r"(?:Index (?:Only )?Scan(?: Backward)? using|Bitmap Index Scan on) (\S+)", plan))
    used |= set(session.scalars(_PARENTS, {"names": sorted(used)}))
    missing = [name for name in names if name not in used]
    if missing:
        raise AssertionError(
            f"{', '.join(missing)}: not used; the plan uses {', '.join(sorted(used)) or 'no index'}:\n{plan}"
        )


_PARENTS = text("""
    WITH RECURSIVE part(oid) AS (
        SELECT oid FROM pg_catalog.pg_class WHERE relkind IN ('i', 'I') AND relname = ANY (:names)
        UNION SELECT inhparent FROM pg_catalog.pg_inherits JOIN part ON inhrelid = part.oid
    )
    SELECT CAST(relname AS text) FROM pg_catalog.pg_class JOIN part USING (oid)
""")

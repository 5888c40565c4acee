"""SQL of a model: one SELECT in a READ ONLY transaction of a connection of its own, which is closed afterwards.

What keeps the statement in:

1. It is sent by the extended protocol, which takes a single statement, and as `DECLARE ... CURSOR FOR`, which takes a
   query only: no COMMIT, SET, COPY, DO, CALL, PREPARE or LISTEN.
2. The transaction is READ ONLY, is rolled back, and its connection is closed: no lock, setting or cursor stays.
3. The role is the configured one; a superuser becomes `pg_read_all_data`, which has no right but to read.
4. Names of functions that run SQL texts, change settings, take advisory locks, reach files or other servers are
   refused in the text, where each call has to name them.
5. Each table in the plan is one of the tenant's, or of the catalogs that all tenants share.
6. Time, rows and bytes are limited by the server.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mcp.server.mcpserver.exceptions import ToolError
from psycopg import AsyncConnection, AsyncCursor, Error, errors

from ..database import AsyncDatabase
from ..engine.pool import connect_args
from ..errors import ConfigurationError
from ..sql import TENANT_SCHEMAS, quoted

__all__ = ["Found", "Reader"]

SHARED = ("model_registry", "brk_registry")
"""The shared catalogs that a model may read: neither users nor storage."""

AT_ONCE = 4
"""The number of connections; further calls wait."""

BATCH = 50
"""The rows of one FETCH."""

MAX_SQL = 100_000

_DENIED = re.compile(
    r"""(?<![a-z0-9_$])(?:
        set_config|current_setting|pg_(?:try_)?advisory\w*|pg_(?:cancel|terminate)\w*|pg_sleep\w*
        |pg_(?:read|ls|stat|file|write|backup|start|stop|logical|replication|create|drop|promote|switch|rotate
            |reload|export|import|notify|log|wal|walfile|xact|hba|ident|show|shadow|authid|user|largeobject
            |subscription|foreign|settings|prewarm|buffercache|copy|restore|get_raw)\w*
        |lo_\w+|loread|lowrite|dblink\w*|postgres_fdw\w*|file_fdw\w*
        |\w*_to_xml\w*|\w*_to_xmlschema|ts_stat|ts_rewrite|crosstab\w*|connectby|xpath_table|xpath_nodeset
        |txid_\w+|plpy\w*|plperl\w*|pljava\w*|dbms_\w+|utl_\w+|http_\w+
    )(?![a-z0-9_$])""",
    re.VERBOSE,
)
_Plan: TypeAlias = "Sequence[_Plan] | Mapping[str, _Plan] | str | float | None"
"""A part of a plan as JSON."""

_ESCAPED = re.compile(r"""u&["']""", re.IGNORECASE)

_SUPERUSER = b"SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user"


@dataclass(slots=True)
class Found:
    """The rows of a query, and what was left out of them."""

    columns: list[str]
    rows: list[list[Any]] = field(default_factory=list[list[Any]])
    next_offset: int | None = None
    """The number of rows up to here, if there are more."""
    notes: list[str] = field(default_factory=list[str])


class Reader:
    """Runs queries of a model.

    Args:
        database: The database, or one tenant of it.
        role: The role that queries run as; None is that of the connection.
        timeout: Seconds of one call.
    """

    def __init__(self, database: AsyncDatabase, role: str | None = None, timeout: float = 5.0) -> None:
        self._database = database
        self._role = role
        self.timeout = timeout
        self._places = asyncio.Semaphore(AT_ONCE)

    async def query(self, sql: str, *, limit: int, offset: int = 0, max_bytes: int) -> Found:
        """Return rows of one SELECT.

        Args:
            sql: The statement.
            limit: The maximum number of rows.
            offset: The number of rows to pass over.
            max_bytes: The maximum size of all rows as JSON.

        Raises:
            ToolError: The statement is refused, or fails; the message says what to do.
            ConfigurationError: The role of the reader cannot be taken.
        """
        text = _checked(sql)
        async with self.transaction() as cursor:
            await self._check_tables(cursor, text)
            columns = await _columns(cursor, text)
            return await _fetched(cursor, text, columns, limit, offset, max_bytes)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncCursor[Any]]:
        """Open a READ ONLY transaction of a connection of its own.

        Raises:
            ToolError: The statement failed, took too long or tried to write, or the database cannot be reached.
            ConfigurationError: The role of the reader cannot be taken.
        """
        try:
            async with asyncio.timeout(2 * self.timeout), self._places:
                connection = await self._connected()
                try:
                    cursor = connection.cursor()
                    for statement in self._settings():
                        await cursor.execute(statement.encode())
                    await self._become_reader(cursor)
                    yield cursor
                    await cursor.execute(b"ROLLBACK")
                finally:
                    await connection.close()
        except TimeoutError:
            raise self._late() from None
        except errors.QueryCanceled:
            raise self._late() from None
        except errors.ReadOnlySqlTransaction:
            raise ToolError("this tool only reads; use the other tools of this server to write") from None
        except errors.OperationalError:
            raise ToolError("the database cannot be reached; try again later") from None
        except Error as error:
            raise ToolError(_explained(error)) from None

    async def schemas(self, cursor: AsyncCursor[Any]) -> list[str]:
        """Return the schemas whose tables a model may read, the tenant's first."""
        if self._database.schema is not None:
            return [self._database.schema, *SHARED]
        await cursor.execute(b"SELECT pg_catalog.current_schema()")
        row = await cursor.fetchone()
        return [str(row[0]) if row else "public", *TENANT_SCHEMAS, *SHARED]

    async def _connected(self) -> AsyncConnection[Any]:
        url = self._database.url
        arguments, options = self._database.engine.dialect.create_connect_args(url)
        try:
            return await AsyncConnection.connect(
                *arguments,
                **{**options, **connect_args(url, "alfred-db mcp sql")},
                autocommit=True,
                prepare_threshold=None,
            )
        except BaseException as error:
            # The half-open connection of a cancelled call is closed with the frames of the traceback; see `drop_unopened`.
            error.__traceback__ = None
            raise

    def _settings(self) -> Iterator[str]:
        milliseconds = max(1, int(self.timeout * 1000))
        yield "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        yield f"SET LOCAL statement_timeout = {milliseconds}"
        yield f"SET LOCAL idle_in_transaction_session_timeout = {2 * milliseconds}"
        yield "SET LOCAL lock_timeout = 1000"
        yield "SET LOCAL max_parallel_workers_per_gather = 0"
        yield "SET LOCAL work_mem = '16MB'"
        if self._database.schema is not None:
            # The vector type and its operators are in one of the later two.
            yield f"SET LOCAL search_path = {quoted(self._database.schema)}, public, extensions"

    async def _become_reader(self, cursor: AsyncCursor[Any]) -> None:
        role = self._role
        if role is None:
            await cursor.execute(_SUPERUSER)
            row = await cursor.fetchone()
            role = "pg_read_all_data" if row and row[0] else None
        if role is not None:
            try:
                await cursor.execute(f"SET LOCAL ROLE {quoted(role)}".encode())
            except Error:
                raise ConfigurationError(
                    f"--sql-role {role}: the role does not exist, or the server's user is not a member; grant it"
                ) from None

    async def _check_tables(self, cursor: AsyncCursor[Any], text: str) -> None:
        await cursor.execute(f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) {text}".encode(), binary=True)
        row = await cursor.fetchone()
        plan: Any = row[0] if row else None
        if isinstance(plan, str | bytes):
            plan = json.loads(plan)
        used = set(_tables(plan))
        allowed = await self.schemas(cursor)
        for schema, table in sorted(used):
            if schema not in allowed:
                raise ToolError(
                    f"{schema}.{table}: not a table that this server may read; list_tables returns those that it may,"
                    " and describe_table their columns"
                )

    def _late(self) -> ToolError:
        return ToolError(
            f"the query took longer than {self.timeout:g} seconds; narrow it with WHERE, or aggregate less"
        )


def _checked(sql: str) -> str:
    """Return the statement without the semicolons at its end."""
    if len(sql) > MAX_SQL:
        raise ToolError(f"sql: has {len(sql)} characters; at most {MAX_SQL} are accepted")
    if "\0" in sql or any("\ud800" <= character <= "\udfff" for character in sql):
        raise ToolError("sql: has a character that PostgreSQL cannot store; remove it")
    if _ESCAPED.search(sql):
        raise ToolError("sql: write names and texts as they are, without U& escapes")
    found = _DENIED.search(sql.lower())
    if found:
        raise ToolError(
            f"sql: {found[0][:60]!r} is not allowed here, not even as a name or within a text; read tables and use"
            " ordinary functions"
        )
    text = sql.strip()
    while text.endswith(";"):
        text = text[:-1].rstrip()
    if not text:
        raise ToolError("sql: is empty; pass one SELECT")
    return text


def _tables(plan: _Plan) -> Iterator[tuple[str, str]]:
    """Return the tables of a plan, with their schemas.

    A scan of another server, or of an extension, does not name its tables: it stands for one that is refused.
    """
    parts: Iterable[_Plan] = ()
    if isinstance(plan, Sequence) and not isinstance(plan, str):
        parts = plan
    elif isinstance(plan, Mapping):
        parts = plan.values()
        if plan.get("Node Type") in ("Foreign Scan", "Custom Scan"):
            yield "another server", str(plan["Node Type"])
        if "Relation Name" in plan:
            yield str(plan.get("Schema")), str(plan["Relation Name"])
    for part in parts:
        yield from _tables(part)


async def _columns(cursor: AsyncCursor[Any], text: str) -> list[str]:
    # The grammar takes nothing but a query here, and the protocol nothing behind it.
    await cursor.execute(f"DECLARE alfred_db_shape NO SCROLL CURSOR FOR {text}".encode(), binary=True)
    await cursor.execute(b"FETCH 0 FROM alfred_db_shape")
    columns = [column.name for column in cursor.description or ()]
    await cursor.execute(b"CLOSE alfred_db_shape")
    if not columns:
        raise ToolError("sql: the query has no columns; select some")
    return columns


async def _fetched(
    cursor: AsyncCursor[Any], text: str, columns: Sequence[str], limit: int, offset: int, max_bytes: int
) -> Found:
    names = [f"c{number}" for number in range(len(columns))]
    # The server makes the JSON of each row, and keeps a row that is too large.
    wrapped = (
        "DECLARE alfred_db_rows NO SCROLL CURSOR FOR SELECT CASE WHEN pg_catalog.octet_length(r.j)"
        f" OPERATOR(pg_catalog.<=) {max_bytes} THEN r.j END FROM (SELECT pg_catalog.row_to_json(q)::pg_catalog.text"
        f" AS j FROM (\n{text}\n) AS q({', '.join(names)}) OFFSET {offset}) AS r"
    )
    await cursor.execute(wrapped.encode(), binary=True)
    found, used, place = Found(list(columns)), 0, offset
    while len(found.rows) < limit:
        wanted = min(BATCH, limit - len(found.rows))
        await cursor.execute(f"FETCH {wanted} FROM alfred_db_rows".encode())
        rows = await cursor.fetchall()
        for fetched in rows:
            row: str | None = fetched[0]
            if row is not None and used + len(row) > max_bytes:
                found.next_offset = place
                found.notes.append(
                    f"The result is cut at {max_bytes:,} bytes; read on with `offset`, or select fewer columns."
                )
                return found
            place += 1
            values = _values(row, names)
            if values is None:
                found.notes.append(
                    f"Row {place} is left out: it is too large or cannot be shown; select fewer columns, or"
                    " left(column, 200)."
                )
                continue
            used += len(row or "")
            found.rows.append(values)
        if len(rows) < wanted:
            return found
    await cursor.execute(b"FETCH 1 FROM alfred_db_rows")
    if await cursor.fetchone() is not None:
        found.next_offset = place
        found.notes.append("There are more rows; read on with `offset`, or aggregate.")
    return found


def _values(row: str | None, names: Sequence[str]) -> list[Any] | None:
    if row is None:
        return None
    try:
        read = json.loads(row)
        json.dumps(read, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return [read[name] for name in names]


def _explained(error: Error) -> str:
    diagnosis = error.diag
    message = (diagnosis.message_primary or "the statement failed")[:500]
    hint = f" {diagnosis.message_hint[:300]}" if diagnosis.message_hint else ""
    if isinstance(error, errors.SyntaxError):
        return f"{message}; pass exactly one SELECT, without COMMIT, SET or a second statement.{hint}"
    if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
        return f"{message}; list_tables and describe_table return the names.{hint}"
    return f"{message}.{hint}"

"""Statements about the monthly partitions of a table.

`parent` and `part` are names of tables, quoted where necessary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Boolean, DateTime, Integer, TextClause, text
from sqlalchemy.sql.selectable import TextualSelect
from sqlalchemy.types import TypeEngine

from ...types import Text

LOCK_TIMEOUT = "5s"
"""Maximum time that an ALTER TABLE waits for its lock: all other statements queue behind it."""

_PARTITIONS = r"""
    SELECT
        pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
        bounds[1]::timestamptz AS starts_at,
        bounds[2]::timestamptz AS ends_at,
        c.reltuples::bigint AS rows,
        size
    FROM pg_catalog.pg_inherits AS i
    JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound
    CROSS JOIN LATERAL pg_catalog.regexp_match(bound, '^FOR VALUES FROM \(''(.+)''\) TO \(''(.+)''\)$') AS bounds
    CROSS JOIN LATERAL pg_catalog.pg_total_relation_size(c.oid) AS size
    WHERE i.inhparent = CAST(pg_catalog.to_regclass({parent}) AS oid)
        AND bound IS NOT NULL AND size IS NOT NULL /* as for a partition dropped since the statement began */
"""

_OLD = (
    _PARTITIONS
    + """
        AND bounds[2]::timestamptz
            <= (pg_catalog.date_trunc('month', pg_catalog.now() AT TIME ZONE 'UTC')
                - pg_catalog.make_interval(months => {keep})) AT TIME ZONE 'UTC'
"""
)

_READERS = """
    SELECT name FROM {consumers} AS c WHERE EXISTS (
        SELECT FROM {part} AS e WHERE e.topic = ANY (c.topics) AND (e.tx, e.id) > (c.tx, c.event_id)
    )
"""

_COLUMNS: dict[str, TypeEngine[Any]] = {
    "name": Text(),
    "starts_at": DateTime(timezone=True),
    "ends_at": DateTime(timezone=True),
    "rows": BigInteger(),
    "size": BigInteger(),
}


def partitions(parent: str) -> TextualSelect:
    """Select all partitions, the oldest first and the default one last."""
    return _bound(_PARTITIONS, parent=parent).columns(**_COLUMNS)


def old(parent: str, keep: int) -> TextualSelect:
    """Select the partitions that ended at least `keep` months before the current month, the oldest first."""
    return _bound(_OLD, parent=parent, keep=keep).columns(**_COLUMNS)


def _bound(sql: str, **values: str | int) -> TextClause:
    # SQLAlchemy does not take `::` and `=>` for parameters; a colon before a word would be one.
    statement = sql.format(parent="CAST(:parent AS text)", keep="CAST(:keep AS integer)")
    return text(statement + " ORDER BY starts_at NULLS LAST").bindparams(**values)


def readers(consumers: str, part: str) -> TextualSelect:
    """Select the names of the consumers that have not read all events of a partition."""
    return _named(_READERS.format(consumers="{}", part="{}") + " ORDER BY name", consumers, part).columns(
        name=Text()
    )


def due(parent: str, months: int) -> TextualSelect:
    """Select the names of the partitions that `make` would create."""
    return (
        text("""
            SELECT part
            FROM pg_catalog.pg_class AS c
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            CROSS JOIN pg_catalog.generate_series(0, CAST(:months AS integer)) AS ahead
            CROSS JOIN LATERAL pg_catalog.format('%I.%I', n.nspname, CAST(c.relname AS text) || pg_catalog.to_char(
                pg_catalog.date_trunc('month', pg_catalog.now() AT TIME ZONE 'UTC') + pg_catalog.make_interval(months => ahead), '_YYYY_MM'
            )) AS part
            WHERE c.oid = CAST(pg_catalog.to_regclass(CAST(:parent AS text)) AS oid) AND pg_catalog.to_regclass(part) IS NULL
            ORDER BY ahead
        """)
        .bindparams(parent=parent, months=months)
        .columns(part=Text())
    )


def make(parent: str, months: int) -> TextualSelect:
    """Create the partitions of the current month and of the next `months` months.

    Their rows are moved out of the default partition.
    """
    return (
        text(
            "SELECT extensions.make_month_partitions(CAST(:parent AS regclass), CAST(:months AS integer)) AS made"
        )
        .bindparams(parent=parent, months=months)
        .columns(made=Integer())
    )


def lock(parent: str) -> list[TextClause]:
    """Lock a table against other maintenance until the transaction ends; reads and writes continue."""
    return [
        text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"),
        _named("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE", parent),
    ]


def detach(parent: str, part: str) -> TextClause:
    """Detach a partition; its table remains."""
    return _named("ALTER TABLE {} DETACH PARTITION {}", parent, part)


def drop(part: str) -> TextClause:
    """Drop the table of a detached partition."""
    return _named("DROP TABLE {}", part)


def count(part: str) -> TextualSelect:
    """Count the rows of a partition."""
    return _named("SELECT pg_catalog.count(*) AS rows FROM {}", part).columns(rows=BigInteger())


def _named(sql: str, *names: str) -> TextClause:
    return text(sql.format(*(name.replace(":", r"\:") for name in names)))


# pg_cron


def cron_installed() -> TextualSelect:
    """Select whether the database has pg_cron."""
    return text(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_cron') AS installed"
    ).columns(installed=Boolean())


def schedule(parent: str, schedule: str, command: str) -> TextualSelect:
    """Create or replace the job that maintains the partitions of a table."""
    return (
        text("SELECT cron.schedule(:name, :schedule, :command) AS job")
        .bindparams(name=_job(parent), schedule=schedule, command=command)
        .columns(job=BigInteger())
    )


def unschedule(parent: str) -> TextualSelect:
    """Remove the job that maintains the partitions of a table."""
    return (
        text("SELECT cron.unschedule(jobid) AS gone FROM cron.job WHERE jobname = :name")
        .bindparams(name=_job(parent))
        .columns(gone=Boolean())
    )


def _job(parent: str) -> str:
    return f"alfred-db maintain {parent}"


class OwnerCalls(NamedTuple):
    """The functions of the owner that a job calls for a role that does not own the table, qualified."""

    log: str
    make: str
    detach: str
    drop: str


def upkeep(
    parent: str,
    months_ahead: int,
    keep_months: int | None,
    *,
    dropped: bool,
    consumers: str | None = None,
    functions: OwnerCalls | None = None,
) -> str:
    """Return the SQL of the job, which does the same as `make`, `old`, `readers`, `detach` and `drop`."""
    table = _quoted(parent)
    made = f"SELECT extensions.make_month_partitions({table}, {months_ahead:d})"
    detach = f"EXECUTE 'ALTER TABLE ' || {table} || ' DETACH PARTITION ' || part;"
    drop = "EXECUTE 'DROP TABLE ' || part;"
    if functions is not None:
        made = f"SELECT {functions.make}('{functions.log}', {months_ahead:d})"
        detach = f"PERFORM {functions.detach}('{functions.log}', part);"
        drop = f"PERFORM {functions.drop}('{functions.log}', part);"
    if keep_months is None:
        return made
    before = after = ""
    if consumers is not None:
        first, last = _READERS.format(consumers=consumers, part="|").split("|")
        waiting = f" EXECUTE {_quoted(f'SELECT EXISTS ({first}')} || part || {_quoted(f'{last})')} INTO kept;"
        before = f"{waiting} CONTINUE WHEN kept;"
        after = f"{waiting} IF kept THEN RAISE EXCEPTION '%', part || ' has events that are still to be read'; END IF;"
    if dropped:
        after += f" {drop}"
    found = _OLD.format(parent=table, keep=f"{keep_months:d}")
    return (
        f"{made}; DO $upkeep$ DECLARE part text; kept boolean; BEGIN SET LOCAL lock_timeout = '{LOCK_TIMEOUT}';"
        f" FOR part IN SELECT name FROM ({found}) AS found LOOP{before}"
        f" {detach}{after} END LOOP; END $upkeep$"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"

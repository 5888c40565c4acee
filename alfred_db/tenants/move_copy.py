"""What a move does before the rows: check the roles, copy the catalogs, and create the schema of the tenant."""

from __future__ import annotations

from sqlalchemy import text

from .. import migrate
from ..config import command
from ..errors import ConfigurationError, ConflictError, NotFoundError
from ..models import Base, TenantMove
from ..sql import literal, qualified, quoted
from .directory import record
from .dumping import definition
from .move_ends import HAS_SCHEMA, MARKER, Ends, Progress, driver, is_subscribed, run

__all__ = ["check", "prepare"]


def check(ends: Ends) -> None:
    """Refuse, before anything is changed, what would fail in the middle."""
    with ends.source.connect() as source:
        level = source.scalar(text("SELECT pg_catalog.current_setting('wal_level')"))
        if level != "logical":
            raise ConfigurationError(
                f"tenant {ends.tenant!r}: its server has wal_level={level}, and a move needs logical: ALTER SYSTEM SET wal_level ="
                " 'logical' as a superuser, restart the server, and run the move again; nothing was changed"
            )
        senders = source.scalar(text("SELECT CAST(pg_catalog.current_setting('max_wal_senders') AS integer)"))
        if not senders:
            raise ConfigurationError(
                f"tenant {ends.tenant!r}: its server has max_wal_senders=0, and a move needs 4; nothing was changed"
            )
        at = migrate.current(source, ends.tenant)
        if at != migrate.head():
            raise ConflictError(
                f"tenant {ends.tenant!r}: it is at {at or 'no revision'}, and is moved at {migrate.head()}; run"
                f" {command('upgrade', ends.source.url, ends.tenant)} first"
            )
        roles = source.scalars(text(_GRANTEES), {"schema": ends.tenant}).all()
    with ends.target.connect() as target:
        missing = [role for role in roles if not target.scalar(text(_ROLE), {"role": role})]
    if missing:
        raise NotFoundError(
            f"roles {', '.join(missing)}: they have rights on the tenant {ends.tenant!r}, and the target does not have them;"
            " create them there with the same passwords; nothing was changed"
        )


_ROLE = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE CAST(rolname AS text) = CAST(:role AS text))"

_GRANTEES = """
    SELECT DISTINCT CAST(rolname AS text) FROM (
        SELECT acl.grantee FROM pg_catalog.pg_namespace CROSS JOIN LATERAL pg_catalog.aclexplode(nspacl) AS acl
        WHERE CAST(nspname AS text) = CAST(:schema AS text) AND acl.grantee <> nspowner
        UNION ALL
        SELECT acl.grantee FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        CROSS JOIN LATERAL pg_catalog.aclexplode(relacl) AS acl
        WHERE CAST(nspname AS text) = CAST(:schema AS text) AND acl.grantee <> relowner
    ) AS granted JOIN pg_catalog.pg_roles ON pg_roles.oid = granted.grantee ORDER BY 1
"""


def prepare(ends: Ends, say: Progress) -> None:
    """Create on the target what the tenant needs, and its schema without rows."""
    with ends.target.connect() as target:
        found = migrate.current(target)
        there, subscribed = target.scalar(HAS_SCHEMA, {"name": ends.tenant}), is_subscribed(target, ends)
    if found != migrate.head():
        say("upgrading the target")
        migrate.upgrade(ends.target.url)
    if there and not subscribed:
        _require_own_copy(ends)
    # Where it is, and not in the home's directory if that is elsewhere, which names the source until the switch is done.
    with ends.source.begin() as source:
        record(source, ends.tenant, ends.target.url, TenantMove.MOVING)
    if there and subscribed:
        return
    say("copying the schema")
    _copy_catalogs(ends)
    with ends.source.begin() as source:
        run(source, f"CREATE TABLE IF NOT EXISTS {qualified(ends.tenant, MARKER)} (id uuid PRIMARY KEY)")
    script = definition(ends.source.url, ends.tenant)
    with ends.target.begin() as target:
        run(target, f"DROP SCHEMA IF EXISTS {quoted(ends.tenant)} CASCADE", script)
        run(target, f"COMMENT ON TABLE {qualified(ends.tenant, MARKER)} IS {literal(ends.name)}")
        run(target, "RESET ALL")


def _require_own_copy(ends: Ends) -> None:
    """Refuse a tenant of this name on the target, unless an earlier try of this move has left it."""
    with ends.target.connect() as target:
        comment = target.scalar(
            text("SELECT pg_catalog.obj_description(pg_catalog.to_regclass(:table), 'pg_class')"),
            {"table": qualified(ends.tenant, MARKER)},
        )
    if comment != ends.name:
        raise ConflictError(
            f"tenant {ends.tenant!r}: the target has a tenant of this name already; drop it there, or name another server"
        )


def _copy_catalogs(ends: Ends) -> None:
    """Copy the shared catalogs to a target that has none, with their ids; otherwise they are kept as they are."""
    tables = [
        table for table in Base.metadata.sorted_tables if table.schema in ("model_registry", "brk_registry")
    ]
    with ends.source.begin() as source, ends.target.begin() as target:
        linked = target.scalar(
            text(
                "SELECT relkind = 'v' FROM pg_catalog.pg_class WHERE oid = CAST('brk_registry.model'::regclass AS oid)"
            )
        )
        filled = any(
            target.scalar(text(f"SELECT EXISTS (SELECT FROM {qualified(table.schema, table.name)})"))
            for table in tables
        )
        if linked or filled:
            return
        reader, writer = driver(source), driver(target)
        for table in tables:
            name = qualified(table.schema, table.name)
            columns = ", ".join(quoted(column.name) for column in table.c)
            with (
                reader.cursor().copy(f"COPY (SELECT {columns} FROM {name}) TO STDOUT") as rows,
                writer.cursor().copy(f"COPY {name} ({columns}) FROM STDIN") as into,
            ):
                for block in rows:
                    into.write(block)
            run(
                target,
                f"SELECT pg_catalog.setval(pg_catalog.pg_get_serial_sequence({literal(name)}, 'id'),"
                f" coalesce(pg_catalog.max(id), 0) + 1, false) FROM {name}",
            )

"""Statements about the nodes of Citus, and about what only the node of a table knows.

Tables and functions of Citus are in pg_catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Double, Select, cast, column, literal, literal_column, select, table
from sqlalchemy.dialects.postgresql import OID, REGCLASS
from sqlalchemy.sql.selectable import NamedFromClause

from ...types import Text
from .functions import func

PREPARED = (
    "SELECT pg_catalog.string_agg(gid, ' ') FROM pg_catalog.pg_prepared_xacts"
    " WHERE database = pg_catalog.current_database() AND pg_catalog.starts_with(gid, 'citus_')"
)
"""Run on the node of a shard: the transactions that have been prepared there, and not yet committed."""

COUNTED = "SELECT pg_catalog.concat(reltuples, ' ', relpages) FROM pg_catalog.pg_class WHERE oid = '%s'::pg_catalog.regclass"
"""Run for each shard: its rows and pages, as of the last ANALYZE or VACUUM."""

_group = table("pg_dist_local_group", column("groupid"), schema="pg_catalog")
_distributed = table("pg_dist_partition", column("logicalrelid"), schema="pg_catalog")
_records = table("pg_dist_transaction", column("gid"), column("xmin"), schema="pg_catalog")
_inherits = table("pg_inherits", column("inhrelid"), column("inhparent"), schema="pg_catalog")


def node(name: str) -> Select[int, bool]:
    """Select the group of the connected node, 0 for the coordinator, and whether a table is distributed."""
    found = select(_distributed.c.logicalrelid).where(_distributed.c.logicalrelid == func.to_regclass(name))
    return select(_group.c.groupid, found.exists())


def prepared(name: str) -> Select[bool, str | None]:
    """Select whether the nodes of a table answered, and the transactions that are prepared there."""
    answers = _answers(func.to_regclass(name), PREPARED)
    return select(answers.c.success, answers.c.result)


def recorded(gids: Sequence[str]) -> Select[int]:
    """Select the transactions of the coordinator that prepared these, as 32-bit numbers.

    Citus records a prepared transaction in the transaction that it belongs to, just before that one commits.
    """
    wanted = func.any(literal(list(gids), ARRAY(Text)))
    return select(cast(cast(_records.c.xmin, Text), BigInteger)).where(_records.c.gid == wanted)


def table_size(name: str) -> Select[float, int]:
    """Select rows and pages of the shards of a table with its partitions."""
    oid = cast(func.to_regclass(name), OID)
    parts = (
        select(oid.label("oid"))
        .union_all(select(_inherits.c.inhrelid).where(_inherits.c.inhparent == oid))
        .subquery("parts")
    )
    answers = _answers(cast(parts.c.oid, REGCLASS), COUNTED)
    rows, pages = (
        func.split_part(answers.c.result, literal_column("' '"), literal_column(place)) for place in "12"
    )
    return (
        select(
            func.coalesce(func.sum(func.greatest(cast(rows, Double), 0)), 0.0, type_=Double()),
            func.coalesce(cast(func.sum(cast(pages, BigInteger)), BigInteger), 0, type_=BigInteger()),
        )
        .select_from(parts)
        .join(answers, answers.c.success)
    )


def _answers(relation: Any, command: str) -> NamedFromClause:
    """The answers of the node of each shard of a table; `%s` in the command is the name of the shard."""
    columns: list[Any] = [column("shardid", BigInteger), column("success"), column("result", Text)]
    return func.run_command_on_shards(relation, literal(command, Text)).table_valued(*columns, name="answers")

"""Statements about knowledge collections, their partitions and their aliases."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVarTuple

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    TextClause,
    bindparam,
    cast,
    column,
    delete,
    literal,
    or_,
    select,
    table,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, OID, insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import KnowledgeAlias, KnowledgeCollection, KnowledgeDistance
from ..types import Text
from .shapes.functions import func
from .shapes.literals import in_order, number
from .shapes.paging import page

Ts = TypeVarTuple("Ts")

LIST_KEY = ("name",)


def find(name: str) -> Select[KnowledgeCollection]:
    """The collection of that name, or the one that the alias of that name stands for."""
    return _named(select(KnowledgeCollection), literal(name))


@cache
def resolve(*, hold: bool) -> Select[str, KnowledgeDistance]:
    """Name and distance of what `find` finds; run it with the parameter `name`.

    `hold` keeps it from being dropped until the transaction ends.
    """
    statement = select(KnowledgeCollection.name, KnowledgeCollection.distance)
    found = _named(statement, bindparam("name", type_=Text))
    return found.with_for_update(key_share=True, read=True) if hold else found


def _named(statement: Select[*Ts], name: ColumnElement[str]) -> Select[*Ts]:
    behind = select(KnowledgeAlias.collection).where(KnowledgeAlias.alias == name)
    own = KnowledgeCollection.name == name
    return statement.where(or_(own, KnowledgeCollection.name.in_(behind))).order_by(own.desc()).limit(1)


def lock(name: str) -> Select[str]:
    """Wait for who writes points of the collection, and keep others from it."""
    return select(KnowledgeCollection.name).where(KnowledgeCollection.name == name).with_for_update()


def exclude_others(*tables: str) -> TextClause:
    """Keep others from making collections and aliases; reading goes on."""
    return text(f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE")


def create(
    name: str,
    *,
    distance: KnowledgeDistance,
    description: str | None,
    embedding_model: str | None,
    metadata: Mapping[str, Any],
) -> ReturningInsert[KnowledgeCollection]:
    return (
        insert(KnowledgeCollection)
        .values(
            name=name,
            distance=distance,
            description=description,
            embedding_model=embedding_model,
            metadata_=dict(metadata),
        )
        .on_conflict_do_nothing(index_elements=[KnowledgeCollection.name])
        .returning(KnowledgeCollection)
    )


def change(name: str, values: Mapping[str, Any]) -> ReturningUpdate[KnowledgeCollection]:
    return (
        update(KnowledgeCollection)
        .where(KnowledgeCollection.name == name)
        .values(**values)
        .returning(KnowledgeCollection)
    )


def create_partition(parent: str, partition: str, collection: str) -> list[TextClause]:
    """Make the collection's partition and attach it, which stops nobody from reading and writing the others."""
    # No parameter can stand here. A colon would name one, so it goes by its code.
    value = collection.replace("\\", "\\\\").replace("'", "''").replace(":", "\\x3a")
    return [
        text(f"CREATE TABLE {partition} (LIKE {parent} INCLUDING ALL)"),
        text(f"ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES IN (E'{value}')"),
    ]


def drop_partition(partition: str) -> TextClause:
    return text(f"DROP TABLE {partition}")


def drop(name: str) -> ReturningDelete[str]:
    """Its aliases go with it, locked in the order in which `set_aliases` writes them."""
    held = in_order(KnowledgeAlias.alias, KnowledgeAlias.collection == name)
    return (
        delete(KnowledgeCollection)
        .where(
            KnowledgeCollection.name == name,
            select(func.count()).select_from(held).scalar_subquery() >= number(0),
        )
        .returning(KnowledgeCollection.name)
    )


def lock_timeout() -> TextClause:
    return text("SHOW lock_timeout")


def list_(*, after: str | None, limit: int) -> Select[KnowledgeCollection]:
    return page(select(KnowledgeCollection), [KnowledgeCollection.name], after=after, limit=limit)


def alias(name: str) -> Select[KnowledgeAlias]:
    return select(KnowledgeAlias).where(KnowledgeAlias.alias == name)


def set_aliases(aliases: Mapping[str, str]) -> ReturningInsert[str]:
    """Have the aliases stand for these collections, all at once; what cannot be is left out."""
    wanted = (
        func.unnest(literal(list(aliases), ARRAY(Text)), literal(list(aliases.values()), ARRAY(Text)))
        .table_valued(column("alias", Text), column("collection", Text), name="wanted")
        .render_derived()
    )
    same = aliased(KnowledgeCollection)
    # Locked before any alias is written, as whoever drops a collection locks it first and its aliases then.
    held = (
        select(wanted.c.alias, KnowledgeCollection.name)
        .join(KnowledgeCollection, KnowledgeCollection.name == wanted.c.collection)
        .where(~select(same.name).where(same.name == wanted.c.alias).exists())
        .order_by(KnowledgeCollection.name)
        .with_for_update(read=True, key_share=True, of=KnowledgeCollection)
        .cte("held")
        .prefix_with("MATERIALIZED")
    )
    found = select(held.c.alias, held.c.name, func.now()).order_by(held.c.alias)
    statement = insert(KnowledgeAlias).from_select(
        ["alias", "collection", "updated_at"], found, include_defaults=False
    )
    return statement.on_conflict_do_update(
        index_elements=[KnowledgeAlias.alias],
        set_={
            "collection": statement.excluded.collection,
            "updated_at": statement.excluded.updated_at,
        },
    ).returning(KnowledgeAlias.alias)


def delete_alias(name: str) -> ReturningDelete[str]:
    return delete(KnowledgeAlias).where(KnowledgeAlias.alias == name).returning(KnowledgeAlias.alias)


def aliases(collection: str | None) -> Select[KnowledgeAlias]:
    statement = select(KnowledgeAlias).order_by(KnowledgeAlias.alias)
    return statement if collection is None else statement.where(KnowledgeAlias.collection == collection)


def counted(partition: str, schema_of: str) -> Select[int]:
    """Whether the planner knows that all points of a partition have the collection's name: 1, else 0."""
    home = (
        select(_namespace.c.nspname)
        .join(_class, _class.c.relnamespace == _namespace.c.oid)
        .where(_class.c.oid == cast(func.to_regclass(schema_of), OID))
        .scalar_subquery()
    )
    return select(func.count(type_=Integer)).where(
        _stats.c.schemaname == home,
        _stats.c.tablename == partition,
        _stats.c.attname == "collection",
        _stats.c.most_common_freqs.is_not(None),
    )


_class = table("pg_class", column("oid"), column("relnamespace"), schema="pg_catalog")
_namespace = table("pg_namespace", column("oid"), column("nspname"), schema="pg_catalog")
_stats = table(
    "pg_stats",
    *map(column, ("schemaname", "tablename", "attname", "most_common_freqs")),
    schema="pg_catalog",
)

"""Statements about knowledge collections, their partitions and their aliases."""

from __future__ import annotations

from collections.abc import Mapping
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
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.knowledge import index_definition, of_length
from .shapes.literals import in_order, materialized, number
from .shapes.paging import page

Ts = TypeVarTuple("Ts")

LIST_KEY = ("name",)


def find(name: str) -> Select[KnowledgeCollection]:
    """Select the collection with this name, or the one that the alias with this name refers to."""
    return _named(select(KnowledgeCollection), literal(name))


@driver_statement
def resolve(*, hold: bool) -> Select[str, KnowledgeDistance, int]:
    """Select name, distance and dimensions of the collection that `find` selects; run it with the parameter `name`.

    Args:
        hold: Whether the collection is locked, so that it cannot be dropped until the transaction ends.
    """
    statement = select(KnowledgeCollection.name, KnowledgeCollection.distance, KnowledgeCollection.dimensions)
    found = _named(statement, bindparam("name", type_=Text))
    return found.with_for_update(key_share=True, read=True) if hold else found


def _named(statement: Select[*Ts], name: ColumnElement[str]) -> Select[*Ts]:
    behind = select(KnowledgeAlias.collection).where(KnowledgeAlias.alias == name)
    own = KnowledgeCollection.name == name
    return statement.where(or_(own, KnowledgeCollection.name.in_(behind))).order_by(own.desc()).limit(1)


def lock(name: str) -> Select[str]:
    """Lock a collection exclusively.

    Waits for the transactions that write its points, and blocks others until this one ends.
    """
    return select(KnowledgeCollection.name).where(KnowledgeCollection.name == name).with_for_update()


def exclude_others(*tables: str) -> TextClause:
    """Lock tables against the creation of collections and aliases; reads continue."""
    return text(f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE")


def create(
    name: str,
    *,
    distance: KnowledgeDistance,
    dimensions: int,
    description: str | None,
    embedding_model: str | None,
    metadata: Mapping[str, Any],
) -> ReturningInsert[KnowledgeCollection]:
    """Insert a collection, unless one with this name exists."""
    return (
        insert(KnowledgeCollection)
        .values(
            name=name,
            distance=distance,
            dimensions=dimensions,
            description=description,
            embedding_model=embedding_model,
            metadata_=dict(metadata),
        )
        .on_conflict_do_nothing(index_elements=[KnowledgeCollection.name])
        .returning(KnowledgeCollection)
    )


def change(name: str, values: Mapping[str, Any]) -> ReturningUpdate[KnowledgeCollection]:
    """Update columns of a collection."""
    return (
        update(KnowledgeCollection)
        .where(KnowledgeCollection.name == name)
        .values(**values)
        .returning(KnowledgeCollection)
    )


def create_partition(
    parent: str, partition: str, collection: str, *, distance: KnowledgeDistance, dimensions: int
) -> list[TextClause]:
    """Create the partition of a collection, with its own index if it needs one, and attach it.

    Other collections can be read and written meanwhile.
    """
    check, definition = of_length(dimensions), index_definition(distance, dimensions)
    # DDL takes no parameters. A colon would start one in `text()`, so it is written as an escape.
    value = collection.replace("\\", "\\\\").replace("'", "''").replace(":", "\\x3a")
    return [
        text(f"CREATE TABLE {partition} (LIKE {parent} INCLUDING ALL)"),
        *([] if check is None else [text(f"ALTER TABLE {partition} ADD CHECK ({check})")]),
        *([] if definition is None else [text(f"CREATE INDEX ON {partition} {definition}")]),
        text(f"ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES IN (E'{value}')"),
    ]


def drop_partition(partition: str) -> TextClause:
    """Drop the partition of a collection."""
    return text(f"DROP TABLE {partition}")


def drop(name: str) -> ReturningDelete[str]:
    """Delete a collection. Its aliases are deleted by their foreign key.

    The aliases are locked first, in the order in which `set_aliases` writes them.
    """
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
    """Read the setting `lock_timeout`."""
    return text("SHOW lock_timeout")


def list_(*, after: str | None, limit: int) -> Select[KnowledgeCollection]:
    """Select a page of collections, ordered by name."""
    return page(select(KnowledgeCollection), [KnowledgeCollection.name], after=after, limit=limit)


def alias(name: str) -> Select[KnowledgeAlias]:
    """Select an alias by its name."""
    return select(KnowledgeAlias).where(KnowledgeAlias.alias == name)


def set_aliases(aliases: Mapping[str, str]) -> ReturningInsert[str]:
    """Create or move aliases in one statement, returning those that were written.

    An alias is skipped if its collection does not exist, or if a collection has its name.
    """
    wanted = (
        func.unnest(literal(list(aliases), ARRAY(Text)), literal(list(aliases.values()), ARRAY(Text)))
        .table_valued(column("alias", Text), column("collection", Text), name="wanted")
        .render_derived()
    )
    same = aliased(KnowledgeCollection)
    # The collections are locked before any alias is written: `drop` locks the collection first, then its aliases.
    held = materialized(
        select(wanted.c.alias, KnowledgeCollection.name, func.now().label("updated_at"))
        .join(KnowledgeCollection, KnowledgeCollection.name == wanted.c.collection)
        .where(~select(same.name).where(same.name == wanted.c.alias).exists())
        .order_by(KnowledgeCollection.name)
        .with_for_update(read=True, key_share=True, of=KnowledgeCollection),
        "held",
    )
    found = select(held.c.alias, held.c.name, held.c.updated_at).order_by(held.c.alias)
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
    """Delete an alias."""
    return delete(KnowledgeAlias).where(KnowledgeAlias.alias == name).returning(KnowledgeAlias.alias)


def aliases(collection: str | None) -> Select[KnowledgeAlias]:
    """Select all aliases, or those of a collection, ordered by name."""
    statement = select(KnowledgeAlias).order_by(KnowledgeAlias.alias)
    return statement if collection is None else statement.where(KnowledgeAlias.collection == collection)


def counted(partition: str, schema_of: str) -> Select[int]:
    """Return 1 if the statistics show that all points of a partition have the name of the collection, else 0.

    Without such statistics the planner misjudges how many points of the partition match.

    Args:
        partition: Name of the partition.
        schema_of: Name of a table in the schema of the partition.
    """
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

"""What Alembic compares: the tables of one tenant and the shared ones, and nothing of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import MetaData
from sqlalchemy.sql.schema import SchemaConst

from ..models import Base
from ..server.databases import VERSION_TABLE
from ..server.probe import OTHERS
from ..sql import MADE_HERE, OWN_INDEX, SHARED_SCHEMAS, TENANT_SCHEMAS, schema_translate_map

__all__ = ["include_name", "include_object", "is_ours", "moved_metadata", "settings", "tenant_metadata"]


def settings(schema: str | None, home: str | None = None) -> dict[str, Any]:
    """Return the arguments of `context.configure` for a tenant; `home` has the default tenant's tables."""
    mapping = schema_translate_map(schema) or ({} if home is None else {None: home})
    target = moved_metadata(mapping) if mapping else Base.metadata
    return {
        "target_metadata": target,
        "include_schemas": True,
        "include_name": _only_ours(target),
        "include_object": _compared,
    }


def tenant_metadata(schema: str) -> MetaData:
    """Return the models' tables in the tenant `schema`, and the shared ones that they refer to."""
    return moved_metadata(schema_translate_map(schema) or {})


def moved_metadata(mapping: Mapping[str | None, str | None]) -> MetaData:
    """Return the models' tables, moved to the schemas that the mapping has for theirs."""
    copy = MetaData(naming_convention=Base.metadata.naming_convention)

    def referred(
        table: Any, to_schema: str | None, constraint: Any, referred_schema: str | None
    ) -> str | None:
        return mapping.get(referred_schema, referred_schema)

    for table in Base.metadata.sorted_tables:
        home = mapping.get(table.schema, table.schema)
        table.to_metadata(copy, schema=home or SchemaConst.RETAIN_SCHEMA, referred_schema_fn=referred)
    return copy


def _only_ours(target: MetaData) -> Any:
    schemas = {table.schema for table in target.tables.values()}

    def include(name: str | None, type_: str, parent_names: Any) -> bool:
        if type_ == "schema":
            return name in schemas
        return type_ != "table" or parent_names["schema_qualified_table_name"] in target.tables

    return include


def _compared(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Return whether an object is compared.

    Trigram indexes are not, which need pg_trgm, nor those of `alfred-db indexes add`, nor others' tables.
    """
    if (
        type_ == "index"
        and reflected
        and ((name or "").endswith("_trgm") or (name or "").startswith(OWN_INDEX))
    ):
        return False
    if type_ != "table" or item.schema not in OTHERS:
        return True
    live = item if reflected else compare_to  # None: it is missing
    return live is None or live.comment == MADE_HERE


def include_object(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Return whether a host application's autogenerate compares an object: our tables are excluded.

    A table that only the database has, in any schema, passes for a tenant's when its name is one of ours. A table of
    `auth` or `storage` that the host models and that this library did not make is the host's to compare.
    """
    if type_ != "table":
        return True
    live = item if reflected else compare_to
    if item.schema in OTHERS and live is not None and compare_to is not None and live.comment != MADE_HERE:
        return True
    if reflected and compare_to is None and any(is_ours(item.name, home) for home in (None, *TENANT_SCHEMAS)):
        return False
    return not is_ours(item.name, item.schema)


def include_name(name: str | None, type_: str, parent_names: Any) -> bool:
    """Return whether a host application's autogenerate reads a schema or table: ours are excluded."""
    if type_ == "schema":
        return name not in (*SHARED_SCHEMAS, *TENANT_SCHEMAS)
    return type_ != "table" or not is_ours(name or "", parent_names.get("schema_name"))


def is_ours(table: str, schema: str | None) -> bool:
    """Return whether a table, or a partition of one, belongs to this library."""
    if table == VERSION_TABLE:
        return True
    known = [found for found in Base.metadata.tables.values() if found.schema == schema]
    parents = [found.name for found in known if found.dialect_options["postgresql"]["partition_by"]]
    return table in {found.name for found in known} or any(table.startswith(f"{name}_") for name in parents)
